"""Which topics a recorder wants, by its parameters: names after remapping, types, and what each is to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rclpy.exceptions import InvalidTopicNameException
from rclpy.node import Node
from rclpy.validate_topic_name import validate_topic_name

from stfm_ros.bag_types import CORRESPONDENCES_TYPE, RELATIVE_POSE_TYPE, STUDENT_CHECK_TYPE
from stfm_ros.bags import CAMERA_INFO_TYPE, IMAGE_TYPES
from stfm_ros.errors import ConfigError
from stfm_ros.messages import camera_info_topic
from stfm_ros.recording.config import TopicsConfig
from stfm_ros.recording.pairing import Role


@dataclass(frozen=True)
class Wanted:
    """A topic that is to be recorded.

    Attributes:
        name: fully qualified.
        type: e.g. ``sensor_msgs/msg/Image``; empty is whatever its publisher says.
        setting: the parameter that asks for it.
        required: whether a recording without it is worth nothing.
    """

    name: str
    type: str
    role: Role
    setting: str
    required: bool = False

    @property
    def remedy(self) -> str:
        """What to do where nobody publishes it."""
        if self.setting == "topics.depth":
            return "set topics.depth to its topic (`ros2 topic list` shows them), or leave it empty to record without"
        if self.setting in ("topics.image", "topics.camera_info"):
            return f"set {self.setting} to its topic (`ros2 topic list` shows them), and topics.compressed"
        return f"start what publishes it, or take it out of {self.setting}"


def wanted_topics(node: Node, config: TopicsConfig) -> list[Wanted]:
    """All of them, the image first.

    Raises:
        ConfigError: lists every name that is no topic name, missing or given twice.
    """
    faults: list[str] = []
    found: dict[str, Wanted] = {}

    def want(setting: str, given: str, type_name: str, role: Role, suffix: str = "", required: bool = False) -> None:
        name = given.strip() and _resolved(node, given.strip(), f"topics.{setting}", faults.append)
        if not name:
            return
        wanted = Wanted(name + suffix, type_name, role, f"topics.{setting}", required)
        if wanted.name in found:
            faults.append(f"topics.{setting}: {wanted.name} is asked for by {found[wanted.name].setting} already")
        found.setdefault(wanted.name, wanted)

    if not config.image.strip():
        faults.append("topics.image: is empty; name the topic of the images, every frame begins with one")
    suffix = "/compressed" if config.compressed else ""
    want("image", config.image, IMAGE_TYPES[config.compressed], Role.IMAGE, suffix, True)
    want("camera_info", _camera_info(node, config, found), CAMERA_INFO_TYPE, Role.WITH_FRAME, required=True)
    raw = config.depth_transport == "raw"
    want("depth", config.depth, IMAGE_TYPES[not raw], Role.DEPTH, "" if raw else f"/{config.depth_transport}", True)
    want("relative_pose", config.relative_pose, RELATIVE_POSE_TYPE, Role.ALWAYS)
    want("student_check", config.student_check, STUDENT_CHECK_TYPE, Role.ALWAYS)
    want("matches", config.matches, CORRESPONDENCES_TYPE, Role.WITH_FRAME)
    for name in config.extra.split(","):
        want("extra", name, "", Role.ALWAYS)
    if faults:
        raise ConfigError("\n".join(["the configuration has faults:", *(f"  {fault}" for fault in faults)]))
    return list(found.values())


def _camera_info(node: Node, config: TopicsConfig, found: dict[str, Wanted]) -> str:
    """As in image_transport it lies beside the images, unless it is set or remapped."""
    left_alone = config.camera_info == TopicsConfig.camera_info
    if left_alone and found:
        name = node.resolve_topic_name(config.camera_info)
        if name == node.resolve_topic_name(config.camera_info, only_expand=True):
            return camera_info_topic(node.resolve_topic_name(config.image))
    return config.camera_info


def _resolved(node: Node, name: str, setting: str, fault: Callable[[str], None]) -> str:
    try:
        validate_topic_name(name)
        return str(node.resolve_topic_name(name))
    except InvalidTopicNameException as invalid:
        fault(f"{setting}: {name!r} is no name of a topic: {str(invalid).splitlines()[0]}")
        return ""
