"""The pair that every source makes, and what several of them need to make it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from stfm_ros.types import ByteArray, Float32Array, FloatArray
from stfm_training.supervision import GridWarp, View, warp_by_depth


@dataclass(frozen=True)
class Pair:
    """Two images of one size, and where the grid of either lies in the other.

    image0, image1: (H, W, 3) uint8 RGB. depth0, depth1: (H, W) float32 metres as a sensor gives them, 0 where
    there is none: what a teacher sees; the warps may come from better depth than that. precise: whether
    the warps are good to a pixel.
    """

    image0: ByteArray
    image1: ByteArray
    depth0: Float32Array
    depth1: Float32Array
    warp01: GridWarp
    warp10: GridWarp
    precise: bool = True


class Source(Protocol):
    """Makes training pairs; ``difficulty`` in [0, 1] widens the motion between the two views."""

    def pair(self, rng: np.random.Generator, difficulty: float, height: int, width: int) -> Pair: ...


def similarity_transform(centre: FloatArray, scale: float, angle: float, target: FloatArray) -> FloatArray:
    """(3, 3) transform that turns and scales about ``centre`` and moves it to ``target``; radians."""
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    A = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    A[:2, 2] = target - A[:2, :2] @ centre
    return A


def depth_pair(
    images: tuple[ByteArray, ByteArray],
    depths: tuple[Float32Array, Float32Array],
    views: tuple[View, View],
    T_0to1: FloatArray,
    precise: bool = True,
) -> Pair:
    """A pair whose truth comes from depth and pose."""
    return Pair(
        *images,
        *depths,
        warp_by_depth(depths[0], views[0], depths[1], views[1], T_0to1),
        warp_by_depth(depths[1], views[1], depths[0], views[0], np.asarray(np.linalg.inv(T_0to1))),
        precise,
    )
