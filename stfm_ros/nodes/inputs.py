"""What the node subscribes to: images, their camera_info with the same QoS, what gives the scale; all are watched."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from geometry_msgs.msg import TwistStamped
from nav_msgs.msg import Odometry
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from stfm_ros.config import AppConfig
from stfm_ros.errors import ImageError, StfmError
from stfm_ros.frames import Frame
from stfm_ros.messages import camera_info_topic
from stfm_ros.nodes.calibrations import WAIT_S, Calibrations
from stfm_ros.nodes.subscription import guarded, subscribe_guarded
from stfm_ros.nodes.synchronise import depth_pairs
from stfm_ros.nodes.watchdog import InputWatch
from stfm_ros.scale import DepthScale, ScaleSource

_NO_IMAGE = "remap image:=<topic> (`ros2 topic list` shows them), set node.compressed for compressed images"
_NO_SCALE = "odometry.scale asks for it: remap {0}:=<topic>, or set odometry.scale to none"
_NO_DEPTH = "metres come from it: remap depth:=<topic>; node.depth_transport says whether it is compressed"
_NO_INFO = "relative poses need it: remap camera_info:=<topic>, or start the camera with a calibration"


#: by odometry.scale: type and topic of the messages; stereo has two, see scale_topics
SCALE_TOPICS: dict[str, tuple[type[Any], str]] = {
    "depth": (Image, "depth"),
    "odometry": (Odometry, "scale/odometry"),
    "twist": (TwistStamped, "scale/twist"),
}


class Inputs:
    """The subscriptions, from construction to :meth:`close`.

    Args:
        on_frame: called with each image and the newest camera_info, in the thread of the executor.
        scale: given the messages of its topic.
        took: called with each message that it could use.
        fault: told the kind and the reason of a message that cannot be used.
        lost: told how many images were sent and never came.
    """

    def __init__(
        self,
        node: Node,
        config: AppConfig,
        on_frame: Callable[[Frame], None],
        scale: ScaleSource | None,
        took: Callable[[Any], None],
        fault: Callable[[str, str], None],
        lost: Callable[[int], None],
    ) -> None:
        self._node = node
        self._on_frame = on_frame
        self._scale = scale
        self._took = took
        self._fault = fault
        self._patience = node.create_timer(
            WAIT_S, guarded(self._give_up, fault, "the image"), clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._patience.cancel()
        self._calibrations = Calibrations(self._deliver, self._patience.reset)
        self._watches: list[InputWatch] = []
        self._subscriptions: list[Any] = []
        # What waits is kept by the worker, which counts what it drops. A queue of one here would drop without a word
        # whenever the executor is late; since the callback never waits, this one does not add to the delay. Who asks
        # for reliable wants every image counted: half a second of 60 Hz finds room.
        depth = 30 if config.node.reliability == "reliable" else 5
        if config.node.policy == "keep_all":
            depth = max(depth, config.node.queue)
        timeout_s = config.node.input_timeout_s

        def subscribe(
            message_class: type[Any],
            topic: str,
            reliability: str,
            setting: str,
            remedy: str,
            take: Callable[[Any], None],
        ) -> None:
            reliable = ReliabilityPolicy.RELIABLE if reliability == "reliable" else ReliabilityPolicy.BEST_EFFORT
            qos = QoSProfile(depth=depth, reliability=reliable)
            kind = f"{message_class.__module__.partition('.')[0]}/msg/{message_class.__name__}"
            watch = InputWatch(node, topic, kind, qos, timeout_s, remedy, setting)

            def arrived(message: Any) -> None:
                watch.seen()
                take(message)

            def missed(number: int) -> None:
                watch.missed(number)
                if take == self._take_image:
                    lost(number)

            self._watches.append(watch)
            self._subscriptions.append(subscribe_guarded(node, message_class, topic, qos, arrived, missed, fault))

        self.image_topic, self.info_topic = input_topics(node, config.node.compressed)
        image_class = CompressedImage if config.node.compressed else Image
        of_image = config.node.reliability, "node.reliability"
        subscribe(image_class, self.image_topic, *of_image, _NO_IMAGE, self._take_image)
        subscribe(CameraInfo, self.info_topic, *of_image, _NO_INFO, self._calibrations.take_info)
        self.scale_topic = ""
        if isinstance(scale, DepthScale):
            scale.pairs = depth_pairs()
            node.get_logger().info(f"depth is brought to its image by {scale.pairs.name}")
        if scale is not None:
            of_scale = config.node.scale_reliability, "node.scale_reliability"
            topics = scale_topics(node, config)
            self.scale_topic = topics[0][1]
            for scale_class, topic, name in topics:
                remedy = _NO_DEPTH if name == "depth" else _NO_SCALE.format(name)
                subscribe(scale_class, topic, *of_scale, remedy, self._take_scale)

    def silence(self) -> dict[str, str]:
        """Why nothing arrives, by topic; empty where all do."""
        found = {watch.topic: watch.silence() for watch in self._watches}
        return {topic: text for topic, text in found.items() if text}

    def close(self) -> None:
        """Unsubscribe."""
        self._calibrations.give_up()
        self._node.destroy_timer(self._patience)
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _take_scale(self, msg: Any) -> None:
        assert self._scale is not None
        try:
            self._scale.take(msg)
        except StfmError as fault:
            self._fault("scale", str(fault))
        else:
            self._took(msg)

    def _take_image(self, msg: Any) -> None:
        if isinstance(self._scale, DepthScale):
            with suppress(ImageError):  # of its stamp, which whoever takes the image tells
                self._scale.take_image(msg.header)
        self._calibrations.take_image(msg)

    def _give_up(self) -> None:
        self._patience.cancel()  # until the next image waits
        self._calibrations.give_up()

    def _deliver(self, image: Any, info: Any, received_s: float) -> None:
        self._on_frame(Frame(image, info, received_s))


def scale_topics(node: Node, config: AppConfig) -> list[tuple[type[Any], str, str]]:
    """Of the messages that odometry.scale asks for: type, topic after remapping, and the name to remap."""
    if config.odometry.scale != "stereo":
        kind, name = SCALE_TOPICS[config.odometry.scale]
        topic = node.resolve_topic_name(name)
        if config.odometry.scale == "depth" and config.node.depth_transport != "raw":
            kind, topic = CompressedImage, f"{topic}/{config.node.depth_transport}"
        return [(kind, topic, name)]
    images, info = input_topics(node, config.node.compressed, "right/")
    image_class = CompressedImage if config.node.compressed else Image
    return [(image_class, images, "right/image"), (CameraInfo, info, "right/camera_info")]


def input_topics(node: Node, compressed: bool, prefix: str = "") -> tuple[str, str]:
    """The topics of the images and of their camera_info after remapping; those of the second camera by its prefix.

    As in image_transport, a remapping of ``image`` moves its transports and the camera_info beside it along; a
    remapping of ``camera_info`` goes before that.
    """
    base = node.resolve_topic_name(f"{prefix}image")
    info = node.resolve_topic_name(f"{prefix}camera_info")
    if info == node.resolve_topic_name(f"{prefix}camera_info", only_expand=True):
        info = camera_info_topic(base)
    return (f"{base}/compressed" if compressed else base), info
