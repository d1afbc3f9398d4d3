"""Two-view geometry. ``T_0to1`` maps points of camera 0 into camera 1: ``X1 = R X0 + t``."""
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
        (n, 2) float64 ``(X / Z, Y / Z)`` in the optical frame; NaN where the distortion has no inverse.
    """
    points = np.asarray(points_px, dtype=np.float64).reshape(-1, 1, 2)
    if len(points) == 0:
        return np.zeros((0, 2))
    if camera.distortion_model == "equidistant":
        rays = cv2.fisheye.undistortPoints(points, camera.K, camera.D)
        rays = np.where(np.abs(rays) < 1e5, rays, np.nan)  # OpenCV marks points behind the camera with -1e6
    else:
        rays = cv2.undistortPoints(points, camera.K, camera.D if camera.D.size else None)
    return np.asarray(rays, dtype=np.float64).reshape(-1, 2)
