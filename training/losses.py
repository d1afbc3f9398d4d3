"""Losses of supervised training; each is a module with its equation.

Notation: P is the dual-softmax matrix of the coarse similarities (``stfm_ros.model.coarse``), in
log form throughout, so that no probability is formed and then taken the logarithm of.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stfm_ros.model.coarse import SMALLEST_SUM


class _DualLogSumExp(torch.autograd.Function):
    """Log-sum-exp over rows and over columns with one exponential for both and for the gradient.

    Similarities span less than 80 log units (a cosine times a scale near 40), so that one common
    maximum serves all rows and columns in float32.
    """

    @staticmethod
    def forward(ctx: Any, similarity: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        peak = similarity.amax((1, 2), keepdim=True)
        exponential = (similarity - peak).exp_()
        row = exponential.sum(2).clamp_(min=SMALLEST_SUM)
        col = exponential.sum(1).clamp_(min=SMALLEST_SUM)
        ctx.save_for_backward(exponential, row, col)
        return row.log() + peak[:, :, 0], col.log() + peak[:, 0]

    @staticmethod
    def backward(ctx: Any, grad_row: Tensor, grad_col: Tensor) -> Tensor:  # type: ignore[override]
        exponential, row, col = ctx.saved_tensors
        weights: Tensor = (grad_row / row)[:, :, None] + (grad_col / col)[:, None, :]
        return weights.mul_(exponential)


class FocalCoarseLoss(nn.Module):
    """L_c: focal cross-entropy on P.

    L_c = mean over true matches of -(1 - P)^gamma log P
        + negative_weight * mean over cells known to be unmatched of -P^gamma log(1 - P), P their best.

    LoFTR (Sun et al., CVPR 2021) eq. 6 with the focal form of its code; negatives only where the
    ground truth knows that there is no match.
    """

    def __init__(self, gamma: float = 2.0, negative_weight: float = 0.5) -> None:
        super().__init__()
        self.gamma = gamma
        self.negative_weight = negative_weight

    def forward(self, similarity: Tensor, cells: Tensor, unmatched0: Tensor, unmatched1: Tensor) -> Tensor:
        """S (B, n0, n1); cells (B, n0) true cell in image 1 or -1; unmatched0 (B, n0), unmatched1 (B, n1) bool."""
        row, col = _DualLogSumExp.apply(similarity)  # type: ignore[no-untyped-call]
        b_ids, i_ids = torch.nonzero(cells >= 0, as_tuple=True)
        positive = self._log_p(similarity, row, col, b_ids, i_ids, cells[b_ids, i_ids])
        loss = (-((1 - positive.exp()) ** self.gamma) * positive).sum() / max(len(positive), 1)
        with torch.no_grad():
            # the best of a row does not depend on its own log-sum-exp, nor that of a column on its own
            best1 = (2 * similarity - col[:, None, :]).argmax(2)
            best0 = (2 * similarity - row[:, :, None]).argmax(1)
        b0, i0 = torch.nonzero(unmatched0, as_tuple=True)
        b1, j1 = torch.nonzero(unmatched1, as_tuple=True)
        negative = torch.cat(
            [
                self._log_p(similarity, row, col, b0, i0, best1[b0, i0]),
                self._log_p(similarity, row, col, b1, best0[b1, j1], j1),
            ]
        )
        p = negative.exp().clamp(max=1 - 1e-4)
        return loss + self.negative_weight * (-(p**self.gamma) * torch.log1p(-p)).sum() / max(len(p), 1)

    @staticmethod
    def _log_p(similarity: Tensor, row: Tensor, col: Tensor, b: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return 2 * similarity[b, i, j] - row[b, i] - col[b, j]


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
        total = weight.sum().clamp(min=1.0)
        inverse = 1 / variance.detach().sqrt().sum(1).clamp(min=0.1)
        inverse = inverse / ((inverse * weight).sum() / total).clamp(min=1e-6)
        squared = (expectation - target).square().sum(1)
        entropy = -(log_heatmap * self._bilinear(target.clamp(-radius, radius))).sum(1)
        loss = self.expectation_weight * inverse * squared + self.heatmap_weight * entropy
        return (loss * weight).sum() / total

    def _bilinear(self, target: Tensor) -> Tensor:
        step = torch.arange(self.window, device=target.device) - self.window // 2
        near_x = F.relu(1 - (step[None] - target[:, :1]).abs())
        near_y = F.relu(1 - (step[None] - target[:, 1:]).abs())
        return (near_y[:, :, None] * near_x[:, None, :]).flatten(1)
