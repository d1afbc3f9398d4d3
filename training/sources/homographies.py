"""Photographs through random homographies: exact truth, every texture, no depth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stfm_ros.errors import DatasetError
from stfm_ros.types import ByteArray, FloatArray
from stfm_training.sources.pair import Pair, similarity_transform
from stfm_training.supervision import warp_by_homography


class Homographies:
    """Photographs seen through two random homographies, some of them turned by up to 180 degrees in the plane.

    Args:
        photos: (H, W, 3) uint8 RGB each, or a folder, of which every sixteenth is held out.
        validation: those that are held out instead.
    """

    #: every so many photographs one is kept for validation
    HOLD_OUT = 16
    #: share of the pairs that are turned by any angle in the plane; the others are held as nearly upright as by a hand
    TURNED = 0.2

    def __init__(self, photos: Path | Sequence[ByteArray], validation: bool = False) -> None:
        self.photos = self._read(photos, validation) if isinstance(photos, Path) else list(photos)

    def _read(self, folder: Path, validation: bool) -> list[ByteArray]:
        if not folder.is_dir():
            raise DatasetError(f"there is no folder {folder}: expected one of photographs (.jpg, .png)")
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
        files = [p for i, p in enumerate(files) if (i % self.HOLD_OUT == 0) == validation]
        photos: list[ByteArray] = []
        for path in files:
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if image is not None and min(image.shape[:2]) >= 200:
                photos.append(np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)))
        if not photos:
            raise DatasetError(
                f"{folder} has no photograph of 200 pixels or more {'to hold out' if validation else 'to train on'}: "
                "expected .jpg or .png files"
            )
        return photos

    def pair(self, rng: np.random.Generator, difficulty: float, height: int, width: int) -> Pair:
        photo = self.photos[rng.integers(len(self.photos))]
        size = np.array([width, height], float)
        photo_size = np.array(photo.shape[1::-1], float)
        fill = (photo_size / size).min()  # photo pixels a pixel of an image that just fits into it
        scale0 = 1 / (fill * rng.uniform(0.45, 1.0))
        margin = np.minimum(size / 2 / scale0, photo_size / 2)
        centre0 = rng.uniform(margin, photo_size - margin)
        H0 = similarity_transform(centre0, scale0, 0.0, size / 2)

        if rng.random() < self.TURNED:
            angle = rng.uniform(-np.pi, np.pi) * difficulty**1.5
        else:
            angle = rng.normal(0, np.radians(5 + 10 * difficulty**1.5))
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
        no_depth = np.zeros((height, width), np.float32)
        return Pair(image0, image1, no_depth, no_depth, warp01, warp10)

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
