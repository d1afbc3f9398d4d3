"""L_c: which cell of image 1 a cell of image 0 belongs to."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stfm_training.losses.dual_softmax import dual_log_sum_exp
from stfm_training.ranks import mean


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
        row, col = dual_log_sum_exp(similarity)
        b_ids, i_ids = torch.nonzero(cells >= 0, as_tuple=True)
        positive = self._log_p(similarity, row, col, b_ids, i_ids, cells[b_ids, i_ids])
        loss = mean(-((1 - positive.exp()) ** self.gamma) * positive)
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
        return loss + self.negative_weight * mean(-(p**self.gamma) * torch.log1p(-p))

    @staticmethod
    def _log_p(similarity: Tensor, row: Tensor, col: Tensor, b: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return 2 * similarity[b, i, j] - row[b, i] - col[b, j]
