"""L_f: where in its window a match lies."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stfm_training.ranks import mean, mean_value


class FineLoss(nn.Module):
    """L_f: where the centre of a window of image 0 lies in the window of image 1.

    L_f = expectation_weight * mean of w |mu - mu_gt|^2 + heatmap_weight * cross-entropy of the heatmap

    with w = (1 / s) / mean(1 / s), s = sigma_x + sigma_y in steps of the fine map, detached (LoFTR
    eq. 7 as in its code; s^2 there), and the heatmap's target spread bilinearly over the four
    nearest steps. Counted only where the true offset lies inside the window.
    """

    def __init__(self, window: int, expectation_weight: float = 0.5, heatmap_weight: float = 0.25) -> None:
        super().__init__()
        self.window = window
        self.expectation_weight = expectation_weight
        self.heatmap_weight = heatmap_weight

    def forward(
        self, expectation: Tensor, variance: Tensor, log_heatmap: Tensor, target: Tensor, weight: Tensor
    ) -> Tensor:
        """expectation, variance, target (m, 2) in steps; log_heatmap (m, w^2); weight (m,) of each match."""
        radius = self.window // 2
        weight = weight * (target.abs().amax(1) <= radius)
        inverse = 1 / variance.detach().sqrt().sum(1).clamp(min=0.1)
        inverse = inverse / mean_value(inverse, weight)
        squared = (expectation - target).square().sum(1)
        entropy = -(log_heatmap * self._bilinear(target.clamp(-radius, radius))).sum(1)
        loss = self.expectation_weight * inverse * squared + self.heatmap_weight * entropy
        return mean(loss, weight)

    def _bilinear(self, target: Tensor) -> Tensor:
        step = torch.arange(self.window, device=target.device) - self.window // 2
        near_x = F.relu(1 - (step[None] - target[:, :1]).abs())
        near_y = F.relu(1 - (step[None] - target[:, 1:]).abs())
        return (near_y[:, :, None] * near_x[:, None, :]).flatten(1)
