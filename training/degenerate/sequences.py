"""Short rendered sequences of motions that are hard for one camera, with exact truth.

    >>> film = render("pan", seed=3)
    >>> film.images[4], film.truth(0, 4)

``views[i]`` is (4, 4), world to camera, of image i. Lengths are shares of the median depth in the first view. Pictures
have the noise of a sensor. Everything follows from kind and seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stfm_ros.types import ByteArray, Camera, FloatArray
from stfm_training.raster import Face, Light, Raster, Rendering
from stfm_training.render import Scene, random_pair_views
from stfm_training.textures import Texture, patches, procedural, value_noise

Generator = np.random.Generator

CAMERA = Camera(640, 480, np.array([[525.0, 0, 319.5], [0, 525.0, 239.5], [0, 0, 1]]))
FRAMES = 8
NOISE = 2.0  #: grey values, of each pixel and channel


@dataclass(frozen=True, eq=False)
class Film:
    """A sequence.

    Attributes:
        images: (H, W, 3) uint8 RGB each.
        views: (n, 4, 4) world to camera.
        rivals: (n, 4, 4) of what moves by itself or is taken for something else, to camera; None where nothing is.
        dark: (n,) whether there is nothing to see.
    """

    kind: str
    images: list[ByteArray]
    views: FloatArray
    rivals: FloatArray | None = None
    dark: list[bool] = field(default_factory=list)

    def truth(self, reference: int, current: int) -> FloatArray:
        """(4, 4) T_0to1."""
        motion: FloatArray = self.views[current] @ np.linalg.inv(self.views[reference])
        return motion


def render(kind: str, seed: int, frames: int = FRAMES, textures: Sequence[ByteArray] = ()) -> Film:
    """A sequence of one of KINDS.

    Args:
        textures: photographs for the surfaces, each (H, W, 3) uint8 RGB; without any they are painted.
    """
    rng = np.random.default_rng([seed, sorted(KINDS).index(kind)])
    return KINDS[kind](rng, frames, textures)


# -- motions: camera 0 to camera i, of a scene whose median depth is given ------------------------------------------


def motion(turn_deg: FloatArray | Sequence[float], step: FloatArray | Sequence[float]) -> FloatArray:
    """(4, 4) of a camera that turns by a rotation vector and whose centre moves by ``step`` (in camera 0)."""
    T = np.eye(4)
    T[:3, :3] = cv2.Rodrigues(-np.radians(np.asarray(turn_deg, np.float64)))[0]
    T[:3, 3] = -T[:3, :3] @ np.asarray(step, np.float64)
    return T


def _path(frames: int, turn_deg: Sequence[float] | FloatArray, step: Sequence[float] | FloatArray) -> FloatArray:
    turn, by = np.asarray(turn_deg, np.float64), np.asarray(step, np.float64)
    return np.stack([motion(i * turn, i * by) for i in range(frames)])


def _sideways(rng: Generator, length: float) -> FloatArray:
    angle = rng.uniform(0, 2 * np.pi)
    return length * np.array([np.cos(angle), np.sin(angle), rng.uniform(-0.3, 0.3)])


def _ordinary(rng: Generator, frames: int, depth: float) -> FloatArray:
    """A hand that moves on by 2 % of the depth a frame and turns a little."""
    return _path(frames, rng.normal(0, 0.3, 3), _sideways(rng, 0.02 * depth))


# -- scenes ---------------------------------------------------------------------------------------------------------


def _room(rng: Generator, textures: Sequence[ByteArray]) -> tuple[Scene, FloatArray, float]:
    """A furnished room, a view of it with things at several depths, and the median depth there."""
    for _ in range(20):
        scene = Scene.random(rng, textures, "indoor")
        view, _ = random_pair_views(scene, rng, CAMERA, 0.2)
        depth = scene.depth(Camera(64, 48, np.diag([0.1, 0.1, 1.0]) @ CAMERA.K), view)
        seen = depth[depth > 0]
        low, middle, high = np.percentile(seen, [10, 50, 90])
        if len(seen) > 0.9 * depth.size and high > 1.3 * low:
            break
    return scene, view, float(middle)


_DAYLIGHT = Light(np.array([0.0, 0.0, -1.0]), ambient=0.8, distant=0.2, near=0.0)


def _sheet(texture: Texture, depth: float, size: float, texels_per_m: float, tilt_deg: FloatArray) -> list[Face]:
    """A square before the camera, at its axis ``depth`` away, seen from both sides, in the camera's own axes."""
    R = np.asarray(cv2.Rodrigues(np.radians(tilt_deg))[0])
    u, v = R @ [size, 0, 0], R @ [0, size, 0]
    origin = np.array([0, 0, depth]) - u / 2 - v / 2
    scale = size * texels_per_m
    return [Face(origin, u, v, texture, np.diag([scale, scale, 1.0]), two_sided=True)]


def _poster(rng: Generator, textures: Sequence[ByteArray], side: int = 1024) -> Texture:
    """Painted shapes of many sizes, or photographs side by side, without repetition."""
    if len(textures):
        rows = []
        for _ in range(3):
            row = [textures[int(rng.integers(len(textures)))] for _ in range(3)]
            rows.append(np.hstack([cv2.resize(one, (side // 3, side // 3)) for one in row]))
        return Texture(np.ascontiguousarray(np.vstack(rows)))
    shapes = np.array(patches(rng, side))
    for _ in range(60):
        small = patches(rng, int(rng.choice([64, 128])))
        x, y = rng.integers(0, side - len(small), 2)
        shapes[y : y + len(small), x : x + len(small)] = small
    grain = value_noise(rng, side, 32, 5, 0.8)[:, :, None]
    return Texture((shapes * (1 + 0.1 * grain)).clip(0, 255).astype(np.uint8))


def _tile(rng: Generator) -> Texture:
    """One tile of a wallpaper: the same texels again and again."""
    return procedural(rng, ("checkers", "bricks", "windows", "patches"), 64)


# -- the camera -----------------------------------------------------------------------------------------------------


def _expose(rng: Generator, picture: NDArray[Any], gain: float = 1.0, noise: float = NOISE) -> ByteArray:
    values = gain * np.asarray(picture, np.float32) + rng.normal(0, noise, picture.shape).astype(np.float32)
    exposed: ByteArray = np.rint(values).clip(0, 255).astype(np.uint8)
    return exposed


def _film(kind: str, rng: Generator, scene: Scene | Raster, start: FloatArray, path: FloatArray) -> Film:
    views = path @ start
    return Film(kind, [_expose(rng, _draw(scene, view).image) for view in views], views)


def _draw(scene: Scene | Raster, view: FloatArray) -> Rendering:
    return scene.render(CAMERA, view) if isinstance(scene, Scene) else scene.render(CAMERA, view, _DAYLIGHT)


# -- kinds ----------------------------------------------------------------------------------------------------------


def _walk(rng: Generator, frames: int, textures: Sequence[ByteArray]) -> Film:
    scene, start, depth = _room(rng, textures)
    return _film("walk", rng, scene, start, _ordinary(rng, frames, depth))


def _still(rng: Generator, frames: int, textures: Sequence[ByteArray]) -> Film:
    """A tripod under a lamp that flickers by a tenth."""
    scene, start, _ = _room(rng, textures)
    picture = _draw(scene, start).image
    images = [_expose(rng, picture, gain=rng.uniform(0.9, 1.1)) for _ in range(frames)]
    return Film("still", images, np.repeat(start[None], frames, axis=0))


def _creep(rng: Generator, frames: int, textures: Sequence[ByteArray]) -> Film:
    """Sideways by 0.2 px a frame at the median depth."""
    scene, start, depth = _room(rng, textures)
    step = _sideways(rng, 0.2 * depth / CAMERA.K[0, 0])
    return _film("creep", rng, scene, start, _path(frames, [0, 0, 0], step))


def _pan(rng: Generator, frames: int, textures: Sequence[ByteArray]) -> Film:
    scene, start, _ = _room(rng, textures)
    angle = rng.uniform(0, 2 * np.pi)
    return _film("pan", rng, scene, start, _path(frames, 1.5 * np.array([np.cos(angle), np.sin(angle), 0]), [0, 0, 0]))


def _roll(rng: Generator, frames: int, textures: Sequence[ByteArray]) -> Film:
    scene, start, _ = _room(rng, textures)
    return _film("roll", rng, scene, start, _path(frames, [0, 0, rng.choice([-2.0, 2.0])], [0, 0, 0]))


def _weak(rng: Generator, frames: int, textures: Sequence[ByteArray]) -> Film:
    """A turn of a degree a frame with so little translation that it is at the edge of being seen."""
    scene, start, depth = _room(rng, textures)
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([np.cos(angle), np.sin(angle), 0])
    return _film("weak", rng, scene, start, _path(frames, turn, _sideways(rng, 0.0015 * depth)))


def _forward(rng: Generator, frames: int, textures: Sequence[ByteArray]) -> Film:
    scene, start, depth = _room(rng, textures)
    step = 0.02 * depth * np.array([rng.normal(0, 0.1), rng.normal(0, 0.1), 1.0])
    return _film("forward", rng, scene, start, _path(frames, rng.normal(0, 0.1, 3), step))


def _plane(rng: Generator, frames: int, textures: Sequence[ByteArray]) -> Film:
    """A poster that fills the image, seen slantwise."""
    raster = Raster(_sheet(_poster(rng, textures), 2.0, 6.0, 170.0, rng.uniform(-25, 25, 3)))
    return _film("plane", rng, raster, np.eye(4), _ordinary(rng, frames, 2.0))


def _wallpaper(rng: Generator, frames: int, textures: Sequence[ByteArray]) -> Film:
    """A wall whose pattern repeats every 30 to 90 px exactly, and nothing else; half a period in four frames."""
    period_m = rng.uniform(30, 90) * 2.0 / CAMERA.K[0, 0]
    raster = Raster(_sheet(_tile(rng), 2.0, 8.0, 64 / period_m, rng.uniform(-15, 15, 3)))
    path = _path(frames, rng.normal(0, 0.1, 3), _sideways(rng, period_m / 8))
    return _film("wallpaper", rng, raster, np.eye(4), path)


def _foreground(rng: Generator, frames: int, textures: Sequence[ByteArray]) -> Film:
    """Nine tenths of the image show a folded screen that moves by itself; the camera walks through the room."""
    scene, start, depth = _room(rng, textures)
    views = _ordinary(rng, frames, depth) @ start
    near = 0.4 * depth
    width = 2 * near * (CAMERA.width / 2) / CAMERA.K[0, 0]
    faces = []
    for k in range(4):  # pleats, alternately towards and away from the camera
        x0, x1 = width * (k / 2 - 1) - 0.3 * width, width * (k / 2 - 0.5) - 0.3 * width
        z0, z1 = (near, 1.2 * near) if k % 2 else (1.2 * near, near)
        u = np.array([x1 - x0, 0, z1 - z0])
        origin = np.array([x0, -width, z0])
        to_texel = np.diag([256.0, 1024.0, 1.0])
        faces.append(Face(origin, u, np.array([0, 2 * width, 0]), _poster(rng, textures), to_texel, two_sided=True))
    # the right-hand border is at 0.8 of the half image: a tenth of the image lies beyond
    border = max(face.origin[0] + face.u[0] for face in faces)
    shift = 0.8 * width / 2 - border
    faces = [Face(f.origin + [shift, 0, 0], f.u, f.v, f.texture, f.to_texel, two_sided=True) for f in faces]
    rivals = _path(frames, rng.normal(0, 0.2, 3), [0, rng.choice([-1, 1]) * 0.02 * near, rng.normal(0, 0.01) * near])
    screen = Raster(faces)
    images = []
    for view, rival in zip(views, rivals):
        behind, before = _draw(scene, view), _draw(screen, rival)
        images.append(_expose(rng, np.where(before.depth[:, :, None] > 0, before.image, behind.image)))
    return Film("foreground", images, views, rivals)


def _bonnet(rng: Generator, frames: int, textures: Sequence[ByteArray]) -> Film:
    """The lower six tenths of the image show a part of the robot itself, which moves with the camera."""
    scene, start, depth = _room(rng, textures)
    views = _ordinary(rng, frames, depth) @ start
    part = _draw(Raster(_sheet(_poster(rng, textures), 2.0, 6.0, 170.0, rng.uniform(-25, 25, 3))), np.eye(4)).image
    above = int(0.4 * CAMERA.height)
    images = []
    for view in views:
        picture = _draw(scene, view).image.copy()
        picture[above:] = part[above:]
        images.append(_expose(rng, picture))
    return Film("bonnet", images, views, np.repeat(np.eye(4)[None], frames, axis=0))


def _black(rng: Generator, frames: int, textures: Sequence[ByteArray]) -> Film:
    """A walk with the lens covered for seven images."""
    return _covered("black", 7, rng, max(frames, 12), textures)


def _blink(rng: Generator, frames: int, textures: Sequence[ByteArray]) -> Film:
    """A walk with the lens covered for two images."""
    return _covered("blink", 2, rng, frames, textures)


def _covered(kind: str, count: int, rng: Generator, frames: int, textures: Sequence[ByteArray]) -> Film:
    scene, start, depth = _room(rng, textures)
    views = _ordinary(rng, frames, depth / 2) @ start
    dark = [3 <= i < 3 + count for i in range(frames)]
    nothing = np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8)
    images = [_expose(rng, nothing if hidden else _draw(scene, view).image) for view, hidden in zip(views, dark)]
    return Film(kind, images, views, dark=dark)


def _blur(rng: Generator, frames: int, textures: Sequence[ByteArray]) -> Film:
    """A walk with every second image blurred over 12 px, in a direction of its own."""
    film = _walk(rng, frames, textures)
    images = []
    for i, image in enumerate(film.images):
        angle = rng.uniform(0, np.pi)
        kernel = np.zeros((25, 25), np.float32)
        end = np.rint(6 * np.array([np.cos(angle), np.sin(angle)])).astype(int)
        cv2.line(kernel, tuple(map(int, 12 - end)), tuple(map(int, 12 + end)), 1.0)
        images.append(_expose(rng, cv2.filter2D(image, -1, kernel / kernel.sum())) if i % 2 else image)
    return Film("blur", images, film.views)


def _glare(rng: Generator, frames: int, textures: Sequence[ByteArray]) -> Film:
    """A walk whose exposure rises to three times the right one."""
    film = _walk(rng, frames, textures)
    gains = np.linspace(1, 3, frames)
    return Film("glare", [_expose(rng, image, gain) for image, gain in zip(film.images, gains)], film.views)


KINDS: dict[str, Callable[[Generator, int, Sequence[ByteArray]], Film]] = {
    "walk": _walk,
    "still": _still,
    "creep": _creep,
    "pan": _pan,
    "roll": _roll,
    "weak": _weak,
    "forward": _forward,
    "plane": _plane,
    "wallpaper": _wallpaper,
    "foreground": _foreground,
    "bonnet": _bonnet,
    "black": _black,
    "blink": _blink,
    "blur": _blur,
    "glare": _glare,
}
