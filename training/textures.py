"""Textures for rendered scenes: photographs given by the caller and procedural ones.

A texture is an RGB uint8 image with its pyramid. Level k holds texel ``x / 2**k`` of level 0 (``cv2.pyrDown``
keeps even texels in place), so a point of a surface stays where it is at every level.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from stfm_ros.types import ByteArray

Generator = np.random.Generator

LEVELS = 8


class Texture:
    """An image with its pyramid.

    Attributes:
        tiled: repeat it without end (else its border is repeated); sizes are then powers of two.
        size: (width, height) of level 0.
    """

    def __init__(self, image: ByteArray, tiled: bool = False) -> None:
        """``image``: (H, W, 3) uint8 RGB."""
        self._paint: Callable[[], ByteArray] = lambda: image
        self.size = image.shape[1], image.shape[0]
        self.tiled = tiled
        self._holes: Callable[[], ByteArray] | None = None

    @classmethod
    def painted(
        cls,
        paint: Callable[[], ByteArray],
        side: int,
        *,
        tiled: bool = False,
        holes: Callable[[], ByteArray] | None = None,
    ) -> Texture:
        """A texture that ``paint`` makes when it is first looked at: most of a scene's are in no view.

        ``paint`` gives :attr:`image` and ``holes``, where the surface has some, :attr:`alpha`, both of ``side`` texels
        either way. Neither must take from a generator that somebody else takes from.
        """
        texture = cls.__new__(cls)
        texture._paint, texture.size, texture.tiled, texture._holes = paint, (side, side), tiled, holes
        return texture

    @property
    def has_holes(self) -> bool:
        """Whether :attr:`alpha` is 0 somewhere."""
        return self._holes is not None

    @property
    def border(self) -> int:
        """OpenCV's border mode for coordinates outside the image."""
        return cv2.BORDER_WRAP if self.tiled else cv2.BORDER_REPLICATE

    @cached_property
    def image(self) -> ByteArray:
        """(H, W, 3) uint8 RGB."""
        return self._paint()

    @cached_property
    def alpha(self) -> ByteArray:
        """(H, W) uint8, 0 where the surface has a hole."""
        return self._holes() if self._holes else np.ones(self.size[::-1], np.uint8)

    @cached_property
    def levels(self) -> list[ByteArray]:
        """The pyramid, finest first; the last level is a few texels wide."""
        levels = [self.image]
        while len(levels) < LEVELS and min(levels[-1].shape[:2]) > 4:
            levels.append(np.asarray(cv2.pyrDown(levels[-1]), np.uint8))
        return levels


def _own(rng: Generator) -> Generator:
    """A generator for somebody who may or may not use it."""
    return np.random.default_rng(int(rng.integers(2**63)))


def random_colour(rng: Generator, saturation: float = 0.6) -> NDArray[np.float32]:
    """(3,) float32 RGB in 0..255: any hue, mostly muted."""
    hsv = np.array([[[rng.uniform(0, 180), 255 * saturation * rng.random() ** 1.3, rng.uniform(40, 245)]]], np.uint8)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0], np.float32)


def value_noise(
    rng: Generator, size: int, coarsest: int, octaves: int, persistence: float = 0.55
) -> NDArray[np.float32]:
    """(size, size) float32 fractal noise of unit deviation that repeats without a seam.

    Each octave is drawn at its own size and laid over the enlarged sum of the coarser ones. All sizes are powers of
    two.
    """
    cells, weight = coarsest, 1.0
    total = rng.standard_normal((cells, cells), np.float32)
    for _ in range(octaves - 1):
        if cells >= size:
            break
        cells, weight = cells * 2, weight * persistence
        total = _enlarged(total, 2)
        total += np.float32(weight) * rng.standard_normal((cells, cells), np.float32)
    total = _enlarged(total, size // cells)
    return np.asarray(total / max(float(total.std()), 1e-6), np.float32)


def _enlarged(tile: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """A larger tile that still repeats without a seam."""
    if factor == 1:
        return tile
    edge = 2 * factor
    wide = cv2.resize(np.pad(tile, 2, mode="wrap"), None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(wide[edge:-edge, edge:-edge], np.float32)


def _to_bytes(image: NDArray[np.float32]) -> ByteArray:
    return np.asarray(cv2.convertScaleAbs(np.maximum(image, 0)), np.uint8)


def _mixed(first: NDArray[np.float32], second: NDArray[np.float32], share: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H, W, 3) image of colour ``second`` with a share (H, W) of ``first``; plane by plane, which is faster."""
    return np.asarray(cv2.merge([b + (a - b) * share for a, b in zip(first, second)]), np.float32)


def _scaled(image: NDArray[np.float32], factor: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H, W, 3) times (H, W)."""
    return np.asarray(cv2.multiply(image, cv2.merge([factor] * 3)), np.float32)


def _grain(rng: Generator, image: NDArray[np.float32], strength: float) -> NDArray[np.float32]:
    """Unevenness that no real surface lacks: dirt, grain, paint."""
    size = image.shape[0]
    noise = value_noise(rng, size, int(2 ** rng.integers(2, 5)), 5, rng.uniform(0.5, 0.9))
    return _scaled(image, 1 + np.float32(strength) * noise)


def plain(rng: Generator, size: int) -> ByteArray:
    """One colour, hardly any texture: paint, plaster, cloth."""
    image = np.broadcast_to(random_colour(rng, 0.5 * rng.random()), (size, size, 3)).astype(np.float32)
    return _to_bytes(_grain(rng, image, rng.uniform(0.01, 0.07)))


def cloudy(rng: Generator, size: int) -> ByteArray:
    """Two or three colours mixed by fractal noise: stone, gravel, carpet, grass."""
    first, second, third = (random_colour(rng) for _ in range(3))
    noise = value_noise(rng, size, int(2 ** rng.integers(2, 6)), 6, rng.uniform(0.45, 0.95))
    image = _mixed(first, second, (0.5 + 0.35 * noise).clip(0, 1))
    if rng.random() < 0.5:
        spots = value_noise(rng, size, int(2 ** rng.integers(3, 7)), 3) > rng.uniform(0.6, 1.6)
        image[spots] = third
    return _to_bytes(np.asarray(image, np.float32))


def wood(rng: Generator, size: int) -> ByteArray:
    """Stretched noise along one axis, with planks at times."""
    noise = value_noise(rng, size, 4, 6, 0.75)
    stretch = int(2 ** rng.integers(2, 5))
    noise = np.asarray(cv2.resize(noise[: size // stretch], (size, size), interpolation=cv2.INTER_CUBIC), np.float32)
    noise = noise + 0.4 * np.sin(noise * rng.uniform(4, 14))
    base = np.array([rng.uniform(90, 220), rng.uniform(60, 160), rng.uniform(30, 110)], np.float32)
    image = _mixed(base, np.zeros(3, np.float32), 1 + np.float32(rng.uniform(0.06, 0.2)) * noise)
    if rng.random() < 0.6:
        width = size // int(2 ** rng.integers(2, 5))
        tone = rng.uniform(0.75, 1.2, size // width).astype(np.float32)
        image = _scaled(image, np.tile(np.repeat(tone, width), (size, 1)))
        image[:, ::width] *= 0.45
    return _to_bytes(np.asarray(image, np.float32))


def bricks(rng: Generator, size: int) -> ByteArray:
    """Bricks or tiles: the same again and again, each a little different."""
    rows = int(2 ** rng.integers(2, 5))
    columns = max(1, rows // int(2 ** rng.integers(0, 2)))
    high, wide = size // rows, size // columns
    shift = rng.choice([0, wide // 2])
    spread = rng.uniform(0.02, 0.3)
    tone = 1 + spread * rng.standard_normal((rows, columns, 1)).astype(np.float32)
    colour = random_colour(rng) * tone + rng.uniform(0, 25) * rng.standard_normal((rows, columns, 3))
    image = np.asarray(colour, np.float32).repeat(high, 0).repeat(wide, 1)
    joint = max(1, int(high * rng.uniform(0.02, 0.12)))
    mortar = random_colour(rng, 0.2)
    for row in range(0, rows, 2):
        image[row * high : (row + 1) * high] = np.roll(image[row * high : (row + 1) * high], shift, 1)
    for row in range(rows):
        band = image[row * high : (row + 1) * high]
        band[:joint] = mortar
        first = shift if row % 2 == 0 else 0
        for column in range(columns):
            left = (first + column * wide) % size
            band[:, left : left + joint] = mortar
    return _to_bytes(_grain(rng, image, rng.uniform(0.02, 0.15)))


def stripes(rng: Generator, size: int) -> ByteArray:
    """Stripes of several widths and colours, across or checked."""
    palette = np.stack([random_colour(rng) for _ in range(int(rng.integers(2, 6)))])
    cells = int(2 ** rng.integers(2, 6))
    choice = rng.integers(0, len(palette), cells)
    across = palette[choice].repeat(size // cells, 0)
    image = np.broadcast_to(across[None], (size, size, 3)).astype(np.float32)
    if rng.random() < 0.4:
        other = palette[rng.integers(0, len(palette), cells)].repeat(size // cells, 0)
        image = 0.5 * (image + other[:, None])
    return _to_bytes(_grain(rng, image, rng.uniform(0.01, 0.1)))


def checkers(rng: Generator, size: int) -> ByteArray:
    """A chess board."""
    cells = int(2 ** rng.integers(1, 5))
    board = (np.add.outer(np.arange(cells), np.arange(cells)) % 2).repeat(size // cells, 0).repeat(size // cells, 1)
    image = np.stack([random_colour(rng), random_colour(rng)])[board]
    return _to_bytes(_grain(rng, image, rng.uniform(0.02, 0.15)))


def patches(rng: Generator, size: int) -> ByteArray:
    """Rectangles over rectangles: panels, posters, circuit boards."""
    image = np.empty((size, size, 3), np.uint8)
    image[:] = random_colour(rng).astype(np.uint8)
    for _ in range(int(rng.integers(10, 60))):
        x, y = rng.integers(0, size, 2)
        w, h = (size * rng.uniform(0.02, 0.35, 2)).astype(int)
        colour = tuple(float(c) for c in random_colour(rng, 0.9))
        kind = rng.random()
        if kind < 0.6:
            cv2.rectangle(image, (int(x), int(y)), (int(x + w), int(y + h)), colour, -1 if rng.random() < 0.7 else 2)
        elif kind < 0.8:
            cv2.circle(image, (int(x), int(y)), int(w // 2 + 1), colour, -1, cv2.LINE_AA)
        else:
            cv2.line(
                image,
                (int(x), int(y)),
                (int(x + 2 * w - size // 4), int(y + 2 * h - size // 4)),
                colour,
                int(rng.integers(1, 6)),
                cv2.LINE_AA,
            )
    return image


_FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_TRIPLEX)
_LETTERS = "ABCDEFGHIKLMNOPRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 .,-:"


def text(rng: Generator, size: int) -> ByteArray:
    """Lines of letters: signs, book covers, pages."""
    image = np.empty((size, size, 3), np.uint8)
    image[:] = random_colour(rng, 0.7).astype(np.uint8)
    y = 0
    while y < size:
        scale = float(rng.choice([0.35, 0.5, 0.8, 1.3, 2.2], p=[0.35, 0.25, 0.2, 0.12, 0.08]))
        y += int(26 * scale) + int(rng.integers(4, 14))
        line = "".join(rng.choice(list(_LETTERS), int(rng.integers(3, 40))))
        colour = tuple(float(c) for c in random_colour(rng, 0.9))
        font = _FONTS[int(rng.integers(len(_FONTS)))]
        cv2.putText(image, line, (int(rng.integers(2, 30)), y), font, scale, colour, 1 + int(scale * 1.5), cv2.LINE_AA)
    return image


def windows(rng: Generator, size: int) -> ByteArray:
    """A facade: a grid of windows in a wall."""
    image = bricks(rng, size) if rng.random() < 0.5 else plain(rng, size)
    rows, columns = int(2 ** rng.integers(1, 4)), int(2 ** rng.integers(1, 4))
    high, wide = size // rows, size // columns
    frame = tuple(float(c) for c in random_colour(rng, 0.2))
    w, h = wide * rng.uniform(0.35, 0.75), high * rng.uniform(0.35, 0.75)
    for row in range(rows):
        for column in range(columns):
            x, y = int(column * wide + (wide - w) / 2), int(row * high + (high - h) / 2)
            glass = tuple(float(c) for c in rng.uniform(0.2, 1.0) * np.array([90.0, 110.0, 140.0]))
            cv2.rectangle(image, (x, y), (int(x + w), int(y + h)), glass, -1)
            cv2.rectangle(image, (x, y), (int(x + w), int(y + h)), frame, max(1, size // 128))
            cv2.line(image, (int(x + w / 2), y), (int(x + w / 2), int(y + h)), frame, 1)
            if rng.random() < 0.3:
                cv2.rectangle(image, (x, y), (int(x + w), int(y + h * rng.uniform(0.2, 0.8))), frame, -1)
    return image


PROCEDURAL: dict[str, Callable[[Generator, int], ByteArray]] = {
    "plain": plain,
    "cloudy": cloudy,
    "wood": wood,
    "bricks": bricks,
    "stripes": stripes,
    "checkers": checkers,
    "patches": patches,
    "text": text,
    "windows": windows,
}


def procedural(rng: Generator, kinds: tuple[str, ...] = tuple(PROCEDURAL), size: int = 256) -> Texture:
    """A tiled procedural texture of one of ``kinds``; ``size`` is a power of two."""
    paint, own = PROCEDURAL[kinds[int(rng.integers(len(kinds)))]], _own(rng)
    return Texture.painted(lambda: paint(own, size), size, tiled=True)


def crop(rng: Generator, photograph: ByteArray, smallest: float = 0.4) -> ByteArray:
    """A random part of a photograph, turned by quarter turns and mirrored at random."""
    height, width = photograph.shape[:2]
    share = rng.uniform(smallest, 1.0, 2)
    h, w = max(16, int(height * share[0])), max(16, int(width * share[1]))
    y, x = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
    part = photograph[y : y + h, x : x + w]
    part = np.rot90(part, int(rng.choice([0, 0, 0, 1, 2, 3])))
    return np.ascontiguousarray(part[:, ::-1] if rng.random() < 0.5 else part)


def mirrored(rng: Generator, photograph: ByteArray, size: int = 512) -> Texture:
    """A part of a photograph and its mirror images, which tile without a seam."""
    own = _own(rng)

    def paint() -> ByteArray:
        part = cv2.resize(crop(own, photograph, 0.3), (size // 2, size // 2), interpolation=cv2.INTER_AREA)
        half = np.concatenate([part, part[:, ::-1]], 1)
        return np.ascontiguousarray(np.concatenate([half, half[::-1]], 0))

    return Texture.painted(paint, size, tiled=True)


def detail(rng: Generator) -> Texture:
    """Grain for surfaces seen from close by, where a photograph has no texels left; 128 changes nothing."""
    own = _own(rng)

    def paint() -> ByteArray:
        noise = value_noise(own, 256, 16, 5, 0.85)
        grey = np.asarray((128 * (1 + own.uniform(0.02, 0.11) * noise)).clip(0, 255), np.uint8)
        return np.asarray(cv2.merge([grey] * 3), np.uint8)

    return Texture.painted(paint, 256, tiled=True)


def leaves(rng: Generator, base: Texture) -> Texture:
    """A texture with holes: foliage, lattice, torn edges."""
    own = _own(rng)

    def paint() -> ByteArray:
        return np.asarray(cv2.resize(base.image, (256, 256), interpolation=cv2.INTER_AREA), np.uint8)

    def holes() -> ByteArray:
        noise = value_noise(own, 256, int(2 ** own.integers(3, 6)), 3)
        x = np.linspace(-1, 1, 256, dtype=np.float32)
        return np.asarray(noise + 1.2 * (1 - 1.6 * (x * x + (x * x)[:, None])) > 0, np.uint8)

    return Texture.painted(paint, 256, holes=holes)
