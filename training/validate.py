"""An exported model on pairs with exact truth that it was not trained on: ``python -m stfm_training.validate``.

Photographs that were held back, seen through homographies and on the surfaces of rendered scenes, at the
model's own size. It says what the confidence threshold costs and gains, and fits ``sigma_scale``: the
factor that makes 68 % of the errors of right matches smaller than sigma, per axis, and how many are within 1.96 of it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from stfm_ros.config import MatcherConfig
from stfm_ros.matcher import Matcher
from stfm_ros.types import FloatArray
from stfm_training.photometric import augment
from stfm_training.sources.homographies import Homographies
from stfm_training.sources.pair import Source
from stfm_training.sources.rendered import Rendered
from stfm_training.supervision import CELL, MATCHED, UNKNOWN

THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.5)
RIGHT_PX = 3.0
DIFFICULTY = 0.6
ONE_SIGMA = 0.6827


@dataclass(frozen=True)
class TruthScore:
    """A matcher on pairs with exact truth.

    Attributes:
        source, pairs: what was measured on.
        threshold: of confidence.
        matches: whose truth is known, a pair.
        right: share of them within RIGHT_PX.
        found: share of the grid points with a partner that were matched right.
        median_px: error of the right ones; None where there are none.
        half_px, one_px: share of the right ones within 0.5 and 1 px; None where there are none.
    """

    source: str
    pairs: int
    threshold: float
    matches: float
    right: float
    found: float
    median_px: float | None
    half_px: float | None
    one_px: float | None


@dataclass(frozen=True)
class Known:
    """Every match of one matcher whose truth is known.

    Attributes:
        rows: (n, 4) float64: confidence, sigma, and error in x and y in pixels (infinite where the point is known not
            to be seen in the other image).
        possible: how many grid points could have been matched.
    """

    source: str
    pairs: int
    rows: FloatArray
    possible: int

    def score(self, threshold: float) -> TruthScore:
        """The measures of the matches above a threshold."""
        kept = self.rows[self.rows[:, 0] >= threshold]
        error = np.hypot(kept[:, 2], kept[:, 3])
        right = error < RIGHT_PX
        known = error[right]
        return TruthScore(
            self.source,
            self.pairs,
            threshold,
            len(kept) / self.pairs,
            float(right.sum() / max(len(kept), 1)),
            float(right.sum() / max(self.possible, 1)),
            float(np.median(known)) if len(known) else None,
            float((known < 0.5).mean()) if len(known) else None,
            float((known < 1.0).mean()) if len(known) else None,
        )


def measure(
    matchers: Mapping[str, Matcher], source: Source, pairs: int, seed: int, difficulty: float = DIFFICULTY
) -> dict[str, Known]:
    """Every match whose truth is known, of several matchers of one size on the same pairs."""
    height, width = next((matcher.height, matcher.width) for matcher in matchers.values())
    assert all((matcher.height, matcher.width) == (height, width) for matcher in matchers.values())
    rows: dict[str, list[FloatArray]] = {name: [] for name in matchers}
    possible = 0
    console = Console(stderr=True)
    for index in track(range(pairs), type(source).__name__, console=console, disable=not console.is_terminal):
        rng = np.random.default_rng([seed, index])
        pair = source.pair(rng, difficulty, height, width)
        images = [augment(image, rng, 0.5 * rng.random()) for image in (pair.image0, pair.image1)]
        possible += int((pair.warp01.state == MATCHED).sum())
        for name, matcher in matchers.items():
            depths = (pair.depth0, pair.depth1) if matcher.takes_depth else (None, None)
            matches = matcher.match(images[0], images[1], depth0=depths[0], depth1=depths[1])
            column, row = np.rint(matches.keypoints0.T / CELL).astype(int)
            cell = row * (width // CELL) + column
            state = pair.warp01.state[cell]
            error = (matches.keypoints1 - pair.warp01.points[cell]).astype(np.float64)
            error[state != MATCHED] = np.inf
            rows[name].append(np.column_stack([matches.confidence, matches.sigma, error])[state != UNKNOWN])
    kind = type(source).__name__
    return {name: Known(kind, pairs, np.concatenate(found), possible) for name, found in rows.items()}


def over_sigma(rows: FloatArray) -> FloatArray:
    """(n, 2) errors of right matches along each axis, over sigma; right is here within twice RIGHT_PX."""
    right = np.hypot(rows[:, 2], rows[:, 3]) < 2 * RIGHT_PX
    return np.abs(rows[right, 2:]) / rows[right, 1:2]


def sigma_factor(rows: FloatArray) -> float | None:
    """What sigma is multiplied with to cover 68 % of the errors of right matches, per axis; None if none is right."""
    ratio = over_sigma(rows)
    return float(np.quantile(ratio, ONE_SIGMA)) if len(ratio) else None


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a shipped name or an exported folder")
    parser.add_argument("--photos", type=Path, required=True, help="the folder of photographs it was trained with")
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--difficulty", type=float, default=DIFFICULTY, help="0 to 1")
    parser.add_argument("--seed", type=int, default=12345)
    options = parser.parse_args()
    matcher = Matcher.from_pretrained(MatcherConfig(model=options.model, threshold=min(THRESHOLDS)))
    held_back = Homographies(options.photos, validation=True)
    table = Table(
        "pairs", "confidence >", "matches a pair", f"right (< {RIGHT_PX:g} px)", "found", "median px", "< 0.5", "< 1 px"
    )
    every, figures = [], []
    for source in (held_back, Rendered(held_back.photos)):
        known = measure({"model": matcher}, source, options.pairs, options.seed, options.difficulty)["model"]
        every.append(known.rows)
        for score in map(known.score, THRESHOLDS):
            figures.append(asdict(score))
            texts = [f"{score.matches:.0f}", f"{score.right:.3f}", f"{score.found:.3f}"]
            texts += ["-" if px is None else f"{px:.2f}" for px in (score.median_px, score.half_px, score.one_px)]
            table.add_row(score.source, f"{score.threshold:g}", *texts)
    record: dict[str, object] = {"model": matcher.model_name, "weights": matcher.weights_hash, "rows": figures}
    rows = np.concatenate(every)
    if (factor := sigma_factor(rows)) is not None:
        ratio = over_sigma(rows) / factor
        record["sigma_scale"] = matcher.runtime.spec.sigma_scale * factor
        record["within_1.96_sigma"] = float((ratio < 1.96).mean())
    Console(stderr=True).print(table)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
