"""Rendered scenes: exact depth and pose, occlusion, repetition, bare walls; a new scene for each pair."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stfm_ros.types import ByteArray, Camera
from stfm_training.depth_sensor import measured_pair
from stfm_training.render import Scene, random_pair_views
from stfm_training.sources.pair import Pair, depth_pair
from stfm_training.supervision import View


class Rendered:
    """Two views of a rendered scene, a new scene for each pair.

    The truth comes from the exact depth; the pair's own depth is what a camera would measure.
    """

    def __init__(self, textures: list[ByteArray]) -> None:
        self.textures = textures

    def pair(self, rng: np.random.Generator, difficulty: float, height: int, width: int) -> Pair:
        scene = Scene.random(rng, self.textures)
        focal = width * rng.uniform(0.6, 1.3)
        K = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])
        camera = Camera(width, height, K)
        T0, T1 = random_pair_views(scene, rng, camera, difficulty)
        light = scene.relight(rng) if rng.random() < 0.4 else None
        views = scene.render(camera, T0), scene.render(camera, T1, light)
        images, exact = (views[0].image, views[1].image), (views[0].depth, views[1].depth)
        truth = depth_pair(images, exact, (View(camera), View(camera)), T1 @ np.linalg.inv(T0))
        depth0, depth1 = measured_pair(exact, images, focal, rng)
        return replace(truth, depth0=depth0, depth1=depth1)
