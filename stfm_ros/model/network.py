"""The matcher as two static graphs: one image -> features; two images' features -> K rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from stfm_ros.errors import ImageError
from stfm_ros.model.backbone import Backbone
from stfm_ros.model.coarse import MatchHead, inner_cells, select_matches, turns
from stfm_ros.model.fine import FineStage, cell_centre
from stfm_ros.model.position import sine_encoding
from stfm_ros.model.presets import ModelConfig
from stfm_ros.model.transformer import CoarseTransformer

CELL, STEP = 8, 2  #: pixels of a coarse cell, and of a step of the fine map

#: of R, G and B in [0, 1]
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


class PairRows(NamedTuple):
    """K rows of one or more pairs, best first; rows without a match have confidence 0."""

    keypoints0: Tensor  #: (B, K, 2) pixels of image 0, on the grid (8 x, 8 y)
    keypoints1: Tensor  #: (B, K, 2) pixels of image 1
    confidence: Tensor  #: (B, K)
    sigma: Tensor  #: (B, K) pixels, per axis


class StfmNet(nn.Module):
    """Coarse-to-fine matcher of 3DG-STFM; RGB student with 3 channels, RGB-D teacher with 4."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.transformer = CoarseTransformer(config)
        self.head = MatchHead(config)
        self.fine = FineStage(config)

    def features(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """What one image contributes, whatever it is matched with.

        Args:
            image: (B, C, H, W) in [0, 1]; the fourth channel of a teacher is depth / 10 m.

        Returns:
            coarse (B, d_coarse, H/8, W/8), fine (B, H/2, W/2, d_fine).

        Raises:
            ImageError: channels or size do not fit the network.
        """
        _, channels, height, width = image.shape
        stride = self.config.stride
        if channels != self.config.in_channels or height % stride or width % stride:
            raise ImageError(
                f"the network takes {self.config.in_channels} channels and sizes that are multiples of {stride}, "
                f"got {channels} channels at {width}x{height}; fit the image first (stfm_ros.images.fit)"
            )
        rgb = normalise(image[:, :3], self.config.normalisation)
        depth = image[:, 3:]
        if channels > 3 and self.config.depth_encoding == "log":
            depth = log_depth(depth)
        coarse, fine = self.backbone(torch.cat([rgb, depth], 1) if channels > 3 else rgb)
        if self.config.attention == "linear":
            height, width = coarse.shape[2:]
            encoding = sine_encoding(self.config.d_coarse, height, width, published_slip=self.config.sine_slip)
            coarse = coarse + encoding.to(coarse)
        return coarse, fine.permute(0, 2, 3, 1)

    def pair(self, coarse0: Tensor, fine0: Tensor, coarse1: Tensor, fine1: Tensor, k: int) -> PairRows:
        """Match the features of two images; the counterpart of :meth:`features`."""
        height, width = coarse0.shape[2:]
        height1, width1 = coarse1.shape[2:]
        feat_c0, feat_c1 = self.transformer(coarse0, coarse1)
        inner0 = inner_cells(height, width, self.config.border).to(coarse0.device)
        inner1 = inner_cells(height1, width1, self.config.border).to(coarse0.device)
        turns0 = turns(height, width).to(coarse0.device)
        pairs = zip(*self.head.descriptors(feat_c0, feat_c1))
        selected = zip(*(select_matches(*pair, inner0, inner1, turns0, k) for pair in pairs))
        conf, i_ids, j_ids = (torch.stack(tensors) for tensors in selected)
        batch = conf.shape[0]
        b_ids = torch.arange(batch, device=conf.device).repeat_interleave(k)
        i_cells, j_cells = i_ids.flatten(), j_ids.flatten()
        window0 = self.fine.windows(fine0, feat_c0, b_ids, i_cells, width)
        window1 = self.fine.windows(fine1, feat_c1, b_ids, j_cells, width1)
        found, variance, _ = self.fine(window0, window1)
        error = (variance.sum(1) / 2).sqrt()
        centres = cell_centre(i_cells, width), cell_centre(j_cells, width1)
        for _ in range(self.config.closer_looks):
            left, log_b = self.fine.look_closer(fine0, fine1, b_ids, *centres, found)
            found, error = found + left, log_b.exp()
        offset = STEP * found.view(batch, k, 2)
        sigma = STEP * error.view(batch, k)
        return PairRows(grid_points(i_ids, width), grid_points(j_ids, width1) + offset, conf, sigma)

    def refine(
        self,
        feat_c0: Tensor,
        fine0: Tensor,
        feat_c1: Tensor,
        fine1: Tensor,
        b_ids: Tensor,
        i_ids: Tensor,
        j_ids: Tensor,
        width0: int,
        width1: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Fine offsets at given coarse matches (m,), wherever they come from: a teacher refines at its student's.

        Returns:
            expectation (m, 2) and variance (m, 2) in steps of 2 px, log_heatmap (m, window^2).
        """
        window0 = self.fine.windows(fine0, feat_c0, b_ids, i_ids, width0)
        window1 = self.fine.windows(fine1, feat_c1, b_ids, j_ids, width1)
        offsets: tuple[Tensor, Tensor, Tensor] = self.fine(window0, window1)
        return offsets

    def forward(self, image0: Tensor, image1: Tensor, k: int = 1024) -> PairRows:
        """Two images (B, C, H, W) -> K rows."""
        return self.pair(*self.features(image0), *self.features(image1), k)


def normalise(rgb: Tensor, how: str) -> Tensor:
    """RGB (B, 3, H, W) in [0, 1] as the backbone takes it; see ``ModelConfig.normalisation``."""
    if how == "none":
        return rgb
    if how == "imagenet":
        planes = zip(rgb.unbind(1), IMAGENET_MEAN, IMAGENET_DEVIATION, strict=True)
        return torch.stack([(plane - mean) / deviation for plane, mean, deviation in planes], 1)
    centred = rgb - plane_mean(rgb)
    return centred / (plane_mean(centred.square()) + 1e-4).sqrt()


def plane_mean(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 1, 1). By rows first: summed in one, ONNX Runtime loses four digits."""
    return x.mean(3, keepdim=True).mean(2, keepdim=True)


def grid_points(ids: Tensor, width: int) -> Tensor:
    """Coarse cells (...) -> their grid points (..., 2) in pixels."""
    y = torch.div(ids, width, rounding_mode="floor")
    return torch.stack([ids % width, y], dim=-1).float() * CELL


#: depth in tens of metres that a network sees as 0, and what a factor of e beside it makes
MIDDLE_DEPTH, DEPTH_GAIN = 0.25, 2.0


def log_depth(depth: Tensor) -> Tensor:
    """Depth in tens of metres, 0 where there is none -> of the spread of normalised colours, 0 where there is none.

    Depth over 10 m is a few hundredths of what colours are, and a network that begins with like weights for both learns
    to do without it; in the logarithm an edge of depth is as strong near as far.
    """
    known = DEPTH_GAIN * (depth.clamp(min=1e-3) / MIDDLE_DEPTH).log()
    return torch.where(depth > 0, known, 0.0)
