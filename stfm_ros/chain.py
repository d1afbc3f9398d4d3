"""Relative poses, one after the other, become a trajectory.

A single camera sees no length: each relative translation is a unit vector. But the points that two pairs of images
have in common tell how long the second translation is beside the first one. So the trajectory has one unknown scale
for the whole, which drifts slowly, and is 1 for the first translation; metric poses keep their metres, and lend them to
those between them that have none. Where the chain breaks (no pose for a while, and a new reference), it goes on at the
last pose, at the last median depth.

Depth is worth as much as its parallax: where two rays meet under an angle of a few times the noise of a pixel, it is
next to unknown. So a reference keeps the best depth that any image gave each point, and hands all that it knows on to
the next one: what was matched where it was matched, the rest where the motion puts it. For keyframes are far apart,
and their few matches carry the scale badly.

Poses are (4, 4) float64, camera (optical frame) to world; the world is the first reference camera.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from stfm_ros.geometry import normalise_points
from stfm_ros.geometry.points import project_points
from stfm_ros.motion import inverse
from stfm_ros.types import BoolArray, Camera, FloatArray, Matches, RelativePose

if TYPE_CHECKING:
    from stfm_ros.tracker import Track

Indices = NDArray[np.int64]

#: two keypoints of one image this close, in 1/640 of its width, are of the same point of the scene
_SAME_POINT = 3.0
#: points that a view keeps, those with the best depths: each image searches among them for its own
_MOST_POINTS = 4096
#: fewer points in common than this tell no scale
_MIN_COMMON = 8
#: what a length is worth, as a share of it: from points in common at best, from another scene's median depth, unseen
_COMMON_SHARE, _MEDIAN_SHARE, _UNKNOWN_SHARE = 0.02, 0.5, 1.0
#: a ray whose angle to its partner is smaller than this tells no depth
_MIN_ANGLE = np.radians(0.15)
#: no depth counts as better known than to this share of it: points in common are only near each other
_DEPTH_FLOOR = 0.03


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
class _Points:
    """Points of the scene as an image sees them.

    Attributes:
        pixels: (n, 2) float64.
        positions: (n, 3) float64 in its camera.
        errors: (n,) float64 standard deviations of the depths, as a share of them.
    """

    pixels: FloatArray
    positions: FloatArray
    errors: FloatArray

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def depths(self) -> FloatArray:
        return self.positions[:, 2]

    def take(self, index: BoolArray | Indices) -> _Points:
        return _Points(self.pixels[index], self.positions[index], self.errors[index])

    def without(self, index: Indices) -> _Points:
        return self.take(np.delete(np.arange(len(self)), index))

    def best_known(self, count: int) -> _Points:
        return self if len(self) <= count else self.take(np.argpartition(self.errors, count)[:count])

    def seen_by(self, camera: Camera, R: FloatArray, t: FloatArray) -> _Points:
        """Those in front of another camera and on its image; x1 = R x0 + t. Errors along the old rays stay lengths."""
        positions = self.positions @ R.T + t
        pixels = project_points(positions, camera)
        on_image = ((pixels >= 0) & (pixels <= (camera.width - 1, camera.height - 1))).all(axis=1)
        errors = self.errors[on_image] * self.depths[on_image] / positions[on_image, 2]
        return _Points(pixels[on_image], positions[on_image], errors)

    def scaled(self, length: float) -> _Points:
        return replace(self, positions=length * self.positions)

    def joined(self, other: _Points) -> _Points:
        pairs = ((self.pixels, other.pixels), (self.positions, other.positions), (self.errors, other.errors))
        return _Points(*(np.concatenate(pair) for pair in pairs))

    def with_better(self, index: Indices, others: _Points) -> tuple[_Points, float]:
        """The depths of ``others``, which are the points at ``index``, where they are better known; and the share of
        the points where they are not."""
        better = others.errors < self.errors[index]
        index, others = index[better], others.take(better)
        positions, errors = self.positions.copy(), self.errors.copy()
        positions[index] *= (others.depths / self.depths[index])[:, None]
        errors[index] = others.errors
        return _Points(self.pixels, positions, errors), 1 - len(index) / max(len(self), 1)

    def common(self, pixels: FloatArray, within_px: float) -> tuple[Indices, Indices]:
        """Indices of ``pixels`` (m, 2), and of the points here that are the same point of the scene."""
        if len(self) == 0 or len(pixels) == 0:
            return np.zeros(0, int), np.zeros(0, int)
        pairs = cv2.BFMatcher(cv2.NORM_L2).match(np.float32(pixels), np.float32(self.pixels))
        near = [pair for pair in pairs if pair.distance <= within_px]
        return np.array([pair.queryIdx for pair in near], int), np.array([pair.trainIdx for pair in near], int)


_NO_POINTS = _Points(np.zeros((0, 2)), np.zeros((0, 3)), np.zeros(0))


@dataclass(frozen=True)
class _View:
    """A placed image, and what it knows of the scene; ``share`` as of :class:`Placed`, of its depths."""

    camera: Camera
    pose: FloatArray
    points: _Points = _NO_POINTS
    metric: bool = False
    share: float = 0.0

    @property
    def same_point_px(self) -> float:
        return _SAME_POINT * self.camera.width / 640


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
        if not track.pose.status.has_rotation:
            return None
        reference = self._reference(track, camera)
        moves = track.pose.status.has_translation
        placed, reference, current = (self._moved if moves else self._turned)(track, reference, camera)
        self._views = {track.reference_stamp_ns: reference, track.stamp_ns: current}
        self._last = placed.pose
        return placed

    def _reference(self, track: Track, camera: Camera) -> _View:
        known = self._views.get(track.reference_stamp_ns)
        if known is not None:
            return known
        self.breaks += bool(self._views)
        return _View(camera, self._last)

    def _turned(self, track: Track, reference: _View, camera: Camera) -> tuple[Placed, _View, _View]:
        """An image without a translation: no depth is seen anew, but what was known is carried on."""
        pose = _moved_by(reference.pose, track.pose, 0.0)
        points = reference.points.seen_by(camera, track.pose.R, np.zeros(3))
        nothing = np.zeros((0, 3)), np.zeros(0, np.int64)
        placed = Placed(pose, 0.0, 0.0, reference.metric, *nothing, self._median_depth)
        return placed, reference, _View(camera, pose, points, reference.metric, reference.share)

    def _moved(self, track: Track, reference: _View, camera: Camera) -> tuple[Placed, _View, _View]:
        """An image with a translation, whose length is 1 until the points that are known already tell it."""
        pose, inliers = track.pose, np.flatnonzero(track.pose.inliers)
        matches = track.matches.take(inliers)
        seen, known = _triangulated(matches, pose, reference.camera, camera)
        near, found = reference.points.common(seen.pixels, reference.same_point_px)
        length, share, metric = self._length(pose, reference, seen, near, found)
        seen = seen.scaled(length)
        if metric and not reference.metric:  # what it knew was of another scale
            reference, near, found = replace(reference, points=_NO_POINTS), near[:0], found[:0]

        best, renewed = seen.with_better(near, reference.points.take(found))
        others = reference.points.without(found)
        if len(best) >= _MIN_COMMON:
            self._median_depth = float(np.median(best.depths))
            reference = replace(
                reference,
                points=best.joined(others).best_known(_MOST_POINTS),
                metric=metric,
                share=float(np.sqrt(renewed * share**2 + (1 - renewed) * reference.share**2)),
            )
        t = length * pose.t
        matched = _Points(matches.keypoints1[known].astype(np.float64), best.positions @ pose.R.T + t, best.errors)
        points = matched.take(matched.depths > 0).joined(others.seen_by(camera, pose.R, t)).best_known(_MOST_POINTS)
        placed_at = _moved_by(reference.pose, pose, length)
        current = _View(camera, placed_at, points, metric, reference.share)
        placed = Placed(placed_at, length, share, metric, best.positions, inliers[known], self._median_depth)
        return placed, reference, current

    def _length(
        self, pose: RelativePose, reference: _View, seen: _Points, near: Indices, found: Indices
    ) -> tuple[float, float, bool]:
        """Length of a translation of length 1, its share and whether it is in metres.

        Args:
            seen: by a translation of length 1; those at ``near`` are the reference's at ``found``.
        """
        if pose.metric:
            return 1.0, 0.0, True
        if len(near) >= _MIN_COMMON:
            again, older = seen.take(near), reference.points.take(found)
            logs = np.log(older.depths / again.depths)
            weights = 1 / np.maximum(again.errors**2 + older.errors**2, _DEPTH_FLOOR**2)
            middle = weighted_median(logs, weights)
            count = float(weights.sum() ** 2 / np.square(weights).sum())
            spread = 1.5 * weighted_median(np.abs(logs - middle), weights) / np.sqrt(count)
            return float(np.exp(middle)), float(np.hypot(reference.share, max(spread, _COMMON_SHARE))), reference.metric
        if self._median_depth is not None and len(seen):
            return self._median_depth / float(np.median(seen.depths)), _MEDIAN_SHARE, False
        return 1.0, 0.0 if self._median_depth is None else _UNKNOWN_SHARE, False


def _moved_by(reference: FloatArray, pose: RelativePose, length: float) -> FloatArray:
    """(4, 4) of the image to world, by that of its reference."""
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = pose.R, length * pose.t
    return reference @ inverse(motion)


def _triangulated(matches: Matches, pose: RelativePose, camera0: Camera, camera1: Camera) -> tuple[_Points, BoolArray]:
    """What image 0 sees of the scene by a pose, and which of the matches that is: those that have a parallax.

    The error of a depth is that of the angle between its rays, by the match and by the rotation, as a share of it.
    """
    rays0 = homogeneous(normalise_points(matches.keypoints0, camera0))
    rays1 = homogeneous(normalise_points(matches.keypoints1, camera1))
    depths, sines, known = triangulate(rays0 @ pose.R.T, rays1, pose.t)
    turn = float(np.trace(pose.covariance[3:, 3:])) / 3
    errors = np.sqrt((matches.sigma[known] / camera1.K[0, 0]) ** 2 + turn) / sines[known]
    points = depths[known, None] * rays0[known]
    return _Points(matches.keypoints0[known].astype(np.float64), points, errors), known


def triangulate(turned: FloatArray, rays1: FloatArray, t: FloatArray) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Depths along the first rays of ``z1 rays1 = z0 turned + t``, by rays (n, 3) with z = 1 before the turn.

    Returns:
        (n,) depths; (n,) sines of the angles between the rays; (n,) which depths are of a point that both see.
    """
    normal = np.cross(rays1, turned)
    squared = np.maximum(np.sum(normal**2, axis=1), 1e-18)
    depth0 = -np.sum(np.cross(rays1, t) * normal, axis=1) / squared
    depth1 = depth0 * turned[:, 2] + t[2]
    sines = np.sqrt(squared) / (np.linalg.norm(rays1, axis=1) * np.linalg.norm(turned, axis=1))
    known: BoolArray = (depth0 > 0) & (depth1 > 0) & (sines > np.sin(_MIN_ANGLE))
    return depth0, sines, known


def weighted_median(values: FloatArray, weights: FloatArray) -> float:
    """The value at which half of the weight is reached."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])


def homogeneous(points: FloatArray) -> FloatArray:
    """(n, 3) with z = 1 of (n, 2)."""
    return np.column_stack([points, np.ones(len(points))])
