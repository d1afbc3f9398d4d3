"""Points of an image to rays of its camera, and back.

Points are undistorted; images are never resampled. A ray is given on the plane z = 1.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike

from stfm_ros.types import Camera, FloatArray


def normalise_points(points_px: ArrayLike, camera: Camera) -> FloatArray:
    """Undistorted points on the plane z = 1.

    Args:
        points_px: (n, 2) pixels of the image as received.
        camera: its calibration; any of :data:`stfm_ros.types.DISTORTION_MODELS`.

    Returns:
        (n, 2) float64 ``(X / Z, Y / Z)`` in the optical frame; NaN where the pixel is not finite or looks
        sideways or backwards, which no point on that plane can stand for.
    """
    points = np.asarray(points_px, dtype=np.float64).reshape(-1, 2)
    rays = np.full_like(points, np.nan)
    finite = np.isfinite(points).all(axis=1)
    if finite.any():
        pixels = points[finite][:, None]
        if camera.distortion_model == "equidistant":
            found = cv2.fisheye.undistortPoints(pixels, camera.K, camera.D)
        else:
            stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 40, 1e-10)  # OpenCV's 5 rounds leave 0.1 px
            found = cv2.undistortPointsIter(pixels, camera.K, camera.D, np.eye(3), np.eye(3), stop)
        rays[finite] = np.asarray(found, dtype=np.float64).reshape(-1, 2)
    rays[~(np.abs(rays) < 1e3).all(axis=1)] = np.nan  # OpenCV marks what has no inverse with -1e6
    return rays


def project_points(points: ArrayLike, camera: Camera) -> FloatArray:
    """Where points are seen, the inverse of :func:`normalise_points`.

    Args:
        points: (n, 3) in the optical frame, any unit.
        camera: any of :data:`stfm_ros.types.DISTORTION_MODELS`.

    Returns:
        (n, 2) float64 pixels of the image as received, perhaps outside it; NaN where the point is not in front of the
        camera, or so far out that the distortion's polynomial folds it back towards the image.
    """
    points = np.asarray(points, dtype=np.float64).reshape(-1, 3)
    pixels = np.full((len(points), 2), np.nan)
    ahead = points[:, 2] > 1e-9
    rays = points[ahead, :2] / points[ahead, 2:]
    if camera.distortion_model == "none":
        pixels[ahead] = rays @ camera.K[:2, :2].T + camera.K[:2, 2]
        return pixels
    if not len(rays):
        return pixels
    project = cv2.fisheye.projectPoints if camera.distortion_model == "equidistant" else cv2.projectPoints
    still = np.zeros(3)
    found = project(np.column_stack([rays, np.ones(len(rays))])[:, None], still, still, camera.K, camera.D)[0]
    seen = np.asarray(found, np.float64).reshape(-1, 2)
    error = np.linalg.norm(normalise_points(seen, camera) - rays, axis=1)
    pixels[ahead] = np.where((error < 1e-3 * (1 + np.linalg.norm(rays, axis=1) ** 2))[:, None], seen, np.nan)
    return pixels
