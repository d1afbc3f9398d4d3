"""How much two frames have in common, and whether their depth agrees with the motion between them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stfm_ros.types import Camera, Float32Array, FloatArray
from stfm_training.supervision import View

#: a point is the same surface where its depth differs by less than this share
SAME_DEPTH = 0.05
#: what a pair must have in common, either way, to be worth training on
LEAST_OVERLAP, MOST_OVERLAP = 0.2, 0.97
_CHUNK = 128


class Comparison(NamedTuple):
    """Of m pairs, the lesser value of both directions.

    overlap: (m,) the share of the points with depth that is seen again at the same depth.
    agreement: (m,) of the points that fall where the other frame has depth and are not hidden behind what it sees,
        the share at the same depth: near 1 for a true motion, occluded or not. 0 where no point does.
    """

    overlap: FloatArray
    agreement: FloatArray

    @property
    def in_range(self) -> NDArray[np.bool_]:
        """(m,) whether the overlap is worth training on."""
        return np.asarray((self.overlap > LEAST_OVERLAP) & (self.overlap < MOST_OVERLAP))


class DepthMaps:
    """The depth of every frame of a recording, thinned out, for comparing many pairs.

    Args:
        camera: of every frame.
        depths: (H, W) float32 metres each, of the camera's size.
    """

    def __init__(self, camera: Camera, depths: Iterable[Float32Array]) -> None:
        stride = max(1, round(camera.width / 160))
        self.view = View(camera, np.diag([1 / stride, 1 / stride, 1.0]))
        self.maps = np.stack([np.ascontiguousarray(depth[::stride, ::stride]) for depth in depths])
        height, width = self.maps.shape[1:]
        y, x = (axis.ravel() for axis in np.mgrid[height % 8 // 2 : height : 8, width % 8 // 2 : width : 8])
        rays = self.view.rays(np.column_stack([x, y]).astype(np.float64))
        seen = np.isfinite(rays).all(axis=1)
        self.rays = rays[seen]
        self.depths = self.maps[:, y[seen], x[seen]].astype(np.float64)  # (n, points)

    def __len__(self) -> int:
        return len(self.maps)

    def compare(self, index0: NDArray[np.int64], index1: NDArray[np.int64], T_0to1: FloatArray) -> Comparison:
        """Compare (m,) frames with (m,) others, given the (m, 4, 4) motions between them."""
        parts = [
            self._chunk(index0[i : i + _CHUNK], index1[i : i + _CHUNK], T_0to1[i : i + _CHUNK])
            for i in range(0, len(index0), _CHUNK)
        ]
        return Comparison(*(np.concatenate([np.zeros(0), *column]) for column in zip(*parts))) if parts else _NOTHING

    def _chunk(self, index0: NDArray[np.int64], index1: NDArray[np.int64], T_0to1: FloatArray) -> Comparison:
        forward = self._one_way(index0, index1, T_0to1)
        backward = self._one_way(index1, index0, np.asarray(np.linalg.inv(T_0to1)))
        return Comparison(*(np.minimum(a, b) for a, b in zip(forward, backward)))

    def _one_way(self, index0: NDArray[np.int64], index1: NDArray[np.int64], T_0to1: FloatArray) -> Comparison:
        z0 = self.depths[index0]
        points = (self.rays * z0[..., None]) @ T_0to1[:, :3, :3].transpose(0, 2, 1) + T_0to1[:, None, :3, 3]
        z1 = points[..., 2]
        pixels = self.view.project(points.reshape(-1, 3)).reshape(*z1.shape, 2)
        x, y = np.moveaxis(np.rint(np.nan_to_num(pixels, nan=-1e4)), -1, 0)
        height, width = self.maps.shape[1:]
        inside = (z0 > 0) & (x >= 0) & (y >= 0) & (x < width) & (y < height)
        row, column = (np.where(inside, axis, 0).astype(np.int64) for axis in (y, x))
        measured = self.maps[index1[:, None], row, column]
        inside &= measured > 0
        error = (measured - z1) / np.where(inside, z1, 1.0)
        same = np.count_nonzero(inside & (np.abs(error) < SAME_DEPTH), axis=1)
        through = np.count_nonzero(inside & (error >= SAME_DEPTH), axis=1)
        valid = np.count_nonzero(z0 > 0, axis=1)
        return Comparison(same / np.maximum(valid, 1), same / np.maximum(same + through, 1))


def visible_pairs(maps: DepthMaps, poses: FloatArray, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(m, 2) frames, the earlier first, that look the same way as far as a dozen points of each can tell.

    Args:
        poses: (n, 4, 4) camera to world.
        most: at most so many, at random.
    """
    few = np.linspace(0, len(maps.rays) - 1, 14).astype(int)[1:-1]
    height, width = maps.maps.shape[1:]
    inverse = np.linalg.inv(poses)
    share = np.zeros((len(maps), len(maps)))
    for i, pose in enumerate(poses):
        known = maps.depths[i, few] > 0
        if not known.any():
            continue
        points = maps.rays[few[known]] * maps.depths[i, few[known], None]
        motion = inverse @ pose
        moved = points @ motion[:, :3, :3].transpose(0, 2, 1) + motion[:, None, :3, 3]
        x, y = maps.view.project(moved.reshape(-1, 3)).reshape(len(maps), -1, 2).transpose(2, 0, 1)
        share[i] = ((x > -1) & (y > -1) & (x < width) & (y < height)).mean(axis=1)
    found = np.argwhere(np.triu(np.minimum(share, share.T), 1) > LEAST_OVERLAP / 2)
    return found if len(found) <= most else found[np.sort(rng.permutation(len(found))[:most])]


_NOTHING = Comparison(np.zeros(0), np.zeros(0))
