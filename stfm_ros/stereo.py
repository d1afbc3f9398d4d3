"""Metres from a second camera (``odometry.scale`` stereo): the depth of the reference image by block matching.

The two camera_infos describe the pair as image_pipeline has it: ``R`` turns a camera into the frame of the rectified
pair, ``P`` projects there, and ``P[0, 3] = -fx * x`` says how many metres to the right of the first camera it is.
Images are as received, rectified (D of zeros) or not: they are rectified here, and the depth is that of the first one
as received.

The network could match the pair too; OpenCV's semi-global matching is nearer to the truth and several times faster, for
it searches along one row alone (docs/stereo.md has both, measured).
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from stfm_ros.config import OdometryConfig, PoseConfig
from stfm_ros.errors import CameraError, ImageError
from stfm_ros.geometry import DepthNoise, estimate_metric_pose, estimate_relative_pose, normalise_points
from stfm_ros.images import camera_from_info, decode_image
from stfm_ros.messages import stamp_ns
from stfm_ros.types import BoolArray, ByteArray, Camera, Float32Array, FloatArray, RelativePose

if TYPE_CHECKING:
    from stfm_ros.scale import Pair

#: pixels of the rectified images: standard deviation of one disparity (docs/stereo.md)
DISPARITY_PX = 0.3
#: smaller disparities give no depth: at 2 px one is known to 15 %, and what is as far only helps the rotation
MIN_DISPARITY_PX = 2.0
#: largest disparity as a share of the width: nearer points get no depth
REACH = 0.2
#: with depth for a smaller share of its pixels a pair is not believed: images that do not belong together get 20 %
MIN_KNOWN = 0.3
#: wider images are matched at this width, which takes about 0.1 s
MAX_WIDTH = 800
#: images of the second camera that are kept until the first one's come
WAITING = 30
_BLOCK = 5


class StereoDepth:
    """Depth in the first image of a pair.

    Args:
        first, second: the cameras; R and P count.
        baseline_m: how far the second camera is to the right of the first; None takes it from P.

    Attributes:
        noise: of the depth: grows with its square.
        share_per_px: by what share of it a depth of 1 m is wrong where its disparity is by a pixel of the first image.

    Raises:
        CameraError: the camera_infos describe no rectified pair side by side.
    """

    def __init__(self, first: Camera, second: Camera, baseline_m: float | None = None) -> None:
        for name, camera in (("first", first), ("second", second)):
            if np.abs(camera.R @ camera.R.T - np.eye(3)).max() > 1e-3:
                raise CameraError(
                    f"R of the {name} camera's camera_info is {camera.R.round(4).tolist()}: expected the rotation into "
                    "the rectified pair; calibrate the pair (camera_calibration with two cameras writes R and P)"
                )
            if not (camera.P[0, 0] > 0 and camera.P[1, 1] > 0):
                raise CameraError(
                    f"P of the {name} camera's camera_info has the focal lengths {camera.P[0, 0]:g} and "
                    f"{camera.P[1, 1]:g}: expected positive ones; calibrate the pair"
                )
        self._baseline_m = _baseline_m(first, second) if baseline_m is None else baseline_m
        scale = min(1.0, MAX_WIDTH / first.width)
        self._size = round(first.width * scale), round(first.height * scale)
        self._K = first.P[:, :3] * scale
        self._K[:2, 2] += (scale - 1) / 2  # the centre of a pixel is at integers
        self._K[2, 2] = 1.0
        self._maps = _to_rectified(first, self._K, self._size), _to_rectified(second, self._K, self._size)
        self._back = _from_rectified(first, self._K)
        focal_baseline = float(self._K[0, 0]) * abs(self._baseline_m)
        self._reach = 16 * int(np.ceil(REACH * self._size[0] / 16))
        self._matcher = cv2.StereoSGBM.create(
            minDisparity=0,
            numDisparities=self._reach,
            blockSize=_BLOCK,
            P1=8 * _BLOCK**2,  # as OpenCV's documentation advises
            P2=32 * _BLOCK**2,
            disp12MaxDiff=1,
            uniquenessRatio=10,
            speckleWindowSize=100,
            speckleRange=2,
            mode=cv2.STEREO_SGBM_MODE_SGBM_3WAY,
        )
        self._focal_baseline = focal_baseline
        self.noise = DepthNoise(offset_m=0.0, share=0.0, quadratic=DISPARITY_PX / focal_baseline)
        self.share_per_px = scale / focal_baseline

    def __call__(self, first: ByteArray, second: ByteArray) -> Float32Array:
        """Depth (H, W) in metres along the optical axis of the first image as received; 0 where there is none.

        Args:
            first, second: (H, W, 3) uint8 RGB, of the sizes of their cameras.
        """
        pair = [
            cv2.remap(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), *maps, cv2.INTER_LINEAR)
            for image, maps in zip((first, second), self._maps, strict=True)
        ]
        if self._baseline_m < 0:  # seen in a mirror, the second camera is to the right
            pair = [np.ascontiguousarray(image[:, ::-1]) for image in pair]
        # OpenCV matches no pixel nearer to the left edge than the largest disparity
        wide = [cv2.copyMakeBorder(image, 0, 0, self._reach, 0, cv2.BORDER_REPLICATE) for image in pair]
        disparity = self._matcher.compute(*wide)[:, self._reach :].astype(np.float32) / 16
        if self._baseline_m < 0:
            disparity = np.ascontiguousarray(disparity[:, ::-1])
        columns, rows, ahead = self._back
        found = cv2.remap(disparity, columns, rows, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
        known: BoolArray = np.asarray((found >= MIN_DISPARITY_PX) & (ahead > 0))
        depth = np.zeros(found.shape, np.float32)
        depth[known] = self._focal_baseline / (found[known] * ahead[known])
        return depth


class StereoScale:
    """The depth that a second camera gives the reference; a :class:`stfm_ros.scale.ScaleSource`.

    It is given the images of the second camera and its camera_info; the reference and its own come with each pair.
    """

    def __init__(self, config: OdometryConfig, camera_in_base: FloatArray | None = None) -> None:
        self.config = config
        self.camera_in_base = camera_in_base
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, Any]] = deque(maxlen=WAITING)
        self._reference: tuple[int, Any] | None = None  # its stamp, and the message of the second camera
        self._info: Any | None = None
        self._matched: tuple[int, Float32Array, float] | None = None  # the reference's stamp, depth and its median
        self._stereo: tuple[Any, StereoDepth] | None = None  # and the values it was made of

    def take(self, message: Any) -> None:
        """See :class:`stfm_ros.scale.ScaleSource`; an image is decoded when it is needed."""
        with self._lock:
            if hasattr(message, "distortion_model"):
                self._info = message
            else:
                self._waiting.append((stamp_ns(message.header), message))

    def remember(self, stamp_ns: int) -> None:
        """See :class:`stfm_ros.scale.ScaleSource`; the other image may still be on its way."""
        self._second(stamp_ns, 0)

    def estimate(self, pair: Pair, config: PoseConfig) -> RelativePose:
        """See :class:`stfm_ros.scale.ScaleSource`."""
        try:
            found = self._depth(pair)
        except (CameraError, ImageError) as fault:
            found = str(fault)
        if isinstance(found, str):
            pose = estimate_relative_pose(pair.matches, pair.camera0, pair.camera1, config)
            if not pose.status.has_translation:
                return pose
            return replace(pose, reason=f"{pose.reason}; no metric length: {found}")
        depth, typical, stereo = found
        pose = estimate_metric_pose(pair.matches, pair.camera0, pair.camera1, depth, config, stereo.noise)
        if not pose.metric:
            return pose
        share = self.config.stereo_error_px * stereo.share_per_px * typical
        position = pose.camera1_in_camera0[1]  # what the calibration gets wrong makes all lengths wrong alike
        covariance = pose.covariance.copy()
        covariance[:3, :3] += share**2 * np.outer(position, position)
        return replace(pose, covariance=covariance)

    def _depth(self, pair: Pair) -> tuple[Float32Array, float, StereoDepth] | str:
        """The depth of the reference with its median in metres, or why there is none."""
        camera, image, info = pair.camera0, pair.image0, self._info
        if camera is None or image is None:
            return "the reference has no camera_info"
        if info is None:
            return "no camera_info of the second camera so far; check its topic (right/camera_info)"
        second = self._second(pair.stamp0_ns, self.config.depth_slop_s * 1e9)
        if second is None:
            return (
                f"no image of the second camera within {self.config.depth_slop_s:g} s of the reference's stamp "
                "(odometry.depth_slop_s); check its topic (right/image) and that the cameras are synchronised"
            )
        other = camera_from_info(info)
        stereo = self._pair_of(camera, other)
        if self._matched is None or self._matched[0] != pair.stamp0_ns:
            seen = decode_image(second)
            if seen.shape[:2] != (other.height, other.width):
                raise ImageError(
                    f"the second camera's image is {seen.shape[1]}x{seen.shape[0]}, its camera_info is of "
                    f"{other.width}x{other.height}: publish the calibration of this resolution"
                )
            depth = stereo(image, seen)
            known = depth > 0
            share = float(known.mean())
            if share < MIN_KNOWN:
                return (
                    f"the two cameras' images agree on the depth of {share:.0%} of the pixels, expected "
                    f"{MIN_KNOWN:.0%} at least; there is little to see, or they are not of the cameras of the "
                    "calibration, or swapped"
                )
            typical = float(np.median(depth[known]))
            self._matched = pair.stamp0_ns, depth, typical
        return self._matched[1], self._matched[2], stereo

    def _pair_of(self, first: Camera, second: Camera) -> StereoDepth:
        """Made anew when a calibration changes."""
        baseline_m = self.config.stereo_baseline
        about = _values(first), _values(second), baseline_m
        if self._stereo is None or self._stereo[0] != about:
            self._stereo = about, StereoDepth(first, second, baseline_m or None)
            self._matched = None
        return self._stereo[1]

    def _second(self, stamp: int, within_ns: float) -> Any | None:
        """The message of the second camera that belongs to the reference's stamp."""
        if self._reference is not None and self._reference[0] == stamp:
            return self._reference[1]
        with self._lock:
            nearest = min(self._waiting, key=lambda one: abs(one[0] - stamp), default=None)
        if nearest is None or abs(nearest[0] - stamp) > within_ns:
            return None
        self._reference = stamp, nearest[1]
        return nearest[1]


def _baseline_m(first: Camera, second: Camera) -> float:
    """Metres from the first camera to the right, to the second one."""
    (x0, y0), (x1, y1) = (-camera.P[:2, 3] / np.diag(camera.P)[:2] for camera in (first, second))
    if abs(y1 - y0) > abs(x1 - x0):
        raise CameraError(
            f"P of the camera_infos puts the second camera {y1 - y0:.3f} m below the first and {x1 - x0:.3f} m to its "
            "right: expected a pair side by side; turn both images by 90 degrees upstream"
        )
    if x1 == x0:
        raise CameraError(
            f"P[0, 3] of the camera_infos is {first.P[0, 3]:g} and {second.P[0, 3]:g}: expected -fx times the baseline "
            "in the second one; calibrate the pair (camera_calibration writes it), or set odometry.stereo_baseline "
            "where the images are rectified"
        )
    return float(x1 - x0)


def _to_rectified(camera: Camera, K: FloatArray, size: tuple[int, int]) -> tuple[Float32Array, Float32Array]:
    """The column and the row of the received image that each pixel of the rectified one shows."""
    maps = cv2.fisheye if camera.distortion_model == "equidistant" else cv2
    columns, rows = maps.initUndistortRectifyMap(camera.K, camera.D, camera.R, K, size, cv2.CV_32FC1)
    return np.asarray(columns, np.float32), np.asarray(rows, np.float32)


def _from_rectified(camera: Camera, K: FloatArray) -> tuple[Float32Array, Float32Array, Float32Array]:
    """For each pixel of the received image: column and row of the rectified one, and z there for each metre of z here.

    The last is 0 where a pixel looks away from the rectified image.
    """
    shape = camera.height, camera.width
    pixels = np.indices(shape)[::-1].reshape(2, -1).T
    rays = np.column_stack([normalise_points(pixels, camera), np.ones(len(pixels))]) @ camera.R.T
    ahead = np.where(np.isfinite(rays[:, 2]) & (rays[:, 2] > 1e-3), rays[:, 2], 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        seen = (rays @ K.T)[:, :2] / ahead[:, None]
    columns, rows = np.where(ahead[:, None] > 0, seen, -1e3).astype(np.float32).T
    return columns.reshape(shape), rows.reshape(shape), ahead.astype(np.float32).reshape(shape)


def _values(camera: Camera) -> tuple[Any, ...]:
    """What can be compared."""
    arrays = (camera.K, camera.D, camera.R, camera.P)
    return camera.width, camera.height, camera.distortion_model, *(array.tobytes() for array in arrays)
