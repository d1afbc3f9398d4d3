"""Simpler motions than the general one: a rotation alone, or any motion before a plane, and which explains better."""

from __future__ import annotations

import cv2
import numpy as np

from stfm_ros.geometry.noise import NOISE_FLOOR_PX
from stfm_ros.geometry.rays import Rays, displacement_px, nearest_rotation, unit
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
