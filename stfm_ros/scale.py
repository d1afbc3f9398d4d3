"""Where the length of a motion comes from, which one camera cannot see (``odometry.scale``).

A source is given its messages as they come in, and estimates relative poses in metres where it can; of the rest it says
why not, in the pose's reason. Messages are those of ROS, live or recorded; they may come after the image they
belong to, from another thread.

    depth      aligned depth images: the depth of the reference's matches (PnP)
    odometry   nav_msgs/Odometry of another sensor: how far the camera moved between the two stamps
    twist      geometry_msgs/TwistStamped of the body, integrated between the two stamps
    stereo     images of a second camera: depth by stereo, then as above (:mod:`stfm_ros.stereo`)
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from stfm_ros.config import OdometryConfig, PoseConfig
from stfm_ros.errors import ImageError
from stfm_ros.geometry import DepthNoise, estimate_metric_pose, estimate_relative_pose
from stfm_ros.images import check_depth, decode_depth
from stfm_ros.messages import valid_stamp_ns
from stfm_ros.motion import exponential, inverse, logarithm
from stfm_ros.rotation import quaternion_to_matrix
from stfm_ros.stereo import StereoScale
from stfm_ros.types import ByteArray, Camera, Float32Array, FloatArray, Matches, RelativePose

#: poses of another sensor that are kept: 100 s at 200 Hz
HISTORY = 20_000
#: depth images that are kept, beside that of the reference
DEPTHS = 30
#: a stamp further back than this is another run; a smaller step back is a message out of order
ANEW_NS = 1_000_000_000
#: standard deviation of a length, in metres, below which no sensor's slip or rounding is seen
_FLOOR_M = 0.001
#: no position in metres and no speed is beyond this; what is would be lost in the rounding of a difference
_MOST = 1e9


@dataclass(frozen=True)
class Pair:
    """The two images of a relative pose: 0 is the reference.

    Attributes:
        image0: (H, W, 3) uint8 RGB.
        depth0: its depth where the matcher took it, (H, W) float32 metres.
    """

    matches: Matches
    camera0: Camera | None
    camera1: Camera | None
    stamp0_ns: int
    stamp1_ns: int
    image0: ByteArray | None = None
    depth0: Float32Array | None = None


class ScaleSource(Protocol):
    """Estimates relative poses, metric where it can. Safe to use from any thread."""

    config: OdometryConfig
    camera_in_base: FloatArray | None

    def take(self, message: Any) -> None:
        """A message came in.

        Raises:
            ImageError: it cannot be used.
        """

    def remember(self, stamp_ns: int) -> None:
        """The image of this stamp is the reference from now on."""

    def estimate(self, pair: Pair, config: PoseConfig) -> RelativePose:
        """The pose in metres, or without a length, with the reason why."""


def with_length(pose: RelativePose, length_m: float, sigma_m: float, source: str) -> RelativePose:
    """A pose of unit translation at a length, whose standard deviation is along the translation."""
    direction = pose.camera1_in_camera0[1]
    units = np.repeat([length_m, 1.0], 3)
    covariance: FloatArray = pose.covariance * np.outer(units, units)
    covariance[:3, :3] += sigma_m**2 * np.outer(direction, direction)
    reason = f"{pose.reason}; {length_m:.3f} m by {source}"
    return replace(pose, t=length_m * pose.t, covariance=covariance, metric=True, reason=reason)


def _without(pose: RelativePose, why: str) -> RelativePose:
    return replace(pose, reason=f"{pose.reason}; no metric length: {why}")


class _Motion:
    """Poses of a body by time; what :class:`OdometryScale` and :class:`TwistScale` share."""

    _name = ""

    def __init__(self, config: OdometryConfig, camera_in_base: FloatArray | None = None) -> None:
        self.config = config
        self.camera_in_base = camera_in_base
        self._lock = threading.Lock()
        self._stamps: deque[int] = deque(maxlen=HISTORY)
        self._poses: deque[FloatArray] = deque(maxlen=HISTORY)

    def remember(self, stamp_ns: int) -> None:
        """Nothing: the history is long enough."""

    def estimate(self, pair: Pair, config: PoseConfig) -> RelativePose:
        """See :class:`ScaleSource`."""
        pose = estimate_relative_pose(pair.matches, pair.camera0, pair.camera1, config)
        if not pose.status.has_translation:
            return pose
        start, end = self._at(pair.stamp0_ns), self._at(pair.stamp1_ns)
        if isinstance(start, str) or isinstance(end, str):
            return _without(pose, next(why for why in (start, end) if isinstance(why, str)))
        mounted = np.eye(4) if self.camera_in_base is None else self.camera_in_base
        motion = inverse(start @ mounted) @ end @ mounted
        length = float(np.linalg.norm(motion[:3, 3]))
        return with_length(pose, length, max(self.config.scale_error * length, _FLOOR_M), self._name)

    def _add(self, stamp: int, next_pose: Callable[[FloatArray | None, float], FloatArray]) -> None:
        """Append what ``next_pose`` makes of the last pose and the seconds since."""
        with self._lock:
            last = self._stamps[-1] if self._stamps else None
            if last is not None and stamp <= last:
                if last - stamp < ANEW_NS:
                    return
                self._stamps.clear()
                self._poses.clear()
                last = None
            seconds = 0.0 if last is None else (stamp - last) / 1e9
            pose = next_pose(None if last is None else self._poses[-1], seconds)
            self._stamps.append(stamp)
            self._poses.append(pose)

    def _at(self, stamp: int) -> FloatArray | str:
        """(4, 4) at a stamp, at a constant twist between its neighbours or a little beyond them; or why not."""
        with self._lock:
            stamps = list(self._stamps)
            if len(stamps) < 2:
                return f"{len(stamps)} messages of {self._name} so far, expected 2 at least; check its topic"
            beyond_s = max(stamps[0] - stamp, stamp - stamps[-1]) / 1e9
            if beyond_s > self.config.scale_gap_s:
                return (
                    f"the image is {beyond_s:.3f} s beyond the messages of {self._name}, expected "
                    f"{self.config.scale_gap_s:g} s at most (odometry.scale_gap_s); check its rate and its clock"
                )
            after = min(max(bisect_left(stamps, stamp), 1), len(stamps) - 1)
            first, second = self._poses[after - 1], self._poses[after]
            apart = stamps[after] - stamps[after - 1]
        part = (stamp - stamps[after - 1]) / apart
        return first @ exponential(part * logarithm(inverse(first) @ second))


class OdometryScale(_Motion):
    """How far the camera moved by a nav_msgs/Odometry.

    Args:
        camera_in_base: (4, 4) camera (optical) to the child frame of that odometry. Without it the camera is taken to
            move as far as the child frame, which is wrong in a bend for a camera away from its axis.
    """

    _name = "odometry"

    def take(self, message: Any) -> None:
        """See :class:`ScaleSource`."""
        at, turned = message.pose.pose.position, message.pose.pose.orientation
        quaternion = np.array([turned.x, turned.y, turned.z, turned.w])
        position = np.array([at.x, at.y, at.z])
        if not ((np.abs(position) <= _MOST).all() and 0.5 < np.linalg.norm(quaternion.clip(-2, 2)) < 2):
            raise ImageError(
                f"odometry at {position.tolist()} with orientation {quaternion.tolist()} (x y z w): expected metres "
                f"within {_MOST:g} and a unit quaternion; it is lost, or its driver is at fault"
            )
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = quaternion_to_matrix(quaternion), position
        self._add(valid_stamp_ns(message.header), lambda last, seconds: pose)


class TwistScale(_Motion):
    """How far the camera moved by a geometry_msgs/TwistStamped; arguments as of :class:`OdometryScale`."""

    _name = "twist"

    def take(self, message: Any) -> None:
        """See :class:`ScaleSource`."""
        linear, angular = message.twist.linear, message.twist.angular
        twist = np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])
        if not (np.abs(twist) <= _MOST).all():
            raise ImageError(f"twist {twist.tolist()}: expected m/s and rad/s within {_MOST:g}; check its driver")

        def step(last: FloatArray | None, seconds: float) -> FloatArray:
            return np.eye(4) if last is None else last @ exponential(seconds * twist)

        self._add(valid_stamp_ns(message.header), step)


class DepthPairs(Protocol):
    """Which depth image belongs to which image: the nearest stamp, and not further off than the slop.

    Images never wait for it. Safe to use from any thread.
    """

    name: str

    def add_image(self, header: Any, slop_ns: int) -> None:
        """An image with this std_msgs/Header came in."""

    def add_depth(self, message: Any, slop_ns: int) -> None:
        """A depth image came in, before or after its image."""

    def find(self, stamp_ns: int, slop_ns: int) -> Any | None:
        """The depth image of the image of this stamp; None where there is none so far."""


class NearestStamp:
    """The newest :data:`DEPTHS` depth images, asked for the nearest; a :class:`DepthPairs`."""

    name = "the nearest stamp"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, Any]] = deque(maxlen=DEPTHS)

    def add_image(self, header: Any, slop_ns: int) -> None:
        """Nothing: it is found when it is asked for."""

    def add_depth(self, message: Any, slop_ns: int) -> None:
        """See :class:`DepthPairs`."""
        stamp = valid_stamp_ns(message.header)
        with self._lock:
            if self._waiting and stamp < self._waiting[-1][0] - ANEW_NS:
                self._waiting.clear()
            self._waiting.append((stamp, message))

    def find(self, stamp_ns: int, slop_ns: int) -> Any | None:
        """See :class:`DepthPairs`."""
        with self._lock:
            nearest = min(self._waiting, key=lambda one: abs(one[0] - stamp_ns), default=None)
        return nearest[1] if nearest is not None and abs(nearest[0] - stamp_ns) <= slop_ns else None


class DepthScale:
    """The depth that aligned depth images (REP-118) give the reference's matches.

    Attributes:
        pairs: may be replaced before the first message.
    """

    def __init__(self, config: OdometryConfig, camera_in_base: FloatArray | None = None) -> None:
        self.config = config
        self.camera_in_base = camera_in_base
        self.pairs: DepthPairs = NearestStamp()
        self._remembered: tuple[int, Any] | None = None  # of the reference, by its stamp
        self._kept: tuple[int, Float32Array | str] | None = None  # the same decoded, or why not

    def take_image(self, header: Any) -> None:
        """An image came in, whatever becomes of it."""
        self.pairs.add_image(header, self._slop_ns)

    def take(self, message: Any) -> None:
        """See :class:`ScaleSource`; looked at now, decoded when it is needed."""
        check_depth(message)
        self.pairs.add_depth(message, self._slop_ns)

    def find(self, stamp_ns: int) -> Any | None:
        """The depth image of the image of this stamp; None where there is none so far."""
        return self.pairs.find(stamp_ns, self._slop_ns)

    def remember(self, stamp_ns: int) -> None:
        """See :class:`ScaleSource`; the depth may still be on its way."""
        message = self.find(stamp_ns)
        self._remembered = None if message is None else (stamp_ns, message)

    def estimate(self, pair: Pair, config: PoseConfig) -> RelativePose:
        """See :class:`ScaleSource`."""
        found = self._depth(pair.stamp0_ns) if pair.depth0 is None else pair.depth0
        if not isinstance(found, str):
            try:
                return estimate_metric_pose(pair.matches, pair.camera0, pair.camera1, found, config, self._noise)
            except ImageError as fault:  # it is not of the image's size
                found = str(fault)
        pose = estimate_relative_pose(pair.matches, pair.camera0, pair.camera1, config)
        return _without(pose, found) if pose.status.has_translation else pose

    def _depth(self, stamp: int) -> Float32Array | str:
        """The depth of the reference, or why there is none."""
        if self._kept is None or self._kept[0] != stamp:
            remembered, message = self._remembered or (None, None)
            if remembered != stamp:
                message = self.find(stamp)
            if message is None:
                return (
                    f"no depth image within {self.config.depth_slop_s:g} s of the reference's stamp "
                    "(odometry.depth_slop_s); check its topic and that its stamps are the image's"
                )
            try:
                self._kept = stamp, decode_depth(message)
            except ImageError as fault:
                self._kept = stamp, str(fault)
        return self._kept[1]

    @property
    def _noise(self) -> DepthNoise:
        config = self.config
        return DepthNoise(config.depth_noise_m, config.depth_noise_share, config.depth_noise_quadratic)

    @property
    def _slop_ns(self) -> int:
        return round(self.config.depth_slop_s * 1e9)


#: by the setting ``odometry.scale``: the source, and the ROS types of its messages
SOURCES: dict[str, tuple[Callable[[OdometryConfig, FloatArray | None], ScaleSource], tuple[str, ...]]] = {
    "depth": (DepthScale, ("sensor_msgs/msg/Image",)),
    "odometry": (OdometryScale, ("nav_msgs/msg/Odometry",)),
    "twist": (TwistScale, ("geometry_msgs/msg/TwistStamped",)),
    "stereo": (StereoScale, ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")),
}
