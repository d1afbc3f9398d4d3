"""L_MQD, mutual query divergence: the student's coarse distributions follow the teacher's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stfm_training.losses.dual_softmax import dual_log_sum_exp
from stfm_training.ranks import mean


class MutualQueryDivergence(nn.Module):
    """L_MQD: every cell of either image is a query with a distribution over the other image's cells.

        L_MQD = 1 / (n0 + n1) sum_i w_i T^2 KL(p_T,i || p_S,i),    p_i = softmax(S_i / T)

    over the rows and the columns of S: 2hw queries (US 2023/0298307). The teacher is the target,
    so that all of its ranking passes, not only its best cell. w_i = (1 - p_S,i[k])^gamma, k the teacher's best cell,
    without a gradient: queries that the student has learned fade out; gamma 0 gives every query the weight 1. The
    patent prints the divergence with a doubled sign and the roles of the two networks exchanged; in that form the
    gradient does not vanish where student and teacher agree.
    """

    def __init__(self, temperature: float = 2.0, gamma: float = 2.0) -> None:
        super().__init__()
        self.temperature = temperature
        self.gamma = gamma

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Similarities (B, n0, n1) of both networks -> scalar."""
        student, teacher = student / self.temperature, teacher.detach() / self.temperature
        rows = self._queries(student, teacher, dim=2)
        cols = self._queries(student, teacher, dim=1)
        return self.temperature**2 * mean(torch.cat([rows.flatten(), cols.flatten()]))

    def _queries(self, student: Tensor, teacher: Tensor, dim: int) -> Tensor:
        log_target = teacher.log_softmax(dim)
        target = log_target.exp()
        log_sum = student.logsumexp(dim)
        divergence = (target * (log_target - student)).sum(dim) + log_sum
        if not self.gamma:
            return divergence
        best = teacher.argmax(dim, keepdim=True)
        known = (student.gather(dim, best).squeeze(dim) - log_sum).detach().exp()
        return (1 - known) ** self.gamma * divergence


class PublicQueryDivergence(nn.Module):
    """The same as the method's public code has it, for comparison (`loss.variant: public_code`).

    Each entry of KL is weighted by itself: a true match (i, j) with (1 - P)^2 KL_ij, every other entry with
    P^2 (1 - KL_ij), each group by its own mean, gradients through P too. The second group has some 1/700 of the first
    one's gradient, so little of the teacher's ranking passes.
    """

    SCALE = 4.0  #: alpha 0.25 times a fixed 16

    def __init__(self, temperature: float = 2.0, gamma: float = 2.0) -> None:
        super().__init__()
        self.temperature = temperature
        self.gamma = gamma

    def forward(self, student: Tensor, teacher: Tensor, cells: Tensor) -> Tensor:
        """Similarities (B, n0, n1); cells (B, n0) true cell in image 1 or -1 -> scalar."""
        row, col = dual_log_sum_exp(student)
        p = (2 * student - row[:, :, None] - col[:, None, :]).exp()
        true = torch.zeros_like(p, dtype=torch.bool)
        b_ids, i_ids = torch.nonzero(cells >= 0, as_tuple=True)
        true[b_ids, i_ids, cells[b_ids, i_ids]] = True
        loss = p.new_zeros(())
        for dim in (2, 1):
            log_target = (teacher.detach() / self.temperature).log_softmax(dim)
            log_student = (student / self.temperature).log_softmax(dim)
            entry = self.temperature**2 * log_target.exp() * (log_target - log_student)
            loss = loss + mean((1 - p[true]) ** self.gamma * entry[true])
            loss = loss + mean(p[~true] ** self.gamma * (1 - entry[~true]))
        return self.SCALE * loss / 2
