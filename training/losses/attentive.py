"""L_att, attentive loss: the student's sub-pixel offsets follow the teacher's where the teacher is sure."""

from __future__ import annotations

from torch import Tensor, nn

from stfm_training.ranks import mean, mean_value


class AttentiveLoss(nn.Module):
    """L_att: both networks refine the same coarse matches, the student's own among them.

        L_att = mean of w |mu_S - mu_T|^2,    w = 1 / (2 sigma_T^2) divided by its mean

    (US 2023/0298307, [0062] and [0070]), sigma_T^2 the total variance of the teacher's heatmap in steps^2 of the
    fine map. sigma_T is held to at least ``smallest_sigma`` and the weights are normalised: raw, a confident teacher's
    gradient explodes (a hundred times as large at sigma .05 as at .8).
    """

    def __init__(self, smallest_sigma: float = 0.5) -> None:
        super().__init__()
        self.smallest_sigma = smallest_sigma

    def forward(self, student: Tensor, teacher: Tensor, teacher_variance: Tensor, weight: Tensor) -> Tensor:
        """Offsets mu (m, 2) of both, the teacher's variance (m, 2), in steps; weight (m,) of each match -> scalar."""
        variance = teacher_variance.detach().sum(1).clamp(min=self.smallest_sigma**2)
        sure = 1 / (2 * variance)
        sure = sure / mean_value(sure, weight)
        return mean(sure * (student - teacher.detach()).square().sum(1), weight)


class PublicAttentiveLoss(nn.Module):
    """The same as the method's public code has it, for comparison (`loss.variant: public_code`).

    L_att = mean of sigma_T^2 |mu_S - mu_T|^2 / 2, sigma_T = sigma_x + sigma_y, in units of the window's radius: the
    less sure the teacher, the more weight. (Its further terms have no gradient.)
    """

    def __init__(self, window: int) -> None:
        super().__init__()
        self.radius = window // 2

    def forward(self, student: Tensor, teacher: Tensor, teacher_variance: Tensor, weight: Tensor) -> Tensor:
        """As :meth:`AttentiveLoss.forward`."""
        sigma = teacher_variance.detach().sqrt().sum(1) / self.radius
        squared = ((student - teacher.detach()) / self.radius).square().sum(1)
        return mean(sigma.square() * squared / 2, weight)
