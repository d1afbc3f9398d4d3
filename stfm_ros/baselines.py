"""Classical matchers to stand beside the learned one: callables ``(rgb0, rgb1) -> Matches``.

As with the learned one, an image that is matched more than once is described once.

    >>> reference = sift.features(image0)
    >>> matches = sift.match_features(reference, sift.features(image1))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stfm_ros.types import ByteArray, Float32Array, Matches

FEATURES = 4000
RATIO = 0.8  #: Lowe's ratio of the best to the second-best distance


@dataclass(frozen=True)
class Described:
    """One image: points (n, 2) float32 pixels, and the descriptor of each, (n, d) uint8 or float32."""

    points: Float32Array
    descriptors: NDArray[Any]


class Classical:
    """Detector and descriptor of OpenCV; mutual nearest neighbours that pass the ratio test.

    Args:
        name: as in tables and messages.
        detector: makes it.
        norm: of the difference of two descriptors, as OpenCV numbers norms.

    Attributes:
        model_name, weights_hash: as of :class:`stfm_ros.matcher.Matcher`; there are no weights.
    """

    weights_hash = ""

    def __init__(self, name: str, detector: Callable[[], cv2.Feature2D], norm: int) -> None:
        self.model_name = name
        self._detector = detector
        self._norm = norm

    def __call__(self, image0: ByteArray, image1: ByteArray) -> Matches:
        """Match two images, (H, W, 3) RGB or (H, W) grey, uint8."""
        return self.match_features(self.features(image0), self.features(image1))

    def features(self, image: ByteArray) -> Described:
        """Detect and describe the points of an image, (H, W, 3) RGB or (H, W) grey, uint8."""
        found, descriptors = self._detector().detectAndCompute(_grey(image), None)
        if not found:
            return Described(np.zeros((0, 2), np.float32), np.zeros((0, 0), np.uint8))
        return Described(np.array([point.pt for point in found], np.float32), np.asarray(descriptors))

    def match_features(self, features0: Described, features1: Described) -> Matches:
        """Match two described images, best first; confidence and sigma are 1, for want of estimates."""
        if min(len(features0.points), len(features1.points)) < 2:
            return Matches.empty()
        matcher = cv2.BFMatcher(self._norm)
        back = [m.trainIdx for (m,) in matcher.knnMatch(features1.descriptors, features0.descriptors, k=1)]
        kept = [
            (best.queryIdx, best.trainIdx, best.distance / max(second.distance, 1e-9))
            for best, second in matcher.knnMatch(features0.descriptors, features1.descriptors, k=2)
            if best.distance < RATIO * second.distance and back[best.trainIdx] == best.queryIdx
        ]
        if not kept:
            return Matches.empty()
        kept.sort(key=lambda row: row[2])
        index0, index1, _ = zip(*kept)
        ones = np.ones(len(kept), np.float32)
        return Matches(
            features0.points[list(index0)],
            features1.points[list(index1)],
            ones,
            ones,
        )


#: at most 4000 points; AKAZE as many as its threshold gives
sift = Classical("sift", lambda: cv2.SIFT.create(nfeatures=FEATURES), cv2.NORM_L2)
orb = Classical("orb", lambda: cv2.ORB.create(nfeatures=FEATURES), cv2.NORM_HAMMING)
akaze = Classical("akaze", lambda: cv2.AKAZE.create(), cv2.NORM_HAMMING)

BASELINES = {method.model_name: method for method in (sift, orb, akaze)}


def _grey(image: ByteArray) -> ByteArray:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), dtype=np.uint8) if image.ndim == 3 else image
