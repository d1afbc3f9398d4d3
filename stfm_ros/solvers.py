"""Robust estimators of the relative pose of two images, as the measures of ``stfm_ros.evaluate`` use them.

All take pixels of both images without distortion (n, 2), their intrinsics and a threshold in pixels, and give R, t and
inliers, or None where there is no pose.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from stfm_ros.config import PoseConfig
from stfm_ros.errors import RuntimeNotAvailable
from stfm_ros.geometry import DEFAULTS, estimate_relative_pose, normalise_points
from stfm_ros.types import BoolArray, Camera, FloatArray, Matches

Solved = tuple[FloatArray, FloatArray, BoolArray]
Solver = Callable[[FloatArray, FloatArray, Camera, Camera, float], Solved | None]

CONFIDENCE = 0.99999  #: at which a robust solver may stop, as in LoFTR


def solve_opencv(
    points0: FloatArray, points1: FloatArray, camera0: Camera, camera1: Camera, threshold_px: float
) -> Solved | None:
    """LoFTR's protocol: RANSAC of an essential matrix at ``threshold_px`` over the mean focal length, cheirality."""
    return _essential(points0, points1, camera0, camera1, threshold_px, cv2.RANSAC)


def solve_magsac(
    points0: FloatArray, points1: FloatArray, camera0: Camera, camera1: Camera, threshold_px: float
) -> Solved | None:
    """As :func:`solve_opencv`, by OpenCV's MAGSAC."""
    return _essential(points0, points1, camera0, camera1, threshold_px, cv2.USAC_MAGSAC)


def _essential(
    points0: FloatArray, points1: FloatArray, camera0: Camera, camera1: Camera, threshold_px: float, method: int
) -> Solved | None:
    rays0, rays1 = normalise_points(points0, camera0), normalise_points(points1, camera1)
    focal = np.mean([camera0.K[0, 0], camera0.K[1, 1], camera1.K[0, 0], camera1.K[1, 1]])
    cv2.setRNGSeed(0)
    E, mask = cv2.findEssentialMat(
        rays0, rays1, np.eye(3), method=method, prob=CONFIDENCE, threshold=threshold_px / float(focal)
    )
    if E is None:
        return None
    best: Solved | None = None
    for candidate in np.split(np.asarray(E), len(E) // 3):
        R, t, seen = cv2.recoverPose(candidate, rays0, rays1, np.eye(3), 1e9, mask=mask.copy())[1:4]
        inliers = np.asarray(seen).ravel() > 0
        if best is None or inliers.sum() > best[2].sum():
            best = np.asarray(R, np.float64), np.asarray(t, np.float64).ravel(), inliers
    return best


def solve_poselib(
    points0: FloatArray, points1: FloatArray, camera0: Camera, camera1: Camera, threshold_px: float
) -> Solved | None:
    """PoseLib's LO-RANSAC with a final refinement, at an epipolar error of ``threshold_px``."""
    require_poselib()
    import poselib

    options = {"max_epipolar_error": threshold_px, "success_prob": CONFIDENCE}
    models = [_poselib_camera(camera) for camera in (camera0, camera1)]
    pose, info = poselib.estimate_relative_pose(points0, points1, *models, options, {})
    inliers = np.asarray(info["inliers"], dtype=np.bool_)
    return np.asarray(pose.R), np.asarray(pose.t).ravel(), inliers


def solve_stfm(
    points0: FloatArray, points1: FloatArray, camera0: Camera, camera1: Camera, threshold_px: float
) -> Solved | None:
    """What runs on the robot, with its own thresholds but for the inliers' and every match weighted alike."""
    ones = np.ones(len(points0), np.float32)
    matches = Matches(points0.astype(np.float32), points1.astype(np.float32), ones, ones)
    pose = estimate_relative_pose(matches, camera0, camera1, PoseConfig(inlier_px=threshold_px, min_inliers=6))
    return (pose.R, pose.t, pose.inliers) if pose.status.has_translation else None


#: name -> solver and its threshold in pixels
SOLVERS: dict[str, tuple[Solver, float]] = {
    "poselib": (solve_poselib, 1.0),
    "opencv": (solve_opencv, 0.5),
    "stfm": (solve_stfm, DEFAULTS.inlier_px),
    "magsac": (solve_magsac, 0.5),
}


def require_poselib() -> None:
    """Refuse to begin without PoseLib.

    Raises:
        RuntimeNotAvailable: it is not installed.
    """
    if importlib.util.find_spec("poselib") is None:
        raise RuntimeNotAvailable(
            "the solver poselib is not installed: pip install poselib, or choose the solver opencv"
        )


def find_solver(name: str) -> tuple[Solver, float]:
    """The solver of this name, and its own threshold in pixels.

    Raises:
        RuntimeNotAvailable: there is none.
    """
    if name not in SOLVERS:
        raise RuntimeNotAvailable(f"solver {name!r} is not one of {', '.join(SOLVERS)}")
    return SOLVERS[name]


def _poselib_camera(camera: Camera) -> dict[str, Any]:
    K = camera.K
    parameters = [K[0, 0], K[1, 1], K[0, 2], K[1, 2]]
    return {"model": "PINHOLE", "width": camera.width, "height": camera.height, "params": parameters}
