"""Frames of recorded RGB-D sequences: real images, sensors and motion."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from stfm_ros.rgbd import RgbdFolder
from stfm_ros.types import ByteArray, Float32Array, FloatArray
from stfm_training.sources.pair import Pair, depth_pair, similarity_transform
from stfm_training.supervision import CELL, MATCHED, warp_by_depth


class Recorded:
    """Pairs of frames of an RGB-D sequence, cropped at random, the second crop round the first's view.

    ``overlap[i, j]`` is the share of i's grid that is seen in j; pairs of .2 to .97 either way are
    used. ``precise`` is false for sequences whose truth is only good to some pixels.
    """

    def __init__(self, folder: Path, precise: bool = True, upright: float = 0.8) -> None:
        sequence = RgbdFolder(folder)
        self.precise = precise
        self.upright = upright
        self.K = sequence.camera.K
        self.images = [sequence.image(i) for i in range(len(sequence))]
        self.depths = [sequence.depth(i) for i in range(len(sequence))]
        self.poses = sequence.poses
        self.overlap = self._overlaps()
        both = np.minimum(self.overlap, self.overlap.T)
        i, j = np.nonzero((both > 0.2) & (both < 0.97))
        self.candidates = np.column_stack([i, j])
        self.candidate_overlap = both[i, j]

    def _overlaps(self) -> Float32Array:
        step = 4  # with the grid's own 8: one point in 32 x 32 pixels is enough to tell an overlap
        depths = [np.ascontiguousarray(depth[::step, ::step]) for depth in self.depths]
        K = np.diag([1 / step, 1 / step, 1.0]) @ self.K
        n = len(depths)
        overlap = np.zeros((n, n), np.float32)
        for i in range(n):
            valid = max(int((depths[i][::CELL, ::CELL] > 0).sum()), 1)
            for j in range(n):
                if i != j:
                    T = np.linalg.inv(self.poses[j]) @ self.poses[i]
                    state = warp_by_depth(depths[i], K, depths[j], K, T).state
                    overlap[i, j] = (state == MATCHED).sum() / valid
        return overlap

    def pair(self, rng: np.random.Generator, difficulty: float, height: int, width: int) -> Pair:
        lowest = 0.75 - 0.55 * difficulty
        while True:
            pick = rng.integers(len(self.candidates))
            if self.candidate_overlap[pick] >= lowest:
                break
        i, j = self.candidates[pick]
        T_0to1 = np.linalg.inv(self.poses[j]) @ self.poses[i]
        full = np.array(self.images[i].shape[1::-1], float)
        size = np.array([width, height], float)
        fit = (full / size).min()
        scale0, scale1 = 1 / (fit * np.exp(rng.uniform(np.log(0.54), np.log(1.18), 2)))
        angle = 0.0 if rng.random() < self.upright else rng.uniform(-np.pi, np.pi) * difficulty**1.5
        margin = np.minimum(size / 2 / scale0, full / 2)
        centre0 = rng.uniform(margin, full - margin + 1e-6)
        centre1 = self._seen_at(centre0, i, T_0to1, full) + rng.normal(0, 0.12, 2) * size / scale1 * difficulty
        margin = np.minimum(size / 2 / scale1, full / 2)
        centre1 = np.clip(centre1, margin, full - margin)
        A0 = similarity_transform(centre0, scale0, 0.0, size / 2)
        A1 = similarity_transform(centre1, scale1, angle, size / 2)
        views = [self._view(frame, A, height, width) for frame, A in ((i, A0), (j, A1))]
        return depth_pair(
            (views[0][0], views[1][0]),
            (views[0][1], views[1][1]),
            (A0 @ self.K, A1 @ self.K),
            T_0to1,
            self.precise,
        )

    def _seen_at(self, centre: FloatArray, i: int, T_0to1: FloatArray, full: FloatArray) -> FloatArray:
        x, y = np.clip(centre, 0, full - 1).astype(int)
        z = float(self.depths[i][y, x]) or float(np.median(self.depths[i][self.depths[i] > 0]))
        point = self.K @ (T_0to1[:3, :3] @ (np.linalg.inv(self.K) @ np.array([x, y, 1.0]) * z) + T_0to1[:3, 3])
        return np.asarray(point[:2] / max(point[2], 1e-3))

    def _view(self, frame: int, A: FloatArray, height: int, width: int) -> tuple[ByteArray, Float32Array]:
        image, depth, matrix = self.images[frame], self.depths[frame], A[:2]
        scale = np.sqrt(abs(np.linalg.det(A[:2, :2])))
        if scale < 0.7:  # blur first: warpAffine alone would alias
            image = np.asarray(cv2.GaussianBlur(image, (0, 0), 0.35 / scale))
        size = (width, height)
        warped = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR)
        return np.asarray(warped), np.asarray(cv2.warpAffine(depth, matrix, size, flags=cv2.INTER_NEAREST))
