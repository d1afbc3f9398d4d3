"""Rooms and streets out of textured faces: the variety of geometry is what a matcher learns from.

World: z up, metres, the floor at z = 0. Sizes are those of real things.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from stfm_ros.types import ByteArray, FloatArray
from stfm_training.raster import Face, Round
from stfm_training.textures import Texture, leaves, mirrored, procedural, value_noise

Generator = np.random.Generator
Vector: TypeAlias = "Sequence[float] | FloatArray"
WALLS = ("plain", "plain", "plain", "cloudy", "bricks", "stripes", "wood")
FLOORS = ("wood", "bricks", "cloudy", "checkers", "plain")
GROUNDS = ("cloudy", "cloudy", "bricks", "plain")
THINGS = ("plain", "wood", "cloudy", "stripes", "patches", "text", "checkers")


@dataclass(eq=False)
class Builder:
    """Collects the surfaces of one scene.

    Attributes:
        lower, upper: (3,) the space in which cameras may be.
        solids: (centre, radius) spheres that a camera stays out of.
        targets: points worth looking at.
    """

    rng: Generator
    photographs: Sequence[ByteArray]
    faces: list[Face] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    solids: list[tuple[FloatArray, float]] = field(default_factory=list)
    targets: list[FloatArray] = field(default_factory=list)
    lower: FloatArray = field(default_factory=lambda: np.zeros(3))
    upper: FloatArray = field(default_factory=lambda: np.ones(3))
    sky: Texture | None = None

    def __post_init__(self) -> None:
        count = min(len(self.photographs), 12)
        chosen: list[int] = list(self.rng.choice(len(self.photographs), count, replace=False)) if count else []
        self._whole = [Texture(np.ascontiguousarray(self.photographs[int(i)])) for i in chosen]
        self._things = [procedural(self.rng, THINGS) for _ in range(5)]
        for i in chosen[:3]:
            self._things.append(mirrored(self.rng, self.photographs[int(i)], 256))

    # -- textures ---------------------------------------------------------------------------------------------

    def photograph(self) -> Texture:
        """A photograph of the scene's choice (a procedural texture where none were given)."""
        if not self._whole:
            return procedural(self.rng, ("patches", "text", "windows"))
        return self._whole[int(self.rng.integers(len(self._whole)))]

    def thing(self, photographs: float = 0.5) -> Texture:
        """What a piece of clutter is covered with."""
        if self.rng.random() < photographs:
            return self.photograph()
        return self._things[int(self.rng.integers(len(self._things)))]

    def surface(self, kinds: tuple[str, ...], photographs: float) -> Texture:
        """What a wall or a floor is covered with: a photograph, one that is repeated, or a pattern."""
        chance = self.rng.random()
        if self.photographs and chance < photographs / 2:
            return self.photograph()
        if self.photographs and chance < photographs:
            return mirrored(self.rng, self.photographs[int(self.rng.integers(len(self.photographs)))])
        return procedural(self.rng, kinds, int(self.rng.choice([256, 512])))

    def fit(self, texture: Texture, width_m: float, height_m: float, tile_m: float | None = None) -> FloatArray:
        """A map from (a, b, 1) of a face to texels: a part of a photograph, or tiles of ``tile_m`` metres."""
        width, height = texture.size
        rng = self.rng
        # many faces are made and few are seen: plain numbers, one matrix
        flip, shift = (1.0, 0.0) if rng.random() < 0.5 else (-1.0, 1.0)
        if texture.tiled:
            per_m = width / (tile_m or float(rng.uniform(0.3, 1.5)))
            chance = rng.random()
            angle = 0.0 if chance < 0.6 else np.pi / 2 if chance < 0.8 else float(rng.uniform(0, 2 * np.pi))
            c, s = math.cos(angle) * per_m, math.sin(angle) * per_m
            x, y = width * rng.random(), width * rng.random()
            return np.array(
                [
                    [c * width_m * flip, s * height_m, c * width_m * shift + x],
                    [s * width_m * flip, -c * height_m, s * width_m * shift + y],
                    [0, 0, 1.0],
                ]
            )
        share = float(rng.uniform(0.55, 1.0))
        aspect = (width_m / max(height_m, 1e-6)) / (width / height)
        w, h = (share, share / aspect) if aspect > 1 else (share * aspect, share)
        w, h = max(w, 0.12), max(h, 0.12)
        x, y = (1 - w) * rng.random(), (1 - h) * rng.random()
        return np.array(
            [
                [w * (width - 1) * flip, 0, (w * shift + x) * (width - 1)],
                [0, -h * (height - 1), (y + h) * (height - 1)],
                [0, 0, 1.0],
            ]
        )

    # -- primitives -------------------------------------------------------------------------------------------

    def face(
        self,
        origin: Vector,
        u: Vector,
        v: Vector,
        texture: Texture,
        *,
        tile_m: float | None = None,
        to_texel: FloatArray | None = None,
        round: bool = False,
        two_sided: bool = False,
    ) -> None:
        """Add one face; u points to the right and v up as seen from its front."""
        origin, u, v = (np.asarray(x, np.float64) for x in (origin, u, v))
        if to_texel is None:
            if texture.has_holes:
                to_texel = np.diag([texture.size[0], texture.size[1], 1.0])
            else:
                to_texel = self.fit(texture, math.hypot(*u), math.hypot(*v), tile_m)
        self.faces.append(Face(origin, u, v, texture, to_texel, round, two_sided))

    def box(
        self,
        centre: Vector,
        size: Vector,
        yaw: float = 0.0,
        textures: Sequence[Texture] = (),
        tilt: FloatArray | None = None,
        bottom: bool = True,
    ) -> None:
        """A box about ``centre`` with ``size`` along its own x, y, z."""
        textures = textures or [self.thing()]
        R = rotation_z(yaw) if tilt is None else tilt
        x, y, z = (R[:, k] * size[k] for k in range(3))
        corner = np.asarray(centre, np.float64) - (x + y + z) / 2
        pick = [textures[k % len(textures)] for k in range(6)]
        self.face(corner, x, z, pick[0])
        self.face(corner + x, y, z, pick[1])
        self.face(corner + x + y, -x, z, pick[2])
        self.face(corner + y, -y, z, pick[3])
        self.face(corner + z, x, y, pick[4])
        if bottom:
            self.face(corner + y, x, -y, pick[5])

    def solid(self, centre: Vector, radius: float) -> None:
        """Something to keep out of, and to look at."""
        self.solids.append((np.asarray(centre, np.float64), radius))
        self.targets.append(np.asarray(centre, np.float64))

    def cylinder(self, base: Vector, radius: float, height: float, texture: Texture | None = None) -> None:
        """An upright cylinder that stands on ``base``."""
        texture = texture or self.thing()
        base = np.asarray(base, np.float64)
        up = np.array([0, 0, height])
        self.rounds.append(
            Round(base + up / 2, np.diag([radius, radius, height / 2]), texture, True, int(self.rng.integers(1, 4)))
        )
        corner = base + up - [radius, radius, 0]
        self.face(corner, np.array([2 * radius, 0, 0]), np.array([0, 2 * radius, 0]), self.thing(), round=True)

    def ball(self, centre: Vector, axes: Vector, texture: Texture | None = None, repeats: int = 0) -> None:
        """An ellipsoid, turned at random about the vertical."""
        A = rotation_z(self.rng.uniform(0, 2 * np.pi)) @ np.diag(axes)
        self.rounds.append(
            Round(
                np.asarray(centre, np.float64),
                A,
                texture or self.thing(),
                False,
                repeats or int(self.rng.integers(1, 4)),
            )
        )

    # -- furniture --------------------------------------------------------------------------------------------

    def furniture(self, place: FloatArray) -> None:
        """One piece of furniture that stands on the floor at ``place`` (2,)."""
        makers = (
            self.cupboard,
            self.cupboard,
            self.table,
            self.table,
            self.shelf,
            self.chair,
            self.stack,
            self.plant,
            self.pillar,
            self.board,
            self.sofa,
        )
        makers[int(self.rng.integers(len(makers)))](np.array([place[0], place[1], 0.0]), float(self.yaw()))

    def yaw(self) -> float:
        """Mostly along the walls."""
        rng = self.rng
        return float(
            rng.integers(4) * np.pi / 2 + (rng.normal(0, 0.08) if rng.random() < 0.6 else rng.uniform(-0.8, 0.8))
        )

    def cupboard(self, place: FloatArray, yaw: float) -> None:
        """A cupboard, a fridge, a chest: often with something on top."""
        rng = self.rng
        size = np.array([rng.uniform(0.4, 1.4), rng.uniform(0.3, 0.7), rng.uniform(0.4, 2.0)])
        side = self.thing(0.3)
        self.box(place + [0, 0, size[2] / 2], size, yaw, [self.thing(0.6), side, side, side, side])
        if size[2] < 1.4:
            self.on_top(place + [0, 0, size[2]], 0.4 * float(size[:2].min()), yaw)
        self.solid(place + [0, 0, size[2] / 2], 0.5 * float(np.hypot(*size[:2])))

    def table(self, place: FloatArray, yaw: float) -> None:
        """A top on four legs, with things on it."""
        rng = self.rng
        size = np.array([rng.uniform(0.7, 1.8), rng.uniform(0.5, 0.9), rng.uniform(0.4, 0.9)])
        R = rotation_z(yaw)
        thick = rng.uniform(0.02, 0.06)
        self.box(place + [0, 0, size[2]], [size[0], size[1], thick], yaw, [self.thing(0.3)])
        leg = self.thing(0)
        width = rng.uniform(0.03, 0.08)
        for sx in (-1, 1):
            for sy in (-1, 1):
                foot = place + R @ [sx * (size[0] / 2 - width), sy * (size[1] / 2 - width), size[2] / 2]
                self.box(foot, [width, width, size[2]], yaw, [leg], bottom=False)
        for _ in range(int(rng.integers(1, 4))):
            spot = R @ [rng.uniform(-0.35, 0.35) * size[0], rng.uniform(-0.35, 0.35) * size[1], size[2] + thick / 2]
            self.on_top(place + spot, 0.25, rng.uniform(0, 6.3))
        self.solid(place + [0, 0, size[2]], 0.55 * float(size[:2].max()))

    def on_top(self, base: FloatArray, reach: float, yaw: float) -> None:
        """Small things: a box, books in a pile, a screen, a vase, a ball, a pot."""
        rng = self.rng
        kind = rng.integers(6)
        if kind == 0:
            size = rng.uniform(0.3, 1.6, 3) * reach
            self.box(base + [0, 0, size[2] / 2], size, yaw, [self.thing(), self.thing()])
        elif kind == 1:
            z = base[2]
            for _ in range(int(rng.integers(2, 6))):
                size = np.array([rng.uniform(0.5, 1.0) * reach, rng.uniform(0.7, 1.4) * reach, rng.uniform(0.02, 0.07)])
                self.box(
                    [base[0], base[1], z + size[2] / 2],
                    size,
                    yaw + rng.normal(0, 0.3),
                    [self.thing(0.5), self.thing(0.2)],
                    bottom=False,
                )
                z += size[2]
        elif kind == 2:
            w, h = rng.uniform(0.4, 0.8), rng.uniform(0.25, 0.5)
            self.box(base + [0, 0, 0.1 + h / 2], [w, 0.04, h], yaw, [self.photograph(), self._things[0]])
            self.box(base + [0, 0, 0.05], [0.08, 0.06, 0.1], yaw, [self._things[0]], bottom=False)
        elif kind == 3:
            self.cylinder(base, rng.uniform(0.03, 0.12), rng.uniform(0.08, 0.35))
        elif kind == 4:
            r = rng.uniform(0.05, 0.2)
            self.ball(base + [0, 0, r], [r, r, r])
        else:
            self.foliage(base, rng.uniform(0.15, 0.4), rng.uniform(0.2, 0.6))

    def shelf(self, place: FloatArray, yaw: float) -> None:
        """Boards between two sides, with rows of books and boxes."""
        rng = self.rng
        w, d, h = rng.uniform(0.6, 1.4), rng.uniform(0.25, 0.4), rng.uniform(0.8, 2.1)
        R = rotation_z(yaw)
        wood = self.thing(0.1)
        for s in (-1, 1):
            self.box(place + R @ [s * w / 2, 0, h / 2], [0.03, d, h], yaw, [wood])
        self.face(place + R @ [-w / 2, d / 2, 0], R @ [w, 0, 0], np.array([0, 0, h]), wood, two_sided=True)
        boards = int(rng.integers(2, 5))
        for k in range(boards + 1):
            z = h * k / boards
            self.box(place + [0, 0, z], [w, d, 0.03], yaw, [wood])
            if k == boards:
                continue
            x = -w / 2 + 0.05
            while x < w / 2 - 0.12 and rng.random() < 0.93:
                thick = rng.uniform(0.04, 0.18)
                high = h / boards * rng.uniform(0.45, 0.85)
                deep = d * rng.uniform(0.5, 0.9)
                self.box(
                    place + R @ [x + thick / 2, 0, z + 0.015 + high / 2],
                    [thick, deep, high],
                    yaw,
                    [self.thing(0.4)],
                    bottom=False,
                )
                x += thick + (rng.uniform(0.05, 0.3) if rng.random() < 0.3 else 0.005)
        self.solid(place + [0, 0, h / 2], 0.6 * w)

    def chair(self, place: FloatArray, yaw: float) -> None:
        """A seat, a back, four legs."""
        R, w = rotation_z(yaw), self.rng.uniform(0.38, 0.55)
        seat, leg = self.thing(0.4), self.thing(0)
        self.box(place + [0, 0, 0.45], [w, w, 0.05], yaw, [seat])
        self.box(place + R @ [0, w / 2, 0.75], [w, 0.04, 0.5], yaw, [seat])
        for sx in (-1, 1):
            for sy in (-1, 1):
                self.box(
                    place + R @ [sx * w * 0.45, sy * w * 0.45, 0.22], [0.035, 0.035, 0.44], yaw, [leg], bottom=False
                )
        self.solid(place + [0, 0, 0.5], 0.5 * w)

    def sofa(self, place: FloatArray, yaw: float) -> None:
        """A block, a back, two arms, cushions."""
        rng = self.rng
        w, R, cloth = rng.uniform(1.2, 2.0), rotation_z(yaw), self.thing(0.3)
        self.box(place + [0, 0, 0.22], [w, 0.8, 0.44], yaw, [cloth], bottom=False)
        self.box(place + R @ [0, 0.35, 0.45], [w, 0.18, 0.9], yaw, [cloth], bottom=False)
        for s in (-1, 1):
            self.box(place + R @ [s * w / 2, 0, 0.32], [0.16, 0.85, 0.64], yaw, [cloth], bottom=False)
        for x in rng.uniform(-0.35, 0.35, int(rng.integers(1, 4))):
            self.ball(place + R @ [x * w, 0.12, 0.6], [0.24, 0.1, 0.2], self.thing(0.6))
        self.solid(place + [0, 0, 0.4], 0.55 * w)

    def stack(self, place: FloatArray, yaw: float) -> None:
        """Boxes on boxes, each turned a little."""
        rng = self.rng
        z, size = 0.0, rng.uniform(0.4, 0.9, 3)
        first = float(size[:2].max())
        for _ in range(int(rng.integers(2, 5))):
            self.box(place + [0, 0, z + size[2] / 2], size, yaw, [self.thing(0.6), self.thing(0.3)])
            z += size[2]
            size = size * rng.uniform(0.55, 0.95, 3)
            yaw += rng.normal(0, 0.4)
        self.solid(place + [0, 0, z / 2], 0.7 * first)

    def plant(self, place: FloatArray, yaw: float) -> None:
        """A pot with foliage."""
        rng = self.rng
        h = rng.uniform(0.25, 0.5)
        self.cylinder(place, rng.uniform(0.12, 0.25), h)
        self.foliage(place + [0, 0, h * 0.9], rng.uniform(0.4, 1.0), rng.uniform(0.5, 1.3))
        self.solid(place + [0, 0, 0.5], 0.35)

    def foliage(self, base: FloatArray, width: float, height: float) -> None:
        """Faces with holes that cross each other."""
        rng = self.rng
        texture = leaves(rng, self.photograph() if rng.random() < 0.6 else procedural(rng, ("cloudy",)))
        for _ in range(int(rng.integers(2, 5))):
            yaw, lean = rng.uniform(0, np.pi), rng.normal(0, 0.3)
            u = np.array([np.cos(yaw), np.sin(yaw), 0]) * width
            v = np.array([-np.sin(yaw) * np.sin(lean), np.cos(yaw) * np.sin(lean), np.cos(lean)]) * height
            self.face(base - u / 2, u, v, texture, two_sided=True)

    def pillar(self, place: FloatArray, yaw: float) -> None:
        """A round column, a bin, a barrel."""
        rng = self.rng
        radius, height = rng.uniform(0.1, 0.35), rng.choice([rng.uniform(0.4, 1.2), 3.5])
        self.cylinder(place, radius, height, self.surface(WALLS + ("text", "patches"), 0.5))
        self.solid(place + [0, 0, min(height, 2.0) / 2], radius + 0.1)

    def board(self, place: FloatArray, yaw: float) -> None:
        """A panel that leans or stands: a mirror frame, a poster stand, a partition."""
        rng = self.rng
        w, h = rng.uniform(0.5, 1.6), rng.uniform(0.6, 1.9)
        lean = rng.uniform(-0.5, 0.5)
        tilt = rotation_z(yaw) @ rotation_x(lean)
        self.box(
            place + [0, 0, h / 2 * np.cos(lean)], [w, 0.05, h], tilt=tilt, textures=[self.photograph(), self._things[1]]
        )
        self.solid(place + [0, 0, h / 2], 0.5 * w)

    def scatter(self, place: FloatArray) -> None:
        """A small thing on the floor, at any angle."""
        rng = self.rng
        size = rng.uniform(0.08, 0.5, 3)
        tilt = rotation_z(rng.uniform(0, 6.3)) @ rotation_x(rng.normal(0, 0.3))
        if rng.random() < 0.3:
            self.ball([*place, size[2] / 2], np.sort(size / 2)[[1, 2, 0]])
        else:
            self.box([*place, size[2] / 2], size, tilt=tilt, textures=[self.thing(), self.thing()])
        self.targets.append(np.array([*place, size[2] / 2]))

    # -- places -----------------------------------------------------------------------------------------------

    def wall(self, origin: Vector, u: FloatArray, height: float, opening: bool) -> None:
        """A wall with pictures on it and at times an opening; u runs to the right as seen from the room."""
        rng = self.rng
        width = float(np.linalg.norm(u))
        along, up = u / width, np.array([0, 0, 1.0])
        inward = np.cross(along, up)
        texture = self.surface(WALLS, 0.45)
        to_texel = self.fit(texture, width, height, float(rng.uniform(0.5, 2.5)))
        holes: list[tuple[float, float, float, float]] = []
        if opening:
            w, door = rng.uniform(0.7, min(2.2, 0.6 * width)), rng.random() < 0.4
            low = 0.0 if door else rng.uniform(0.6, 1.1)
            x = rng.uniform(0.1 * width, 0.9 * width - w)
            holes = [(x, x + w, low, min(height - 0.2, 2.1 if door else low + rng.uniform(0.7, 1.4)))]
        pieces = [(-0.01, width + 0.01, -0.01, height + 0.01)]
        for x0, x1, z0, z1 in holes:
            pieces = [
                (-0.01, x0, -0.01, height + 0.01),
                (x1, width + 0.01, -0.01, height + 0.01),
                (x0, x1, z1, height + 0.01),
            ]
            pieces += [(x0, x1, -0.01, z0)] if z0 > 0 else []
            for start, edge, span in (
                (along * x0 + up * z0, -inward, up * (z1 - z0)),
                (along * x1 + up * z0 - inward * 0.2, inward, up * (z1 - z0)),
                (along * x0 + up * z1, along * (x1 - x0) / 0.2, -inward * 0.2),
                (along * x0 + up * z0 - inward * 0.2, along * (x1 - x0) / 0.2, inward * 0.2),
            ):
                self.face(origin + start, edge * 0.2, span, self._things[2], two_sided=True)
            far = rng.uniform(0.8, 12.0)
            reach = 2.0 * far + 3
            middle = origin + along * (x0 + x1) / 2 - inward * far
            self.face(middle - along * reach - up * reach / 2, along * 2 * reach, up * 1.5 * reach, self.photograph())
        for x0, x1, z0, z1 in pieces:
            part = to_texel @ np.array(
                [[(x1 - x0) / width, 0, x0 / width], [0, (z1 - z0) / height, z0 / height], [0, 0, 1]]
            )
            self.face(origin + along * x0 + up * z0, along * (x1 - x0), up * (z1 - z0), texture, to_texel=part)
        for _ in range(int(rng.integers(0, 5))):
            w, h = rng.uniform(0.25, 1.4), rng.uniform(0.25, 1.1)
            x, z = rng.uniform(0, max(width - w, 0.1)), rng.uniform(0.7, max(0.8, height - h))
            if any(x < x1 and x + w > x0 for x0, x1, _, _ in holes):
                continue
            thick = rng.uniform(0.01, 0.06)
            yaw = float(np.arctan2(along[1], along[0]))
            # the box's own -y looks into the room
            self.box(
                origin + along * (x + w / 2) + up * (z + h / 2) + inward * thick / 2,
                [w, thick, h],
                yaw,
                [self.photograph() if rng.random() < 0.75 else self.thing(0), self._things[3]],
            )
            self.targets.append(origin + along * (x + w / 2) + up * (z + h / 2))
        self.targets.append(origin + u * rng.uniform(0.2, 0.8) + up * height * rng.uniform(0.3, 0.7))

    def room(self) -> None:
        """A furnished room."""
        rng = self.rng
        w, d, h = rng.uniform(3, 8), rng.uniform(3, 8), rng.uniform(2.3, 3.6)
        corners = np.array([[0, 0, 0], [w, 0, 0], [w, d, 0], [0, d, 0]], np.float64)
        for k in range(4):
            # walked clockwise, so that the room is in front of each wall
            self.wall(corners[(k + 1) % 4], corners[k] - corners[(k + 1) % 4], h, rng.random() < 0.35)
        e = 0.01
        self.face(
            [-e, -e, 0],
            [w + 2 * e, 0, 0],
            [0, d + 2 * e, 0],
            self.surface(FLOORS, 0.4),
            tile_m=float(rng.uniform(0.6, 3)),
        )
        self.face(
            [-e, d + e, h],
            [w + 2 * e, 0, 0],
            [0, -d - 2 * e, 0],
            self.surface(WALLS, 0.25),
            tile_m=float(rng.uniform(0.6, 3)),
        )
        if rng.random() < 0.3:
            z = h - rng.uniform(0.1, 0.6)
            for x in np.arange(0.5, w, rng.uniform(0.8, 2)):
                self.box([x, d / 2, (z + h) / 2], [0.15, d, h - z], 0.0, [self._things[0]])
        if rng.random() < 0.6:  # a carpet
            size = rng.uniform(0.3, 0.7, 2) * [w, d]
            self.face(
                [w / 2 - size[0] / 2, d / 2 - size[1] / 2, 0.01],
                [size[0], 0, 0],
                [0, size[1], 0],
                self.surface(FLOORS + ("patches", "stripes"), 0.6),
            )
        for _ in range(int(rng.integers(0, 3))):
            r = rng.uniform(0.1, 0.25)
            self.ball(
                [rng.uniform(0.5, w - 0.5), rng.uniform(0.5, d - 0.5), h - rng.uniform(0.3, 0.9)],
                [r, r, r * rng.uniform(0.5, 1)],
            )
        count = int(rng.integers(6, 8 + int(w * d * 0.28)))
        for place in self._places(count, np.array([0.4, 0.4]), np.array([w - 0.4, d - 0.4]), 0.9):
            self.furniture(place)
        for _ in range(int(rng.integers(0, 8))):
            self.scatter(rng.uniform([0.3, 0.3], [w - 0.3, d - 0.3]))
        self.lower, self.upper = np.array([0.3, 0.3, 0.5]), np.array([w - 0.3, d - 0.3, min(h - 0.3, 2.2)])

    def _places(self, count: int, low: FloatArray, high: FloatArray, apart: float) -> list[FloatArray]:
        """Up to ``count`` places that keep a distance, more of them towards the border."""
        places: list[FloatArray] = []
        for _ in range(6 * count):
            place = self.rng.uniform(low, high)
            if self.rng.random() < 0.6:
                axis = int(self.rng.integers(2))
                place[axis] = (low if self.rng.random() < 0.5 else high)[axis]
            if all(np.hypot(*(place - other)) > apart for other in places):
                places.append(place)
            if len(places) == count:
                break
        return places

    def street(self) -> None:
        """An open ground with houses, trees and things, under a sky."""
        rng = self.rng
        self.sky = sky(rng)
        half = 60.0
        ground = self.surface(GROUNDS, 0.6)
        if not ground.tiled and self.photographs:
            ground = mirrored(rng, ground.image)
        self.face([-half, -half, 0], [2 * half, 0, 0], [0, 2 * half, 0], ground, tile_m=float(rng.uniform(2, 8)))
        yaw = rng.uniform(0, np.pi)
        along = np.array([np.cos(yaw), np.sin(yaw), 0])
        side = np.array([-along[1], along[0], 0])
        for offset in rng.uniform(-10, 10, int(rng.integers(0, 3))):  # roads and paths
            width = rng.uniform(1, 5)
            z = np.array([0, 0, 0.01 + 0.005 * rng.random()])
            self.face(
                side * (offset - width / 2) - along * half + z,
                along * 2 * half,
                side * width,
                procedural(rng, GROUNDS + ("stripes",)),
                tile_m=float(rng.uniform(1, 3)),
            )
        for _ in range(int(rng.integers(0, 4))):  # hills
            r = rng.uniform(8, 25)
            place = self._far(rng.uniform(25, 50))
            self.ball(
                [*place, 0],
                [r, r * rng.uniform(0.6, 1.4), rng.uniform(1, 7)],
                procedural(rng, ("cloudy",)),
                int(2 * np.pi * r / rng.uniform(2, 6)) + 1,
            )
        for _ in range(int(rng.integers(3, 9))):
            self.house(self._far(rng.uniform(7, 35)), yaw + rng.integers(4) * np.pi / 2 + rng.normal(0, 0.2))
        for _ in range(int(rng.integers(2, 9))):
            self.tree(self._far(rng.uniform(3, 20)))
        for _ in range(int(rng.integers(0, 4))):  # a wall or a fence
            place, length, high = self._far(rng.uniform(4, 12)), rng.uniform(3, 12), rng.uniform(0.8, 2.5)
            self.box(
                [*place, high / 2],
                [length, 0.2, high],
                rng.uniform(0, np.pi),
                [self.surface(WALLS + ("bricks", "patches"), 0.4)],
            )
            self.targets.append(np.array([*place, high / 2]))
        for _ in range(int(rng.integers(0, 5))):  # posts with signs
            place, high = self._far(rng.uniform(2, 9)), rng.uniform(1.5, 4)
            self.cylinder([*place, 0.0], rng.uniform(0.03, 0.12), high)
            angle = rng.uniform(0, np.pi)
            u = np.array([np.cos(angle), np.sin(angle), 0]) * rng.uniform(0.3, 1.4)
            self.face(
                np.array([*place, high - 0.5]) - u / 2 + 0.15 * np.cross(u, [0, 0, 1]),
                u,
                np.array([0, 0, rng.uniform(0.3, 0.9)]),
                self.thing(0.4),
                two_sided=True,
            )
        for place in self._places(int(rng.integers(4, 14)), np.full(2, -7.0), np.full(2, 7.0), 1.8):
            self.furniture(place)
        for _ in range(int(rng.integers(3, 16))):
            self.scatter(rng.uniform(-6, 6, 2))
        self.lower, self.upper = np.array([-6, -6, 0.5]), np.array([6, 6, rng.uniform(2, 4)])

    def _far(self, distance: float) -> FloatArray:
        angle = self.rng.uniform(0, 2 * np.pi)
        return distance * np.array([np.cos(angle), np.sin(angle)])

    def house(self, place: FloatArray, yaw: float) -> None:
        """A block with facades, and a pitched roof at times."""
        rng = self.rng
        size = np.array([rng.uniform(4, 14), rng.uniform(4, 10), rng.uniform(3, 12)])
        facade = self.photograph() if rng.random() < 0.45 else procedural(rng, ("windows", "windows", "bricks"), 512)
        tile = float(rng.uniform(3, 7))
        R = rotation_z(yaw)
        x, y, z = (R[:, k] * size[k] for k in range(3))
        corner = np.array([*place, 0]) - (x + y) / 2
        for start, edge in ((corner, x), (corner + x, y), (corner + x + y, -x), (corner + y, -y)):
            other = facade if rng.random() < 0.7 else self.photograph()
            upright = self.fit(other, 1, 1, tile)
            if other.tiled:  # windows stay upright
                per_m = other.size[0] / tile
                upright = np.array([[per_m * np.linalg.norm(edge), 0, 0], [0, -per_m * size[2], 0], [0, 0, 1.0]])
            self.face(start, edge, z, other, to_texel=upright)
        if rng.random() < 0.6:
            rise, over = np.array([0, 0, rng.uniform(1, 3)]), 1.06
            tiles = procedural(rng, ("bricks", "stripes", "plain"))
            for s, along in ((1, x), (-1, -x)):
                eaves = corner + z + (x + y) / 2 - s * y / 2 * over - along / 2 * over
                self.face(eaves, along * over, s * y / 2 * over + rise, tiles, tile_m=2.0, two_sided=True)
        else:
            self.face(corner + z, x, y, self._things[0])
        self.solid(np.array([*place, 1.5]), 0.55 * float(size[:2].max()))

    def tree(self, place: FloatArray) -> None:
        """A trunk and a crown of foliage."""
        rng = self.rng
        h = rng.uniform(1, 3.5)
        base = np.array([*place, 0.0])
        self.cylinder(base, rng.uniform(0.08, 0.3), h, procedural(rng, ("wood", "cloudy")))
        for _ in range(int(rng.integers(1, 4))):
            centre = base + [*rng.normal(0, 0.5, 2), h + rng.uniform(0, 1)]
            if rng.random() < 0.5:
                r = rng.uniform(0.6, 1.6)
                self.ball(
                    centre, [r, r * rng.uniform(0.8, 1.2), r * rng.uniform(0.7, 1.2)], repeats=int(rng.integers(2, 6))
                )
            else:
                self.foliage(centre - [0, 0, 1], rng.uniform(1.5, 3), rng.uniform(1.5, 3))
        self.solid(base + [0, 0, 1], 0.5)


def sky(rng: Generator) -> Texture:
    """A panorama: a colour from the horizon to the zenith, with clouds."""
    size = 256
    clouds = np.clip(value_noise(rng, size, 4, 5) * rng.uniform(0, 0.6) + rng.uniform(-0.3, 0.6), 0, 1)[..., None]
    up = np.linspace(1, -1, size, dtype=np.float32).clip(0, 1)[:, None, None] ** 0.5
    horizon = np.array([rng.uniform(190, 250), rng.uniform(190, 240), rng.uniform(190, 250)], np.float32)
    zenith = np.array([rng.uniform(60, 190), rng.uniform(120, 200), rng.uniform(170, 250)], np.float32)
    image = horizon * (1 - up) + zenith * up
    image = image * (1 - clouds) + rng.uniform(180, 255) * clouds
    return Texture(np.asarray(image.clip(0, 255), np.uint8), tiled=True)


def rotation_z(angle: float) -> FloatArray:
    """(3, 3) about the vertical, radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def rotation_x(angle: float) -> FloatArray:
    """(3, 3) about x, radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1.0, 0, 0], [0, c, -s], [0, s, c]])
