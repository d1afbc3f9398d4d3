"""Relative pose in metres, where the reference image has depth.

Points of image 0 are lifted by their depth and seen in image 1 (PnP). A residual's covariance is that of the match,
plus that of the depth along the line on which the point moves in image 1 when its depth changes: noise of depth counts
for little where the baseline is short, as it should.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np

from stfm_ros.config import OdometryConfig, PoseConfig
from stfm_ros.errors import ImageError
from stfm_ros.geometry.noise import SCALE, Alike, estimate_covariance, noise_px
from stfm_ros.geometry.rays import Rays, angles, moves_px, skew
from stfm_ros.geometry.relative import DEFAULTS, estimate_relative_pose
from stfm_ros.geometry.robust import ENOUGH, ROUGHLY, Motion, minimise
from stfm_ros.types import BoolArray, Camera, Float32Array, FloatArray, Matches, PoseStatus, RelativePose

#: depth that differs by more than this share from a pixel to its neighbours lies on an edge and is left out
EDGE = 0.05
#: so few inliers with depth still give the scale of a two-view pose
MIN_SCALE_POINTS = 5
#: points whose extent is below this share of their distance in all but one direction lie on a line
LINE = 0.01
#: a point that comes nearer than this share of its depth counts as behind the camera
NEAREST = 1e-3
#: a depth is not corrected by more than so many of its standard deviations
DEPTH_SIGMAS = 3.0


@dataclass(frozen=True)
class DepthNoise:
    """Standard deviation of a depth z in metres: ``offset_m + share z + quadratic z^2``.

    The settings ``odometry.depth_noise_*`` say what other sensors than a time-of-flight camera have.
    """

    offset_m: float = OdometryConfig.depth_noise_m
    share: float = OdometryConfig.depth_noise_share
    quadratic: float = OdometryConfig.depth_noise_quadratic

    def sigma_m(self, depth_m: FloatArray) -> FloatArray:
        """(n,) of depths (n,)."""
        sigma: FloatArray = self.offset_m + self.share * depth_m + self.quadratic * depth_m**2
        return sigma


NOISE = DepthNoise()


def estimate_metric_pose(
    matches: Matches,
    camera0: Camera | None,
    camera1: Camera | None,
    depth0: Float32Array | None,
    config: PoseConfig = DEFAULTS,
    noise: DepthNoise = NOISE,
) -> RelativePose:
    """The motion between two images in metres, with its covariance, from the depth of image 0.

    Random samples of three points (P3P), then Levenberg-Marquardt on the reprojection errors weighted by each
    match's sigma and its depth's. Low parallax, a plane and a pure rotation are no degenerate cases here: the
    translation is then small or well known, and the covariance says how well. Deterministic; never NaN.

    Args:
        matches: best first, pixels of the received images.
        camera0, camera1: calibrations; without one there is no pose (``NO_CAMERA_INFO``).
        depth0: (H, W) metres along the optical axis, pixel-aligned with image 0 (as received, distortion and all),
            0 or not finite where there is none; None where there is no depth at all.
        config: thresholds.
        noise: of the depth.

    Returns:
        ``metric`` is true where ``t`` is in metres. With too few depths the two-view pose of
        :func:`stfm_ros.geometry.estimate_relative_pose`, its length from those depths where there are at least
        MIN_SCALE_POINTS; ``reason`` says so. A camera that stands still is ``STATIC`` as there.

    Raises:
        ImageError: the depth is not of the size of camera 0's image.
    """
    if depth0 is None or camera0 is None or camera1 is None:
        return estimate_relative_pose(matches, camera0, camera1, config)
    if depth0.shape != (camera0.height, camera0.width):
        raise ImageError(
            f"the depth is {depth0.shape[1]}x{depth0.shape[0]}, image 0 is {camera0.width}x{camera0.height}: give "
            "depth registered to the colour image (aligned_depth_to_color), of its size"
        )
    points = _Points.of(Rays.of(matches, camera0, camera1), matches, depth0, noise)
    if points.stands_still(config):
        return estimate_relative_pose(matches, camera0, camera1, config)
    if len(points) < config.min_inliers:
        why = f"{len(points)} matches with depth, fewer than {config.min_inliers}"
        return _two_view(matches, camera0, camera1, points, config, why)
    start = _robust_pose(points, config)
    if start is None:
        return _two_view(matches, camera0, camera1, points, config, "no pose explains the matches with depth")
    limit = points.limit(config.inlier_px)
    R, t, scale = _refine(points, *start, limit)
    likely = points.likely(R, t)
    along = likely.along(R, t)
    residuals, jacobian = likely.linearise(along, R, t)
    inliers: BoolArray = np.asarray((np.abs(residuals) < limit).all(axis=0))
    count = int(inliers.sum())
    if count < config.min_inliers or _on_a_line(points.X0[inliers]):
        why = f"{count} matches with depth agree on a pose, fewer than {config.min_inliers}"
        why = why if count < config.min_inliers else f"{count} matches with depth lie on a line"
        return _two_view(matches, camera0, camera1, points, config, why)
    alike = likely.alike(along, config.shared_error)
    estimate = estimate_covariance(residuals.T, jacobian.T, points.rays.points0_px, scale, alike)
    moved = np.zeros((6, 6))
    moved[:3, :3], moved[:3, 3:], moved[3:, :3] = -R.T @ skew(t), -R.T, -R.T
    covariance = moved @ estimate.covariance @ moved.T
    kept = points.rays.take(inliers)
    parallax = float(np.degrees(np.median(angles(kept.x0 @ R.T, kept.x1))))
    reason = f"{count} inliers of {len(points)} matches with depth, {np.linalg.norm(t):.3f} m"
    mask = points.rays.mask(inliers, len(matches))
    symmetric = (covariance + covariance.T) / 2
    return RelativePose(R, t, symmetric, mask, PoseStatus.OK, reason, parallax, metric=True)


# -- the steps ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Points:
    """Matches with depth.

    Attributes:
        rays: of them.
        sigma_px: (m,) of image 1, an axis.
        X0: (m, 3) metres in camera 0.
        sigma_z: (m,) metres, of their depth.
        shift_px: median displacement of all matches, with and without depth.
        corrected: (m,) by how many of its deviations each depth of X0 differs from the measured one.
    """

    rays: Rays
    sigma_px: FloatArray
    X0: FloatArray
    sigma_z: FloatArray
    shift_px: float
    corrected: FloatArray

    def __len__(self) -> int:
        return len(self.rays)

    @staticmethod
    def of(rays: Rays, matches: Matches, depth0: Float32Array, noise: DepthNoise) -> _Points:
        shifts = matches.keypoints1[rays.index] - matches.keypoints0[rays.index]
        shift_px = float(np.median(np.hypot(shifts[:, 0], shifts[:, 1]))) if len(rays) else 0.0
        typical = float(np.median(matches.sigma[rays.index])) if len(rays) else 1.0
        depth = depth_at(depth0, rays.points0_px)
        known = depth > 0
        rays, depth = rays.take(known), depth[known]
        X0, still = rays.x0 * depth[:, None], np.zeros(len(rays))
        return _Points(rays, rays.sigma * typical, X0, noise.sigma_m(depth), shift_px, still)

    def stands_still(self, config: PoseConfig) -> bool:
        """Whether the two-view estimate has to say STATIC, or could."""
        return self.shift_px < config.static_px

    def limit(self, inlier_px: float) -> float:
        """Of a weighted residual of an inlier: two axes, of which the Sampson error sees one, shared by two images."""
        return max(float(np.sqrt(2) * inlier_px / np.median(self.sigma_px)), 1.0)

    def along(self, R: FloatArray, t: FloatArray) -> FloatArray:
        """(2, m) how far a standard deviation of its depth moves each point in image 1, in its pixels."""
        turned = R @ self.X0.T
        x, y, z = turned + t[:, None]
        z = np.where(z <= NEAREST * self.X0[:, 2], self.X0[:, 2], z)
        by_depth: FloatArray = (turned[:2] - np.stack([x, y]) * (turned[2] / z)) / (z * self.rays.pixel1)
        return by_depth * (self.sigma_z / self.X0[:, 2])

    def linearise(self, along: FloatArray, R: FloatArray, t: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Reprojection errors (2, m) in standard deviations, and their derivatives (6, 2, m) by ``(w, d)``.

        The covariance of each is ``sigma^2 I + g g^T``, ``g`` being what :meth:`along` has said.
        """
        x, y, w = turned = R @ self.X0.T
        u, v, z = turned + t[:, None]
        behind = z <= NEAREST * self.X0[:, 2]
        z = np.where(behind, self.X0[:, 2], z)
        u, v = u / z, v / z
        errors = (np.stack([u, v]) - self.rays.x1[:, :2].T) / self.rays.pixel1
        # of u and v by d: (1, 0, -u) / z and (0, 1, -v) / z; by w: the product of the turned point with these
        by_motion = np.zeros((2, 6, len(self)))
        by_motion[0, 0], by_motion[0, 1], by_motion[0, 2] = -y * u, w + x * u, -y
        by_motion[1, 0], by_motion[1, 1], by_motion[1, 2] = -w - y * v, x * v, x
        by_motion[0, 3] = by_motion[1, 4] = 1
        by_motion[0, 5], by_motion[1, 5] = -u, -v
        by_motion /= z * self.rays.pixel1
        errors -= along * self.corrected  # where the measured depth would be seen
        errors[:, behind], by_motion[:, :, behind] = 1e6, 0.0
        part = self.less(along)
        errors -= part * (along * errors).sum(axis=0)
        by_motion -= part[:, None] * (along[:, None] * by_motion).sum(axis=0)
        return errors / self.sigma_px, (by_motion / self.sigma_px).transpose(1, 0, 2)

    def less(self, along: FloatArray) -> FloatArray:
        """(2, m) ``l``: an error e along g counts as ``e - l (g e)``."""
        squared = (along**2).sum(axis=0)
        share = 1 - self.sigma_px / np.sqrt(self.sigma_px**2 + squared)
        less: FloatArray = share * along / np.maximum(squared, 1e-30)
        return less

    def alike(self, along: FloatArray, share: float) -> Alike:
        """What matches of like displacement have in common."""
        whiten = (np.eye(2)[:, :, None] - self.less(along)[:, None] * along) / self.sigma_px
        return Alike(share, self.rays.sigma_px, self.rays.width_px, moves_px(self.rays), whiten.transpose(2, 0, 1))

    def likely(self, R: FloatArray, t: FloatArray) -> _Points:
        """The points with the depths that are most likely after this motion.

        Lifted by noisy depths, points spread more in depth than they do, and so the motion comes out too short.
        """
        along = self.along(R, t)
        residuals = self.linearise(along, R, t)[0]
        deviation = np.sqrt(self.sigma_px**2 + (along**2).sum(axis=0))
        corrected = np.clip(-(along * residuals).sum(axis=0) / deviation, -DEPTH_SIGMAS, DEPTH_SIGMAS)
        nearest = -0.5 * self.X0[:, 2] / np.maximum(self.sigma_z, 1e-12)  # half of its depth at least is left
        corrected = np.maximum(corrected, nearest)
        depth = self.X0[:, 2] + corrected * self.sigma_z
        return replace(self, X0=self.rays.x0 * depth[:, None], corrected=corrected)

    def minimise(self, R: FloatArray, t: FloatArray, scale: float, rounds: int, enough: float) -> Motion:
        """The minimum of the loss with the noise of depth as it is seen at the start."""
        return minimise(partial(self.linearise, self.along(R, t)), _step_on, R, t, scale, rounds, enough)


def depth_at(depth0: Float32Array, points_px: FloatArray) -> FloatArray:
    """(m,) depth of the nearest pixel; 0 outside, where there is none, and on an edge of depth."""
    height, width = depth0.shape
    column, row = np.rint(points_px).astype(np.int64).T
    inside = (column >= 0) & (row >= 0) & (column < width) & (row < height)
    column, row = column.clip(0, width - 1), row.clip(0, height - 1)
    depth = depth0[row, column].astype(np.float64)
    known = inside & np.isfinite(depth) & (depth > 0)
    for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        near = depth0[(row + dy).clip(0, height - 1), (column + dx).clip(0, width - 1)]
        with np.errstate(invalid="ignore"):  # depth that is not finite is not known already
            known &= ~(np.isfinite(near) & (near > 0) & (np.abs(near - depth) > EDGE * depth))
    return np.where(known, depth, 0.0)


def _robust_pose(points: _Points, config: PoseConfig) -> tuple[FloatArray, FloatArray] | None:
    """R, t by random samples of three points; the threshold leaves room for the noise of depth."""
    cv2.setRNGSeed(0)
    try:
        found, turn, t, _ = cv2.solvePnPRansac(
            points.X0[:, None],
            points.rays.x1[:, None, :2].copy(),
            np.eye(3),
            None,
            flags=cv2.SOLVEPNP_P3P,
            iterationsCount=config.max_iterations,
            reprojectionError=2 * config.inlier_px / points.rays.focal,
            confidence=min(config.confidence, 1.0 - 1e-9),
        )
    except cv2.error:  # degenerate samples
        return None
    if not found or not (np.isfinite(turn).all() and np.isfinite(t).all()):
        return None
    return np.asarray(cv2.Rodrigues(turn)[0], np.float64), np.asarray(t, np.float64).ravel()


def _refine(points: _Points, R: FloatArray, t: FloatArray, limit: float) -> tuple[FloatArray, FloatArray, float]:
    """R, t at the minimum of the robust loss and its scale, which follows the noise."""
    R, t, _ = points.minimise(R, t, limit, 6, ROUGHLY)
    scale = limit
    for _ in range(2):
        likely = points.likely(R, t)
        residuals = likely.linearise(likely.along(R, t), R, t)[0]
        scale = float(np.clip(SCALE * noise_px(residuals, limit), 0.1 * limit, 1.5 * limit))
        R, t, _ = likely.minimise(R, t, scale, 12, ENOUGH)
    return R, t, scale


def _step_on(R: FloatArray, t: FloatArray, step: FloatArray) -> tuple[FloatArray, FloatArray]:
    return np.asarray(cv2.Rodrigues(step[:3])[0]) @ R, t + step[3:]


def _on_a_line(X0: FloatArray) -> bool:
    """Whether points (m, 3) leave the turn about a line through them open."""
    extents = np.linalg.svd(X0 - X0.mean(axis=0), compute_uv=False) / np.sqrt(len(X0))
    return bool(extents[1] < LINE * np.median(np.linalg.norm(X0, axis=1)))


def _two_view(
    matches: Matches, camera0: Camera, camera1: Camera, points: _Points, config: PoseConfig, why: str
) -> RelativePose:
    """The two-view pose, in metres where some of its inliers have depth."""
    pose = estimate_relative_pose(matches, camera0, camera1, config)
    if not pose.status.has_translation:
        return replace(pose, reason=f"{pose.reason}; {why}")
    agree = pose.inliers[points.rays.index]
    scaled = _scale(points, agree, pose.R, pose.t) if np.count_nonzero(agree) >= MIN_SCALE_POINTS else None
    if scaled is None:
        return replace(pose, reason=f"{pose.reason}; no metric scale: {why}")
    length, deviation = scaled
    position = -pose.R.T @ pose.t
    by_unit = np.diag([length] * 3 + [1.0] * 3)
    covariance = by_unit @ pose.covariance @ by_unit
    covariance[:3, :3] += deviation**2 * np.outer(position, position)
    reason = f"{pose.reason}; scale from {np.count_nonzero(agree)} depths: {why}"
    return replace(pose, t=length * pose.t, covariance=covariance, reason=reason, metric=True)


def _scale(points: _Points, agree: BoolArray, R: FloatArray, t: FloatArray) -> tuple[float, float] | None:
    """Length of the baseline in metres and its standard deviation; None where the depths do not give one."""
    rays = points.rays.take(agree)
    turned = points.X0[agree] @ R.T  # x1 x (R X0 + s t) = 0
    a, b = np.cross(rays.x1, turned), np.cross(rays.x1, t)
    lengths = -np.sum(a * b, axis=1) / np.maximum(np.sum(b * b, axis=1), 1e-18)
    length = float(np.median(lengths))
    deviation = 1.4826 * float(np.median(np.abs(lengths - length))) * 1.2533 / np.sqrt(len(lengths))
    share = float(np.median(points.sigma_z[agree] / points.X0[agree, 2])) / np.sqrt(len(lengths))
    deviation = max(deviation, share * length)
    return (length, deviation) if np.isfinite(length) and length > 3 * deviation > 0 else None
