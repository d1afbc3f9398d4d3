"""A pose score as a row of text, for the page and the card alike."""

from __future__ import annotations

import numpy as np

from stfm_ros.evaluate import PoseScore


def table_columns(one: PoseScore) -> tuple[str, ...]:
    """Heads of :func:`table_row`."""
    precise = [f"< {float(limit):.0e}".replace("e-0", "e-") for limit in one.precision]
    return ("method", "solver", *(f"AUC@{key}" for key in one.auc), *precise, "median deg", "matches", "failed")


def table_row(score: PoseScore) -> tuple[str, ...]:
    """A method in words: AUC with interval, precision, median error and matches, pairs without a pose."""
    areas = [
        f"{100 * area:.1f} [{100 * low:.0f}-{100 * high:.0f}]"
        for area, (low, high) in zip(score.auc.values(), score.auc_95.values())
    ]
    median = f"{score.median_error_deg:.1f}" if np.isfinite(score.median_error_deg) else "none"
    precise = [f"{100 * share:.1f}" for share in score.precision.values()]
    return (
        score.method, score.solver, *areas, *precise, median, f"{score.median_matches:.0f}",
        f"{score.failures} of {score.pairs}",
    )  # fmt: skip
