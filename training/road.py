"""A road between houses, with what stands beside it: what a car or a delivery robot drives through.

World: z up, metres, the ground at z = 0; the road runs along x.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stfm_ros.types import FloatArray
from stfm_training.furnish import GROUNDS, WALLS, Builder, sky
from stfm_training.textures import Texture, leaves, mirrored, procedural

HALF = 90.0  #: what stands beside the road stands within this to either side, metres
FREE = 25.0  #: cameras are this far from the middle of the road's length at most


@dataclass(frozen=True)
class _Palette:
    """Textures that things along one road share: painting each its own would take longer than drawing them."""

    facades: tuple[Texture, ...]
    plain: tuple[Texture, ...]
    crowns: tuple[Texture, ...]

    @classmethod
    def random(cls, builder: Builder) -> _Palette:
        rng = builder.rng
        return cls(
            (
                *(builder.photograph() for _ in range(3)),
                *(procedural(rng, ("windows", "bricks"), 512) for _ in range(2)),
            ),
            tuple(procedural(rng, ("plain", "wood", "stripes", "bricks"), 128) for _ in range(4)),
            tuple(leaves(rng, builder.photograph()) for _ in range(2)),
        )


def build_road(builder: Builder) -> None:
    """Fill a builder with a road."""
    rng = builder.rng
    builder.sky = sky(rng)
    palette = _Palette.random(builder)
    width = rng.uniform(5.5, 11)
    _strip(builder, -2 * HALF, 2 * HALF, 0.0, 4 * HALF, 0.0, _paving(builder, GROUNDS, 0.6), rng.uniform(2, 8))
    asphalt = _paving(builder, ("plain", "plain", "cloudy", "bricks"), 0.3)
    _strip(builder, -2 * HALF, 2 * HALF, 0.0, width, 0.01, asphalt, rng.uniform(1, 4))
    _markings(builder, width)
    if rng.random() < 0.7:  # pavements
        paving = _paving(builder, ("bricks", "cloudy", "plain"), 0.3)
        wide, high = rng.uniform(1, 3), rng.uniform(0.08, 0.2)
        for side in (-1, 1):
            middle = [0, side * (width + wide) / 2, high / 2]
            builder.box(middle, [4 * HALF, wide, high], 0.0, [paving], bottom=False)
    for side in (-1, 1):
        built_up = rng.uniform(0.3, 1.0)
        for x in _along(rng, 9, 18):
            if rng.random() < built_up:
                _house(builder, palette, x, side, width / 2 + rng.uniform(2.5, 8))
        for x in _along(rng, 7, 30):
            _tree(builder, palette, np.array([x, side * (width / 2 + rng.uniform(1.2, 4)), 0]))
        for x in _along(rng, 8, 40):
            _post(builder, palette, np.array([x, side * (width / 2 + rng.uniform(0.4, 2))]))
        for x in _along(rng, 7, 50):
            _car(builder, palette, np.array([x, side * (width / 2 - rng.uniform(0.2, 0.8))]), rng.normal(0, 0.04))
        if rng.random() < 0.4:  # a fence or a hedge
            start, length, high = rng.uniform(-40, 20), rng.uniform(15, 60), rng.uniform(0.6, 2.2)
            place = [start + length / 2, side * (width / 2 + rng.uniform(3, 5)), high / 2]
            builder.box(place, [length, 0.3, high], 0.0, [builder.surface((*WALLS, "patches"), 0.4)], bottom=False)
    free = max(0.8, 0.25 * width - 0.4)
    builder.lower, builder.upper = np.array([-FREE, -free, 0.5]), np.array([FREE, free, 2.2])


def _paving(builder: Builder, kinds: tuple[str, ...], photographs: float) -> Texture:
    """What can be laid over any length: a photograph is repeated."""
    texture = builder.surface(kinds, photographs)
    return texture if texture.tiled else mirrored(builder.rng, texture.image)


def _along(rng: np.random.Generator, least: float, most: float) -> Iterator[float]:
    """Places along the road."""
    x = -HALF
    while (x := x + rng.uniform(least, most)) < HALF:
        yield x


def _strip(
    builder: Builder, x0: float, x1: float, y: float, width: float, z: float, texture: Texture, tile: float
) -> None:
    builder.face([x0, y - width / 2, z], [x1 - x0, 0, 0], [0, width, 0], texture, tile_m=tile)


def _markings(builder: Builder, width: float) -> None:
    """Lines along the road, some of them broken, and at times stripes across it."""
    rng = builder.rng
    paint = procedural(rng, ("plain",), 64)
    for y in (0.0, 0.46 * width, -0.46 * width)[: int(rng.integers(0, 4))]:
        dash, period = ((2.0, 6.0), (3.0, 9.0), (2 * HALF, 2 * HALF))[int(rng.integers(3))]
        for x in np.arange(-HALF, HALF, period):
            _strip(builder, x, x + dash, y, rng.uniform(0.1, 0.16), 0.02, paint, 1.0)
    if rng.random() < 0.3:
        x = rng.uniform(-FREE, FREE)
        for y in np.arange(-0.45 * width, 0.45 * width, 1.0):
            _strip(builder, x, x + 3, y, 0.5, 0.025, paint, 1.0)


def _house(builder: Builder, palette: _Palette, x: float, side: int, front: float) -> None:
    """A block whose front is ``front`` metres from the middle of the road, under a pitched roof or a flat one."""
    rng = builder.rng
    long, deep, high = rng.uniform(6, 15), rng.uniform(5, 9), rng.uniform(3, 13)
    facade = palette.facades[int(rng.integers(len(palette.facades)))]
    corner = np.array([x - long / 2, side * front + (0 if side > 0 else -deep), 0])
    along, inward, up = np.array([long, 0, 0]), np.array([0, deep, 0]), np.array([0, 0, high])
    tile = rng.uniform(3, 7)
    for start, edge in (
        (corner, along),
        (corner + along, inward),
        (corner + along + inward, -along),
        (corner + inward, -inward),
    ):
        upright = builder.fit(facade, 1, 1)
        if facade.tiled:
            per_m = facade.size[0] / tile
            upright = np.array([[per_m * np.linalg.norm(edge), 0, 0], [0, -per_m * high, 0], [0, 0, 1.0]])
        builder.face(start, edge, up, facade, to_texel=upright)
    roof = palette.plain[int(rng.integers(len(palette.plain)))]
    rise = np.array([0, 0, rng.uniform(1, 4) if rng.random() < 0.6 else 0.01])
    for start, edge, half in (
        (corner + up, along, inward / 2),
        (corner + up + along + inward, -along, -inward / 2),
    ):
        builder.face(start, edge, half + rise, roof, tile_m=2.0, two_sided=True)
    builder.targets.append(np.array([x, side * front, 1.5]))


def _tree(builder: Builder, palette: _Palette, base: FloatArray) -> None:
    """A trunk and a crown, round or of leaves."""
    rng = builder.rng
    high, wide = rng.uniform(1, 4), rng.uniform(1.2, 3.5)
    builder.cylinder(base, rng.uniform(0.08, 0.3), high, palette.plain[int(rng.integers(len(palette.plain)))])
    if rng.random() < 0.3:
        axes = wide / 2 * rng.uniform(0.8, 1.2, 3)
        builder.ball(base + [0, 0, high + 0.3 * wide], axes, repeats=int(rng.integers(2, 6)))
        return
    crown = palette.crowns[int(rng.integers(len(palette.crowns)))]
    for yaw in rng.uniform(0, np.pi) + np.arange(3) * np.pi / 3:
        u, v = wide * np.array([np.cos(yaw), np.sin(yaw), 0]), np.array([0, 0, wide * rng.uniform(0.8, 1.4)])
        builder.face(base + [0, 0, 0.6 * high] - u / 2, u, v, crown, two_sided=True)


def _post(builder: Builder, palette: _Palette, place: FloatArray) -> None:
    """A lamp post, or one with a sign."""
    rng = builder.rng
    high = rng.uniform(2, 6)
    builder.cylinder([*place, 0.0], rng.uniform(0.04, 0.12), high, palette.plain[int(rng.integers(len(palette.plain)))])
    if rng.random() < 0.7:
        wide, tall = rng.uniform(0.3, 1.2, 2)
        side = float(rng.choice([-1, 1]))
        start = np.array([place[0] + rng.choice([-0.15, 0.15]), place[1] - side * wide / 2, rng.uniform(1.6, high)])
        builder.face(start, [0, side * wide, 0], [0, 0, tall], builder.thing(0.5), two_sided=True)


def _car(builder: Builder, palette: _Palette, place: FloatArray, yaw: float) -> None:
    """A parked car, or a van: two boxes and what can be seen of four wheels."""
    rng = builder.rng
    long, wide, low = rng.uniform(3.4, 5), rng.uniform(1.5, 1.9), rng.uniform(0.5, 0.8)
    c, s = np.cos(yaw), np.sin(yaw)
    R = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
    base = np.array([*place, 0.0])
    builder.box(base + [0, 0, 0.25 + low / 2], [long, wide, low], yaw, [builder.thing(0.3), builder.thing(0.2)])
    high, cabin, shift = rng.uniform(0.4, 1.0), rng.uniform(0.45, 0.95) * long, rng.uniform(-0.1, 0.1) * long
    glass = builder.thing(0.5)
    builder.box(base + R @ [shift, 0, 0.25 + low + high / 2], [cabin, 0.9 * wide, high], yaw, [glass], bottom=False)
    tyre, radius = palette.plain[0], rng.uniform(0.26, 0.36)
    for x in (-0.32 * long, 0.32 * long):
        for side in (-1, 1):
            corner = base + R @ [x + side * radius, side * (wide / 2 + 0.01), 0]
            along, up = R @ [-2 * side * radius, 0, 0], np.array([0, 0, 2 * radius])
            builder.face(corner, along, up, tyre, round=True)
    builder.solid(base + [0, 0, 0.7], 0.5 * long)
