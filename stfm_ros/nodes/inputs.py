"""What the node subscribes to: images and, with the same QoS, their camera_info; watched for silence."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from stfm_ros.config import NodeConfig
from stfm_ros.frames import Frame
from stfm_ros.messages import camera_info_topic
from stfm_ros.nodes.watchdog import InputWatch

_NO_IMAGE = "remap image:=<topic> (`ros2 topic list` shows them), set node.compressed for compressed images"
_NO_INFO = "relative poses need it: remap camera_info:=<topic>, or start the camera with a calibration"


class Inputs:
    """The two subscriptions, from construction to :meth:`close`.

    Args:
        on_frame: called with each image and the newest camera_info, in the thread of the executor.
    """

    def __init__(self, node: Node, config: NodeConfig, on_frame: Callable[[Frame], None]) -> None:
        self._node = node
        self._on_frame = on_frame
        self._info: CameraInfo | None = None
        image_class = CompressedImage if config.compressed else Image
        reliability = ReliabilityPolicy.RELIABLE if config.reliability == "reliable" else ReliabilityPolicy.BEST_EFFORT
        # The newest image is kept by the worker, which counts what it drops. A queue of one here would drop without a
        # word whenever the executor is late; since the callback never waits, this one does not add to the delay.
        qos = QoSProfile(depth=5, reliability=reliability)
        self.image_topic, self.info_topic = input_topics(node, config.compressed)

        def watch(topic: str, message_class: type[Any], remedy: str) -> InputWatch:
            kind = f"sensor_msgs/msg/{message_class.__name__}"
            return InputWatch(node, topic, kind, qos, config.input_timeout_s, remedy)

        self._image_watch = watch(self.image_topic, image_class, _NO_IMAGE)
        self._info_watch = watch(self.info_topic, CameraInfo, _NO_INFO)
        self._subscriptions = [
            node.create_subscription(image_class, self.image_topic, self._take_image, qos),
            node.create_subscription(CameraInfo, self.info_topic, self._take_info, qos),
        ]

    def silence(self) -> dict[str, str]:
        """Why nothing arrives, by topic; empty where both do."""
        found = {watch.topic: watch.silence() for watch in (self._image_watch, self._info_watch)}
        return {topic: text for topic, text in found.items() if text}

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _take_info(self, msg: CameraInfo) -> None:
        self._info_watch.seen()
        self._info = msg

    def _take_image(self, msg: Any) -> None:
        self._image_watch.seen()
        self._on_frame(Frame(msg, self._info, time.monotonic()))


def input_topics(node: Node, compressed: bool) -> tuple[str, str]:
    """The topics of the images and of their camera_info after remapping.

    As in image_transport, a remapping of ``image`` moves its transports and the camera_info beside it along; a
    remapping of ``camera_info`` goes before that.
    """
    base = node.resolve_topic_name("image")
    info = node.resolve_topic_name("camera_info")
    if info == node.resolve_topic_name("camera_info", only_expand=True):
        info = camera_info_topic(base)
    return (f"{base}/compressed" if compressed else base), info
