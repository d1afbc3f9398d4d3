"""Reliability: which share of the errors lies within the region that is claimed to hold a given share."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stfm_training.calibration.coverage import BANDS, LEVELS, probability
from stfm_training.calibration.study import Tally


def draw(tally: Tally, path: Path) -> None:
    """A curve for each quantity; the diagonal is honest, above it covariances are too large, below too small."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1)
    for level, (low, high) in zip(LEVELS, BANDS):
        axes.plot([level, level], [low, high], color="0.4", linewidth=4, solid_capstyle="butt", alpha=0.5)
    for name, (dof, values) in tally.squares.items():
        claimed = np.sort(probability(values, dof))
        axes.plot(claimed, (np.arange(len(claimed)) + 1) / len(claimed), label=f"{name} ({len(values)})", linewidth=1.5)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="claimed", ylabel="covered", title=tally.name, aspect="equal")
    axes.legend(loc="upper left", frameon=False)
    figure.savefig(path, dpi=110)
