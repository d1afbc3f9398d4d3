"""Fine stage: a window of the 1/2 map round each coarse match -> sub-pixel offset and its error."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stfm_ros.model.presets import ModelConfig
from stfm_ros.model.subpixel import PATCH, WINDOW, SubpixelHead
from stfm_ros.model.transformer import TokenAttention, alternate


class FineStage(nn.Module):
    """Window transformer and expectation over the heatmap of the centre of image 0 in image 1."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.window = config.window
        self.zeros_outside = config.window_padding == "zeros"
        self.d = config.d_fine
        self.project = nn.Linear(config.d_coarse, config.d_fine)
        self.merge = nn.Linear(2 * config.d_fine, config.d_fine)
        self.symmetric = config.attention != "linear"
        self.layers = nn.ModuleList(
            TokenAttention(config.d_fine, config.fine_heads) for _ in range(2 * config.fine_layers)
        )
        self.subpixel = SubpixelHead(config.d_fine) if config.closer_looks else None
        radius = self.window // 2
        step = torch.arange(-radius, radius + 1, dtype=torch.float32)
        dy, dx = torch.meshgrid(step, step, indexing="ij")
        self.register_buffer("grid", torch.stack([dx.flatten(), dy.flatten()], 1), persistent=False)
        self.grid: Tensor

    def windows(self, feat_f: Tensor, feat_c: Tensor, b_ids: Tensor, ids: Tensor, width_c: int) -> Tensor:
        """Crop windows and merge the coarse feature into each of their tokens.

        Args:
            feat_f: (B, H/2, W/2, d_fine). feat_c: (B, n, d_coarse).
            b_ids, ids: (m,) batch index and coarse cell.
            width_c: columns of the coarse grid.

        Returns:
            (m, window^2, d_fine). Beyond the border: the nearest token inside, or zeros before the coarse
            feature is merged in (``window_padding``).
        """
        fine, inside = crop(feat_f, b_ids, cell_centre(ids, width_c), self.window)
        if self.zeros_outside:
            fine = fine * inside[:, :, None]
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

    def look_closer(
        self, feat_f0: Tensor, feat_f1: Tensor, b_ids: Tensor, centre0: Tensor, centre1: Tensor, shift: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What is left of matches (m,) that lie about ``shift`` from where their coarse cells say.

        Args:
            feat_f0, feat_f1: (B, H/2, W/2, d_fine).
            centre0, centre1: (m, 2) whole steps, :func:`cell_centre` of their cells.
            shift: (m, 2) steps from ``centre1``.

        Returns:
            offset (m, 2) from there and log_b (m,), see :class:`SubpixelHead`.
        """
        assert self.subpixel is not None
        patch0, _ = crop(feat_f0, b_ids, centre0, PATCH)
        found: tuple[Tensor, Tensor] = self.subpixel(patch0, crop_between(feat_f1, b_ids, centre1, shift, WINDOW))
        return found

    def _moments(self, heatmap: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance, (m, 2) each."""
        weighted = heatmap[:, :, None] * self.grid
        mean = weighted.sum(1)
        return mean, ((weighted * self.grid).sum(1) - mean.square()).clamp(min=1e-10)


def cell_centre(ids: Tensor, width_c: int) -> Tensor:
    """Grid points (m, 2), x and y, of coarse cells (m,), in steps of the 1/2 map."""
    return 4 * torch.stack([ids % width_c, torch.div(ids, width_c, rounding_mode="floor")], 1)


def crop(
    feat_f: Tensor, b_ids: Tensor, centre: Tensor, size: int, before: int | None = None
) -> tuple[Tensor, Tensor]:
    """Tokens (m, size^2, d) of a map (B, h, w, d) round whole places ``centre`` (m, 2), x and y; beyond the border the
    nearest inside. And which of them, (m, size^2), lie inside. ``before`` them lie so many steps (half of the size)."""
    batch, height, width, d = feat_f.shape
    step = torch.arange(size, device=feat_f.device) - (size // 2 if before is None else before)
    dy, dx = torch.meshgrid(step, step, indexing="ij")
    wanted_x, wanted_y = centre[:, :1] + dx.flatten(), centre[:, 1:] + dy.flatten()
    x, y = wanted_x.clamp(0, width - 1), wanted_y.clamp(0, height - 1)
    index = (b_ids[:, None] * height + y) * width + x
    tokens = feat_f.reshape(batch * height * width, d).index_select(0, index.flatten())
    return tokens.view(-1, size**2, d), (x == wanted_x) & (y == wanted_y)


def crop_between(feat_f: Tensor, b_ids: Tensor, centre: Tensor, shift: Tensor, size: int) -> Tensor:
    """:func:`crop` round places between the steps, ``centre`` (m, 2) and a ``shift`` (m, 2) from there that need not be
    whole: (m, size^2, d), bilinear."""
    whole = shift.floor()  # by itself small, so that a runtime which rounds to bfloat16 keeps its fraction
    tokens, _ = crop(feat_f, b_ids, centre + whole.long(), size + 1, size // 2)
    across, down = (shift - whole)[:, None, None].unbind(3)
    tokens = tokens.view(len(shift), size + 1, size + 1, -1)
    tokens = torch.lerp(tokens[:, :-1], tokens[:, 1:], down[..., None])
    return torch.lerp(tokens[:, :, :-1], tokens[:, :, 1:], across[..., None]).flatten(1, 2)
