"""Textured scenes with exact depth and pose, rendered on one CPU core.

    >>> scene = Scene.random(rng, photographs)
    >>> first, second = random_pair_views(scene, rng, camera, difficulty=0.5)
    >>> rendering = scene.render(camera, first)            # .image (H, W, 3) uint8, .depth (H, W) float32 metres

World: z up, metres. ``T_w2c`` (4, 4) maps points of the world into the camera (optical frame: z forward, x
right, y down). Pixel centres are at integers; depth is z at the pixel's centre and 0 where there is nothing.
Everything follows from the generator that is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from stfm_ros.types import ByteArray, Camera, Float32Array, FloatArray
from stfm_training.furnish import Builder
from stfm_training.raster import Light, Raster, Rendering
from stfm_training.road import build_road
from stfm_training.textures import detail

if TYPE_CHECKING:
    from stfm_training.device_raster import DeviceRaster

__all__ = ["Light", "Rendering", "Scene", "choose_views", "look_at", "overlap", "random_pair_views", "trajectory"]

Generator = np.random.Generator
KINDS = ("indoor", "outdoor", "road")


@dataclass(frozen=True, eq=False)
class Scene:
    """A room, a place outside or a road.

    Attributes:
        raster: its surfaces.
        kind: ``indoor``, ``outdoor`` or ``road``.
        lower, upper: (3,) the space in which cameras may be.
        solids: (centre, radius) spheres that a camera stays out of.
        targets: (n, 3) points worth looking at.
        light: how it is lit unless told otherwise.
    """

    raster: Raster | DeviceRaster
    kind: str
    lower: FloatArray
    upper: FloatArray
    solids: tuple[tuple[FloatArray, float], ...]
    targets: FloatArray
    light: Light

    @classmethod
    def random(cls, rng: Generator, textures: Sequence[ByteArray], kind: str | None = None) -> Scene:
        """A new scene.

        Args:
            textures: photographs, each (H, W, 3) uint8 RGB; a scene takes about twelve of them. May be empty.
            kind: ``indoor``, ``outdoor``, ``road``, or None for one of the first two (indoor twice as often).
        """
        if kind not in (None, *KINDS):
            raise ValueError(f"kind {kind!r} is not one of {', '.join(KINDS)}, None")
        kind = kind or ("indoor" if rng.random() < 0.67 else "outdoor")
        builder = Builder(rng, textures)
        if kind == "road":
            build_road(builder)
        else:
            builder.room() if kind == "indoor" else builder.street()
        lower, upper = builder.lower, builder.upper
        light = random_light(rng, lower, upper, kind)
        raster = Raster(builder.faces, builder.rounds, builder.sky, detail(rng))
        return cls(raster, kind, lower, upper, tuple(builder.solids), np.array(builder.targets), light)

    def render(
        self, camera: Camera, T_world_to_camera: FloatArray, light: Light | None = None, supersample: int = 1
    ) -> Rendering:
        """Draw the scene.

        Args:
            camera: pinhole; its distortion is ignored.
            T_world_to_camera: (4, 4).
            light: another light than the scene's own (see :meth:`relight`).
            supersample: 2 draws four times the pixels and averages them: smooth edges for three times the time.
        """
        return self.raster.render(camera, T_world_to_camera, light or self.light, supersample)

    def on(self, device: str) -> Scene:
        """The same scene, drawn on a device of torch, e.g. ``cuda`` (:mod:`stfm_training.device_raster`).

        What is drawn often and small, as to choose views, is faster where the scene is.
        """
        from stfm_training.device_raster import DeviceRaster

        raster = self.raster if isinstance(self.raster, Raster) else self.raster.raster
        return replace(self, raster=DeviceRaster(raster, device))

    def depth(self, camera: Camera, T_world_to_camera: FloatArray) -> Float32Array:
        """(H, W) float32 metres without the picture; 0 where there is nothing."""
        return self.raster.depth(camera, T_world_to_camera)

    def relight(self, rng: Generator) -> Light:
        """Another light for the same scene: a lamp moved, the sun round the corner."""
        return random_light(rng, self.lower, self.upper, self.kind)

    def is_free(self, place: FloatArray, lowest: float | None = None) -> bool:
        """Whether a camera may be at ``place`` (3,); ``lowest``: how low it may be there, metres, if not as usual."""
        lower = self.lower if lowest is None else np.array([*self.lower[:2], lowest])
        if (place < lower).any() or (place > self.upper).any():
            return False
        return all(float(np.linalg.norm(place - centre)) > radius + 0.15 for centre, radius in self.solids)


def random_light(rng: Generator, lower: FloatArray, upper: FloatArray, kind: str) -> Light:
    """A lamp and a window, or the sun."""
    direction = rng.standard_normal(3) * [1, 1, 0.4] + [0, 0, 1]
    warm = rng.normal(0, 0.06)
    colour = np.array([1 + warm, 1.0, 1 - warm])
    point = rng.uniform(lower, upper + [0, 0, 1])
    if kind != "indoor":
        ambient, near, reach = rng.uniform(0.45, 0.8), 0.0, 10.0
        distant = rng.uniform(0.1, 0.6)
    else:
        ambient, near, reach = rng.uniform(0.2, 0.6), rng.uniform(0.2, 0.9), rng.uniform(1.5, 5.0)
        distant = rng.uniform(0.1, 0.4)
    scale = rng.uniform(0.85, 1.15) / (ambient + 0.5 * near + 0.5 * distant)
    return Light(
        direction / np.linalg.norm(direction), ambient * scale, distant * scale, near * scale, point, reach, colour
    )


def look_at(place: FloatArray, target: FloatArray, roll: float = 0.0) -> FloatArray:
    """(4, 4) world to camera: at ``place``, looking at ``target``, turned by ``roll`` radians about its axis."""
    forward = np.asarray(target, np.float64) - place
    forward = forward / max(float(np.linalg.norm(forward)), 1e-9)
    down = np.array([0, 0, -1.0]) if abs(forward[2]) < 0.98 else np.array([0.0, 1.0, 0.0])
    right = np.cross(down, forward)
    right /= np.linalg.norm(right)
    R = np.stack([right, np.cross(forward, right), forward])
    c, s = np.cos(roll), np.sin(roll)
    R = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) @ R
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R, -R @ place
    return T


def overlap(depth0: Float32Array, depth1: Float32Array, camera: Camera, T_0to1: FloatArray) -> float:
    """The share of pixels with depth of view 0 that view 1 sees too (within 5 % of depth)."""
    y, x = np.nonzero(depth0 > 0)
    if not len(x):
        return 0.0
    z = depth0[y, x].astype(np.float64)
    points = np.linalg.inv(camera.K) @ np.stack([x * z, y * z, z])
    moved = T_0to1[:3, :3] @ points + T_0to1[:3, 3:]
    ahead = moved[2] > 0.05
    uv = camera.K @ moved[:, ahead]
    u, v = np.rint(uv[:2] / uv[2]).clip(-1, 1e6).astype(int)
    inside = (u >= 0) & (v >= 0) & (u < camera.width) & (v < camera.height)
    seen = depth1[v[inside], u[inside]]
    agree = abs(seen - moved[2, ahead][inside]) < 0.05 * seen
    return float(agree.sum() / depth0.size)


def random_pair_views(
    scene: Scene, rng: Generator, camera: Camera, difficulty: float = 0.5
) -> tuple[FloatArray, FloatArray]:
    """Two views of one part of a scene, as T_world_to_camera; of no camera in particular, and wide apart.

    ``difficulty`` in 0..1 widens baseline, turn, roll, change of distance and occlusion. The overlap (see
    :func:`overlap`) is at least :func:`wanted_overlap` where twenty tries find such a pair, else the best found.
    """
    views = choose_views(
        scene,
        camera,
        wanted_overlap(difficulty),
        lambda: view_of_target(scene, rng, 0.05 + 0.15 * difficulty),
        lambda T0, depth0: _moved(rng, T0, depth0, difficulty),
    )
    if views is None:  # a scene too crowded to move in: look round from the middle
        T0 = look_at((scene.lower + scene.upper) / 2, scene.targets[0])
        return T0, T0
    return views


def wanted_overlap(difficulty: float) -> float:
    """How much two views of a pair should have in common at least, see :func:`overlap`."""
    return 0.65 - 0.45 * difficulty


def choose_views(
    scene: Scene,
    camera: Camera,
    wanted: float,
    first: Callable[[], FloatArray | None],
    second: Callable[[FloatArray, Float32Array], FloatArray],
    near_m: float = 0.35,
    lowest: float | None = None,
) -> tuple[FloatArray, FloatArray] | None:
    """Draw views until two have enough in common.

    Args:
        wanted: overlap that is enough; without such a pair in twenty tries it is the best one found.
        first: draws a view, T_world_to_camera (4, 4), or None.
        second: draws another one from the first and its depth, 48x64 px.
        near_m: a tenth of what a view shows may be nearer than this, no more.
        lowest: see :meth:`Scene.is_free`.

    Returns:
        Both views; None where no two were free and of use.
    """
    small = Camera(64, 48, np.diag([64 / camera.width, 48 / camera.height, 1.0]) @ camera.K)

    def seen(T: FloatArray) -> Float32Array | None:
        if not scene.is_free(-T[:3, :3].T @ T[:3, 3], lowest):
            return None
        depth = scene.depth(small, T)
        return depth if _is_usable(depth, near_m) else None

    best: tuple[float, FloatArray, FloatArray] | None = None
    for _ in range(20):
        T0 = first()
        depth0 = None if T0 is None else seen(T0)
        if T0 is None or depth0 is None:
            continue
        for _ in range(4):
            T1 = second(T0, depth0)
            depth1 = seen(T1)
            if depth1 is None:
                continue
            T_0to1 = T1 @ np.linalg.inv(T0)
            share = min(overlap(depth0, depth1, small, T_0to1), overlap(depth1, depth0, small, np.linalg.inv(T_0to1)))
            if best is None or share > best[0]:
                best = share, T0, T1
            if share >= wanted:
                return T0, T1
    return None if best is None else best[1:]


def _is_usable(depth: Float32Array, near_m: float = 0.35) -> bool:
    """Not with the nose at a wall, nor into the sky."""
    seen = depth[depth > 0]
    if len(seen) <= 0.4 * depth.size:
        return False
    return float(np.percentile(seen, 10)) > near_m and float(np.median(seen)) > 2 * near_m


def view_of_target(scene: Scene, rng: Generator, roll: float) -> FloatArray | None:
    """A view of something worth looking at, T_world_to_camera; None where there is nothing near.

    ``roll``: one sigma, radians.
    """
    place = rng.uniform(scene.lower, scene.upper)
    if not scene.is_free(place):
        return None
    distances = np.linalg.norm(scene.targets - place, axis=1)
    near = np.nonzero((distances > 0.8) & (distances < 12))[0]
    if not len(near):
        return None
    target = scene.targets[rng.choice(near)] + rng.normal(0, 0.3, 3)
    return look_at(place, target, rng.normal(0, roll))


def _moved(rng: Generator, T0: FloatArray, depth0: Float32Array, difficulty: float) -> FloatArray:
    """A second view of what the first one looks at."""
    R0, place = T0[:3, :3], -T0[:3, :3].T @ T0[:3, 3]
    median = float(np.median(depth0[depth0 > 0]))
    step = rng.standard_normal(3) * [1.0, 0.5, 0.6]  # right, down, forward of camera 0
    step *= median * rng.uniform(0.03, 0.1 + 0.6 * difficulty) / max(float(np.linalg.norm(step)), 1e-9)
    moved = place + R0.T @ step
    forward = place + R0[2] * median
    aim = forward + rng.standard_normal(3) * median * (0.04 + 0.22 * difficulty)
    c = float(np.clip(R0[0] @ [0, 0, -1], -1, 1))
    roll0 = np.arctan2(c, float(R0[1] @ [0, 0, -1]))
    large = rng.random() < 0.15 * difficulty
    roll = -roll0 + rng.normal(0, 0.03 + 0.12 * difficulty + (0.6 if large else 0.0))
    return look_at(moved, aim, roll)


def trajectory(scene: Scene, rng: Generator, n: int, step_m: float = 0.015) -> FloatArray:
    """(n, 4, 4) T_world_to_camera of a hand-held walk: smooth, about ``step_m`` a frame, eyes on the scene."""
    for _ in range(200):
        start = rng.uniform(scene.lower, scene.upper)
        direction = rng.uniform(0, 2 * np.pi)
        heading = np.array([np.cos(direction), np.sin(direction), rng.normal(0, 0.15)])
        bend = rng.uniform(-0.8, 0.8)
        t = np.linspace(0, 1, n)[:, None]
        length = step_m * n
        side = np.array([-heading[1], heading[0], 0])
        path = start + length * (heading * t + bend * side * t * t)
        for k, axis in enumerate(np.eye(3)):  # the hand's own sway
            path = (
                path
                + 0.6
                * step_m
                * (k + 1) ** -0.5
                * np.sin(2 * np.pi * (t * n / rng.uniform(18, 40)) + rng.uniform(0, 6.3))
                * axis
            )
        if not all(scene.is_free(place) for place in path[:: max(1, n // 12)]):
            continue
        distances = np.linalg.norm(scene.targets - path.mean(0), axis=1)
        near = np.nonzero((distances > 1.2) & (distances < 8))[0]
        if not len(near):
            continue
        aim0, aim1 = scene.targets[rng.choice(near)], scene.targets[rng.choice(near)]
        share = min(1.0, n * 0.012 * float(distances.min() + 1) / max(float(np.linalg.norm(aim1 - aim0)), 1e-6))
        aims = aim0 + share * t * (aim1 - aim0)
        for axis in np.eye(3):  # the head is never still: about a degree a frame
            swing = np.sin(2 * np.pi * (t * n / rng.uniform(25, 45)) + rng.uniform(0, 6.3))
            aims = aims + rng.uniform(0.07, 0.17) * float(distances.min() + 1) * swing * axis
        rolls = 0.04 * np.sin(2 * np.pi * np.arange(n) / rng.uniform(25, 45))
        views = np.stack([look_at(place, aim, roll) for place, aim, roll in zip(path, aims, rolls)])
        camera = Camera(64, 48, np.array([[55, 0, 31.5], [0, 55, 23.5], [0, 0, 1.0]]))
        if all(_is_usable(scene.depth(camera, view)) for view in views[:: max(1, n // 6)]):
            return views
    raise ValueError(f"no free walk of {n} steps in this scene: draw another one")


def photographs(folder: Path | str, longest: int = 640) -> list[ByteArray]:
    """The pictures of a folder as RGB arrays, the longer side at most ``longest`` pixels."""
    images = []
    for path in sorted(Path(folder).iterdir()):
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            continue
        scale = min(1.0, longest / max(image.shape[:2]))
        if scale < 1:
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        images.append(np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8))
    return images
