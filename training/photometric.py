"""Photometric augmentation: what a camera, a lamp and a cable do to a picture.

The two images of a pair are augmented apart, each with its own draw, so that a matcher learns to look past
exposure, colour, blur, noise and compression; but many a robot's camera is grey, and then both are. Geometry is never
touched: pixels stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from stfm_ros.types import ByteArray

Generator = np.random.Generator

GREY_PAIRS = 0.15  #: share of the pairs both of whose images are grey


def augment_pair(
    image0: ByteArray, image1: ByteArray, rng: Generator, difficulty: float
) -> tuple[ByteArray, ByteArray]:
    """Two images of one camera, each changed on its own by a strength between 0 and ``difficulty``."""
    grey = rng.random() < GREY_PAIRS
    strength0, strength1 = difficulty * rng.random(2)
    return augment(image0, rng, strength0, grey), augment(image1, rng, strength1, grey)


def augment(image: ByteArray, rng: Generator, strength: float = 1.0, grey: bool = False) -> ByteArray:
    """One random change of appearance.

    Args:
        image: (H, W, 3) uint8 RGB.
        rng: the same generator state gives the same picture.
        strength: 0 leaves the image as it is, 1 is the most that is asked of a matcher.
        grey: whether the camera is a grey one, whose three channels are the same; at times it is one anyway.

    Returns:
        (H, W, 3) uint8 RGB, a new array (or ``image`` itself at strength 0).
    """
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength {strength} is outside 0..1")
    if strength == 0.0:
        return _grey(image) if grey else image
    if rng.random() < 0.85:
        image = _tone(image, rng, strength)
    if rng.random() < 0.35 * strength:
        image = _vignette(image, rng, strength)
    if rng.random() < 0.5 * strength:
        blur: Callable[[ByteArray, Generator, float], ByteArray] = (_gaussian, _motion, _defocus, _resample)[
            int(rng.integers(4))
        ]
        image = blur(image, rng, strength)
    if rng.random() < 0.7 * strength:
        image = _noise(image, rng, strength)
    if rng.random() < 0.1 * strength or grey:
        image = _grey(image)
    if rng.random() < 0.5 * strength:
        image = _jpeg(image, rng, strength)
    return image


def _tone(image: ByteArray, rng: Generator, strength: float) -> ByteArray:
    """Exposure, contrast, gamma and colour temperature as one table a channel; then saturation."""
    x = np.linspace(0, 1, 256, dtype=np.float32)
    gamma = float(np.exp(rng.normal(0, 0.35 * strength)))
    contrast = float(np.exp(rng.normal(0, 0.28 * strength)))
    gain = float(np.exp(rng.normal(0, 0.28 * strength)))
    offset = rng.normal(0, 0.07 * strength)
    curve = (x**gamma - 0.5) * contrast + 0.5 + offset
    warmth, tint = rng.normal(0, 0.1 * strength, 2)
    channels = np.array([1 + warmth, 1 + 0.5 * tint, 1 - warmth])
    table = (255 * gain * curve[:, None] * channels).clip(0, 255).astype(np.uint8)
    image = np.asarray(cv2.LUT(image, table[None]), np.uint8)
    saturation = float(np.exp(rng.normal(0, 0.4 * strength)))
    grey = np.array([0.299, 0.587, 0.114])
    mix = saturation * np.eye(3) + (1 - saturation) * np.tile(grey, (3, 1))
    return np.asarray(cv2.transform(image, mix.astype(np.float32)), np.uint8)


def _vignette(image: ByteArray, rng: Generator, strength: float) -> ByteArray:
    """Darker towards the border, and a soft gradient of light across."""
    height, width = image.shape[:2]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] - np.float32(rng.normal(0, 0.3))
    x = np.linspace(-1, 1, width, dtype=np.float32) - np.float32(rng.normal(0, 0.3))
    fall = np.float32(rng.uniform(0, 0.35 * strength))
    slope = rng.normal(0, 0.2 * strength, 2).astype(np.float32)
    factor = (1 - fall * (x * x + y * y) + slope[0] * x + slope[1] * y).clip(0.1, 1.8)
    return np.asarray(cv2.multiply(image, cv2.merge([factor] * 3), dtype=cv2.CV_8U), np.uint8)


def _gaussian(image: ByteArray, rng: Generator, strength: float) -> ByteArray:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 0.3 + 1.5 * strength * rng.random() ** 1.5), np.uint8)


def _motion(image: ByteArray, rng: Generator, strength: float) -> ByteArray:
    """A straight smear about the pixel, so that it moves nothing on average."""
    length = 1 + 8 * strength * rng.random()
    angle = rng.uniform(0, np.pi)
    radius = int(np.ceil(length / 2)) + 1
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1), np.float32)
    step = np.array([np.cos(angle), np.sin(angle)]) * length / 2
    fixed = 1 << 6
    start, stop = ((radius + sign * step) * fixed for sign in (-1, 1))
    cv2.line(kernel, tuple(map(int, start.round())), tuple(map(int, stop.round())), 1.0, 1, cv2.LINE_8, 6)
    kernel = kernel + kernel[::-1, ::-1]
    return np.asarray(cv2.filter2D(image, -1, kernel / max(float(kernel.sum()), 1e-6)), np.uint8)


def _defocus(image: ByteArray, rng: Generator, strength: float) -> ByteArray:
    """A disc with a soft edge."""
    radius = 0.5 + 2.5 * strength * rng.random() ** 1.5
    size = int(np.ceil(radius)) + 1
    y, x = np.mgrid[-size : size + 1, -size : size + 1]
    kernel = np.clip(radius + 0.5 - np.sqrt(x * x + y * y), 0, 1).astype(np.float32)
    return np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()), np.uint8)


def _resample(image: ByteArray, rng: Generator, strength: float) -> ByteArray:
    """Fewer pixels and back: a cheap lens, a digital zoom. Both ways keep pixel centres (OpenCV's resize)."""
    height, width = image.shape[:2]
    scale = 1 - 0.55 * strength * rng.random()
    small = cv2.resize(
        image, (max(8, round(width * scale)), max(8, round(height * scale))), interpolation=cv2.INTER_AREA
    )
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _grey(image: ByteArray) -> ByteArray:
    return np.asarray(cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), np.uint8)


def noisy(image: ByteArray, rng: Generator, read: float, shot: float) -> ByteArray:
    """Noise of a sensor, at times one value for the three channels.

    Args:
        read: one sigma in levels, everywhere.
        shot: one sigma at level 1, which grows with the square root of light.
    """
    return _with_noise(image, _field(rng, image.shape), read, shot)


def _noise(image: ByteArray, rng: Generator, strength: float) -> ByteArray:
    field = _field(rng, image.shape)
    return _with_noise(image, field, 7 * strength * rng.random() ** 2, 0.9 * strength * rng.random() ** 2)


def _with_noise(image: ByteArray, field: NDArray[np.float32], read: float, shot: float) -> ByteArray:
    """Read noise and shot noise, which grows with light."""
    sigma = np.sqrt(read**2 + shot**2 * np.arange(256)).astype(np.float32)
    deviation = np.asarray(cv2.LUT(image, sigma), np.float32)
    return np.asarray(cv2.add(image, deviation * field, dtype=cv2.CV_8U), np.uint8)


def _field(rng: Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """(H, W, 1 or 3) of about normal values: the sum of four random bytes, faster than normal draws."""
    height, width, channels = shape
    channels = 1 if rng.random() < 0.3 else channels
    raw = np.frombuffer(rng.bytes(4 * height * width * channels), np.uint8).reshape(height, width * channels, 4)
    total = raw.sum(-1, dtype=np.int16).astype(np.float32)
    return np.asarray((total - 510) * np.float32(1 / 147.8), np.float32).reshape(height, width, channels)


def _jpeg(image: ByteArray, rng: Generator, strength: float) -> ByteArray:
    quality = int(rng.uniform(95 - 65 * strength, 95))
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
