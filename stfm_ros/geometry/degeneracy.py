"""Simpler motions than the general one: a rotation alone, or any motion before a plane, and which explains better."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from stfm_ros.config import PoseConfig
from stfm_ros.geometry.epipolar import robust_model, sampson_px
from stfm_ros.geometry.noise import NOISE_FLOOR_PX, UNKNOWN_ROTATION, Alike, estimate_covariance, scale_px, with_prior
from stfm_ros.geometry.rays import Rays, displacement_px, in_front, moves_px, nearest_rotation, unit
from stfm_ros.types import FloatArray


def fit_rotation(rays: Rays, R: FloatArray) -> FloatArray:
    """The rotation that best takes the rays of image 0 to those of image 1, robustly, starting at ``R``."""
    unit0, unit1 = unit(rays.x0), unit(rays.x1)
    for _ in range(5):
        shifts = displacement_px(rays, R)
        scale = max(float(np.median(shifts)), NOISE_FLOOR_PX)
        weights = 1 / (1 + (shifts / (2 * scale)) ** 2)
        R = nearest_rotation((unit1 * weights[:, None]).T @ unit0)
    return R


def rotation_covariance(rays: Rays, R: FloatArray, config: PoseConfig, parallax_deg: float) -> FloatArray:
    """(3, 3) of ``w`` in ``exp(w) R``, where the rays are turned by ``R`` and no translation is seen.

    Before a wall a small translation looks much like a turn, and may have gone into ``R``: the covariance is that of
    the turn beside a translation before a plane, of which is known that its parallax is small: ``parallax_deg`` is that
    of the translation that would explain the matches best, and less than ``config.min_parallax_deg`` is never seen.
    """
    turned = rays.x0 @ R.T
    seen = turned / turned[:, 2:]
    x, y = seen[:, 0], seen[:, 1]
    zero, one = np.zeros(len(rays)), np.ones(len(rays))
    by_turn = [[-x * y, 1 + x * x, -y], [-1 - y * y, x * y, x]]
    by_step = [[one, zero, -x], [zero, one, -y]]
    weight = 1 / (rays.pixel1 * rays.sigma)
    jacobian = np.concatenate([by_turn, by_step], axis=1).transpose(2, 0, 1) * weight[:, None, None]  # (n, 2, 6)
    residuals = (seen - rays.x1)[:, :2] * weight[:, None]
    along = -np.eye(2) / rays.sigma[:, None, None]
    alike = Alike(config.shared_error, rays.sigma_px, rays.width_px, moves_px(rays), along)
    scale = scale_px(residuals, 2 * config.inlier_px)
    covariance = estimate_covariance(residuals, jacobian, rays.points0_px, scale, alike).covariance
    unseen = np.radians(max(config.min_parallax_deg, parallax_deg, 1e-3)) ** 2
    known = with_prior(covariance, [UNKNOWN_ROTATION] * 3 + [unseen] * 3)
    turn: FloatArray = known[:3, :3]
    return turn


@dataclass(frozen=True)
class Rival:
    """A second rigid motion among the matches: of something that moves by itself, or of a repeated pattern.

    Attributes:
        R, t: (3, 3) and (3,) of unit length; roughly.
        count: matches that agree with it.
        share: of the image that they cover, beside those of the first motion: how likely it is that of the world.
    """

    R: FloatArray
    t: FloatArray
    count: int
    share: float

    def doubt(self, R: FloatArray, t: FloatArray) -> FloatArray:
        """(6, 6) that the covariance of the first motion lacks as long as either may be the world's.

        The second moment of the mixture about the first motion, alike in all directions since the second is known
        roughly. ``t`` is of unit length, or zero where the first motion has no translation.
        """
        position = R.T @ t
        moved, turned = position - self.R.T @ self.t, cv2.Rodrigues(self.R.T @ R)[0]
        doubt = np.zeros((6, 6))
        doubt[3:, 3:] = self.share * float(np.sum(turned**2)) * np.eye(3)
        if position.any():  # along a unit vector nothing varies
            doubt[:3, :3] = self.share * float(moved @ moved) * (np.eye(3) - np.outer(position, position))
        return doubt


def rival_motion(rays: Rays, errors_px: FloatArray, config: PoseConfig) -> Rival | None:
    """A motion on which most of the matches agree that the first one clearly leaves open.

    Args:
        errors_px: (n,) of the first motion.
    """
    apart = errors_px > 2 * config.inlier_px
    rest = rays.take(apart)
    if len(rest) < config.min_inliers:
        return None
    model = robust_model(rest, config)
    if model is None:
        return None
    agree = (np.abs(sampson_px(rest, *model)) < config.inlier_px) & in_front(rest, *model)
    count = int(agree.sum())
    if count < config.min_inliers or 2 * count < len(rest):
        return None
    first = _covered(rays, rays.points0_px[~apart])
    second = _covered(rays, rest.points0_px[agree])
    return Rival(*model, count, second / (first + second))


def _covered(rays: Rays, points_px: FloatArray) -> int:
    """How many of 10 x 10 fields over the extent of all matches have some of the points (n, 2) in them."""
    low, high = rays.points0_px.min(axis=0), rays.points0_px.max(axis=0)
    fields = np.minimum((points_px - low) / np.maximum(high - low, 1e-9) * 10, 9).astype(np.int64)
    return len(np.unique(fields[:, 0] * 10 + fields[:, 1]))


def gric(errors_px: FloatArray, noise_px: float, dimension: int, parameters: int) -> float:
    """Geometric robust information criterion of a two-view model: the smaller explains better.

    Source: P. Torr, "Bayesian model estimation and selection for epipolar geometry and generic manifold
    fitting", IJCV 2002. ``dimension`` is 3 for epipolar geometry, 2 for a homography.
    """
    n, data = len(errors_px), 4
    squares = np.nan_to_num(errors_px / noise_px, nan=np.inf, posinf=np.inf) ** 2
    fit = float(np.minimum(squares, 2.0 * (data - dimension)).sum())
    return fit + dimension * n * float(np.log(data)) + parameters * float(np.log(data * n))


def homography(rays: Rays) -> FloatArray | None:
    """(3, 3) that maps rays of image 0 to those of image 1, if many lie near one plane."""
    if len(rays) < 4:
        return None
    H, _ = cv2.findHomography(rays.x0[:, :2], rays.x1[:, :2], cv2.RANSAC, 3.0 / rays.focal, maxIters=200)
    return None if H is None or not np.isfinite(H).all() else np.asarray(H, np.float64)


def homography_px(rays: Rays, H: FloatArray | None) -> FloatArray:
    """(n,) distances in pixels, shared by both images, to a homography; infinite if there is none."""
    if H is None:
        return np.full(len(rays), np.inf)
    mapped = rays.x0 @ H.T
    depth = np.where(np.abs(mapped[:, 2:]) > 1e-9, mapped[:, 2:], 1e-9)
    distance = np.linalg.norm(mapped[:, :2] / depth - rays.x1[:, :2], axis=1)
    shared: FloatArray = distance / np.hypot(rays.pixel0, rays.pixel1)
    return shared


def plane_motions(rays: Rays, H: FloatArray | None) -> list[tuple[FloatArray, FloatArray]]:
    """The (up to two) motions that explain a homography with its plane in front of the camera."""
    if H is None or abs(np.linalg.det(H)) < 1e-9:
        return []
    _, rotations, translations, normals = cv2.decomposeHomographyMat(H, np.eye(3))
    middle = rays.x0.mean(axis=0)
    return [
        (nearest_rotation(R), np.asarray(t, np.float64).ravel() / np.linalg.norm(t))
        for R, t, normal in zip(rotations, translations, normals)
        if float(middle @ np.ravel(normal)) > 0 and np.linalg.norm(t) > 1e-9
    ]
