"""The teacher node with a fake of an RGB-D matcher: the fake of the matcher node, which wants depth as well.

python test/fake_teacher_node.py [milliseconds for a pair] --ros-args ...
"""

from __future__ import annotations

import sys

import numpy as np
from fake_matcher_node import FakeMatcher

from stfm_ros.config import MatcherConfig
from stfm_ros.nodes.teacher import main
from stfm_ros.types import ByteArray, Float32Array


class FakeTeacher(FakeMatcher):
    """The fake matcher, which looks at depth: without any it finds nothing."""

    takes_depth = True

    def features(self, image: ByteArray, depth: Float32Array) -> ByteArray:
        assert depth.dtype == np.float32 and depth.shape == image.shape[:2]
        return image if depth.any() else np.zeros_like(image)


def depth_of_points(base_m: float = 5.0) -> Float32Array:
    """(480, 640) metres that the fake's points have in image 0, on a wall at ``base_m``; 0 is no wall."""
    fake = FakeMatcher(MatcherConfig())
    points = np.random.default_rng(0).uniform((-2.0, -1.5, 4.0), (2.0, 1.5, 8.0), (200, 3))
    metres = np.full((480, 640), base_m, np.float32)
    for (x, y), z in zip(fake._keypoints0.round().astype(int), points[:, 2]):
        metres[y - 1 : y + 2, x - 1 : x + 2] = z
    return metres


if __name__ == "__main__":
    pair_ms = float(sys.argv[1])
    sys.exit(main(load=lambda config: FakeTeacher(config, pair_ms / 1e3)))  # type: ignore[arg-type, return-value]
