"""The drawing of :mod:`stfm_training.raster` on a device of torch: every pixel against every surface at once.

    >>> drawn = DeviceRaster(raster, "cuda").render(camera, T_world_to_camera, light)

What is in view is worked out on the CPU, in float64; coverage, inverse depth and colour on the device, in float32 and
in the same order of operations, so that depth is that of the CPU to the last bits and a picture differs by the
rounding of texture filters alone: OpenCV's have 5 bits of fraction, and so have these; the sky, which the CPU draws at
a quarter of the size, is drawn in full. Nothing here draws at random, nor depends on the order of additions between
pixels: one device gives the same bits again.

The number of calls to the device does not depend on the number of surfaces. A texture goes there when it is first
seen, once in the life of a raster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stfm_ros.types import Camera, Float32Array, FloatArray
from stfm_training.raster import (
    DETAIL_BELOW,
    DETAIL_M,
    FAR_M,
    LEVEL_BIAS,
    NEAR_M,
    Light,
    Raster,
    Rendering,
    RoundInView,
    magnified,
    round_level,
    texels_per_turn,
)
from stfm_training.textures import LEVELS, Texture

#: most numbers in one plane of a pass over the surfaces: bounds the memory that is taken
PASS = 1 << 23


class DeviceRaster:
    """Draws what a :class:`Raster` draws; the same calls, arrays of NumPy in and out.

    Args:
        raster: the surfaces.
        device: any device of torch, e.g. ``cuda`` or ``cuda:1``.
    """

    def __init__(self, raster: Raster, device: str | torch.device) -> None:
        self.raster = raster
        self.device = torch.device(device)
        self._colours: dict[Texture, Tensor] = {}
        self._alphas: dict[Texture, Tensor] = {}

    def depth(self, camera: Camera, T_world_to_camera: FloatArray) -> Float32Array:
        """(H, W) float32 metres, 0 where there is nothing."""
        return self._depth(self._visibility(camera, np.asarray(T_world_to_camera, np.float64)))

    def render(self, camera: Camera, T_world_to_camera: FloatArray, light: Light, supersample: int = 1) -> Rendering:
        """Draw the scene; see :meth:`Raster.render`."""
        T = np.asarray(T_world_to_camera, np.float64)
        fine = magnified(camera, supersample)
        seen = self._visibility(fine, T)
        image = self._shade(fine, T, seen, light).T.reshape(1, 3, fine.height, fine.width)
        if supersample > 1:
            image = torch.round(torch.nn.functional.avg_pool2d(image, supersample))
        pixels = image[0].permute(1, 2, 0).to(torch.uint8).cpu().numpy()
        return Rendering(pixels, self._depth(seen) if supersample == 1 else self.depth(camera, T))

    def _depth(self, seen: _Seen) -> Float32Array:
        there = seen.w > float(np.float32(1.0001 / FAR_M))
        depth = torch.where(there, 1 / seen.w, torch.zeros_like(seen.w))
        return np.asarray(depth.reshape(seen.height, seen.width).cpu().numpy(), np.float32)

    # -- which surface a pixel shows --------------------------------------------------------------------------

    def _visibility(self, camera: Camera, T: FloatArray) -> _Seen:
        index, homographies, boxes = self.raster.faces_in_view(camera, T)
        views = [self.raster.round_in_view(j, camera, T) for j in range(len(self.raster.rounds))]
        rounds = [view for view in views if view is not None]
        shape = camera.height, camera.width
        w = torch.full(shape, float(np.float32(1 / FAR_M)), device=self.device)
        ids = torch.zeros(shape, dtype=torch.int64, device=self.device)
        face_planes = self._planes(homographies, boxes, camera)
        round_boxes = np.array([view.box for view in rounds], np.int64).reshape(-1, 4)
        round_planes = self._planes(np.array([view.G for view in rounds]).reshape(-1, 3, 3), round_boxes, camera)
        step = max(1, PASS // (camera.width * camera.height))
        for start in range(0, len(index), step):
            part = slice(start, start + step)
            found = self._cover_faces(index[part], face_planes.part(part))
            w, ids = _nearer(w, ids, found, 1 + start)
        for start in range(0, len(rounds), step):
            part = slice(start, start + step)
            found = self._cover_rounds(rounds[part], round_planes.part(part))
            w, ids = _nearer(w, ids, found, 1 + len(index) + start)
        flat = w.reshape(-1), ids.reshape(-1)
        return _Seen(camera.width, camera.height, *flat, index, homographies, face_planes, rounds, round_planes)

    def _planes(self, rows: FloatArray, boxes: NDArray[np.int64], camera: Camera) -> _Planes:
        """The parts of ``row (x, y, 1)`` that depend on x and on y, rounded as the CPU rounds them."""
        x = np.arange(camera.width, dtype=np.float64)
        y = np.arange(camera.height, dtype=np.float64)
        across = (rows[:, :, 0, None] * x).astype(np.float32)
        down = (rows[:, :, 1, None] * y + rows[:, :, 2, None]).astype(np.float32)
        columns = (x >= boxes[:, :1]) & (x < boxes[:, 2:3])
        lines = (y >= boxes[:, 1:2]) & (y < boxes[:, 3:])
        return _Planes(*(self.send(array) for array in (across, down, columns, lines)))

    def _cover_faces(self, index: NDArray[np.int64], planes: _Planes) -> Tensor:
        """(n, H, W) inverse depth where a face covers the pixel, else 0."""
        faces = [self.raster.faces[i] for i in index]
        a, b, w = (planes.row(k) for k in range(3))
        half = 0.5 * w
        inside = (torch.minimum(a, w - a) >= 0) & (torch.minimum(b, w - b) >= 0)
        if any(face.round for face in faces):
            disc = (a - half) ** 2 + (b - half) ** 2 <= half * half
            is_round = self.send(np.array([face.round for face in faces]))[:, None, None]
            inside = torch.where(is_round, disc, inside)
        inside &= (w < float(np.float32(1 / NEAR_M))) & planes.box()
        holed = [k for k, face in enumerate(faces) if face.texture.has_holes]
        if holed:
            at = self.send(np.array(holed))
            to_texel = self.send(self.raster.to_texel[index[holed]].astype(np.float32))
            solid = self._is_solid([faces[k].texture for k in holed], to_texel, a[at], b[at], w[at])
            inside[at] = inside[at] & solid
        return torch.where(inside, w, torch.zeros_like(w))

    def _is_solid(self, textures: Sequence[Texture], to_texel: Tensor, a: Tensor, b: Tensor, w: Tensor) -> Tensor:
        """(n, H, W) bool, whether the texel that a pixel falls on is no hole."""
        m = to_texel[:, :, :, None, None]
        third = m[:, 2, 0] * a + m[:, 2, 1] * b + m[:, 2, 2] * w
        u, v = (torch.round((m[:, k, 0] * a + m[:, k, 1] * b + m[:, k, 2] * w) / third) for k in range(2))
        distinct = list(dict.fromkeys(textures))
        alphas = torch.cat([self._alpha(texture) for texture in distinct])
        starts = dict(zip(distinct, np.cumsum([0, *(texture.alpha.size for texture in distinct)]).tolist()))
        table = self.send(np.array([[starts[texture], *texture.size] for texture in textures]))[:, :, None, None]
        start, width, height = table.unbind(1)
        within = (u >= 0) & (v >= 0) & (u < width) & (v < height)
        none = torch.zeros_like(u)
        place = start + torch.where(within, v, none).long() * width + torch.where(within, u, none).long()
        return within & (alphas[place] > 0)

    def _cover_rounds(self, rounds: Sequence[RoundInView], planes: _Planes) -> Tensor:
        """(m, H, W) inverse depth where a round covers the pixel, else 0."""
        items = [self.raster.rounds[view.j] for view in rounds]
        cylinder = self.send(np.array([item.cylinder for item in items]))[:, None, None]
        o = self.send(np.array([view.o for view in rounds], np.float32))[:, :, None, None]
        C = self.send(np.array([view.C for view in rounds], np.float32))[:, None, None]
        r = [planes.row(k) for k in range(3)]
        none = torch.zeros_like(r[2])
        A = r[0] * r[0] + r[1] * r[1] + torch.where(cylinder, none, r[2] * r[2])
        B = r[0] * o[:, 0] + r[1] * o[:, 1] + torch.where(cylinder, none, r[2] * o[:, 2])
        root = B * B - A * C
        z = (-B - torch.sqrt(root.clamp_min(0))) / A.clamp_min(1e-12)
        hit = (root > 0) & (z > NEAR_M) & planes.box()
        hit &= ~cylinder | ((o[:, 2] + z * r[2]).abs() <= 1)
        return torch.where(hit, 1 / z, none)

    # -- what colour it has -----------------------------------------------------------------------------------

    def _shade(self, camera: Camera, T: FloatArray, seen: _Seen, light: Light) -> Tensor:
        """(H W, 3) float32, whole numbers 0..255."""
        n = len(seen.faces)
        pixel = torch.arange(seen.width * seen.height, device=self.device)
        x, y = pixel % seen.width, torch.div(pixel, seen.width, rounding_mode="floor")
        image = torch.zeros(len(pixel), 3, device=self.device)
        shade = torch.ones_like(seen.w)
        visible = [int(i) for i in torch.unique(seen.ids).tolist() if i]
        on_face = torch.nonzero((seen.ids > 0) & (seen.ids <= n)).squeeze(1)
        on_round = torch.nonzero(seen.ids > n).squeeze(1)
        in_sky = torch.nonzero(seen.ids == 0).squeeze(1)
        if len(on_face):
            which = [i - 1 for i in visible if i <= n]
            colour, lit = self._face_pixels(which, seen, on_face, x[on_face], y[on_face], light)
            image[on_face], shade[on_face] = colour, lit
        if len(on_round):
            which = [i - 1 - n for i in visible if i > n]
            colour, lit = self._round_pixels(which, seen, on_round, x[on_round], y[on_round], camera, light)
            image[on_round], shade[on_round] = colour, lit
        if len(in_sky) and self.raster.sky is not None:
            image[in_sky] = self._sky_pixels(camera, T, x[in_sky].float(), y[in_sky].float())
        shade = shade + self._near_light(camera, T, seen, x, y, light)
        shade[in_sky] = 1
        factors = shade[:, None] * self.send(np.asarray(light.colour, np.float32))
        return torch.round(image * factors).clamp(0, 255)

    def _face_pixels(
        self, which: Sequence[int], seen: _Seen, at: Tensor, x: Tensor, y: Tensor, light: Light
    ) -> tuple[Tensor, Tensor]:
        """Colours (p, 3) and light (p,) of the pixels ``at``; ``which`` of the faces in view they show."""
        raster, index = self.raster, seen.faces[list(which)]
        faces = [raster.faces[i] for i in index]
        sheet = _Sheet(self, [face.texture for face in faces])
        to_texel, h = raster.to_texel[index], seen.homographies[list(which)]
        # the area of a pixel's footprint in texels is |det G| / w^3
        footprint = _half_log2(np.linalg.det(to_texel @ h)) + LEVEL_BIAS
        k = self._rank(which, len(seen.faces))[seen.ids[at] - 1]
        w = seen.w[at]
        log_w = torch.log2(w)
        tables = self.send(np.stack([footprint, sheet.tops], 1).astype(np.float32))
        constant, top = tables[k].unbind(1)
        level = torch.minimum(torch.round(constant - 1.5 * log_w).clamp_min(0), top).long()
        planes = seen.face_planes
        face = seen.ids[at] - 1
        a, b = (planes.at(row, face, x, y) / w for row in range(2))
        m = self.send(to_texel.reshape(-1, 9).astype(np.float32))[k]
        third = m[:, 6] * a + m[:, 7] * b + m[:, 8]
        u = (m[:, 0] * a + m[:, 1] * b + m[:, 2]) / third
        v = (m[:, 3] * a + m[:, 4] * b + m[:, 5]) / third
        colour = sheet.fetch(k, level, u, v)
        if raster.detail is not None:
            nearest = torch.zeros(len(faces), device=self.device).scatter_reduce_(0, k, w, "amax")
            grain = self._grain(raster.detail, index, h, nearest, k, a, b)
            is_near = (level == 0) & (constant - 1.5 * torch.log2(nearest)[k] < DETAIL_BELOW)
            colour = torch.where(is_near[:, None], torch.round(colour * grain / 128).clamp(0, 255), colour)
        cosine = raster.normal[index] @ light.direction
        front = np.where(cosine > 0, cosine, -0.35 * cosine)
        return colour, self.send((light.ambient + light.distant * front).astype(np.float32))[k]

    def _grain(
        self, detail: Texture, index: NDArray[np.int64], h: FloatArray, nearest: Tensor, k: Tensor, a: Tensor, b: Tensor
    ) -> Tensor:
        """(p, 3) factors times 128, of the grain that lies on the faces."""
        faces = [self.raster.faces[i] for i in index]
        size = np.array([[np.linalg.norm(face.u), np.linalg.norm(face.v)] for face in faces])
        size *= detail.size[0] / DETAIL_M
        scale = np.zeros((len(faces), 3, 3))
        scale[:, 0, 0], scale[:, 1, 1], scale[:, 2, 2] = size[:, 0], size[:, 1], 1
        finest = self.send((_half_log2(np.linalg.det(scale @ h)) + LEVEL_BIAS).astype(np.float32))
        sheet = _Sheet(self, [detail])
        level = torch.round(finest - 1.5 * torch.log2(nearest) + 0.5).clamp(0, int(sheet.tops[0])).long()
        su, sv = self.send(size.astype(np.float32))[k].unbind(1)
        return sheet.fetch(torch.zeros_like(k), level[k], a * su, b * sv)

    def _round_pixels(
        self, which: Sequence[int], seen: _Seen, at: Tensor, x: Tensor, y: Tensor, camera: Camera, light: Light
    ) -> tuple[Tensor, Tensor]:
        views = [seen.rounds[i] for i in which]
        items = [self.raster.rounds[view.j] for view in views]
        sheet = _Sheet(self, [item.texture for item in items])
        number = seen.ids[at] - 1 - len(seen.faces)
        k = self._rank(which, len(seen.rounds))[number]
        w = seen.w[at]
        r = torch.stack([seen.round_planes.at(row, number, x, y) for row in range(3)], 1)
        o = self.send(np.array([view.o for view in views], np.float32))
        local = o[k] + r / w[:, None]
        turns = self.send(np.array([texels_per_turn(item) for item in items], np.float32))[k]
        cylinder = self.send(np.array([item.cylinder for item in items]))[k]
        angle = torch.remainder(torch.atan2(local[:, 1], local[:, 0]), 2 * np.pi)
        up = torch.where(cylinder, local[:, 2], torch.asin(local[:, 2].clamp(-1, 1)))
        highest = torch.zeros(len(items), device=self.device).scatter_reduce_(0, k, w, "amax")
        lowest = torch.full_like(highest, 1 / NEAR_M).scatter_reduce_(0, k, w, "amin")
        middle = (0.5 * (lowest + highest)).tolist()
        levels = [round_level(item, value, camera) for item, value in zip(items, middle)]
        level = self.send(np.array(levels, np.int64))[k]
        colour = sheet.fetch(k, level, angle * turns[:, 0], up * turns[:, 1], wrap=True)
        # the normal of A x with |x| = 1 is A^-T x
        axes = self.send(np.array([self.raster.axes_inv[view.j] for view in views], np.float32))[k]
        flat = torch.where(cylinder[:, None], local * local.new_tensor([1.0, 1.0, 0.0]), local)
        normal = (axes * flat[:, :, None]).sum(1)
        normal = normal / normal.norm(dim=1, keepdim=True).clamp_min(1e-9)
        cosine = (normal * self.send(light.direction.astype(np.float32))).sum(1)
        return colour, light.ambient + light.distant * torch.where(cosine > 0, cosine, -0.35 * cosine)

    def _sky_pixels(self, camera: Camera, T: FloatArray, x: Tensor, y: Tensor) -> Tensor:
        sky = self.raster.sky
        assert sky is not None
        G = (T[:3, :3].T @ np.linalg.inv(camera.K)).tolist()
        east, north, up = (row[0] * x + row[1] * y + row[2] for row in G)
        across = torch.remainder(torch.atan2(north, east), 2 * np.pi) * (sky.size[0] / (2 * np.pi))
        elevation = torch.atan2(up, torch.sqrt(east * east + north * north)) / np.pi
        sheet = _Sheet(self, [sky])
        none = torch.zeros_like(x, dtype=torch.int64)
        return sheet.fetch(none, none, across, (0.5 - elevation) * (sky.size[1] - 1), wrap=True)

    def _near_light(self, camera: Camera, T: FloatArray, seen: _Seen, x: Tensor, y: Tensor, light: Light) -> Tensor:
        place = (T[:3, :3] @ light.point + T[:3, 3]).tolist()
        K = camera.K.tolist()
        depth = 1 / seen.w
        square = (depth * ((x - K[0][2]) / K[0][0]) - place[0]) ** 2
        square = square + (depth * ((y - K[1][2]) / K[1][1]) - place[1]) ** 2 + (depth - place[2]) ** 2
        near: Tensor = light.near / (1 + square / light.reach_m**2)
        return near

    # -- to the device ----------------------------------------------------------------------------------------

    def send(self, array: NDArray[Any]) -> Tensor:
        """The array on the device."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def _rank(self, which: Sequence[int], count: int) -> Tensor:
        """(count,) the place of each number in ``which``."""
        rank = np.zeros(max(count, 1), np.int64)
        rank[list(which)] = np.arange(len(which))
        return self.send(rank)

    def texels(self, texture: Texture) -> Tensor:
        """(texels, 3) uint8 of all levels, finest first."""
        if texture not in self._colours:
            self._colours[texture] = self.send(np.concatenate([level.reshape(-1, 3) for level in texture.levels]))
        return self._colours[texture]

    def _alpha(self, texture: Texture) -> Tensor:
        """(texels,) uint8 of level 0."""
        if texture not in self._alphas:
            self._alphas[texture] = self.send(texture.alpha.reshape(-1))
        return self._alphas[texture]


class _Planes(NamedTuple):
    """n times three linear functions of the pixel, and the columns and lines where each is asked for.

    across: (n, 3, W). down: (n, 3, H). columns: (n, W) bool. lines: (n, H) bool.
    """

    across: Tensor
    down: Tensor
    columns: Tensor
    lines: Tensor

    def part(self, which: slice) -> _Planes:
        return _Planes(*(tensor[which] for tensor in self))

    def row(self, k: int) -> Tensor:
        """(n, H, W)."""
        return self.across[:, k, None, :] + self.down[:, k, :, None]

    def at(self, k: int, which: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """(p,) of function k of number ``which`` at the pixels x, y."""
        return self.across[which, k, x] + self.down[which, k, y]

    def box(self) -> Tensor:
        """(n, H, W) bool."""
        return self.columns[:, None, :] & self.lines[:, :, None]


class _Seen(NamedTuple):
    """The z-buffer of one view.

    w: (H W,) inverse depth. ids: (H W,) 0 nobody, then the faces in view, then the rounds in view.
    faces: the numbers of those in view; homographies: theirs.
    """

    width: int
    height: int
    w: Tensor
    ids: Tensor
    faces: NDArray[np.int64]
    homographies: FloatArray
    face_planes: _Planes
    rounds: list[RoundInView]
    round_planes: _Planes


class _Sheet:
    """Several textures in one buffer.

    Attributes:
        tops: (n,) the coarsest level of each.
    """

    def __init__(self, raster: DeviceRaster, textures: Sequence[Texture]) -> None:
        distinct = list(dict.fromkeys(textures))
        flats = [raster.texels(texture) for texture in distinct]
        starts = dict(zip(distinct, np.cumsum([0, *(len(flat) for flat in flats)]).tolist()))
        self._texels = torch.cat(flats)
        self.tops = np.array([len(texture.levels) - 1 for texture in textures])
        tables = np.zeros((len(textures), LEVELS, 3), np.int64)  # where a level starts, its width and height
        for table, texture in zip(tables, textures):
            sizes = np.array([level.shape[1::-1] for level in texture.levels])
            table[: len(sizes), 0] = starts[texture] + np.cumsum([0, *sizes.prod(1)[:-1]])
            table[: len(sizes), 1:] = sizes
        self._tables = raster.send(tables)
        self._tiled = raster.send(np.array([texture.tiled for texture in textures]))

    def fetch(self, k: Tensor, level: Tensor, u: Tensor, v: Tensor, wrap: bool = False) -> Tensor:
        """(p, 3) whole numbers, bilinear: of texture ``k``, at texel (u, v) of level 0, out of ``level``.

        ``wrap``: repeat also what is not tiled.
        """
        start, width, height = self._tables[k, level].unbind(1)
        scale = torch.exp2(-level.float())
        tiled = self._tiled[k] | wrap
        sides = []
        for place, size in ((u, width), (v, height)):
            # in steps of 1/32, as OpenCV; far outside a texture nobody can tell where
            place = torch.round(place * scale * 32).clamp(-(2**28), 2**28).long()
            low = torch.div(place, 32, rounding_mode="floor")
            ends = [
                torch.where(tiled, torch.remainder(end, size), torch.minimum(end.clamp_min(0), size - 1))
                for end in (low, low + 1)
            ]
            sides.append((ends, (place - 32 * low).float() / 32))
        (columns, share_x), (rows, share_y) = sides
        total = torch.zeros(len(u), 3, device=u.device)
        for row, part_y in zip(rows, (1 - share_y, share_y)):
            for column, part_x in zip(columns, (1 - share_x, share_x)):
                total += (part_x * part_y)[:, None] * self._texels[start + row * width + column].float()
        return torch.round(total)


def _nearer(w: Tensor, ids: Tensor, found: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """The z-buffer with (n, H, W) more inverse depths; among equals the first one stays."""
    best = found.argmax(0)
    value = found.gather(0, best[None])[0]
    nearer = value > w
    return torch.where(nearer, value, w), torch.where(nearer, best + first, ids)


def _half_log2(area: FloatArray) -> FloatArray:
    return np.asarray(0.5 * np.log2(np.maximum(abs(area), 1e-30)), np.float64)
