"""What makes a pair of images hard, and what came of it, in words that are computed and not guessed."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from stfm_ros.pairs import Pair, rotation_angle_deg
from stfm_ros.types import ByteArray

#: what is worth saying of a pair
LOW_OVERLAP, LARGE_TURN_DEG, LARGE_ROLL_DEG, LARGE_ZOOM, SHORT_BASELINE = 0.35, 25.0, 20.0, 1.35, 0.1
LARGE_EXPOSURE, BARE_SHARE, FEW_MATCHES = 1.5, 0.5, 30

#: side of a block of the picture, and the deviation of grey under which it counts as bare
_BLOCK, _BARE = 16, 4.0


@dataclass(frozen=True)
class PairFacts:
    """Geometry and light of a pair.

    Attributes:
        overlap: as in ``stfm_ros.pairs``; NaN where it is not known.
        turn_deg: angle between the two attitudes; roll_deg: its part about the optical axis.
        baseline: length of the translation over image 0's median depth; NaN without depth.
        zoom: by how much image 1 shows things larger (more than 1) or smaller; NaN without depth.
        exposure: how much brighter image 1 is.
        bare: share of image 0 without texture.
    """

    overlap: float
    turn_deg: float
    roll_deg: float
    baseline: float
    zoom: float
    exposure: float
    bare: float

    @classmethod
    def of(cls, pair: Pair) -> PairFacts:
        """The facts of a pair."""
        motion = pair.T_0to1
        R = motion[:3, :3]
        depth = pair.depths[0]
        known = depth[depth > 0] if depth is not None else np.zeros(0, np.float32)
        baseline = zoom = float("nan")
        if depth is not None and len(known):
            middle = np.array([0.0, 0.0, float(np.median(known))])
            baseline = float(np.linalg.norm(motion[:3, 3])) / middle[2]
            zoom = middle[2] / max(float(np.linalg.norm(R @ middle + motion[:3, 3])), 1e-3)
        image0, image1 = pair.images
        exposure = (float(image1.mean()) + 1) / (float(image0.mean()) + 1)
        roll = float(np.degrees(np.arctan2(R[1, 0] - R[0, 1], R[0, 0] + R[1, 1])))
        return cls(pair.overlap, rotation_angle_deg(R), roll, baseline, zoom, exposure, _bare(image0))

    def remarkable(self) -> list[str]:
        """What stands out, the geometry first."""
        zoom = max(self.zoom, 1 / self.zoom) if np.isfinite(self.zoom) else 1.0
        exposure = max(self.exposure, 1 / self.exposure)
        rolled = abs(self.roll_deg) > LARGE_ROLL_DEG
        words = [
            (self.overlap < LOW_OVERLAP, f"little overlap ({self.overlap:.0%})"),
            (rolled, f"rolled by {abs(self.roll_deg):.0f} deg"),
            (self.turn_deg > LARGE_TURN_DEG and not rolled, f"turned by {self.turn_deg:.0f} deg"),
            (zoom > LARGE_ZOOM, f"scale changed by {zoom:.1f}"),
            (self.baseline < SHORT_BASELINE, f"short baseline ({self.baseline:.0%} of the depth)"),
            (exposure > LARGE_EXPOSURE, f"one image {exposure:.1f} times brighter"),
            (self.bare > BARE_SHARE, f"{self.bare:.0%} of the picture without texture"),
        ]
        return [text for holds, text in words if holds]


def sentence(facts: PairFacts, matches: int, fitting: int, error_deg: float) -> str:
    """Two sentences: what is seen, and what came of it.

    Args:
        matches, fitting: of the method, and how many of them fit the true motion.
        error_deg: of the pose; infinite where there is none.
    """
    remarks = facts.remarkable()
    seen = ", ".join(remarks) if remarks else "nothing unusual in turn, scale or light"
    overlap = f"overlap {facts.overlap:.0%}, " if np.isfinite(facts.overlap) and facts.overlap >= LOW_OVERLAP else ""
    share = fitting / matches if matches else 0.0
    few = ", few," if matches < FEW_MATCHES else ","
    result = f"{matches} matches{few} {share:.0%} of them fit the true motion" if matches else "No matches"
    if not np.isfinite(error_deg):
        outcome = "no pose"
    elif error_deg > 10 and share > 0.8:
        outcome = f"pose off by {error_deg:.1f} deg all the same: one plane, a short baseline, or a loose truth"
    else:
        outcome = f"pose off by {error_deg:.1f} deg"
    begin = overlap + seen
    return f"{begin[0].upper()}{begin[1:]}. {result}; {outcome}."


def _bare(image: ByteArray) -> float:
    """Share of blocks of the picture whose grey hardly varies."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    rows, columns = grey.shape[0] // _BLOCK, grey.shape[1] // _BLOCK
    if not rows or not columns:
        return 0.0
    blocks = grey[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK).astype(np.float32)
    return float((blocks.std(axis=(1, 3)) < _BARE).mean())
