"""Positional encodings: rotary for the small presets, additive sine for the published one."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sine_encoding(d: int, height: int, width: int, *, published_slip: bool = False) -> Tensor:
    """Additive 2-D sinusoidal encoding of DETR and LoFTR.

    Args:
        d: channels, a multiple of 4.
        height, width: of the coarse grid.
        published_slip: reproduce the operator precedence of LoFTR's first release, whose
            checkpoints were trained with it. New models must not.

    Returns:
        (d, height, width) float32.
    """
    y = torch.arange(1, height + 1, dtype=torch.float32)[None, :, None].expand(1, height, width)
    x = torch.arange(1, width + 1, dtype=torch.float32)[None, None, :].expand(1, height, width)
    k = torch.arange(0, d // 2, 2, dtype=torch.float32)
    rate = torch.exp(k * (-math.log(10000.0) / d // 2 if published_slip else -math.log(10000.0) / (d // 2)))
    rate = rate[:, None, None]
    encoding = torch.zeros(d, height, width)
    encoding[0::4] = torch.sin(x * rate)
    encoding[1::4] = torch.cos(x * rate)
    encoding[2::4] = torch.sin(y * rate)
    encoding[3::4] = torch.cos(y * rate)
    return encoding


def rotary_tables(d_head: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of a 2-D rotary encoding (RoFormer; 2-D as in EfficientLoFTR).

    Half of the channel pairs turn with x, half with y. The slowest turns by about one radian over
    64 tokens, so that a distance is unambiguous over the whole image.

    Returns:
        cos, sin: (height * width, d_head / 2) float32.
    """
    pairs = d_head // 4
    rate = 64.0 ** (-torch.arange(pairs, dtype=torch.float32) / max(pairs - 1, 1))
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    angle = torch.cat([x.reshape(-1, 1) * rate, y.reshape(-1, 1) * rate], dim=1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn channel pairs ``(c, c + d/2)`` of x (..., tokens, d) by the angles of the tables."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
