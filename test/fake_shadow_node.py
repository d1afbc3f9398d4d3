"""The teacher node with a fake teacher, and a fake student beside it that has some ends wrong.

python test/fake_shadow_node.py [milliseconds for a pair] --ros-args ...
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
from fake_matcher_node import FakeMatcher
from fake_teacher_node import FakeTeacher

from stfm_ros.config import MatcherConfig
from stfm_ros.nodes.teacher import main
from stfm_ros.types import ByteArray, Matches

WRONG = np.arange(200) % 4 == 0
OFF_PX = 10.0


class FakeStudent(FakeMatcher):
    """Every fourth match ends some pixels to the right of where it should, and is as sure of itself as the others."""

    model_name = "fake student"
    weights_hash = "1" * 64

    def match_features(self, features0: ByteArray, features1: ByteArray) -> Matches:
        found = super().match_features(features0, features1)
        return found and replace(found, keypoints1=found.keypoints1 + np.float32(OFF_PX) * WRONG[:, None] * [[1, 0]])


def load(config: MatcherConfig) -> FakeMatcher:
    return (FakeStudent if config.model == "student" else FakeTeacher)(config, float(sys.argv[1]) / 1e3)


if __name__ == "__main__":
    sys.exit(main(load=load))  # type: ignore[arg-type]
