"""Log-sum-exp of the similarities over rows and columns, at the price of one exponential."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stfm_ros.model.coarse import SMALLEST_SUM


class DualLogSumExp(torch.autograd.Function):
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


def dual_log_sum_exp(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """S (B, n0, n1) -> log-sum-exp over rows (B, n0) and columns (B, n1); log P_ij = 2 S_ij - row_i - col_j."""
    row, col = DualLogSumExp.apply(similarity)  # type: ignore[no-untyped-call]
    return row, col
