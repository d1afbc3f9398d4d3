"""The matcher node with a matcher that needs no weights: the projections of fixed points before and after a motion.

python test/fake_matcher_node.py [milliseconds for a pair] --ros-args ...
"""

from __future__ import annotations

import sys
import time

import numpy as np

from stfm_ros.config import MatcherConfig
from stfm_ros.nodes.matcher import main
from stfm_ros.types import ByteArray, Matches


class FakeMatcher:
    """Finds the same 200 matches in any two images that are not black, scaled with the images."""

    model_name = "fake"
    weights_hash = "0" * 64
    runtime_name = "fake"
    reason = "a test"
    height, width = 480, 640
    takes_depth = False

    def __init__(self, config: MatcherConfig, pair_s: float = 0.0) -> None:
        self._pair_s = pair_s
        rng = np.random.default_rng(0)
        points = rng.uniform((-2.0, -1.5, 4.0), (2.0, 1.5, 8.0), (200, 3))
        self._keypoints0 = project(points)
        self._keypoints1 = project(points + (0.4, 0.1, 0.0))

    def features(self, image: ByteArray) -> ByteArray:
        return image

    def match_features(self, features0: ByteArray, features1: ByteArray) -> Matches:
        time.sleep(self._pair_s)
        if not features1.any():
            return Matches.empty()
        confidence = np.full(200, 0.9, np.float32)
        keypoints = (
            ((points + 0.5) * image.shape[1] / self.width - 0.5).astype(np.float32)
            for points, image in ((self._keypoints0, features0), (self._keypoints1, features1))
        )
        return Matches(*keypoints, confidence, np.full(200, 0.5, np.float32))

    def match(self, image0: ByteArray, image1: ByteArray) -> Matches:
        return self.match_features(self.features(image0), self.features(image1))


def project(points: np.ndarray) -> np.ndarray:
    """(n, 3) points to (n, 2) float32 pixels of the camera that ``camera_process`` publishes."""
    return (500.0 * points[:, :2] / points[:, 2:] + (319.5, 239.5)).astype(np.float32)


if __name__ == "__main__":
    pair_ms = float(sys.argv[1])
    sys.exit(main(load=lambda config: FakeMatcher(config, pair_ms / 1e3)))  # type: ignore[arg-type, return-value]
