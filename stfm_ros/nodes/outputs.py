"""What the node publishes of a track: correspondences, the relative pose, and a picture where somebody looks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import cv2
import numpy as np
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import Image

from stfm_ros import messages
from stfm_ros.config import NodeConfig
from stfm_ros.msg import Correspondences, RelativePose
from stfm_ros.nodes.conversion import to_ros
from stfm_ros.visualise import draw_matches

if TYPE_CHECKING:
    from stfm_ros.tracker import Track


class Outputs:
    """The publishers, from construction to :meth:`close`; silent while the node is not active.

    Args:
        model_name, weights_hash: go into each message.
    """

    def __init__(self, node: LifecycleNode, config: NodeConfig, model_name: str, weights_hash: str) -> None:
        self._node = node
        self._config = config
        self._model = (model_name, weights_hash)
        self._correspondences = node.create_lifecycle_publisher(Correspondences, "matches", 10)
        self._pose = node.create_lifecycle_publisher(RelativePose, "relative_pose", 10)
        self._picture = node.create_lifecycle_publisher(Image, "matches/image", 1)
        self._last_picture = -np.inf

    def publish(self, track: Track) -> None:
        """Publish correspondences and pose, with the stamp of the image."""
        self._correspondences.publish(to_ros(Correspondences, messages.correspondences(track, *self._model)))
        self._pose.publish(to_ros(RelativePose, messages.relative_pose(track)))

    def draw(self, track: Track) -> None:
        """Draw and publish the matches, if somebody subscribes and it is time for a picture."""
        now = time.monotonic()
        due = now - self._last_picture >= self._config.debug_image_period_s
        if not due or not self._picture.get_subscription_count():
            return
        self._last_picture = now
        pose = track.pose
        title = f"{pose.status.name}  {int(np.count_nonzero(pose.inliers))} inliers of {len(track.matches)} matches"
        picture = draw_matches(track.image0, track.image1, track.matches, pose.inliers, title)
        width = self._config.debug_image_width
        height = max(1, round(picture.shape[0] * width / picture.shape[1]))
        picture = np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        self._picture.publish(to_ros(Image, messages.image(track.stamp_ns, track.frame_id, picture)))

    def close(self) -> None:
        """Take the topics back."""
        for publisher in (self._correspondences, self._pose, self._picture):
            self._node.destroy_lifecycle_publisher(publisher)
