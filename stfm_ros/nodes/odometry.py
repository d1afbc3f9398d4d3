"""Odometry in the node: its source of metres, where the camera is mounted, and what is said where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from rclpy.node import Node
from rclpy.time import Time

from stfm_ros.config import AppConfig
from stfm_ros.errors import RosNotAvailable
from stfm_ros.odometry import Estimate, Odometer
from stfm_ros.rotation import quaternion_to_matrix
from stfm_ros.scale import SOURCES, ScaleSource
from stfm_ros.types import FloatArray

if TYPE_CHECKING:
    from stfm_ros.tracker import Track

NO_FRAME = (
    "no odometry: the images have no frame_id, so nothing can be said of where the camera is; set it in the driver "
    "(its parameter is often frame_id or camera_frame)"
)
NO_SCALE = (
    "no odometry: one camera sees no length and odometry.scale is none; set it to depth, stereo, odometry or twist, or "
    "set odometry.allow_unscaled for a trajectory whose unit is the first translation"
)


class NodeOdometry:
    """From tracks to estimates.

    Attributes:
        scale: the source of metres, for the tracker; None where there is none.

    Raises:
        RosNotAvailable: odometry.base_frame is set, but there is no tf2_ros.
    """

    def __init__(self, node: Node, config: AppConfig) -> None:
        self._config = config
        kind = config.odometry.scale
        self.scale: ScaleSource | None = None if kind == "none" else SOURCES[kind][0](config.odometry, None)
        self._mounting = Mounting(node, config.odometry.base_frame) if config.odometry.base_frame else None
        self._odometer: Odometer | None = None
        self._camera_frame = ""
        self._before = 0, 0  # restarts and gaps of the cameras before this one
        self._said: str | None = None
        self._log = node.get_logger()

    def configure(self, config: AppConfig) -> None:
        """Take settings that may change while the node runs."""
        self._config = config
        for part in (self.scale, self._odometer):
            if part is not None:
                part.config = config.odometry
        if self._odometer is not None:
            self._odometer.pose_config = config.pose

    @property
    def enabled(self) -> bool:
        """Whether there is any odometry."""
        return self.scale is not None or self._config.odometry.allow_unscaled

    @property
    def begun(self) -> bool:
        """Whether it knows all it needs, so that an image without odometry is a loss."""
        return self._odometer is not None

    @property
    def restarts(self) -> int:
        """How often it began anew."""
        return self._before[0] + (0 if self._odometer is None else self._odometer.restarts)

    @property
    def gaps(self) -> int:
        """How often the chain was interrupted."""
        return self._before[1] + (0 if self._odometer is None else self._odometer.gaps)

    def reset(self) -> None:
        """Begin anew at the origin; call it between two tracks."""
        if self._odometer is not None:
            self._odometer.reset()

    def add(self, track: Track) -> Estimate | None:
        """Odometry of an image; None where there is none."""
        if not self.enabled:
            self._say(NO_SCALE)
            return None
        if self._odometer is not None and track.frame_id != self._camera_frame:  # mounted elsewhere
            self._before = self.restarts + 1, self.gaps
            self._odometer = None
        if self._odometer is None and not self._begin(track.frame_id):
            return None
        assert self._odometer is not None
        return self._odometer.add(track, track.camera)

    def about(self) -> dict[str, str]:
        """Lines of /diagnostics."""
        if not self.enabled:
            return {"odometry": NO_SCALE}
        metres = "without metric scale" if self.scale is None else f"metric by {self._config.odometry.scale}"
        if self._odometer is None and self._said is not None:
            metres = self._said
        return {"odometry": metres, "odometry_gaps": str(self.gaps), "odometry_restarts": str(self.restarts)}

    def close(self) -> None:
        """Stop to listen to TF."""
        if self._mounting is not None:
            self._mounting.close()

    def _begin(self, camera_frame: str) -> bool:
        if not camera_frame:
            self._say(NO_FRAME)
            return False
        mounted = None
        if self._mounting is not None:
            found = self._mounting.find(camera_frame)
            if isinstance(found, str):
                self._say(found)
                return False
            mounted = found
            if self.scale is not None:
                self.scale.camera_in_base = mounted
        self._camera_frame = camera_frame
        self._odometer = Odometer(self._config.odometry, self._config.pose, mounted)
        base = self._config.odometry.base_frame or camera_frame
        self._say(f"odometry of {base} in {self._config.odometry.odom_frame}, {self.about()['odometry']}")
        return True

    def _say(self, text: str) -> None:
        """Log, once for each text in a row."""
        if text != self._said:
            self._said = text
            self._log.info(text)


class Mounting:
    """Where cameras are in the base, by TF.

    Raises:
        RosNotAvailable: there is no tf2_ros.
    """

    def __init__(self, node: Node, base_frame: str) -> None:
        try:
            import tf2_ros
        except ModuleNotFoundError as missing:
            raise RosNotAvailable(
                f"odometry.base_frame is {base_frame!r}, and TF tells where the camera is mounted, but {missing.name} "
                "cannot be imported: install ros-<distro>-tf2-ros-py, or leave odometry.base_frame empty for odometry "
                "of the camera itself"
            ) from None
        self._base_frame = base_frame
        self._buffer: Any = tf2_ros.Buffer()
        self._listener: Any = tf2_ros.TransformListener(self._buffer, node)
        self._fault: type[Exception] = tf2_ros.TransformException

    def close(self) -> None:
        """Unsubscribe."""
        self._listener.unregister()

    def find(self, camera_frame: str) -> FloatArray | str:
        """(4, 4) camera to base, or why it is not known."""
        try:
            found = self._buffer.lookup_transform(self._base_frame, camera_frame, Time())
        except self._fault as fault:
            return f"no odometry yet: TF does not join {self._base_frame!r} and {camera_frame!r} ({fault})"
        at, turned = found.transform.translation, found.transform.rotation
        pose = np.eye(4)
        pose[:3, :3] = quaternion_to_matrix(np.array([turned.x, turned.y, turned.z, turned.w]))
        pose[:3, 3] = at.x, at.y, at.z
        return pose
