"""How cameras move between the two pictures of a pair: as they do on robots, and, for half of the pairs, as on none.

    >>> motion = random_motion(rng)
    >>> first, second = motion.views(scene, rng, camera, difficulty)      # T_world_to_camera each
    >>> shutters = motion.shutters(rng)                                   # how each moves during its own exposure

Cameras: x right, y down, z forward. Motions are in metres, whatever the depth: how little a thing moves in the picture
of a robot's camera, and how precisely it has to be matched, follows from these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from stfm_ros.types import Camera, Float32Array, FloatArray
from stfm_training.render import Scene, choose_views, look_at, random_pair_views, view_of_target, wanted_overlap
from stfm_training.shutter import Shutter

Generator = np.random.Generator
Views = tuple[FloatArray, FloatArray]


@dataclass(frozen=True)
class Motion:
    """One kind of camera.

    Attributes:
        name: of it.
        share: of the pairs.
        views: draws two views (scene, generator, camera, difficulty), each T_world_to_camera.
        scene: what it is in, see ``Scene.random``.
        focal: range of its focal length, as a share of the width of the image.
        turn_deg: (right, down, forward) one sigma of the turn about each axis while a rolling shutter runs down.
        step_m: the same of the way along each.
        together: both pictures are exposed at the same time.
    """

    name: str
    share: float
    views: Callable[[Scene, Generator, Camera, float], Views]
    scene: str | None = None
    focal: tuple[float, float] = (0.6, 1.3)
    turn_deg: tuple[float, float, float] = (0.7, 1.0, 0.5)
    step_m: tuple[float, float, float] = (0.01, 0.006, 0.01)
    together: bool = False

    def shutters(self, rng: Generator) -> tuple[Shutter, Shutter]:
        """How the camera moves during each exposure if its shutter is a rolling one."""
        turns = rng.normal(0, np.radians(self.turn_deg), (2, 3))
        steps = rng.normal(0, self.step_m, (2, 3))
        second = 0 if self.together else 1
        return Shutter(turns[0], steps[0]), Shutter(turns[second], steps[second])


def random_motion(rng: Generator) -> Motion:
    """One of :data:`MOTIONS`, by their shares."""
    shares = np.array([motion.share for motion in MOTIONS])
    return MOTIONS[int(rng.choice(len(MOTIONS), p=shares / shares.sum()))]


def hand_held(scene: Scene, rng: Generator, camera: Camera, difficulty: float) -> Views:
    """From 1 cm to a step further on, in any direction, and turned by some degrees about any axis."""

    def second(T0: FloatArray, _: Float32Array) -> FloatArray:
        turn = rng.normal(0, np.radians([4 + 6 * difficulty, 6 + 10 * difficulty, 2 + 3 * difficulty]))
        way = rng.standard_normal(3) * [1, 0.6, 0.7]
        way *= _log_uniform(rng, 0.01, 0.15 + 0.6 * difficulty) / max(float(np.linalg.norm(way)), 1e-9)
        return _from_camera(turn * rng.uniform(0.2, 1), way) @ T0

    first = _first_of_target(scene, rng, 0.08)
    return _either_way(scene, rng, camera, choose_views(scene, camera, wanted_overlap(difficulty), first, second))


def planar(scene: Scene, rng: Generator, camera: Camera, difficulty: float) -> Views:
    """A robot on wheels, 0.12 to 1 m above the floor: along an arc, hardly any roll; most look where they go."""
    height = rng.uniform(0.12, 1.0)
    mount = 0.0 if rng.random() < 0.7 else rng.uniform(-np.pi, np.pi)
    figures = _Wheels(height, mount, np.radians(rng.normal(-2, 6)), np.radians(4 + 14 * difficulty), np.radians(0.6))
    reach = 0.02, 0.2 + 1.3 * difficulty
    return _wheeled(scene, rng, camera, difficulty, figures, reach, lambda: rng.uniform(-np.pi, np.pi))


def driving(scene: Scene, rng: Generator, camera: Camera, difficulty: float) -> Views:
    """A car along its road: 0.2 m to several metres on, small turns; few look aside."""
    height = rng.uniform(0.8, 2.0)
    mount = 0.0 if rng.random() < 0.85 else rng.uniform(-np.pi, np.pi)
    figures = _Wheels(height, mount, np.radians(rng.normal(-1, 2)), np.radians(0.7 + 2.3 * difficulty), np.radians(0.4))
    reach = 0.2, 1.0 + 7.0 * difficulty

    def heading() -> float:
        return float(np.pi * rng.integers(2) + rng.normal(0, 0.06))

    return _wheeled(scene, rng, camera, difficulty, figures, reach, heading)


def stereo(scene: Scene, rng: Generator, camera: Camera, difficulty: float) -> Views:
    """The two cameras of a rig that is held or flies: 5 to 25 cm aside, mounted parallel to half a degree."""

    def second(T0: FloatArray, _: Float32Array) -> FloatArray:
        baseline = rng.uniform(0.05, 0.25)
        way = baseline * np.array([1, *rng.normal(0, 0.03, 2)])
        return _from_camera(rng.normal(0, np.radians(0.5), 3), way) @ T0

    first = _first_of_target(scene, rng, 0.1)
    return _either_way(scene, rng, camera, choose_views(scene, camera, wanted_overlap(difficulty), first, second))


ANY = Motion("any", 0.5, random_pair_views)
MOTIONS = (
    ANY,
    Motion("hand-held", 0.15, hand_held, focal=(0.6, 1.1)),
    Motion("planar", 0.1, planar, focal=(0.5, 1.1), turn_deg=(0.2, 0.8, 0.2), step_m=(0.002, 0.001, 0.02)),
    Motion("driving", 0.15, driving, "road", (0.45, 0.9), turn_deg=(0.15, 0.25, 0.1), step_m=(0.01, 0.005, 0.2)),
    Motion("stereo", 0.1, stereo, focal=(0.5, 1.0), step_m=(0.01, 0.01, 0.02), together=True),
)  #: every kind of camera; shares add up to 1


@dataclass(frozen=True)
class _Wheels:
    """A camera on wheels: its height above the floor (metres), its yaw against the way it goes and its pitch (radians),
    and one sigma of the vehicle's turn and of its bobbing (radians)."""

    height: float
    mount: float
    pitch: float
    turn: float
    bob: float


def _wheeled(
    scene: Scene,
    rng: Generator,
    camera: Camera,
    difficulty: float,
    wheels: _Wheels,
    reach_m: tuple[float, float],
    heading: Callable[[], float],
) -> Views:
    def view(place: FloatArray, yaw: float) -> FloatArray:
        pitch, roll = rng.normal([wheels.pitch, 0], wheels.bob)
        yaw += wheels.mount
        ahead = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
        return look_at(place, place + ahead, roll)

    def first() -> FloatArray:
        place = rng.uniform(scene.lower[:2], scene.upper[:2])
        return view(np.array([*place, wheels.height]), heading())

    def second(T0: FloatArray, _: Float32Array) -> FloatArray:
        place = -T0[:3, :3].T @ T0[:3, 3]
        yaw = float(np.arctan2(T0[2, 1], T0[2, 0])) - wheels.mount
        turn = rng.normal(0, wheels.turn)
        way = _log_uniform(rng, *reach_m)
        on = np.array([np.cos(yaw + turn / 2), np.sin(yaw + turn / 2), rng.normal(0, 0.004)])
        return view(place + way * on, yaw + turn)

    lowest = 0.8 * wheels.height
    views = choose_views(scene, camera, wanted_overlap(difficulty), first, second, near_m=0.2, lowest=lowest)
    return _either_way(scene, rng, camera, views)


def _first_of_target(scene: Scene, rng: Generator, roll: float) -> Callable[[], FloatArray | None]:
    return lambda: view_of_target(scene, rng, roll)


def _either_way(scene: Scene, rng: Generator, camera: Camera, views: Views | None) -> Views:
    """The views, at times in the other order; where there were none, two of no camera in particular."""
    if views is None:
        return random_pair_views(scene, rng, camera, 0.0)
    return views if rng.random() < 0.5 else views[::-1]


def _from_camera(turn: FloatArray, way: FloatArray) -> FloatArray:
    """(4, 4) from a camera to one that has gone ``way`` (its own axes, metres) and is turned by the vector ``turn``."""
    T = np.eye(4)
    T[:3, :3] = cv2.Rodrigues(np.asarray(turn, np.float64))[0]
    T[:3, 3] = -T[:3, :3] @ way
    return T


def _log_uniform(rng: Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
