"""What a single image is worth before it is matched: blur and exposure, without a reference."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from stfm_ros.types import ByteArray, Float32Array

#: grey values at or beyond which a pixel tells nothing
DARK, BRIGHT = 5, 250
_BOX = 11


class Exposure(NamedTuple):
    """Grey values of an image, 0 to 255: their mean, the span from 5 % to 95 % of the pixels, and the shares of pixels
    that are black or white."""

    mean: float
    span: float
    dark: float
    bright: float


def exposure(image: ByteArray) -> Exposure:
    """Of (H, W, 3) uint8 RGB."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    low, high = np.percentile(grey[::2, ::2], (5, 95))
    return Exposure(float(grey.mean()), float(high - low), float(np.mean(grey <= DARK)), float(np.mean(grey >= BRIGHT)))


def blur(image: ByteArray) -> float:
    """0 (sharp) to 1 (nothing but blur), of (H, W, 3) uint8 RGB.

    The share of the differences between neighbours that survives another blur, the greater of both axes: Crete et al.,
    "The blur effect: perception and estimation with a new no-reference perceptual blur metric", SPIE 2007. It hardly
    depends on the scene, which the variance of the Laplacian does.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return max(_surviving(grey), _surviving(grey.T))


def _surviving(grey: Float32Array) -> float:
    """Along x."""
    blurred = cv2.blur(grey, (_BOX, 1))
    sharp, soft = np.abs(np.diff(grey, axis=1)), np.abs(np.diff(blurred, axis=1))
    inner = slice(_BOX // 2, -(_BOX // 2))
    total = float(sharp[:, inner].sum())
    lost = float(np.maximum(0, sharp - soft)[:, inner].sum())
    return 1.0 if total == 0 else 1 - lost / total
