"""The real matcher node with SIFT in place of the network: run as a process by tests that need no weights."""

from __future__ import annotations

import sys
from typing import Any

from stfm_ros.baselines import sift
from stfm_ros.config import MatcherConfig
from stfm_ros.nodes.matcher import main
from stfm_ros.types import ByteArray, Matches


class SiftMatcher:
    """The shape of ``stfm_ros.matcher.Matcher``."""

    model_name = "sift"
    weights_hash = "0" * 64
    runtime_name = "opencv"
    reason = "asked for by the test"
    height, width = 480, 640

    def __init__(self, config: MatcherConfig) -> None:
        self.config = config

    def features(self, image: ByteArray) -> ByteArray:
        return image

    def match_features(self, features0: ByteArray, features1: ByteArray) -> Matches:
        return sift(features0, features1)


def load(config: MatcherConfig) -> Any:
    return SiftMatcher(config)


if __name__ == "__main__":
    sys.exit(main(load=load))
