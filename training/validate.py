"""An exported model on pairs with exact truth that it was not trained on: ``python -m stfm_training.validate``.

Photographs that were held back, seen through homographies and on the surfaces of rendered scenes, at the
model's own size. It says what the confidence threshold costs and gains, and fits ``sigma_scale``: the
factor that makes 68 % of the errors of right matches smaller than sigma, per axis.
"""

from __future__ import annotations

import argparse
import json
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


def measure(matcher: Matcher, source: Source, pairs: int, seed: int) -> tuple[FloatArray, int]:
    """Every match whose truth is known.

    Returns:
        (n, 4) float64: confidence, sigma, and error in x and y in pixels (infinite where the point
        is known not to be seen in the other image); and how many grid points could have been matched.
    """
    rows, possible = [], 0
    for index in track(range(pairs), description=type(source).__name__, console=Console(stderr=True)):
        rng = np.random.default_rng([seed, index])
        pair = source.pair(rng, DIFFICULTY, matcher.height, matcher.width)
        image0, image1 = (augment(image, rng, 0.5 * rng.random()) for image in (pair.image0, pair.image1))
        matches = matcher.match(image0, image1)
        column, row = np.rint(matches.keypoints0.T / CELL).astype(int)
        cell = row * (matcher.width // CELL) + column
        state = pair.warp01.state[cell]
        error = matches.keypoints1 - pair.warp01.points[cell]
        error[state != MATCHED] = np.inf
        rows.append(np.column_stack([matches.confidence, matches.sigma, error])[state != UNKNOWN])
        possible += int((pair.warp01.state == MATCHED).sum())
    return np.concatenate(rows).astype(np.float64), possible


def sigma_factor(rows: FloatArray) -> float:
    """What sigma is multiplied with so that it covers 68 % of the errors of right matches, per axis."""
    right = np.hypot(rows[:, 2], rows[:, 3]) < 2 * RIGHT_PX
    ratio = np.abs(rows[right, 2:]) / rows[right, 1:2]
    return float(np.quantile(ratio, ONE_SIGMA))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a shipped name or an exported folder")
    parser.add_argument("--photos", type=Path, required=True, help="the folder of photographs it was trained with")
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=12345)
    options = parser.parse_args()
    matcher = Matcher.from_pretrained(MatcherConfig(model=options.model, threshold=min(THRESHOLDS)))
    held_back = Homographies(options.photos, validation=True)
    table = Table("pairs", "confidence >", "matches a pair", f"right (< {RIGHT_PX:g} px)", "found", "median px")
    record: dict[str, object] = {"model": matcher.model_name, "weights": matcher.weights_hash, "rows": []}
    every = []
    for source in (held_back, Rendered(held_back.photos)):
        rows, possible = measure(matcher, source, options.pairs, options.seed)
        every.append(rows)
        for threshold in THRESHOLDS:
            kept = rows[rows[:, 0] >= threshold]
            error = np.hypot(kept[:, 2], kept[:, 3])
            right = error < RIGHT_PX
            figures = {
                "source": type(source).__name__,
                "threshold": threshold,
                "matches": len(kept) / options.pairs,
                "precision": float(right.mean()),
                "recall": float(right.sum() / possible),
                "median_px": float(np.median(error[right])),
            }
            record["rows"].append(figures)  # type: ignore[attr-defined]
            texts = (f"{figures['precision']:.3f}", f"{figures['recall']:.3f}", f"{figures['median_px']:.2f}")
            table.add_row(type(source).__name__, f"{threshold:g}", f"{figures['matches']:.0f}", *texts)
    record["sigma_scale"] = matcher.runtime.spec.sigma_scale * sigma_factor(np.concatenate(every))
    Console(stderr=True).print(table)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
