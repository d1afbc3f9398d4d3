"""L_s: what is left of a match's offset where the heatmap found it, and how far off that may be."""

from __future__ import annotations

from torch import Tensor, nn

from stfm_ros.model.subpixel import REACH
from stfm_training.ranks import mean


class SubpixelLoss(nn.Module):
    """Negative log-likelihood of a Laplace distribution on each axis, without its constant.

        L_s = mean of |d - d_gt|_1 / b + 2 log b

    Its best d is the median of what the true offset may be, which outliers hardly move, and its best b the mean
    distance from there. Counted only where the true offset lies within ``REACH`` steps.
    """

    def forward(self, offset: Tensor, log_b: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """offset, target (m, 2) and log_b (m,) in steps; weight (m,) of each match -> scalar."""
        weight = weight * (target.abs().amax(1) <= REACH)
        likelihood = (offset - target).abs().sum(1) * (-log_b).exp() + 2 * log_b
        return mean(likelihood, weight)
