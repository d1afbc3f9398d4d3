"""Drawing of planar and round surfaces with an exact z-buffer, on one CPU core.

World: z up, metres. A face is the parallelogram ``origin + a u + b v`` with a, b in [0, 1]. In a camera,
``[U V P] (a, b, 1)^T = z ray``, so one 3x3 matrix takes a pixel to ``(a / z, b / z, 1 / z)``: inverse depth
is linear in the pixel and exact at pixel centres, for any face, also one that passes behind the camera.
Textures are fetched by the same matrix (a homography), from the pyramid level that fits each pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from stfm_ros.types import ByteArray, Camera, Float32Array, FloatArray
from stfm_training.textures import Texture

NEAR_M = 0.05
FAR_M = 1000.0
SMALL = 64 * 64  # pixels of an image in which all faces are tried for all pixels
DETAIL_M = 0.35  # size of a tile of grain on a surface
DETAIL_BELOW = -0.6  # log2 of the texels a pixel covers below which a texture gets grain
LEVEL_BIAS = 0.25  # a little towards the blurred side: the levels follow the area, not the longer axis, of a footprint


@dataclass(frozen=True, eq=False)
class Face:
    """A textured parallelogram (or the ellipse in it).

    Attributes:
        origin, u, v: (3,) corner and edges in the world, metres; seen from the side of ``u x v``, or both.
        texture: its texture.
        to_texel: (3, 3) takes (a, b, 1) to texels of level 0.
        round: only the inscribed ellipse is drawn.
        two_sided: also seen from behind.
    """

    origin: FloatArray
    u: FloatArray
    v: FloatArray
    texture: Texture
    to_texel: FloatArray
    round: bool = False
    two_sided: bool = False


@dataclass(frozen=True, eq=False)
class Round:
    """An ellipsoid, or an upright cylinder without its ends.

    Attributes:
        centre: (3,) metres, in the world.
        axes: (3, 3) takes the unit sphere (or unit cylinder ``|z| <= 1``) into the world, without the centre.
        texture: wrapped ``repeats`` times around.
    """

    centre: FloatArray
    axes: FloatArray
    texture: Texture
    cylinder: bool = False
    repeats: int = 2


@dataclass(frozen=True, eq=False)
class Light:
    """A distant light, an even one and one at a point.

    Attributes:
        direction: (3,) unit vector towards the distant light.
        ambient, distant, near: strengths; the three add up to about 1 on a surface that is lit well.
        point: (3,) place of the near light; ``reach_m`` is where it has fallen to half.
        colour: (3,) factors on R, G, B.
    """

    direction: FloatArray
    ambient: float = 0.6
    distant: float = 0.3
    near: float = 0.3
    point: FloatArray = field(default_factory=lambda: np.zeros(3))
    reach_m: float = 3.0
    colour: FloatArray = field(default_factory=lambda: np.ones(3))


@dataclass(frozen=True)
class Rendering:
    """What a camera sees.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        depth: (H, W) float32, z in metres at the pixel's centre; 0 where there is nothing.
    """

    image: ByteArray
    depth: Float32Array


class RoundInView(NamedTuple):
    """A round in a camera: the ray of a pixel (x, y, 1) is ``o + z G pixel`` in the space where it is of unit size.

    j: which one. box: x0, y0, x1, y1, pixels. o: (3,) float32. G: (3, 3). C: squared distance of o less 1.
    """

    j: int
    box: tuple[int, int, int, int]
    o: Float32Array
    G: FloatArray
    C: float


class Raster:
    """The surfaces of a scene, laid out for drawing.

    Attributes:
        faces, rounds, sky, detail: as given.
        normal: (n, 3) of the faces, in the world. to_texel: (n, 3, 3) theirs.
        axes_inv: (3, 3) of each round, from the world to where it is of unit size.
    """

    def __init__(
        self,
        faces: Sequence[Face],
        rounds: Sequence[Round] = (),
        sky: Texture | None = None,
        detail: Texture | None = None,
    ) -> None:
        self.sky, self.detail = sky, detail
        self.faces = list(faces)
        self.rounds = list(rounds)
        n = len(self.faces)
        self._origin = np.array([face.origin for face in faces], np.float64).reshape(n, 3)
        self._u = np.array([face.u for face in faces], np.float64).reshape(n, 3)
        self._v = np.array([face.v for face in faces], np.float64).reshape(n, 3)
        normal = np.cross(self._u, self._v)
        self.normal = normal / np.linalg.norm(normal, axis=1, keepdims=True).clip(1e-12)
        self._two_sided = np.array([face.two_sided for face in faces], bool).reshape(n)
        self._plain = np.array([not face.round and not face.texture.has_holes for face in faces], bool).reshape(n)
        self.to_texel = np.array([face.to_texel for face in faces], np.float64).reshape(n, 3, 3)
        self.axes_inv = [np.linalg.inv(item.axes) for item in self.rounds]

    def depth(self, camera: Camera, T_world_to_camera: FloatArray) -> Float32Array:
        """(H, W) float32 metres, 0 where there is nothing."""
        return _depth(self._visibility(camera, T_world_to_camera).w)

    def render(self, camera: Camera, T_world_to_camera: FloatArray, light: Light, supersample: int = 1) -> Rendering:
        """Draw the scene.

        Args:
            camera: pinhole; its distortion is ignored.
            T_world_to_camera: (4, 4).
            light: how it is lit.
            supersample: the image is drawn this many times larger and averaged; the depth is not.
        """
        fine = magnified(camera, supersample)
        seen = self._visibility(fine, T_world_to_camera)
        image = self._shade(fine, T_world_to_camera, seen, light)
        if supersample == 1:
            return Rendering(image, _depth(seen.w))
        image = np.asarray(cv2.resize(image, (camera.width, camera.height), interpolation=cv2.INTER_AREA), np.uint8)
        return Rendering(image, self.depth(camera, T_world_to_camera))

    def faces_in_view(
        self, camera: Camera, T: FloatArray
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
        """Which faces (n,) are turned to the camera and may be in the image; their (n, 3, 3) maps from a pixel
        (x, y, 1) to (a / z, b / z, 1 / z), and their boxes (n, 4) of pixels, x0 y0 x1 y1."""
        R, t = T[:3, :3], T[:3, 3]
        P, U, V = self._origin @ R.T + t, self._u @ R.T, self._v @ R.T
        facing = np.einsum("ij,ij->i", np.cross(U, V), P)  # < 0: the front side is seen
        size = np.linalg.norm(U, axis=1) * np.linalg.norm(V, axis=1)
        visible = np.where(self._two_sided, abs(facing), -facing) > 1e-6 * size
        boxes, in_view = _boxes(camera, P, U, V)
        index = np.nonzero(visible & in_view)[0]
        M = np.stack([U[index], V[index], P[index]], -1)
        return index, np.linalg.inv(M) @ np.linalg.inv(camera.K), boxes[index]

    def round_in_view(self, j: int, camera: Camera, T: FloatArray) -> RoundInView | None:
        """Round j as a camera sees it; None where it does not."""
        R, t, item = T[:3, :3], T[:3, 3], self.rounds[j]
        corners = (_CUBE @ item.axes.T + item.centre) @ R.T + t
        box = 0, 0, camera.width, camera.height
        if (corners[:, 2] < NEAR_M).all():
            return None
        if (corners[:, 2] >= NEAR_M).all():
            uv = corners @ camera.K.T
            uv = uv[:, :2] / uv[:, 2:]
            x0, y0 = np.maximum(np.floor(uv.min(0)), 0).astype(int)
            x1, y1 = np.minimum(np.ceil(uv.max(0)) + 1, [camera.width, camera.height]).astype(int)
            box = int(x0), int(y0), int(x1), int(y1)
            if x1 <= x0 or y1 <= y0:
                return None
        to_local = self.axes_inv[j]
        o = (to_local @ (-R.T @ t - item.centre)).astype(np.float32)
        C = float(sum(o[k] * o[k] for k in range(2 if item.cylinder else 3))) - 1
        # C <= 0: the camera is inside
        return RoundInView(j, box, o, to_local @ R.T @ np.linalg.inv(camera.K), C) if C > 0 else None

    def _visibility(self, camera: Camera, T: FloatArray) -> _Visibility:
        T = np.asarray(T, np.float64)
        seen = _Visibility(camera.width, camera.height, len(self.faces), len(self.rounds))
        index, homographies, boxes = self.faces_in_view(camera, T)
        seen.homographies[index] = homographies
        seen.boxes[index] = boxes
        alone = index
        if camera.width * camera.height <= SMALL:
            self._draw_plain_faces(seen, index[self._plain[index]])
            alone = index[~self._plain[index]]
        for i in alone:
            self._draw_face(seen, int(i))
        for j in range(len(self.rounds)):
            view = self.round_in_view(j, camera, T)
            if view is not None:
                self._draw_round(seen, view)
        return seen

    def _draw_plain_faces(self, seen: _Visibility, index: NDArray[np.int64]) -> None:
        """Whole parallelograms, all at once: faster where an image is so small that each takes no time."""
        if not len(index):
            return
        h, boxes = seen.homographies[index], seen.boxes[index]
        xs, ys = seen.xs, seen.ys[:, 0]
        across = (h[:, :, 0, None] * xs).astype(np.float32)
        down = (h[:, :, 1, None] * ys + h[:, :, 2, None]).astype(np.float32)
        a, b, w = (across[:, k, None, :] + down[:, k, :, None] for k in range(3))
        inside = (np.minimum(a, w - a) >= 0) & (np.minimum(b, w - b) >= 0) & (w < 1 / NEAR_M)
        inside &= ((xs >= boxes[:, :1]) & (xs < boxes[:, 2:3]))[:, None, :]
        inside &= ((ys >= boxes[:, 1:2]) & (ys < boxes[:, 3:]))[:, :, None]
        w = np.where(inside, w, 0)
        first = w.argmax(0)
        nearest = np.take_along_axis(w, first[None], 0)[0]
        mask = nearest > seen.w
        np.copyto(seen.w, nearest, where=mask)
        np.copyto(seen.ids, index[first].astype(np.int32) + 1, where=mask)

    def _draw_face(self, seen: _Visibility, i: int) -> None:
        x0, y0, x1, y1 = seen.boxes[i]
        h = seen.homographies[i].astype(np.float64)
        xs, ys = seen.xs[x0:x1], seen.ys[y0:y1]
        a, b, w = (_plane(h[k], xs, ys) for k in range(3))
        window = seen.w[y0:y1, x0:x1]
        mask = (w > window) & (w < 1 / NEAR_M)
        face = self.faces[i]
        if face.round:
            half = 0.5 * w
            mask &= (a - half) ** 2 + (b - half) ** 2 <= half * half
        else:
            mask &= np.minimum(a, w - a) >= 0
            mask &= np.minimum(b, w - b) >= 0
        if face.texture.has_holes:
            G = self.to_texel[i] @ h @ _shift(x0, y0)
            alpha = cv2.warpPerspective(
                face.texture.alpha, G, (int(x1 - x0), int(y1 - y0)), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
            )
            mask &= np.asarray(alpha, bool)
        np.copyto(window, w, where=mask)
        np.copyto(seen.ids[y0:y1, x0:x1], i + 1, where=mask)

    def _draw_round(self, seen: _Visibility, view: RoundInView) -> None:
        j, (x0, y0, x1, y1), o, G, C = view
        item = self.rounds[j]
        r = [_plane(G[k], seen.xs[x0:x1], seen.ys[y0:y1]) for k in range(3)]
        n = 2 if item.cylinder else 3
        A = sum(r[k] * r[k] for k in range(n))
        B = sum(r[k] * o[k] for k in range(n))
        root = B * B - A * C
        hit = root > 0
        z = (-B - np.sqrt(np.where(hit, root, 0))) / np.maximum(A, 1e-12)
        hit &= z > NEAR_M
        local = [o[k] + z * r[k] for k in range(3)]
        if item.cylinder:
            hit &= abs(local[2]) <= 1
        w = 1 / np.where(hit, z, FAR_M)
        window = seen.w[y0:y1, x0:x1]
        mask = hit & (w > window)
        if not mask.any():
            return
        np.copyto(window, w, where=mask)
        np.copyto(seen.ids[y0:y1, x0:x1], len(self.faces) + j + 1, where=mask)
        seen.rounds.append((j, view.box, np.stack(local)))

    def _shade(self, camera: Camera, T: FloatArray, seen: _Visibility, light: Light) -> ByteArray:
        image = (
            self._draw_sky(camera, T) if self.sky is not None else np.zeros((camera.height, camera.width, 3), np.uint8)
        )
        counts = np.bincount(seen.ids.ravel(), minlength=len(self.faces) + len(self.rounds) + 1)
        for i in np.nonzero(counts[1 : len(self.faces) + 1])[0]:
            self._texture_face(image, seen, int(i))
        facing = abs(self.normal @ light.direction) if len(self.faces) else np.zeros(0)
        front = np.where(self.normal @ light.direction > 0, facing, 0.35 * facing)
        table = np.concatenate([[1.0], light.ambient + light.distant * front, np.ones(len(self.rounds))]).astype(
            np.float32
        )
        shade = table[seen.ids]
        for j, box, local in seen.rounds:
            self._texture_round(image, shade, seen, j, box, local, camera, light)
        shade += _near_light(camera, T, seen, light)
        shade[seen.ids == 0] = 1
        lit = cv2.merge([shade * np.float32(c) for c in light.colour])
        return np.asarray(cv2.multiply(image, lit, dtype=cv2.CV_8U), np.uint8)

    def _texture_face(self, image: ByteArray, seen: _Visibility, i: int) -> None:
        x0, y0, x1, y1 = (int(edge) for edge in seen.boxes[i])
        mask = (seen.ids[y0:y1, x0:x1] == i + 1).view(np.uint8)
        left, above, wide, high = cv2.boundingRect(mask)  # most of a large face is hidden
        x0, y0 = x0 + left, y0 + above
        mask = mask[above : above + high, left : left + wide]
        w = seen.w[y0 : y0 + high, x0 : x0 + wide]
        texture = self.faces[i].texture
        G = self.to_texel[i] @ seen.homographies[i]
        # the area of a pixel's footprint in texels is |det G| / w^3
        constant = 0.5 * np.log2(max(abs(np.linalg.det(G)), 1e-30)) + LEVEL_BIAS
        lowest, highest, _, _ = cv2.minMaxLoc(w, mask)
        top = len(texture.levels) - 1
        finest, coarsest = (int(np.clip(round(constant - 1.5 * np.log2(edge)), 0, top)) for edge in (highest, lowest))
        for level in range(finest, coarsest + 1):
            part, start, stop = mask, 0, high
            if finest != coarsest:
                upper = np.inf if level == finest else 2 ** ((constant - level + 0.5) / 1.5)
                lower = 0.0 if level == coarsest else 2 ** ((constant - level - 0.5) / 1.5)
                part = mask & ((w <= upper) & (w > lower)).view(np.uint8)
                _, start, _, rows = cv2.boundingRect(part)
                if not rows:
                    continue
                stop = start + rows
            scale = np.diag([0.5**level, 0.5**level, 1.0])
            patch = cv2.warpPerspective(
                texture.levels[level],
                scale @ G @ _shift(x0, y0 + start),
                (wide, stop - start),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=texture.border,
            )
            if self.detail is not None and level == 0 and constant - 1.5 * np.log2(highest) < DETAIL_BELOW:
                self._add_grain(patch, seen, i, x0, y0 + start, highest)
            cv2.copyTo(patch, np.ascontiguousarray(part[start:stop]), image[y0 + start : y0 + stop, x0 : x0 + wide])

    def _add_grain(self, patch: Any, seen: _Visibility, i: int, x: int, y: int, w: float) -> None:
        """Multiply a magnified patch by the grain that lies on its surface."""
        assert self.detail is not None
        per_m = self.detail.size[0] / DETAIL_M
        size = np.linalg.norm(self._u[i]), np.linalg.norm(self._v[i])
        G = np.diag([size[0] * per_m, size[1] * per_m, 1.0]) @ seen.homographies[i]
        finest = 0.5 * np.log2(max(abs(np.linalg.det(G)), 1e-30)) - 1.5 * np.log2(w) + LEVEL_BIAS
        level = int(np.clip(round(finest + 0.5), 0, len(self.detail.levels) - 1))
        grain = cv2.warpPerspective(
            self.detail.levels[level],
            np.diag([0.5**level, 0.5**level, 1.0]) @ G @ _shift(x, y),
            (patch.shape[1], patch.shape[0]),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_WRAP,
        )
        cv2.multiply(patch, grain, patch, 1 / 128)

    def _texture_round(
        self,
        image: ByteArray,
        shade: Float32Array,
        seen: _Visibility,
        j: int,
        box: tuple[int, int, int, int],
        local: Float32Array,
        camera: Camera,
        light: Light,
    ) -> None:
        x0, y0, x1, y1 = box
        mask = seen.ids[y0:y1, x0:x1] == len(self.faces) + j + 1
        if not mask.any():
            return
        item = self.rounds[j]
        texture = item.texture
        wide, high = texels_per_turn(item)
        angle = np.asarray(cv2.phase(local[0], local[1]), np.float32)
        across = angle * np.float32(wide)
        along = local[2] if item.cylinder else np.arcsin(np.clip(local[2], -1, 1))
        along = along * np.float32(high)
        lowest, highest, _, _ = cv2.minMaxLoc(seen.w[y0:y1, x0:x1], mask.view(np.uint8))
        level = round_level(item, 0.5 * (lowest + highest), camera)
        scale = np.float32(0.5**level)
        # unwrapped here: cv2.remap wraps no further than its 16 bits
        patch = cv2.remap(
            texture.levels[level],
            np.mod(across * scale, texture.levels[level].shape[1]),
            np.mod(along * scale, texture.levels[level].shape[0]),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_WRAP,
        )
        cv2.copyTo(patch, np.ascontiguousarray(mask).view(np.uint8), image[y0:y1, x0:x1])
        # the normal of A x with |x| = 1 is A^-T x
        normal = local.copy()
        if item.cylinder:
            normal[2] = 0
        normal = np.tensordot(self.axes_inv[j].T.astype(np.float32), normal, 1)
        normal /= np.maximum(np.sqrt((normal * normal).sum(0)), 1e-9)
        lambert = np.tensordot(light.direction.astype(np.float32), normal, 1)
        lambert = np.where(lambert > 0, lambert, -0.35 * lambert)
        np.copyto(shade[y0:y1, x0:x1], light.ambient + light.distant * lambert, where=mask)

    def _draw_sky(self, camera: Camera, T: FloatArray) -> ByteArray:
        """The sky is a panorama: azimuth across, elevation -90..90 degrees from bottom to top."""
        assert self.sky is not None
        small = (camera.width // 4 + 1, camera.height // 4 + 1)
        G = np.asarray(T, np.float64)[:3, :3].T @ np.linalg.inv(camera.K)
        xs = 4 * np.arange(small[0], dtype=np.float32)
        ys = 4 * np.arange(small[1], dtype=np.float32)[:, None]
        x, y, z = (_plane(G[k], xs, ys) for k in range(3))
        width, height = self.sky.size
        across = np.asarray(cv2.phase(x, y), np.float32) * np.float32(width / (2 * np.pi))
        up = np.arctan2(z, np.sqrt(x * x + y * y)) / np.float32(np.pi)
        patch = cv2.remap(
            self.sky.image,
            across,
            np.asarray((0.5 - up) * (height - 1), np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_WRAP,
        )
        # sample i of the small image belongs to pixel 4 i
        enlarge = np.array([[0.25, 0, 0], [0, 0.25, 0]])
        full = cv2.warpAffine(
            patch,
            enlarge,
            (camera.width, camera.height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return np.asarray(full, np.uint8)


class _Visibility:
    """The z-buffer of one view, as inverse depth, and who fills it (0 nobody, faces, then rounds)."""

    def __init__(self, width: int, height: int, faces: int, rounds: int) -> None:
        self.w = np.full((height, width), 1 / FAR_M, np.float32)
        self.ids = np.zeros((height, width), np.int32)
        self.xs = np.arange(width, dtype=np.float32)
        self.ys = np.arange(height, dtype=np.float32)[:, None]
        self.homographies = np.zeros((faces, 3, 3))
        self.boxes = np.zeros((faces, 4), np.int64)
        self.rounds: list[tuple[int, tuple[int, int, int, int], Float32Array]] = []


_CUBE = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)


def texels_per_turn(item: Round) -> tuple[float, float]:
    """Texels a radian round the axis, and a radian (of a cylinder: its local z from 0 to 1) along it."""
    width, height = item.texture.size
    lengths = np.linalg.norm(item.axes, axis=0)
    along = lengths[2] / lengths[0] if item.cylinder else 1.0
    return item.repeats * width / (2 * np.pi), float(item.repeats * height / (2 * np.pi) * along)


def round_level(item: Round, w: float, camera: Camera) -> int:
    """The level of the pyramid for all of a round; w: its middle inverse depth, 1 / m."""
    radius = float(np.linalg.norm(item.axes, axis=0)[:2].mean())
    texels = texels_per_turn(item)[0] / (radius * w * camera.K[0, 0])
    return int(np.clip(round(np.log2(max(texels, 1e-9)) + LEVEL_BIAS), 0, len(item.texture.levels) - 1))


def magnified(camera: Camera, factor: int) -> Camera:
    """The camera of an image ``factor`` times larger (pixel x becomes ``factor x + (factor - 1) / 2``)."""
    S = np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2], [0, 0, 1.0]])
    return Camera(camera.width * factor, camera.height * factor, S @ camera.K)


def _depth(w: Float32Array) -> Float32Array:
    return np.where(w > np.float32(1.0001 / FAR_M), 1 / w, np.float32(0))


def _plane(row: NDArray[np.float64], xs: Float32Array, ys: Float32Array) -> Float32Array:
    """row[0] x + row[1] y + row[2] over a grid."""
    across = (row[0] * xs).astype(np.float32)
    down = (row[1] * ys + row[2]).astype(np.float32)
    return np.asarray(across + down, np.float32)


def _shift(x: int, y: int) -> FloatArray:
    """From pixels of a window that starts at (x, y) to pixels of the image."""
    return np.array([[1, 0, float(x)], [0, 1, float(y)], [0, 0, 1.0]])


def _boxes(camera: Camera, P: FloatArray, U: FloatArray, V: FloatArray) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Pixel boxes (n, 4) x0 y0 x1 y1 of the faces' parts in front of the near plane, and whether they are in view."""
    corners = np.stack([P, P + U, P + U + V, P + V], 1)
    following = np.roll(corners, -1, 1)
    z0, z1 = corners[..., 2], following[..., 2]
    crosses = (z0 > NEAR_M) != (z1 > NEAR_M)
    share = np.where(crosses, (NEAR_M - z0) / np.where(crosses, z1 - z0, 1), 0)
    cuts = corners + share[..., None] * (following - corners)
    points = np.concatenate([corners, cuts], 1)
    valid = np.concatenate([z0 > NEAR_M, crosses], 1)
    pixels = points @ camera.K.T
    pixels = pixels[..., :2] / np.where(valid, pixels[..., 2], 1)[..., None]
    low = np.where(valid[..., None], pixels, np.inf).min(1)
    high = np.where(valid[..., None], pixels, -np.inf).max(1)
    limits = np.array([camera.width, camera.height])
    low = np.clip(np.floor(np.nan_to_num(low, posinf=1e9)), 0, limits)
    high = np.clip(np.ceil(np.nan_to_num(high, neginf=-1e9)) + 1, 0, limits)
    return np.concatenate([low, high], 1).astype(np.int64), np.asarray((high > low).all(1), bool)


def _near_light(camera: Camera, T: FloatArray, seen: _Visibility, light: Light) -> Float32Array:
    T = np.asarray(T, np.float64)
    place = T[:3, :3] @ light.point + T[:3, 3]
    depth = 1 / seen.w
    x = ((seen.xs - camera.K[0, 2]) / camera.K[0, 0]).astype(np.float32)
    y = ((seen.ys - camera.K[1, 2]) / camera.K[1, 1]).astype(np.float32)
    square = (depth * x - np.float32(place[0])) ** 2 + (depth * y - np.float32(place[1])) ** 2
    square += (depth - np.float32(place[2])) ** 2
    return np.asarray(light.near / (1 + square / np.float32(light.reach_m**2)), np.float32)
