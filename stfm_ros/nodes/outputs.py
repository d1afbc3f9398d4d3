"""What the node publishes of a track and its odometry; each message is built only while somebody subscribes."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped
from nav_msgs.msg import Odometry, Path
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import Image, PointCloud2

from stfm_ros import messages
from stfm_ros.config import AppConfig
from stfm_ros.errors import RosNotAvailable
from stfm_ros.msg import Correspondences, RelativePose
from stfm_ros.nodes.conversion import to_ros
from stfm_ros.types import PoseStatus
from stfm_ros.visualise import draw_matches

if TYPE_CHECKING:
    from stfm_ros.odometry import Estimate
    from stfm_ros.tracker import Track

#: by the name of the switch in ``outputs``: type, topic, depth of the queue
TOPICS: dict[str, tuple[type[Any], str, int]] = {
    "matches": (Correspondences, "matches", 10),
    "relative_pose": (RelativePose, "relative_pose", 10),
    "odometry": (Odometry, "odometry", 10),
    "pose": (PoseWithCovarianceStamped, "pose", 10),
    "path": (Path, "path", 1),
    "points": (PointCloud2, "points", 1),
    "picture": (Image, "matches/image", 1),
}


class Outputs:
    """The publishers, from construction to :meth:`close`; silent while the node is not active.

    Args:
        model_name, weights_hash: go into each message.

    Raises:
        RosNotAvailable: outputs.tf is set, but there is no tf2_msgs.
    """

    def __init__(self, node: LifecycleNode, config: AppConfig, model_name: str, weights_hash: str) -> None:
        self._node = node
        self._config = config
        self._model = (model_name, weights_hash)
        self._transforms = _transforms(node) if config.outputs.tf else None
        self._publishers = {
            name: node.create_lifecycle_publisher(kind, topic, depth) for name, (kind, topic, depth) in TOPICS.items()
        }
        self._way = _Way(config.odometry.path_length)
        self._last_picture = -np.inf

    def configure(self, config: AppConfig) -> None:
        """Take settings that may change while the node runs."""
        self._config = config

    def publish(self, track: Track) -> None:
        """Publish correspondences and pose, with the stamp of the image."""
        if self._wanted("matches"):
            self._publish("matches", messages.correspondences(track, *self._model))
        if self._wanted("relative_pose"):
            self._publish("relative_pose", messages.relative_pose(track))

    def publish_odometry(self, track: Track, estimate: Estimate) -> None:
        """Publish what is made of an estimate."""
        frame = self._config.odometry.odom_frame
        if self._transforms is not None:
            self._transforms(messages.transform(estimate, frame))
        if self._wanted("odometry"):
            self._publish("odometry", messages.odometry(estimate, frame))
        if self._wanted("pose"):
            self._publish("pose", messages.pose_with_covariance(estimate, frame))
        self._way.add(messages.pose_stamped(estimate.stamp_ns, frame, estimate.pose))
        if self._wanted("path"):
            path = to_ros(Path, {"header": messages.header(estimate.stamp_ns, frame)})
            path.poses = self._way.messages()
            self._publishers["path"].publish(path)
        if len(estimate.placed.points) and self._wanted("points"):
            self._publish("points", messages.point_cloud(track, estimate))

    def publish_lost(self, track: Track) -> None:
        """Say that there is no odometry of an image, where ``node.when_lost`` wants it said."""
        if self._config.node.when_lost == "silence" or track.pose.status is PoseStatus.NO_REFERENCE:
            return
        frame = self._config.odometry.odom_frame
        child = self._config.odometry.base_frame or track.frame_id
        if self._wanted("odometry"):
            self._publish("odometry", messages.lost_odometry(track.stamp_ns, frame, child))
        if self._wanted("pose"):
            self._publish("pose", messages.lost_pose(track.stamp_ns, frame))

    def forget_path(self) -> None:
        """Begin the path anew."""
        self._way.clear()

    def draw(self, track: Track) -> None:
        """Draw and publish the matches, if somebody subscribes and it is time for a picture."""
        now = time.monotonic()
        due = now - self._last_picture >= self._config.node.debug_image_period_s
        if not due or not self._wanted("picture"):
            return
        self._last_picture = now
        pose = track.pose
        title = f"{pose.status.name}  {int(np.count_nonzero(pose.inliers))} inliers of {len(track.matches)} matches"
        picture = draw_matches(track.image0, track.image1, track.matches, pose.inliers, title)
        width = self._config.node.debug_image_width
        height = max(1, round(picture.shape[0] * width / picture.shape[1]))
        picture = np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        self._publish("picture", messages.image(track.stamp_ns, track.frame_id, picture))

    def close(self) -> None:
        """Take the topics back."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        if self._transforms is not None:
            self._transforms.close()

    def _wanted(self, name: str) -> bool:
        return bool(getattr(self._config.outputs, name) and self._publishers[name].get_subscription_count())

    def _publish(self, name: str, fields: messages.Fields) -> None:
        self._publishers[name].publish(to_ros(TOPICS[name][0], fields))


class _Way:
    """The newest poses; their messages are made once, and only where somebody wants them."""

    def __init__(self, length: int) -> None:
        self._fields: deque[messages.Fields] = deque(maxlen=length)  # newer than those of which there is a message
        self._made: deque[PoseStamped] = deque(maxlen=length)

    def add(self, fields: messages.Fields) -> None:
        self._fields.append(fields)

    def messages(self) -> list[PoseStamped]:
        self._made.extend(to_ros(PoseStamped, fields) for fields in self._fields)
        self._fields.clear()
        return list(self._made)

    def clear(self) -> None:
        self._fields.clear()
        self._made.clear()


class _Transforms:
    """Publishes on /tf, with the queue that tf2 has."""

    def __init__(self, node: LifecycleNode, message_class: type[Any]) -> None:
        self._node = node
        self._class = message_class
        self._publisher = node.create_lifecycle_publisher(message_class, "/tf", 100)

    def __call__(self, fields: messages.Fields) -> None:
        self._publisher.publish(to_ros(self._class, {"transforms": [fields]}))

    def close(self) -> None:
        self._node.destroy_lifecycle_publisher(self._publisher)


def _transforms(node: LifecycleNode) -> _Transforms:
    try:
        from tf2_msgs.msg import TFMessage
    except ModuleNotFoundError as missing:
        raise RosNotAvailable(
            f"outputs.tf is set, but {missing.name} cannot be imported: install ros-<distro>-tf2-msgs, or leave "
            "outputs.tf false"
        ) from None
    return _Transforms(node, TFMessage)
