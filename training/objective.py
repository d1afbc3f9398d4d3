"""One batch through the network, and through its teacher, to the named terms of the loss.

    objective = Objective(student, LossConfig(), teacher)      # without a teacher: from ground truth alone
    losses, figures = objective(batch)                         # sum(losses.values()).backward()

A teacher network (4 channels) is trained by the same objective: it is fed depth because it has the channel.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from stfm_ros.model.fine import cell_centre
from stfm_ros.model.network import CELL, STEP, StfmNet, grid_points
from stfm_ros.model.subpixel import REACH
from stfm_training.batches import Batch
from stfm_training.config import LossConfig
from stfm_training.losses.attentive import AttentiveLoss, PublicAttentiveLoss
from stfm_training.losses.coarse import FocalCoarseLoss
from stfm_training.losses.fine import FineLoss
from stfm_training.losses.query_divergence import MutualQueryDivergence, PublicQueryDivergence
from stfm_training.losses.subpixel import SubpixelLoss

DEPTH_SCALE_M = 10.0  #: of the teacher's fourth channel
NEAR = 0.3  #: steps from the truth that a closer look begins at after another


class Coarse(NamedTuple):
    """What the coarse stage gives the rest: tokens (B, n, d), fine maps (B, d_f, H/2, W/2), S (B, n, n)."""

    feat_c0: Tensor
    feat_c1: Tensor
    fine0: Tensor
    fine1: Tensor
    similarity: Tensor


class Windows(NamedTuple):
    """Coarse matches (m,) to refine; target (m, 2) true offset in steps, weight (m,) whether it counts."""

    b_ids: Tensor
    i_ids: Tensor
    j_ids: Tensor
    target: Tensor
    weight: Tensor


class Frozen(nn.Module):
    """A network that stays as it is: in evaluation mode whatever its parent does, and without gradients."""

    def __init__(self, network: StfmNet) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Frozen:
        """Stays in evaluation mode: a teacher whose batch statistics drift is another teacher."""
        return self


class Objective(nn.Module):
    """L = l0 L_c + l1 L_f + L_s, with a teacher + l2 L_MQD + l3 L_att."""

    def __init__(self, network: StfmNet, config: LossConfig, teacher: StfmNet | None = None, bf16: bool = True) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.bf16 = bf16
        self.coarse = FocalCoarseLoss(config.gamma, config.negatives)
        self.fine = FineLoss(network.config.window)
        self.subpixel = SubpixelLoss()
        distils = teacher is not None and (config.divergence > 0 or config.attentive > 0)
        self.teacher = Frozen(teacher) if teacher is not None and distils else None
        self.divergence: nn.Module
        self.attentive: nn.Module
        if config.variant == "public_code":
            self.divergence = PublicQueryDivergence(config.temperature, config.gamma)
            self.attentive = PublicAttentiveLoss(network.config.window)
        else:
            self.divergence = MutualQueryDivergence(config.temperature, config.gamma)
            self.attentive = AttentiveLoss()

    def forward(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Weighted terms by name, whose sum is the loss; and figures by name, detached."""
        config = self.config
        own = self.match(self.network, batch)
        windows = self.windows(batch, own.similarity)
        expectation, variance, log_heatmap = self.refine(self.network, own, windows, batch)
        losses = {
            "loss_c": config.coarse
            * self.coarse(own.similarity, batch.cells, batch.unmatched0, batch.unmatched1),
            "loss_f": config.fine * self.fine(expectation, variance, log_heatmap, windows.target, windows.weight),
        }  # fmt: skip
        found, shown = expectation, windows.weight
        if self.network.config.closer_looks:
            shift, by_heatmap = self.shift(batch, windows, expectation)
            left, log_b = self.look_closer(own, windows, shift, batch)
            losses["loss_s"] = config.subpixel * self.subpixel(left, log_b, windows.target - shift, windows.weight)
            found, shown = shift + left, shown * by_heatmap  # what began near the truth tells nothing
        if self.teacher is not None:
            losses |= self.distil(batch, own, windows, expectation)
        windows = windows._replace(weight=shown)
        return losses, figures(batch, own.similarity, windows, found, self.network.config.window)

    def distil(self, batch: Batch, own: Coarse, windows: Windows, expectation: Tensor) -> dict[str, Tensor]:
        """The teacher's terms: it sees depth too, and refines at the same coarse matches as the student."""
        assert self.teacher is not None
        config = self.config
        with torch.no_grad():
            taught = self.match(self.teacher.network, batch)
            mu, variance, _ = self.refine(self.teacher.network, taught, windows, batch)
        losses = {}
        if config.divergence > 0:
            extra = (batch.cells,) if config.variant == "public_code" else ()
            losses["loss_mqd"] = config.divergence * self.divergence(own.similarity, taught.similarity, *extra)
        if config.attentive > 0:
            everywhere = torch.ones_like(windows.weight)
            losses["loss_att"] = config.attentive * self.attentive(expectation, mu, variance, everywhere)
        return losses

    def match(self, network: StfmNet, batch: Batch) -> Coarse:
        """The coarse stage of a network on a batch."""
        image = network_input(network, batch)
        with self.autocast(image):
            coarse, fine = network.features(image)
            feat_c0, feat_c1 = network.transformer(*coarse.chunk(2))
        with torch.autocast(image.device.type, enabled=False):
            similarity = network.head(feat_c0.float(), feat_c1.float())
        fine0, fine1 = fine.float().chunk(2)
        return Coarse(feat_c0, feat_c1, fine0, fine1, similarity)

    def refine(self, network: StfmNet, coarse: Coarse, windows: Windows, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The fine stage of a network at given coarse matches: expectation, variance (m, 2), log heatmap (m, w^2)."""
        width = batch.image0.shape[3] // CELL
        with self.autocast(batch.image0):
            return network.refine(
                coarse.feat_c0, coarse.fine0, coarse.feat_c1, coarse.fine1, windows.b_ids, windows.i_ids, windows.j_ids,
                width, width,
            )  # fmt: skip

    def look_closer(self, coarse: Coarse, windows: Windows, shift: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The last look of the student: what is left of the offset (m, 2), and log_b (m,), in steps of 2 px."""
        width = batch.image0.shape[3] // CELL
        with self.autocast(batch.image0):
            centres = cell_centre(windows.i_ids, width), cell_centre(windows.j_ids, width)
            left, log_b = self.network.fine.look_closer(coarse.fine0, coarse.fine1, windows.b_ids, *centres, shift)
        return left.float(), log_b.float()

    @torch.no_grad()
    def shift(self, batch: Batch, windows: Windows, expectation: Tensor) -> tuple[Tensor, Tensor]:
        """Where to look closer, (m, 2) in steps from the cell, and (m,) whether the heatmap found the match there.

        By thirds it is where the heatmap says, near the truth, and very near it, as after another closer look.
        """
        chance = batch.chance[windows.b_ids, windows.i_ids]
        kind = 3 * (2 * chance[:, 2] % 1)  # the same number decided whose cell is looked at
        reach = torch.where(kind < 2, REACH - 1, NEAR)[:, None]
        disturbed = windows.target + (2 * chance[:, :2] - 1) * reach
        return torch.where(kind[:, None] < 1, expectation, disturbed), kind < 1

    def autocast(self, like: Tensor) -> torch.autocast:
        """bfloat16 for convolutions and attention, where the run asks for it."""
        return torch.autocast(like.device.type, torch.bfloat16, enabled=self.bf16)

    @torch.no_grad()
    def windows(self, batch: Batch, similarity: Tensor) -> Windows:
        """Coarse matches to refine: the network's own where they lie near the truth, else the disturbed truth.

        Of each pair ``fine_matches`` at random. Windows that the border cuts (first row and column) are left out, as
        when matching.
        """
        height, width = batch.image0.shape[2] // CELL, batch.image0.shape[3] // CELL
        reach = CELL / 2 + self.config.fine_jitter_px  # as far as the disturbance can move a point from its cell
        noise = (2 * batch.chance[:, :, :2] - 1) * self.config.fine_jitter_px
        cell = ((batch.points1 + noise) / CELL).round()
        best = similarity.argmax(2)
        found = torch.stack([best % width, best // width], dim=2).to(cell)
        own = ((found * CELL - batch.points1).abs() <= reach).all(2)
        own &= batch.chance[:, :, 2] < self.config.student_share
        cell = torch.where(own[:, :, None], found, cell)
        i_ids = torch.arange(height * width, device=cell.device)
        whole = (batch.cells >= 0) & (i_ids % width > 0) & (i_ids >= width) & (cell >= 1).all(2)
        whole &= (cell[:, :, 0] < width) & (cell[:, :, 1] < height)
        order = torch.where(whole, batch.chance[:, :, 3], -1.0)
        chosen = order.topk(min(self.config.fine_matches, order.shape[1]), dim=1)
        b_ids, place = torch.nonzero(chosen.values >= 0, as_tuple=True)
        i_ids = chosen.indices[b_ids, place]
        cell = cell[b_ids, i_ids]
        j_ids = (cell[:, 1] * width + cell[:, 0]).long()
        target = (batch.points1[b_ids, i_ids] - grid_points(j_ids, width)) / STEP
        return Windows(b_ids, i_ids, j_ids, target, batch.precise[b_ids].float())


def network_input(network: StfmNet, batch: Batch) -> Tensor:
    """Both images of each pair (2B, C, H, W) float32; the fourth channel, where there is one, is depth / 10 m."""
    image = torch.cat([batch.image0, batch.image1]).float() / 255
    if network.config.in_channels == 4:
        depth = torch.cat([batch.depth0, batch.depth1])[:, None] / DEPTH_SCALE_M
        image = torch.cat([image, depth], dim=1)
    return image.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def figures(batch: Batch, similarity: Tensor, windows: Windows, expectation: Tensor, window: int) -> dict[str, Tensor]:
    """What is worth watching: share of true cells that are the best of their row, median fine error in pixels."""
    right = (similarity.argmax(2) == batch.cells)[batch.cells >= 0]
    inside = (windows.target.abs().amax(1) <= window // 2) & (windows.weight > 0)
    error = STEP * (expectation - windows.target).norm(dim=1)[inside]
    nothing = torch.tensor(float("nan"), device=similarity.device)
    return {
        "coarse_accuracy": right.float().mean(),
        "fine_px": error.median() if len(error) else nothing,
    }
