"""Image -> coarse map at 1/8 and fine map at 1/2, by a feature pyramid (FPN).

Every stride-2 convolution is 3x3 with padding 1, so cell ``i`` of a map of stride s is centred on
pixel ``s i`` of the image: grid points are ``(8 x, 8 y)`` and ``(2 x, 2 y)``, as in LoFTR.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stfm_ros.model.presets import ModelConfig


class RepConv(nn.Module):
    """RepVGG block whose 3x3, 1x1 and identity branches are summed in weight space.

    The branches are linear, so their sum is one 3x3 kernel: training runs a single convolution and
    one batch normalisation, and deployment (``fused_kernel``) is exact. After RepVGG (Ding et al.,
    CVPR 2021) and DiracNets (Zagoruyko & Komodakis, 2017).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.conv3 = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        self.conv1 = nn.Parameter(torch.empty(out_channels, in_channels, 1, 1))
        nn.init.kaiming_normal_(self.conv3, nonlinearity="relu")
        nn.init.kaiming_normal_(self.conv1, nonlinearity="relu")
        self.identity = nn.Parameter(torch.ones(out_channels)) if in_channels == out_channels and stride == 1 else None
        self.norm = nn.BatchNorm2d(out_channels)

    def fused_kernel(self) -> Tensor:
        """The sum of the branches, (out, in, 3, 3)."""
        kernel = self.conv3 + F.pad(self.conv1, (1, 1, 1, 1))
        if self.identity is not None:
            kernel = kernel + F.pad(torch.diag(self.identity)[:, :, None, None], (1, 1, 1, 1))
        return kernel

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H/stride, W/stride)."""
        x = F.conv2d(x, self.fused_kernel(), stride=self.stride, padding=1)
        return F.relu(self.norm(x))


class ResBlock(nn.Module):
    """Basic residual block of the published backbone."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = (
            None
            if stride == 1 and in_channels == out_channels
            else nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H/stride, W/stride)."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu((x if self.downsample is None else self.downsample(x)) + y)


def _stage(config: ModelConfig, in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    block = ResBlock if config.backbone == "resnet" else RepConv
    if config.backbone == "repvgg":
        blocks += 1  # the strided block is one of its own
    layers = [block(in_channels, out_channels, stride)]
    layers += [block(out_channels, out_channels) for _ in range(blocks - 1)]
    return nn.Sequential(*layers)


def _merge(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(in_channels),
        nn.LeakyReLU(0.01),
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
    )


class Backbone(nn.Module):
    """Convolutions down to 1/8, a pyramid back up to 1/2."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c2, c4, c8 = config.channels
        self.align_corners = config.backbone == "resnet"
        if config.backbone == "resnet":
            self.stem: nn.Module = nn.Sequential(
                nn.Conv2d(config.in_channels, c2, 7, 2, 3, bias=False), nn.BatchNorm2d(c2), nn.ReLU()
            )
            self.stage2 = _stage(config, c2, c2, config.blocks[0], 1)
        else:
            self.stem = nn.Identity()
            self.stage2 = _stage(config, config.in_channels, c2, config.blocks[0], 2)
        self.stage4 = _stage(config, c2, c4, config.blocks[1], 2)
        self.stage8 = _stage(config, c4, c8, config.blocks[2], 2)
        self.lateral8 = nn.Conv2d(c8, config.d_coarse, 1, bias=False)
        if config.backbone == "resnet":
            self.lateral4 = nn.Conv2d(c4, c8, 1, bias=False)
            self.merge4: nn.Module = _merge(c8, c4)
            self.lateral2 = nn.Conv2d(c2, c4, 1, bias=False)
            self.merge2: nn.Module = _merge(c4, config.d_fine)
            self.top_down: nn.Module = nn.Identity()
            self.top_down2: nn.Module = nn.Identity()
        else:
            self.top_down = nn.Conv2d(config.d_coarse, c4, 1, bias=False)
            self.lateral4 = nn.Conv2d(c4, c4, 1, bias=False)
            self.merge4 = RepConv(c4, c4)
            self.top_down2 = nn.Conv2d(c4, config.d_fine, 1, bias=False)
            self.lateral2 = nn.Conv2d(c2, config.d_fine, 1, bias=False)
            self.merge2 = nn.Sequential(
                RepConv(config.d_fine, config.d_fine), nn.Conv2d(config.d_fine, config.d_fine, 3, padding=1)
            )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> coarse (B, d_coarse, H/8, W/8), fine (B, d_fine, H/2, W/2)."""
        x2 = self.stage2(self.stem(image))
        x4 = self.stage4(x2)
        x8 = self.lateral8(self.stage8(x4))
        x4 = self.merge4(self.lateral4(x4) + self._upsample(self.top_down(x8)))
        x2 = self.merge2(self.lateral2(x2) + self._upsample(self.top_down2(x4)))
        return x8, x2

    def _upsample(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=self.align_corners)
