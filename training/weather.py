"""Light that two visits to one place do not share: day and night, a low sun, lamps, haze.

>>> weathers = random_weathers(scene, rng, views, difficulty)
>>> hazy = weather.over(scene.render(camera, T_world_to_camera, weather.light))
>>> image = weather.grainy(hazy.image, rng)
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import cv2
import numpy as np

from stfm_ros.types import ByteArray, FloatArray
from stfm_training.photometric import noisy
from stfm_training.raster import Light, Rendering
from stfm_training.render import Scene

Generator = np.random.Generator

RELIT = 0.4  #: share of the pairs whose second view has another light of the same kind: a lamp moved, the sun elsewhere
#: share of the pairs, at difficulty 1, one or both of whose views are seen at night, in a low sun, in haze
CHANGED = 0.25
BOTH = 0.3  #: share of these in which it is both


@dataclass(frozen=True, eq=False)
class Weather:
    """What one view is seen in.

    Attributes:
        light: of the scene.
        sky: factor on the brightness of the sky.
        half_m: how far away half of what is seen is haze; infinite in clear air.
        haze: (3,) its colour, RGB levels.
        grain: noise of a camera that has too little light, 0 none .. 1.
    """

    light: Light
    sky: float = 1.0
    half_m: float = np.inf
    haze: FloatArray = field(default_factory=lambda: np.full(3, 200.0))
    grain: float = 0.0

    def over(self, rendering: Rendering) -> Rendering:
        """What is left of a picture behind the haze, under this sky; the same depth."""
        if self.sky == 1 and np.isinf(self.half_m):
            return rendering
        empty = rendering.depth == 0
        factor = np.where(empty, np.float32(self.sky), np.float32(1))
        added = np.zeros_like(factor)
        if np.isfinite(self.half_m):
            distance = np.where(empty, np.float32(20 * self.half_m), rendering.depth)
            clear = np.exp2(distance * np.float32(-1 / self.half_m))
            added = 1 - clear
            factor = factor * clear
        image = cv2.multiply(rendering.image, cv2.merge([factor] * 3), dtype=cv2.CV_32F)
        veil = cv2.merge([added * np.float32(level) for level in self.haze])
        return Rendering(np.asarray(cv2.add(image, veil, dtype=cv2.CV_8U), np.uint8), rendering.depth)

    def grainy(self, image: ByteArray, rng: Generator) -> ByteArray:
        """The picture with the noise of its camera."""
        return noisy(image, rng, 9 * self.grain, 0.9 * self.grain) if self.grain else image


def random_weathers(
    scene: Scene, rng: Generator, views: tuple[FloatArray, FloatArray], difficulty: float
) -> tuple[Weather, Weather]:
    """What each of two views (T_world_to_camera) is seen in; how much they differ grows with ``difficulty`` in 0..1."""
    usual = [Weather(scene.light), Weather(scene.relight(rng) if rng.random() < RELIT else scene.light)]
    if rng.random() < CHANGED * difficulty:
        change = (_night, _night, _low_sun, _haze)[int(rng.integers(4))]
        both, which = rng.random() < BOTH, int(rng.integers(2))
        for i in range(2):
            if both or i == which:
                usual[i] = change(usual[i], scene, rng, views[i], difficulty * rng.uniform(0.4, 1))
    return usual[0], usual[1]


def _night(day: Weather, scene: Scene, rng: Generator, T: FloatArray, strength: float) -> Weather:
    """Lamps in the room or in the street, or one that the camera carries; little else."""
    place = -T[:3, :3].T @ T[:3, 3]
    carried = rng.random() < 0.4
    reach = rng.uniform(1.2, 3.5) if scene.kind == "indoor" else rng.uniform(3, 9)
    lamp = place if carried else rng.uniform(scene.lower, scene.upper) + [0, 0, 0.3 * reach]
    warm = rng.uniform(0, 0.3)
    lit = Light(
        day.light.direction,
        ambient=rng.uniform(0.03, 0.15),
        distant=rng.uniform(0, 0.08),
        near=rng.uniform(0.5, 1.4),
        point=lamp,
        reach_m=reach,
        colour=np.array([1 + warm, 1.0, 1 - 1.5 * warm]),
    )
    sky = 1 - strength * rng.uniform(0.85, 1)
    return Weather(_between(replace(day.light, point=lamp), lit, strength), sky, grain=strength * rng.uniform(0.2, 1))


def _low_sun(day: Weather, scene: Scene, rng: Generator, T: FloatArray, strength: float) -> Weather:
    """The sun at the horizon, or through a window: what it meets is bright and yellow, all else dark and blue."""
    angle, warm = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.3)
    direction = np.array([np.cos(angle), np.sin(angle), rng.uniform(0.05, 0.4)])
    lit = Light(
        direction / np.linalg.norm(direction),
        ambient=rng.uniform(0.15, 0.35),
        distant=rng.uniform(0.8, 1.3),
        near=0.0,
        colour=np.array([1 + warm, 1.0, 1 - warm]),
    )
    return Weather(_between(replace(day.light, direction=lit.direction), lit, strength), 1 - 0.3 * strength)


def _haze(day: Weather, scene: Scene, rng: Generator, T: FloatArray, strength: float) -> Weather:
    """Fog, smoke or dust: the thicker the stronger, never so that what is near is gone."""
    near, far = (3.0, 15.0) if scene.kind == "indoor" else (8.0, 60.0)
    half_m = far * (near / far) ** (strength * rng.random())
    return replace(day, half_m=half_m, haze=rng.uniform(120, 235) * rng.normal(1, [0.06, 0.02, 0.06]))


def _between(first: Light, second: Light, share: float) -> Light:
    """A light that is ``share`` of the way from one to another."""
    mixed = {f.name: (1 - share) * getattr(first, f.name) + share * getattr(second, f.name) for f in fields(Light)}
    return Light(**{**mixed, "direction": second.direction})
