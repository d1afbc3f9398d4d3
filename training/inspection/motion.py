"""Recorded poses beside the motion that depth and matches give: one scale, one turn, one body, one clock.

Of pairs of frames some way apart the motion is estimated as the distillation does it (``recordings.estimate``), with
matches of SIFT. Lengths and angles do not depend on which body the poses are of, directions do; so each says
something of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stfm_ros.baselines import sift
from stfm_ros.errors import StfmError
from stfm_ros.pairs import relative_motion, rotation_angle_deg
from stfm_ros.types import Camera, FloatArray
from stfm_training.inspection.samples import Decoder, Sample, spread_rows
from stfm_training.recordings.estimate import Rejected, estimate_motion

#: places where a pair is tried
PAIRS = 12
#: a pair is so far apart that the image moves by this share of its width
APART = 0.12
#: frames later at most, and the turn between frames that look the same way
LATEST, ALIKE_DEG = 40, 8.0
#: a translation shorter than this share of the median depth is lost in the error of the rotation
LEAST_BASELINE = 0.05


@dataclass(frozen=True)
class PoseCheck:
    """Of a few pairs of frames.

    Attributes:
        tried, estimated: pairs, and those with a motion from matches and depth.
        moving: of these, with a translation worth comparing.
        scale: median length of the translation by depth over that of the poses; its quartiles. NaN where fewer than
            three pairs move.
        angle_deg: median difference of the angles of rotation.
        turn_deg: median angle between both rotations; larger than ``angle_deg`` where the poses are of another body.
    """

    tried: int
    estimated: int
    moving: int
    scale: float
    scale_low: float
    scale_high: float
    angle_deg: float
    turn_deg: float


def check_poses(
    decoder: Decoder,
    camera: Camera,
    poses: FloatArray,
    samples: list[Sample],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PoseCheck:
    """Compare (n, 4, 4) poses, camera to world, with depth."""
    tries = _tries(samples, poses, camera.width)
    ratios, angles, turns = [], [], []
    for done, pairs in enumerate(tries, 1):
        for i, j in pairs:
            try:
                depth0, depth1 = decoder.depth(i), decoder.depth(j)
                T = estimate_motion(sift(decoder.image(i), decoder.image(j)), depth0, depth1, camera)
            except (Rejected, StfmError):
                continue
            recorded = relative_motion(poses, i, j)
            length = float(np.linalg.norm(T[:3, 3]))
            if length > LEAST_BASELINE * float(np.median(depth0[depth0 > 0])):
                ratios.append(length / max(float(np.linalg.norm(recorded[:3, 3])), 1e-9))
            angles.append(abs(rotation_angle_deg(T[:3, :3]) - rotation_angle_deg(recorded[:3, :3])))
            turns.append(rotation_angle_deg(T[:3, :3] @ recorded[:3, :3].T))
            break
        progress(done, len(tries))
    low, middle, high = np.percentile(ratios, (25, 50, 75)) if len(ratios) >= 3 else (np.nan,) * 3
    return PoseCheck(
        len(tries),
        len(angles),
        len(ratios),
        float(middle),
        float(low),
        float(high),
        float(np.median(angles)) if angles else float("nan"),
        float(np.median(turns)) if turns else float("nan"),
    )


def _tries(samples: list[Sample], poses: FloatArray, width: int) -> list[list[tuple[int, int]]]:
    """Rows to compare, each with what to try where the first pair gives no motion.

    Half of them are so far apart that the image has moved on, as far as the flow there can tell; before that, the
    others are as far apart as the poses go without turning, where a camera that turns to and fro comes by again.
    """
    tries = []
    for k, at in enumerate(spread_rows(len(samples), PAIRS)):
        row, flow = samples[at].row, samples[at].flow_px
        later = np.arange(row + 1, min(row + 1 + LATEST, len(poses)))
        if len(later) == 0:
            continue
        gap = int(np.clip(APART * width / flow, 1, len(later))) if np.isfinite(flow) and flow > 0 else 1
        pairs = [(row, row + gap)]
        alike = [j for j in later.tolist() if rotation_angle_deg(relative_motion(poses, row, j)[:3, :3]) < ALIKE_DEG]
        if k % 2 and alike:
            far = [float(np.linalg.norm(poses[j, :3, 3] - poses[row, :3, 3])) for j in alike]
            pairs.insert(0, (row, alike[int(np.argmax(far))]))
        tries.append(pairs)
    return tries
