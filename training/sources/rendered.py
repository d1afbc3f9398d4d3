"""Rendered scenes: exact depth and pose, occlusion, repetition, bare walls; a new scene for each pair."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np

from stfm_ros.errors import ConfigError
from stfm_ros.types import ByteArray, Camera
from stfm_training.depth_sensor import measured_pair
from stfm_training.motions import ANY, random_motion
from stfm_training.render import Rendering, Scene
from stfm_training.sources.pair import Pair, depth_pair
from stfm_training.supervision import View
from stfm_training.weather import random_weathers

ROLLING = 0.15  #: share of the pairs that a camera with a rolling shutter takes


class Rendered:
    """Two views of a rendered scene, a new scene for each pair.

    The truth comes from the exact depth; the pair's own depth is what a camera would measure.

    Args:
        textures: photographs, each (H, W, 3) uint8 RGB; may be empty.
        device: where pictures are drawn: ``cpu`` (OpenCV), ``auto`` (torch's GPU of this process, where there is
            one) or a device of torch (``cuda:1``). Scenes and views are chosen on the CPU, the same ones for every
            device; depth agrees to the last bits and pictures to a few of 255 levels, so a run is the same to the bit
            on one kind of device. The processes of a DataLoader that draw on a GPU have to be started by ``spawn``,
            see :attr:`on_gpu`.
        plain: whether all pairs are of a camera that is nobody's, whose rows are exposed at once, in light that changes
            little: what the ablation of docs/training.md was measured on.

    Raises:
        ConfigError: the device is a GPU that torch does not have.
    """

    def __init__(self, textures: list[ByteArray], device: str = "cpu", plain: bool = False) -> None:
        self.textures = textures
        self.plain = plain
        self.device = _existing(device)

    @property
    def on_gpu(self) -> bool:
        """Whether a DataLoader needs ``multiprocessing_context="spawn"``: CUDA does not survive a fork."""
        return self.device != "cpu"

    def pair(self, rng: np.random.Generator, difficulty: float, height: int, width: int) -> Pair:
        motion = ANY if self.plain else random_motion(rng)
        scene = Scene.random(rng, self.textures, motion.scene)
        focal = width * rng.uniform(*motion.focal)
        K = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])
        camera = Camera(width, height, K)
        poses = motion.views(scene, rng, camera, difficulty)
        weathers = random_weathers(scene, rng, poses, 0.0 if self.plain else difficulty)
        shutters = motion.shutters(rng) if not self.plain and rng.random() < ROLLING else None
        if self.on_gpu:
            scene = scene.on(self.device)

        def seen(i: int) -> tuple[Rendering, View]:
            def draw(camera: Camera) -> Rendering:
                return weathers[i].over(scene.render(camera, poses[i], weathers[i].light))

            return shutters[i].expose(draw, camera) if shutters else (draw(camera), View(camera))

        (first, view0), (second, view1) = seen(0), seen(1)
        images = weathers[0].grainy(first.image, rng), weathers[1].grainy(second.image, rng)
        exact = first.depth, second.depth
        truth = depth_pair(images, exact, (view0, view1), poses[1] @ np.linalg.inv(poses[0]))
        depth0, depth1 = measured_pair(exact, images, focal, rng)
        return replace(truth, depth0=depth0, depth1=depth1)


def _existing(device: str) -> str:
    """``device``, with ``auto`` resolved."""
    if device == "cpu":
        return device
    import torch

    if device == "auto":
        return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {device!r}: torch sees no GPU here; use cpu, or auto for one where there is one")
    return device
