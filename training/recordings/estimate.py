"""The motion between two RGB-D frames from verified matches, where nobody recorded the poses.

Keypoints of image 0 are lifted by its depth and placed before image 1 by PnP (PoseLib: LO-RANSAC, then a
robust refinement), and the other way round; both must find the same motion, and what is kept is halfway between them.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from stfm_ros.errors import RuntimeNotAvailable
from stfm_ros.geometry import normalise_points, project_points
from stfm_ros.types import BoolArray, ByteArray, Camera, Float32Array, FloatArray, Matches
from stfm_training.recordings.poses import interpolate

Match = Callable[[ByteArray, ByteArray], Matches]

#: reprojection error of an inlier in pixels of an image 640 wide
INLIER_PX = 3.0
LEAST_INLIERS, LEAST_SHARE = 40, 0.25
#: how far apart the motions of both directions may place the points that an image sees, as INLIER_PX, in the median
MOST_APART_PX = 4.0
#: where depth steps by more than this share within a pixel, a keypoint's depth is anybody's guess
EDGE = 0.05


_FEW = "too few matches with depth"


class Rejected(Exception):
    """A pair whose motion is not to be trusted; the text is the reason, the same for all pairs of its kind."""


def estimate_motion(matches: Matches, depth0: Float32Array, depth1: Float32Array, camera: Camera) -> FloatArray:
    """T_0to1 (4, 4) in metres.

    Args:
        matches: of two images of the camera, as received.
        depth0, depth1: (H, W) metres, 0 where there is none.

    Raises:
        Rejected: too few matches, too few inliers, or two directions that differ.
    """
    if len(matches) < LEAST_INLIERS:
        raise Rejected(_FEW)
    forward = _place(matches.keypoints0, depth0, matches.keypoints1, camera)
    backward = np.asarray(np.linalg.inv(_place(matches.keypoints1, depth1, matches.keypoints0, camera)))
    if apart_px(forward, backward, depth0, camera) > MOST_APART_PX * camera.width / 640:
        raise Rejected("the two directions give different motions")
    return interpolate(forward, backward, 0.5)


def apart_px(first: FloatArray, second: FloatArray, depth0: Float32Array, camera: Camera) -> float:
    """Median distance in pixels between where two motions T_0to1 place in image 1 what image 0 sees."""
    stride = max(1, depth0.shape[1] // 20)
    y, x = (axis.ravel() for axis in np.mgrid[: depth0.shape[0] : stride, : depth0.shape[1] : stride])
    rays = normalise_points(np.column_stack([x, y]), camera)
    points = np.column_stack([rays, np.ones(len(rays))]) * depth0[y, x, None]
    points = points[(depth0[y, x] > 0) & np.isfinite(points).all(axis=1)]
    places = [project_points(points @ T[:3, :3].T + T[:3, 3], camera) for T in (first, second)]
    distance = np.linalg.norm(places[0] - places[1], axis=1)
    seen = np.isfinite(distance) & ((places[0] > 0) & (places[0] < [camera.width, camera.height])).all(axis=1)
    return float(np.median(distance[seen])) if seen.any() else float("inf")


def _place(keypoints0: Float32Array, depth0: Float32Array, keypoints1: Float32Array, camera: Camera) -> FloatArray:
    """T_0to1 (4, 4) by PnP of the lifted keypoints of image 0."""
    try:
        import poselib
    except ImportError as error:
        raise RuntimeNotAvailable(
            "a recording without poses needs PoseLib to estimate them: pip install poselib, or record a pose topic"
        ) from error
    z, known = depth_at(keypoints0, depth0)
    rays0, rays1 = normalise_points(keypoints0, camera), normalise_points(keypoints1, camera)
    known &= np.isfinite(rays0).all(axis=1) & np.isfinite(rays1).all(axis=1)
    if np.count_nonzero(known) < LEAST_INLIERS:
        raise Rejected(_FEW)
    points = np.column_stack([rays0, np.ones(len(rays0))])[known] * z[known, None]
    focal = float(np.sqrt(camera.K[0, 0] * camera.K[1, 1]))
    pinhole = {"model": "SIMPLE_PINHOLE", "width": camera.width, "height": camera.height, "params": [focal, 0.0, 0.0]}
    limit_px = INLIER_PX * camera.width / 640
    refine = {"loss_type": "CAUCHY", "loss_scale": limit_px / 3}
    pose, info = poselib.estimate_absolute_pose(
        rays1[known] * focal,
        points,
        pinhole,
        {"max_reproj_error": limit_px, "min_iterations": 100, "max_iterations": 2000},
        refine,
    )
    inliers = int(info["num_inliers"])
    if inliers < LEAST_INLIERS or inliers < LEAST_SHARE * len(points):
        raise Rejected("too few matches agree on a motion")
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = np.asarray(pose.R), np.asarray(pose.t).ravel()
    return T


def depth_at(points: Float32Array, depth: Float32Array) -> tuple[FloatArray, BoolArray]:
    """(n,) metres at (n, 2) pixels between the centres of pixels, and where that can be told: not at an edge."""
    x, y = np.asarray(points, np.float32).T
    kernel = np.ones((3, 3), np.uint8)
    nearest, furthest = np.asarray(cv2.erode(depth, kernel)), np.asarray(cv2.dilate(depth, kernel))
    smooth = ((nearest > 0) & (furthest - nearest < EDGE * furthest)).astype(np.uint8)
    known = cv2.remap(smooth, x, y, cv2.INTER_NEAREST, borderValue=0).ravel() > 0
    return cv2.remap(depth, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).ravel().astype(np.float64), known
