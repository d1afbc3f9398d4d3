"""Two pictures turned or zoomed against each other by any amount.

The network is good for turns of about 45 degrees and zooms of about 1.5. Where the pictures as they are
give few matches, one of them is shown to it turned by right angles and shrunk by two until many come, and
then once more, brought into line with the other by the affine map of the best matches found. Tilted planes
gain from the last step as well (the idea of ASIFT: Morel & Yu, SIAM J. Imaging Sciences 2009).

A camera that moves does not need this: the tracker does not use it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import cv2
import numpy as np

from stfm_ros.types import BoolArray, ByteArray, Float32Array, FloatArray, Matches

#: image 1 turned by so many right angles, image 0 shrunk, image 1 shrunk; the likelier first
ATTEMPTS = (
    (0, True, False), (0, False, True), (1, False, False), (3, False, False), (2, False, False),
    (1, True, False), (3, True, False), (2, True, False), (1, False, True), (3, False, True), (2, False, True),
)  # fmt: skip
ENOUGH = 100  #: matches that agree on a common map end the search; a wrong view may give as many that do not
CLEARLY = 1.5  #: another view must gather so many times the confidence: one plane of a room in line is no gain
FEWEST, FEWEST_AFFINE = 7, 12  #: matches that must agree on a similarity, and on an affine map
AGREE_PX = 12.0  #: a scene is no plane: the map needs to be right only roughly


class FeatureMatcher(Protocol):
    """What looking again needs of :class:`stfm_ros.matcher.Matcher`."""

    def features(self, image: ByteArray) -> Any: ...

    def look(self, features0: Any, features1: Any) -> Matches: ...


@dataclass(frozen=True)
class View:
    """A picture as it is shown to the network.

    Attributes:
        image: (h, w, 3) uint8.
        A: (3, 3) from pixels of the original to pixels of ``image``.
        size: (width, height) of the original.
    """

    image: ByteArray
    A: FloatArray
    size: tuple[int, int]

    @staticmethod
    def of(image: ByteArray, A: FloatArray, width: int, height: int) -> View:
        """``image`` through the affine map ``A`` onto a canvas of its mean colour."""
        size = (image.shape[1], image.shape[0])
        shrink = float(np.sqrt(abs(np.linalg.det(A[:2, :2]))))
        if shrink < 0.8:  # warpAffine alone would alias
            image = np.asarray(cv2.GaussianBlur(image, (0, 0), 0.4 / shrink))
        fill = [float(v) for v in image.reshape(-1, image.shape[2]).mean(0)]
        warped = cv2.warpAffine(image, A[:2], (width, height), flags=cv2.INTER_LINEAR, borderValue=fill)
        return View(np.asarray(warped), A, size)

    def back(self, points: Float32Array) -> Float32Array:
        """Points (n, 2) of ``image`` in pixels of the original."""
        inverse = np.linalg.inv(self.A)
        return np.asarray(points @ inverse[:2, :2].T + inverse[:2, 2], np.float32)

    def inside(self, points: Float32Array) -> BoolArray:
        """Whether points (n, 2) of the original lie on it."""
        limits = np.array(self.size, np.float32) - 0.5
        return np.asarray(((points > -0.5) & (points < limits)).all(axis=1))


def search_views(matcher: FeatureMatcher, image0: ByteArray, image1: ByteArray, first: Matches) -> Matches:
    """The best matches of two pictures under any turn and zoom.

    Args:
        image0, image1: (H, W, 3) uint8 RGB.
        first: the matches of the pictures as they are.

    Returns:
        ``first``, or matches with a clearly larger sum of confidences; pixels of the images given.
    """
    seen = [first]
    if _common_map(first)[1] < ENOUGH:
        for found in _attempts(matcher, image0, image1):
            seen.append(found)
            if _common_map(found)[1] >= ENOUGH:
                break
    # Among few matches those of a wrong view may be the more confident, but they agree on nothing.
    best = max(seen, key=lambda matches: _common_map(matches)[1])
    for _ in range(2):  # a rough map of a few matches first, a good one of many then
        aligned = _aligned(matcher, image0, image1, best)
        if not _is_clearly_better(aligned, best):
            break
        best = aligned
    return best if _is_clearly_better(best, first) else first


def _attempts(matcher: FeatureMatcher, image0: ByteArray, image1: ByteArray) -> Iterator[Matches]:
    known: dict[tuple[int, int, bool], tuple[View, Any]] = {}

    def view(which: int, turns: int, shrunk: bool) -> tuple[View, Any]:
        key = (which, turns, shrunk)
        if key not in known:
            shown = _turned_and_shrunk((image0, image1)[which], turns, shrunk)
            known[key] = shown, matcher.features(shown.image)
        return known[key]

    for turns, shrink0, shrink1 in ATTEMPTS:
        yield match_views(matcher, view(0, 0, shrink0), view(1, turns, shrink1))


def _turned_and_shrunk(image: ByteArray, turns: int, shrunk: bool) -> View:
    """By ``turns`` right angles about the middle, and by two."""
    height, width = image.shape[:2]
    if turns % 2:
        width, height = height, width
    scale = 0.5 if shrunk else 1.0
    c, s = ((1, 0), (0, 1), (-1, 0), (0, -1))[turns]
    A = np.eye(3)
    A[:2, :2] = np.array([[c, -s], [s, c]]) * scale
    middle = (np.array(image.shape[1::-1]) - 1) / 2
    A[:2, 2] = (np.array([width, height]) - 1) / 2 - A[:2, :2] @ middle
    return View.of(image, A, width, height)


def _common_map(matches: Matches) -> tuple[FloatArray, int]:
    """The (3, 3) map of image 1 to image 0 that most matches agree on, and how many do.

    A similarity, which two matches give; or an affine map, where enough matches like that better.
    """
    A, most = np.eye(3), 0
    for estimate, fewest in ((cv2.estimateAffinePartial2D, FEWEST), (cv2.estimateAffine2D, FEWEST_AFFINE)):
        if len(matches) >= fewest:
            found, mask = estimate(matches.keypoints1, matches.keypoints0, ransacReprojThreshold=AGREE_PX)
            agree = int(mask.sum()) if found is not None and np.isfinite(found).all() else 0
            if agree >= max(fewest, 1.1 * most):
                A, most = np.vstack([found, [0, 0, 1]]), agree
    return A, most


def _aligned(matcher: FeatureMatcher, image0: ByteArray, image1: ByteArray, found: Matches) -> Matches:
    """Once more, image 1 brought into line with image 0; nothing where they are in line already."""
    A, inliers = _common_map(found)
    stretch = np.linalg.svd(A[:2, :2], compute_uv=False)
    turn_deg = abs(np.degrees(np.arctan2(A[1, 0] - A[0, 1], A[0, 0] + A[1, 1])))
    in_line = turn_deg < 15 and stretch[1] > 0.75 and stretch[0] < 1.33
    if inliers == 0 or in_line or not 0.1 < stretch[1] <= stretch[0] < 10:
        return Matches.empty()
    height, width = image0.shape[:2]
    as_is = View(image0, np.eye(3), (width, height))
    moved = View.of(image1, A, width, height)
    return match_views(matcher, (as_is, matcher.features(image0)), (moved, matcher.features(moved.image)))


def match_views(matcher: FeatureMatcher, first: tuple[View, Any], second: tuple[View, Any]) -> Matches:
    """Matches of two views, in pixels of the originals."""
    matches = matcher.look(first[1], second[1])
    keypoints0, keypoints1 = first[0].back(matches.keypoints0), second[0].back(matches.keypoints1)
    scale = np.float32(np.sqrt(abs(np.linalg.det(second[0].A[:2, :2]))))
    matches = replace(matches, keypoints0=keypoints0, keypoints1=keypoints1, sigma=matches.sigma / scale)
    return matches.take(first[0].inside(keypoints0) & second[0].inside(keypoints1))


def _is_clearly_better(a: Matches, b: Matches) -> bool:
    return bool(a.confidence.sum() > CLEARLY * b.confidence.sum())
