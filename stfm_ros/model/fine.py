"""Fine stage: a window of the 1/2 map round each coarse match -> sub-pixel offset and variance."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stfm_ros.model.presets import ModelConfig
from stfm_ros.model.transformer import TokenAttention, alternate

#: power of a heatmap that leaves next to nothing beside its peak, and still moves smoothly with it
PEAK = 4.0


class FineStage(nn.Module):
    """Window transformer and expectation over the heatmap of the centre of image 0 in image 1."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.window = config.window
        self.zeros_outside = config.window_padding == "zeros"
        self.d = config.d_fine
        self.project = nn.Linear(config.d_coarse, config.d_fine)
        self.merge = nn.Linear(2 * config.d_fine, config.d_fine)
        self.reach, self.gain = config.fine_reach, config.fine_gain
        self.symmetric = config.attention != "linear"
        self.layers = nn.ModuleList(
            TokenAttention(config.d_fine, config.fine_heads) for _ in range(2 * config.fine_layers)
        )
        radius = self.window // 2
        step = torch.arange(-radius, radius + 1, dtype=torch.float32)
        dy, dx = torch.meshgrid(step, step, indexing="ij")
        self.register_buffer("grid", torch.stack([dx.flatten(), dy.flatten()], 1), persistent=False)
        self.grid: Tensor

    def windows(
        self, feat_f: Tensor, feat_c: Tensor, b_ids: Tensor, ids: Tensor, width_c: int, shift: Tensor | None = None
    ) -> Tensor:
        """Crop windows and merge the coarse feature into each of their tokens.

        Args:
            feat_f: (B, H/2, W/2, d_fine). feat_c: (B, n, d_coarse).
            b_ids, ids: (m,) batch index and coarse cell.
            width_c: columns of the coarse grid.
            shift: (m, 2) whole steps from the cell to the centre of its window.

        Returns:
            (m, window^2, d_fine). Beyond the border: the nearest token inside, or zeros before the coarse
            feature is merged in (``window_padding``).
        """
        batch, height, width, d = feat_f.shape
        tokens = feat_f.reshape(batch * height * width, d)
        centre_y = torch.div(ids, width_c, rounding_mode="floor") * 4
        centre_x = (ids % width_c) * 4
        if shift is not None:
            centre_x, centre_y = centre_x + shift[:, 0].long(), centre_y + shift[:, 1].long()
        offset = self.grid.long()
        wanted_y, wanted_x = centre_y[:, None] + offset[None, :, 1], centre_x[:, None] + offset[None, :, 0]
        y, x = wanted_y.clamp(0, height - 1), wanted_x.clamp(0, width - 1)
        index = (b_ids[:, None] * height + y) * width + x
        fine = tokens.index_select(0, index.flatten()).view(-1, self.window**2, d)
        if self.zeros_outside:
            fine = fine * ((y == wanted_y) & (x == wanted_x))[:, :, None]
        cells = feat_c.reshape(-1, feat_c.shape[2]).index_select(0, b_ids * feat_c.shape[1] + ids)
        of_fine, of_coarse = self.merge.weight.chunk(2, dim=1)  # a row of coarse is the same for all of its window
        coarse = F.linear(self.project(cells), of_coarse, self.merge.bias)
        return F.linear(fine, of_fine) + coarse[:, None]

    def forward(self, window0: Tensor, window1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Windows (m, w^2, d_fine) of both images -> where the centre of image 0 lies in image 1.

        Returns:
            expectation (m, 2): offset from the window's centre, in steps of the 1/2 map.
            variance (m, 2): of the heatmap along x and y, in steps^2.
            log_heatmap (m, w^2).

        This is what is trained; :meth:`locate` makes of the heatmap what a match is.
        """
        middle = self.window**2 // 2
        if self.symmetric and len(self.layers):  # of the last look across, only the centre of window 0 is asked for
            window0, window1 = alternate(self.layers[:-1], window0, window1, self.symmetric)
            across = self.layers[-1]
            centre, window1 = across(window0[:, middle : middle + 1], window1), across(window1, window0)
        else:
            window0, window1 = alternate(self.layers, window0, window1, self.symmetric)
            centre = window0[:, middle : middle + 1]
        # sums of products, not matrix products: runtimes that round those to bfloat16 leave these in float32
        scores = (window1 * centre).float().sum(2) / self.d**0.5
        log_heatmap = scores.log_softmax(1)
        return *self._moments(log_heatmap.exp()), log_heatmap

    def locate(self, log_heatmap: Tensor) -> tuple[Tensor, Tensor]:
        """Where heatmaps (m, w^2) have their peak: offset (m, 2) from the centre and variance (m, 2), as of
        :meth:`forward`, of what lies within about ``fine_reach`` of it."""
        if not self.reach:
            return self._moments(log_heatmap.exp())
        peak, _ = self._moments((PEAK * log_heatmap).softmax(1))
        distance = (self.grid - peak[:, None]).square().sum(2)
        mean, variance = self._moments((log_heatmap - distance / (2 * self.reach**2)).softmax(1))
        return self.gain * mean, variance

    def _moments(self, heatmap: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance, (m, 2) each."""
        weighted = heatmap[:, :, None] * self.grid
        mean = weighted.sum(1)
        return mean, ((weighted * self.grid).sum(1) - mean.square()).clamp(min=1e-10)
