"""Classical matchers to stand beside the learned one: callables ``(rgb0, rgb1) -> Matches``."""
from __future__ import annotations

import cv2
import numpy as np

from stfm_ros.types import ByteArray, Float32Array, Matches

FEATURES = 4000
RATIO = 0.8  #: Lowe's ratio of the best to the second-best distance


def sift(image0: ByteArray, image1: ByteArray) -> Matches:
    """SIFT (4000), mutual nearest neighbours that pass the ratio test.

    Args:
        image0, image1: (H, W, 3) RGB or (H, W) grey, uint8.
    """
    return _match(cv2.SIFT.create(nfeatures=FEATURES), cv2.NORM_L2, image0, image1)


def orb(image0: ByteArray, image1: ByteArray) -> Matches:
    """ORB (4000), mutual nearest neighbours that pass the ratio test; arguments as :func:`sift`."""
    return _match(cv2.ORB.create(nfeatures=FEATURES), cv2.NORM_HAMMING, image0, image1)


BASELINES = {"sift": sift, "orb": orb}


def _match(detector: cv2.Feature2D, norm: int, image0: ByteArray, image1: ByteArray) -> Matches:
    found0, descriptors0 = detector.detectAndCompute(_grey(image0), None)
    found1, descriptors1 = detector.detectAndCompute(_grey(image1), None)
    if len(found0) < 2 or len(found1) < 2:
        return Matches.empty()
    matcher = cv2.BFMatcher(norm)
    back = {m.queryIdx: m.trainIdx for (m,) in matcher.knnMatch(descriptors1, descriptors0, k=1)}
    kept = [
        (best.queryIdx, best.trainIdx, 1.0 - best.distance / max(second.distance, 1e-9))
        for best, second in matcher.knnMatch(descriptors0, descriptors1, k=2)
        if best.distance < RATIO * second.distance and back.get(best.trainIdx) == best.queryIdx
    ]
    if not kept:
        return Matches.empty()
    kept.sort(key=lambda row: -row[2])
    points0 = np.array([found0[i].pt for i, _, _ in kept], dtype=np.float32)
    points1 = np.array([found1[j].pt for _, j, _ in kept], dtype=np.float32)
    confidence: Float32Array = np.array([row[2] for row in kept], dtype=np.float32)
    return Matches(points0, points1, confidence, np.ones(len(kept), np.float32))  # 1 px: they estimate none


def _grey(image: ByteArray) -> ByteArray:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), dtype=np.uint8) if image.ndim == 3 else image
