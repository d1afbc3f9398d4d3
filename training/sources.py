"""Where training pairs come from. Each source makes one pair from a random generator and a difficulty.

A pair is two RGB images of one size and the warp of either grid into the other image
(``supervision``). ``difficulty`` in [0, 1] widens the motion between the two views.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from stfm_ros.rgbd import RgbdFolder
from stfm_ros.types import ByteArray, Camera, Float32Array, FloatArray
from stfm_training.render import Scene, random_pair_views
from stfm_training.supervision import CELL, MATCHED, GridWarp, warp_by_depth, warp_by_homography


@dataclass(frozen=True)
class Pair:
    """Two images (H, W, 3) uint8 RGB, their grid warps, and whether the warps are good to a pixel."""

    image0: ByteArray
    image1: ByteArray
    warp01: GridWarp
    warp10: GridWarp
    precise: bool = True


class Source(Protocol):
    """Makes training pairs."""

    def pair(self, rng: np.random.Generator, difficulty: float, height: int, width: int) -> Pair: ...


def similarity_transform(centre: FloatArray, scale: float, angle: float, target: FloatArray) -> FloatArray:
    """(3, 3) transform that turns and scales about ``centre`` and moves it to ``target``; radians."""
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    A = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    A[:2, 2] = target - A[:2, :2] @ centre
    return A


class Homographies:
    """Photographs seen through two random homographies, in-plane rotation up to 180 degrees in part."""

    #: every so many photographs one is kept for validation
    HOLD_OUT = 16

    def __init__(self, folder: Path, validation: bool = False) -> None:
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
        files = [p for i, p in enumerate(files) if (i % self.HOLD_OUT == 0) == validation]
        self.photos: list[ByteArray] = []
        for path in files:
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if image is not None and min(image.shape[:2]) >= 200:
                self.photos.append(np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)))

    def pair(self, rng: np.random.Generator, difficulty: float, height: int, width: int) -> Pair:
        photo = self.photos[rng.integers(len(self.photos))]
        size = np.array([width, height], float)
        photo_size = np.array(photo.shape[1::-1], float)
        fill = (photo_size / size).min()  # photo pixels a pixel of an image that just fits into it
        scale0 = 1 / (fill * rng.uniform(0.45, 1.0))
        margin = np.minimum(size / 2 / scale0, photo_size / 2)
        centre0 = rng.uniform(margin, photo_size - margin)
        H0 = similarity_transform(centre0, scale0, 0.0, size / 2)

        if rng.random() < 0.35:
            angle = rng.uniform(-np.pi, np.pi) * difficulty**1.5
        else:
            angle = rng.normal(0, np.radians(5 + 30 * difficulty**1.5))
        zoom = np.exp(rng.uniform(-1, 1) * np.log(1.15 + 1.2 * difficulty))
        shift = rng.uniform(-1, 1, 2) * size * (0.05 + 0.30 * difficulty)
        S = similarity_transform(size / 2, zoom, angle, size / 2 + shift)
        jitter = (0.04 + 0.20 * difficulty) * rng.random()
        corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
        moved = corners + (rng.uniform(-1, 1, (4, 2)) * size * jitter).astype(np.float32)
        H01 = S @ cv2.getPerspectiveTransform(corners, moved).astype(np.float64)
        if rng.random() < 0.5:
            H0, H1, H01 = H01 @ H0, H0, np.asarray(np.linalg.inv(H01))
        else:
            H1 = H01 @ H0
        image0, known0 = self._view(photo, H0, height, width, rng)
        image1, known1 = self._view(photo, H1, height, width, rng)
        warp01 = warp_by_homography(H01, known0, known1)
        warp10 = warp_by_homography(np.asarray(np.linalg.inv(H01)), known1, known0)
        return Pair(image0, image1, warp01, warp10)

    @staticmethod
    def _view(
        photo: ByteArray, H: FloatArray, height: int, width: int, rng: np.random.Generator
    ) -> tuple[ByteArray, NDArray[np.bool_]]:
        scale = np.sqrt(abs(np.linalg.det(H / H[2, 2])[()]))
        while scale < 0.55:  # shrink first: warpPerspective alone would alias
            photo = np.asarray(cv2.resize(photo, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
            H = H @ np.array([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1.0]])
            scale *= 2
        fill = [int(v) for v in rng.integers(0, 256, 3)]
        image = cv2.warpPerspective(photo, H, (width, height), flags=cv2.INTER_LINEAR, borderValue=fill)
        known = cv2.warpPerspective(np.ones(photo.shape[:2], np.uint8), H, (width, height), flags=cv2.INTER_NEAREST)
        return np.asarray(image), known > 0


def depth_pair(
    images: tuple[ByteArray, ByteArray],
    depths: tuple[Float32Array, Float32Array],
    K: tuple[FloatArray, FloatArray],
    T_0to1: FloatArray,
    precise: bool = True,
) -> Pair:
    """A pair whose truth comes from depth and pose; K may hold crops and in-plane rotations."""
    return Pair(
        images[0],
        images[1],
        warp_by_depth(depths[0], K[0], depths[1], K[1], T_0to1),
        warp_by_depth(depths[1], K[1], depths[0], K[0], np.asarray(np.linalg.inv(T_0to1))),
        precise,
    )


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


class Rendered:
    """Two views of a rendered scene, a new scene for each pair."""

    def __init__(self, textures: list[ByteArray]) -> None:
        self.textures = textures

    def pair(self, rng: np.random.Generator, difficulty: float, height: int, width: int) -> Pair:
        scene = Scene.random(rng, self.textures)
        focal = width * rng.uniform(0.6, 1.3)
        K = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])
        camera = Camera(width, height, K)
        T0, T1 = random_pair_views(scene, rng, camera, difficulty)
        light = scene.relight(rng) if rng.random() < 0.4 else None
        view0, view1 = scene.render(camera, T0), scene.render(camera, T1, light)
        return depth_pair((view0.image, view1.image), (view0.depth, view1.depth), (K, K), T1 @ np.linalg.inv(T0))
