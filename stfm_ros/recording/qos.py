"""QoS profiles as rosbag2 stores them, in the layout that Humble, Jazzy and later ones read (metadata version 8)."""

from __future__ import annotations

from typing import Any

from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2.metadata import dump_qos_v8

#: RMW_DURATION_INFINITE
_FOREVER = QosTime(9223372036, 854775807)


def make_qos(reliable: bool = True, transient_local: bool = False, depth: int = 10) -> Qos:
    """A profile without deadlines; the default is ROS's default, ``reliable=False`` is like its sensor data."""
    return Qos(
        QosHistory.KEEP_LAST,
        depth,
        QosReliability.RELIABLE if reliable else QosReliability.BEST_EFFORT,
        QosDurability.TRANSIENT_LOCAL if transient_local else QosDurability.VOLATILE,
        _FOREVER,
        _FOREVER,
        QosLiveliness.AUTOMATIC,
        _FOREVER,
        False,
    )


def qos_of(profile: Any) -> Qos:
    """From an ``rclpy.qos.QoSProfile``, e.g. of a publisher as ``get_publishers_info_by_topic`` gives it."""
    return Qos(
        QosHistory(int(profile.history)),
        int(profile.depth),
        QosReliability(int(profile.reliability)),
        QosDurability(int(profile.durability)),
        _time(profile.deadline),
        _time(profile.lifespan),
        QosLiveliness(int(profile.liveliness)),
        _time(profile.liveliness_lease_duration),
        bool(profile.avoid_ros_namespace_conventions),
    )


def qos_text(qos: Qos) -> str:
    """The YAML list of one profile that rosbag2 keeps with a topic."""
    return dump_qos_v8([qos])


def _time(duration: Any) -> QosTime:
    return QosTime(*divmod(int(duration.nanoseconds), 1_000_000_000))
