"""Says why an input is silent: its topic, the QoS asked for, who publishes, and what most likely is wrong."""

from __future__ import annotations

import os
import time

from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible

#: how rmw names the node of a publisher that has gone without a word, or that is not fully known yet
UNKNOWN_NODE = "_NODE_NAME_UNKNOWN_"
_SETTINGS = {ReliabilityPolicy.RELIABLE: "reliable", ReliabilityPolicy.BEST_EFFORT: "best_effort"}


class InputWatch:
    """Watches one subscription.

    Args:
        topic: fully qualified name.
        type_name: e.g. ``sensor_msgs/msg/Image``.
        remedy: what to do where nobody publishes the topic.
        setting: the parameter of its reliability; the one of compressed images is beside it.
    """

    def __init__(
        self, node: Node, topic: str, type_name: str, qos: QoSProfile, timeout_s: float, remedy: str, setting: str
    ) -> None:
        self.topic = topic
        self._node = node
        self._type_name = type_name
        self._qos = qos
        self._timeout_s = timeout_s
        self._remedy = remedy
        self._setting = setting
        self._compressed = f"{setting.partition('.')[0]}.compressed"
        self._last = time.monotonic()
        self._missed = 0

    def missed(self, number: int) -> None:
        """So many messages were sent and never came."""
        self._missed += number

    def seen(self) -> None:
        """A message came in."""
        self._last = time.monotonic()
        self._missed = 0

    def silence(self) -> str:
        """Why there is no message; empty while there are messages, or not yet too long none."""
        silent_s = time.monotonic() - self._last
        if silent_s < self._timeout_s:
            return ""
        return (
            f"no message on {self.topic} for {silent_s:.1f} s ({self._type_name}, {_reliability(self._qos)}): "
            f"{self._cause()}"
        )

    def _cause(self) -> str:
        found = self._node.get_publishers_info_by_topic(self.topic)
        publishers = [one for one in found if one.node_name != UNKNOWN_NODE]
        if found and not publishers:
            return "its publisher has ended, or is just starting; start the driver again if it does not by itself"
        if not publishers:
            domain = os.environ.get("ROS_DOMAIN_ID", "0")
            return f"nobody publishes it; {self._remedy}, or check that ROS_DOMAIN_ID={domain} is the publisher's"
        for publisher in publishers:
            name = f"{publisher.node_namespace.rstrip('/')}/{publisher.node_name}"
            if publisher.topic_type != self._type_name:
                return f"{name} publishes {publisher.topic_type} there; {self._remedy}"
            compatibility, reason = qos_check_compatible(publisher.qos_profile, self._qos)
            if compatibility == QoSCompatibility.ERROR:
                offered = _reliability(publisher.qos_profile)
                return f"{name} offers {offered}; set {self._setting} to {offered} ({reason.strip('; ')})"
        if self._missed:
            return (
                f"{self._missed} messages were sent in this time and lost on the way: use config/fastdds_shm.xml in "
                f"both processes, or {self._compressed}"
            )
        names = ", ".join(f"{one.node_namespace.rstrip('/')}/{one.node_name}" for one in publishers)
        return (
            f"{names} publishes it with a fitting QoS, yet nothing arrives: the driver or the bag may be paused, or "
            f"large messages are lost on the way (use config/fastdds_shm.xml, or {self._compressed})"
        )


def _reliability(qos: QoSProfile) -> str:
    return _SETTINGS.get(qos.reliability, str(qos.reliability))
