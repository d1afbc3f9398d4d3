"""Relative poses, one after the other, become a trajectory.

A single camera sees no length: each relative translation is a unit vector. But the points that two pairs of images
have in common tell how long the second translation is beside the first one. So the trajectory has one unknown scale
for the whole, which drifts slowly, and is 1 for the first translation; metric poses keep their metres, and lend them to
those between them that have none. Where the chain breaks (no pose for a while, and a new reference), it goes on at the
last pose, at the last median depth.

Poses are (4, 4) float64, camera (optical frame) to world; the world is the first reference camera.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from stfm_ros.geometry import normalise_points
from stfm_ros.types import BoolArray, Camera, Float32Array, FloatArray

if TYPE_CHECKING:
    from stfm_ros.tracker import Track

#: two keypoints of one image this close, in 1/640 of its width, are of the same point of the scene
_SAME_POINT = 3.0
#: fewer points in common than this tell no scale
_MIN_COMMON = 8
#: what a length is worth, as a share of it: from points in common at best, from another scene's median depth, unseen
_COMMON_SHARE, _MEDIAN_SHARE, _UNKNOWN_SHARE = 0.02, 0.5, 1.0
#: a ray whose angle to its partner is smaller than this tells no depth
_MIN_ANGLE = np.radians(0.15)


@dataclass(frozen=True)
class Placed:
    """Where an image is.

    Attributes:
        pose: (4, 4) float64, camera to world.
        length: of a translation of length 1 in the units of the chain; 1 for a metric pose.
        share: standard deviation of the length as a share of it, beyond what the covariance of the pose says.
        metric: whether the chain's units are metres here.
        points: (n, 3) float64 triangulated inliers in the reference camera, in the units of the chain.
        index: (n,) int, their numbers among the matches.
        depth: median of the depth of the scene, in the units of the chain; None where it was never seen.
    """

    pose: FloatArray
    length: float
    share: float
    metric: bool
    points: FloatArray
    index: NDArray[np.int64]
    depth: float | None


@dataclass(frozen=True)
class _View:
    """A placed image, with the points (n, 3) whose position in its camera is known, and their pixels (n, 2)."""

    camera: Camera
    pose: FloatArray
    pixels: FloatArray
    points: FloatArray
    parallax_deg: float
    metric: bool = False
    share: float = 0.0


class Chain:
    """Places images one after the other.

    Attributes:
        breaks: how often the chain was interrupted.
    """

    def __init__(self) -> None:
        self.breaks = 0
        self._views: dict[int, _View] = {}  # the reference and the newest image, by stamp
        self._last = np.eye(4)
        self._median_depth: float | None = None

    def add(self, track: Track, camera: Camera) -> Placed | None:
        """Where the track's image is; None where its relative pose is of no use."""
        pose = track.pose
        if not pose.status.has_rotation:
            return None
        reference = self._reference(track, camera)
        matches = track.matches.take(pose.inliers)
        rays0 = homogeneous(normalise_points(matches.keypoints0, reference.camera))
        rays1 = homogeneous(normalise_points(matches.keypoints1, camera))
        turned = rays0 @ pose.R.T
        moves = pose.status.has_translation
        length, share, metric = 0.0, 0.0, reference.metric
        if moves:
            depth0, depth1, known = triangulate(turned, rays1, pose.t)
            length, share, metric = self._length(track, reference, matches.keypoints0[known], depth0[known])
            points0, points1 = length * depth0[known, None] * rays0[known], length * depth1[known, None] * rays1[known]
        else:  # no depth is seen anew, but what was known is carried on
            near, found = _common(reference, matches.keypoints0.astype(np.float64))
            known = np.zeros(len(rays0), bool)
            known[near] = True
            points0 = reference.points[found]
            points1 = points0 @ pose.R.T
        motion = np.eye(4)
        motion[:3, :3], motion[:3, 3] = pose.R, length * pose.t
        placed = reference.pose @ np.linalg.inv(motion)
        pixels0, pixels1 = matches.keypoints0[known].astype(np.float64), matches.keypoints1[known].astype(np.float64)
        if length and len(points0) >= _MIN_COMMON:
            self._median_depth = float(np.median(points0[:, 2]))
            if pose.parallax_deg > reference.parallax_deg or (metric and not reference.metric):
                reference = _View(reference.camera, reference.pose, pixels0, points0, pose.parallax_deg, metric, share)
        current = _View(
            camera, placed, pixels1, points1, pose.parallax_deg, metric, share if moves else reference.share
        )
        self._views = {track.reference_stamp_ns: reference, track.stamp_ns: current}
        self._last = placed
        if not moves:
            return Placed(placed, 0.0, 0.0, metric, np.zeros((0, 3)), np.zeros(0, np.int64), self._median_depth)
        index = np.flatnonzero(pose.inliers)[known]
        return Placed(placed, length, share, metric, points0, index, self._median_depth)

    def _reference(self, track: Track, camera: Camera) -> _View:
        known = self._views.get(track.reference_stamp_ns)
        if known is not None:
            return known
        self.breaks += bool(self._views)
        return _View(camera, self._last, np.zeros((0, 2)), np.zeros((0, 3)), 0.0)

    def _length(
        self, track: Track, reference: _View, pixels: Float32Array, depths: FloatArray
    ) -> tuple[float, float, bool]:
        """Length of a translation of length 1, its share and whether it is in metres.

        Args:
            pixels, depths: (n, 2) of the reference and (n,) as they are seen with a translation of length 1.
        """
        if track.pose.metric:
            return 1.0, 0.0, True
        index, found = _common(reference, pixels.astype(np.float64))
        if len(index) >= _MIN_COMMON:
            ratios = reference.points[found, 2] / depths[index]
            length = float(np.median(ratios))
            spread = 1.5 * float(np.median(np.abs(ratios - length))) / (length * np.sqrt(len(index)))
            return length, float(np.hypot(reference.share, max(spread, _COMMON_SHARE))), reference.metric
        if self._median_depth is not None and len(depths):
            return self._median_depth / float(np.median(depths)), _MEDIAN_SHARE, False
        return 1.0, 0.0 if self._median_depth is None else _UNKNOWN_SHARE, False


def _common(view: _View, pixels: FloatArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of ``pixels`` and of the view's points that are the same point of the scene."""
    if len(view.pixels) == 0 or len(pixels) == 0:
        return np.zeros(0, int), np.zeros(0, int)
    matcher = cv2.BFMatcher(cv2.NORM_L2)
    pairs = matcher.match(np.float32(pixels), np.float32(view.pixels))
    near = [pair for pair in pairs if pair.distance <= _SAME_POINT * view.camera.width / 640]
    return np.array([pair.queryIdx for pair in near], int), np.array([pair.trainIdx for pair in near], int)


def triangulate(turned: FloatArray, rays1: FloatArray, t: FloatArray) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Depths along both rays, (n, 3) with z = 1, of ``z1 rays1 = z0 turned + t``, and which of them can be trusted."""
    normal = np.cross(rays1, turned)
    squared = np.maximum(np.sum(normal**2, axis=1), 1e-18)
    depth0 = -np.sum(np.cross(rays1, t) * normal, axis=1) / squared
    depth1 = depth0 * turned[:, 2] + t[2]
    sine = np.sqrt(squared) / (np.linalg.norm(rays1, axis=1) * np.linalg.norm(turned, axis=1))
    known: BoolArray = (depth0 > 0) & (depth1 > 0) & (sine > np.sin(_MIN_ANGLE))
    return depth0, depth1, known


def homogeneous(points: FloatArray) -> FloatArray:
    """(n, 3) with z = 1 of (n, 2)."""
    return np.column_stack([points, np.ones(len(points))])
