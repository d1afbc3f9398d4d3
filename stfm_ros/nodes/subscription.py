"""Subscriptions that no message can bring down, and that tell what was lost on the way.

An exception in a callback ends ``rclpy.spin``, and with it the node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

Fault = Callable[[str, str], None]


def guarded(callback: Callable[..., Any], fault: Fault, what: str) -> Callable[..., Any]:
    """A callback whose exceptions are told as faults of the kind ``internal``.

    Args:
        what: it was called with, e.g. ``a message on /image``.
    """

    def call(*arguments: Any) -> Any:
        try:
            return callback(*arguments)
        except Exception as raised:  # the node must outlive whatever one call does
            fault("internal", f"{type(raised).__name__}: {raised}; please report this with {what}")
            return None

    return call


def subscribe_guarded(
    node: Node,
    message_class: type[Any],
    topic: str,
    qos: QoSProfile,
    take: Callable[[Any], None],
    lost: Callable[[int], None],
    fault: Fault,
) -> Any:
    """A subscription.

    Args:
        take: called with each message.
        lost: called with the number of messages that were sent and never came, where the middleware tells (Fast DDS
            and Cyclone DDS do, of best effort).
        fault: told what either of them raises.
    """

    def told(event: Any) -> None:
        lost(int(event.total_count_change))

    take, told = (guarded(call, fault, f"a message on {topic}") for call in (take, told))
    try:
        events = SubscriptionEventCallbacks(message_lost=told)
        return node.create_subscription(message_class, topic, take, qos, event_callbacks=events)
    except UnsupportedEventTypeError:
        return node.create_subscription(message_class, topic, take, qos)
