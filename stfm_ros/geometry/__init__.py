"""Two-view geometry: from matches to a relative pose, what it is worth, and why.

``T_0to1`` maps points of camera 0 into camera 1: ``X1 = R X0 + t``; a match satisfies ``x1' [t]x R x0 = 0``.
Points are undistorted and lie on the plane z = 1 (*rays*). Residuals are in pixels of the received image.

    >>> pose = estimate_relative_pose(matches, camera0, camera1)          # t is a direction
    >>> pose = estimate_metric_pose(matches, camera0, camera1, depth0)    # t is in metres

docs/calibration.md has what the covariances are worth, measured.
"""

from stfm_ros.geometry.metric import DepthNoise, estimate_metric_pose
from stfm_ros.geometry.noise import UNKNOWN_DIRECTION, UNKNOWN_ROTATION
from stfm_ros.geometry.points import normalise_points, project_points
from stfm_ros.geometry.relative import DEFAULTS, estimate_relative_pose, no_pose

__all__ = [
    "DEFAULTS",
    "UNKNOWN_DIRECTION",
    "UNKNOWN_ROTATION",
    "DepthNoise",
    "estimate_metric_pose",
    "estimate_relative_pose",
    "no_pose",
    "normalise_points",
    "project_points",
]
