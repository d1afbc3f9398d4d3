"""Relative poses, one after the other, become a trajectory.

A single camera sees no length: each relative translation is a unit vector. But the points that two pairs of images
have in common tell how long the second translation is beside the first one. So the trajectory has one unknown scale
for the whole, which drifts slowly, and is 1 for the first translation; metric poses keep their metres. Where the chain
breaks (no pose for a while, and a new reference), it goes on at the last pose, at the last median depth.

Poses are (4, 4) float64, camera (optical frame) to world; the world is the first reference camera.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from stfm_ros.geometry import normalise_points
from stfm_ros.types import BoolArray, Camera, FloatArray

if TYPE_CHECKING:
    from stfm_ros.tracker import Track

#: two keypoints of one image this close, in 1/640 of its width, are of the same point of the scene
_SAME_POINT = 3.0
#: fewer points in common than this tell no scale
_MIN_COMMON = 8
#: a ray whose angle to its partner is smaller than this tells no depth
_MIN_ANGLE = np.radians(0.15)


@dataclass(frozen=True)
class _View:
    """A placed image, with the points (n, 3) whose position in its camera is known, and their pixels (n, 2)."""

    camera: Camera
    pose: FloatArray
    pixels: FloatArray
    points: FloatArray
    parallax_deg: float


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

    def add(self, track: Track, camera: Camera) -> FloatArray | None:
        """The pose of the track's image in the world; None where its relative pose is of no use."""
        pose = track.pose
        if not pose.status.has_rotation:
            return None
        reference = self._reference(track, camera)
        matches = track.matches.take(pose.inliers)
        rays0 = _homogeneous(normalise_points(matches.keypoints0, reference.camera))
        rays1 = _homogeneous(normalise_points(matches.keypoints1, camera))
        turned = rays0 @ pose.R.T
        if pose.status.has_translation:
            depth0, depth1, known = _triangulate(turned, rays1, pose.t)
            scale = (
                1.0
                if pose.metric
                else self._scale(reference, matches.keypoints0[known].astype(np.float64), depth0[known])
            )
            points0, points1 = scale * depth0[known, None] * rays0[known], scale * depth1[known, None] * rays1[known]
        else:  # no depth is seen anew, but what was known is carried on
            index, found = _common(reference, matches.keypoints0.astype(np.float64))
            known, scale = np.zeros(len(rays0), bool), 0.0
            known[index] = True
            points0 = reference.points[found]
            points1 = points0 @ pose.R.T
        motion = np.eye(4)
        motion[:3, :3], motion[:3, 3] = pose.R, scale * pose.t
        placed = reference.pose @ np.linalg.inv(motion)
        pixels0, pixels1 = matches.keypoints0[known].astype(np.float64), matches.keypoints1[known].astype(np.float64)
        if scale and len(points0) >= _MIN_COMMON:
            self._median_depth = float(np.median(points0[:, 2]))
            if pose.parallax_deg > reference.parallax_deg:
                reference = _View(reference.camera, reference.pose, pixels0, points0, pose.parallax_deg)
        current = _View(camera, placed, pixels1, points1, pose.parallax_deg)
        self._views = {track.reference_stamp_ns: reference, track.stamp_ns: current}
        self._last = placed
        return placed

    def _reference(self, track: Track, camera: Camera) -> _View:
        known = self._views.get(track.reference_stamp_ns)
        if known is not None:
            return known
        self.breaks += bool(self._views)
        return _View(camera, self._last, np.zeros((0, 2)), np.zeros((0, 3)), 0.0)

    def _scale(self, reference: _View, pixels: FloatArray, depths: FloatArray) -> float:
        """What a translation of length 1 is worth, from depths seen with it at ``pixels`` of the reference."""
        index, found = _common(reference, pixels)
        if len(index) >= _MIN_COMMON:
            return float(np.median(reference.points[found, 2] / depths[index]))
        if self._median_depth is not None and len(depths):
            return self._median_depth / float(np.median(depths))
        return 1.0


def _common(view: _View, pixels: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Indices of ``pixels`` and of the view's points that are the same point of the scene."""
    if len(view.pixels) == 0 or len(pixels) == 0:
        return np.zeros(0, int), np.zeros(0, int)
    matcher = cv2.BFMatcher(cv2.NORM_L2)
    pairs = matcher.match(np.float32(pixels), np.float32(view.pixels))
    near = [pair for pair in pairs if pair.distance <= _SAME_POINT * view.camera.width / 640]
    return np.array([pair.queryIdx for pair in near], int), np.array([pair.trainIdx for pair in near], int)


def _triangulate(turned: FloatArray, rays1: FloatArray, t: FloatArray) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Depths along both rays, (n, 3) with z = 1, of ``z1 rays1 = z0 turned + t``, and which of them can be trusted."""
    normal = np.cross(rays1, turned)
    squared = np.maximum(np.sum(normal**2, axis=1), 1e-18)
    depth0 = -np.sum(np.cross(rays1, t) * normal, axis=1) / squared
    depth1 = depth0 * turned[:, 2] + t[2]
    sine = np.sqrt(squared) / (np.linalg.norm(rays1, axis=1) * np.linalg.norm(turned, axis=1))
    known: BoolArray = (depth0 > 0) & (depth1 > 0) & (sine > np.sin(_MIN_ANGLE))
    return depth0, depth1, known


def _homogeneous(points: FloatArray) -> FloatArray:
    return np.column_stack([points, np.ones(len(points))])
