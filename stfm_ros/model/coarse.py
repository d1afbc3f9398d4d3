"""Coarse matching: similarity, dual softmax, mutual nearest neighbours, the best K.

Static shapes throughout: K rows always come out, padded with confidence 0.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stfm_ros.model.presets import ModelConfig

SMALLEST_SUM = 1e-37  #: near float32's smallest normal number


class MatchHead(nn.Module):
    """Coarse features -> similarity S, in log units."""

    #: a lower start (20) keeps the loss high and hardly learns the scale
    START_SCALE = 40.0

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.d = config.d_coarse
        self.normalised = config.d_match > 0
        if self.normalised:
            self.project = nn.Linear(config.d_coarse, config.d_match)
            self.log_scale = nn.Parameter(torch.tensor(math.log(self.START_SCALE)))

    def forward(self, feat_c0: Tensor, feat_c1: Tensor) -> Tensor:
        """(B, n0, d), (B, n1, d) -> S (B, n0, n1)."""
        if not self.normalised:  # <f, g> / (0.1 d), as published
            return (feat_c0 / self.d) @ (feat_c1 / 0.1).transpose(1, 2)
        f0 = F.normalize(self.project(feat_c0), dim=-1) * self.log_scale.exp()
        f1 = F.normalize(self.project(feat_c1), dim=-1)
        return f0 @ f1.transpose(1, 2)


def dual_softmax_terms(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """Log-sum-exp of S over rows (B, n0) and over columns (B, n1).

    P_ij = softmax_row(S)_ij softmax_col(S)_ij = exp(2 S_ij - row_i - col_j). One exponential serves
    both, taken relative to the largest similarity of the pair; a row that lies 85 log units below it
    (never seen) comes out as without a match.
    """
    peak = similarity.amax((1, 2), keepdim=True)
    exponential = (similarity - peak).exp()
    row = exponential.sum(2).clamp(min=SMALLEST_SUM).log() + peak[:, :, 0]
    col = exponential.sum(1).clamp(min=SMALLEST_SUM).log() + peak[:, 0]
    return row, col


def inner_cells(height: int, width: int, border: int = 0) -> Tensor:
    """(height * width,) bool: cells that may match, ``border`` cells away from every side.

    In any case their fine window lies inside the map, which leaves out the first row and column (for
    windows of up to 7 on the 1/2 map).
    """
    mask = torch.zeros(height, width, dtype=torch.bool)
    first = max(border, 1)
    mask[first : height - border, first : width - border] = True
    return mask.flatten()


def select_matches(similarity: Tensor, inner0: Tensor, inner1: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mutual nearest neighbours of the dual-softmax matrix, best first.

    Args:
        similarity: S (B, n0, n1).
        inner0: (n0,) bool and inner1: (n1,) bool, cells that may match.
        k: rows that come out, at most n0.

    Returns:
        conf (B, k), i_ids (B, k), j_ids (B, k); rows without a match have conf 0.
    """
    row, col = dual_softmax_terms(similarity)
    half_log_p = similarity - (row / 2)[:, :, None] - (col / 2)[:, None, :]
    j_ids = half_log_p.argmax(2)
    best = half_log_p.amax(2)
    mutual = best >= half_log_p.amax(1).gather(1, j_ids)  # the same entry is the best of its column
    conf = (2 * best).exp() * (mutual & inner0 & inner1[j_ids])
    conf, i_ids = conf.topk(k, dim=1)
    return conf, i_ids, j_ids.gather(1, i_ids)
