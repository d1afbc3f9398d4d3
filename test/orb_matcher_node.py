"""The real matcher node with a quick ORB in place of the network: a process of tests that need no weights."""

from __future__ import annotations

import sys
from typing import Any

import cv2
import numpy as np

from stfm_ros.config import MatcherConfig
from stfm_ros.nodes.matcher import main
from stfm_ros.types import ByteArray, Matches


class OrbMatcher:
    """The shape of ``stfm_ros.matcher.Matcher``."""

    model_name = "orb"
    weights_hash = "0" * 64
    runtime_name = "opencv"
    reason = "asked for by the test"
    height, width = 480, 640
    takes_depth = False

    def __init__(self) -> None:
        cv2.setNumThreads(1)
        self._detector = cv2.ORB_create(nfeatures=1200)
        self._matcher = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True)

    def features(self, image: ByteArray) -> Any:
        return self._detector.detectAndCompute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None)

    def match_features(self, features0: Any, features1: Any) -> Matches:
        (found0, words0), (found1, words1) = features0, features1
        pairs = sorted(self._matcher.match(words0, words1), key=lambda pair: pair.distance)
        pairs = [pair for pair in pairs if pair.distance < 50]
        return Matches(
            np.float32([found0[pair.queryIdx].pt for pair in pairs]).reshape(-1, 2),
            np.float32([found1[pair.trainIdx].pt for pair in pairs]).reshape(-1, 2),
            np.float32([1 - pair.distance / 64 for pair in pairs]),
            np.ones(len(pairs), np.float32),
        )


def load(config: MatcherConfig) -> Any:
    return OrbMatcher()


if __name__ == "__main__":
    sys.exit(main(load=load))
