"""A closer look at what two images both show.

The first matches tell which part of each image the other shows too. Both parts are cut out, each enlarged to fill the
network's input, and matched once more: what overlaps little is seen larger, what was zoomed comes to one scale, and the
grid of keypoints lies elsewhere, so that the matches of both looks together are more, and their errors more diverse,
than those of either. It costs as much again as the first look.
"""

from __future__ import annotations

import cv2
import numpy as np

from stfm_ros.search import FeatureMatcher, View, match_views
from stfm_ros.types import ByteArray, Float32Array, FloatArray, Matches

FEWEST = 12  #: matches that tell where to look; also of those that agree with each other
AGREE_PX = 3.0  #: from the epipolar lines that most matches have in common
OUTLYING = 2  #: percent of the matches at each side that a part need not show
MARGIN = 0.1  #: round a part, of its size
SMALLEST, LARGEST = 0.3, 0.94  #: of the image's sides: no part is all of it, for that has been looked at
MOST_TURN_DEG = 30.0  #: pictures turned further are no better matched for being cut


def look_again(
    matcher: FeatureMatcher, image0: ByteArray, image1: ByteArray, first: Matches, size: tuple[int, int]
) -> Matches:
    """``first`` and the matches of a second look, best first.

    Args:
        image0, image1: (H, W, 3) uint8 RGB.
        first: their matches; where they are few or turned, they come back as they are.
        size: (width, height) of the network's input.
    """
    agreeing = _agreeing(first)
    if len(agreeing) < FEWEST or _turn_deg(agreeing) > MOST_TURN_DEG:
        return first
    views = (
        _enlarged(image, points, size)
        for image, points in ((image0, agreeing.keypoints0), (image1, agreeing.keypoints1))
    )
    second = match_views(matcher, *((view, matcher.features(view.image)) for view in views))
    both = Matches.joined(first, second)
    return both.take(np.argsort(-both.confidence, kind="stable"))


def _agreeing(matches: Matches) -> Matches:
    """Those on the epipolar lines of the fundamental matrix that most have in common."""
    if len(matches) < FEWEST:
        return Matches.empty()
    F, mask = cv2.findFundamentalMat(matches.keypoints0, matches.keypoints1, cv2.USAC_MAGSAC, AGREE_PX, 0.999, 2000)
    return Matches.empty() if F is None or mask is None else matches.take(mask.ravel() > 0)


def _turn_deg(matches: Matches) -> float:
    A, _ = cv2.estimateAffinePartial2D(matches.keypoints0, matches.keypoints1, ransacReprojThreshold=12.0)
    return 180.0 if A is None else abs(float(np.degrees(np.arctan2(A[1, 0], A[0, 0]))))


def _enlarged(image: ByteArray, points: Float32Array, size: tuple[int, int]) -> View:
    """The part of an image that holds ``points`` (n, 2), of the shape of the image, as large as ``size`` allows."""
    height, width = image.shape[:2]
    low, high = np.percentile(points, [OUTLYING, 100 - OUTLYING], axis=0)
    whole = np.array([width, height], float)
    share = np.clip(((high - low) * (1 + 2 * MARGIN) / whole).max(), SMALLEST, LARGEST)
    corner = np.clip((low + high) / 2 - share * whole / 2, 0, (1 - share) * whole)
    scale = min(size / (share * whole))
    A: FloatArray = np.eye(3) * [scale, scale, 1]
    A[:2, 2] = (scale - 1) / 2 - scale * corner  # centres of pixels have whole coordinates
    columns, rows = np.rint(share * whole * scale).astype(int)
    return View.of(image, A, int(columns), int(rows))
