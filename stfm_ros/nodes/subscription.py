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
    raw: bool = False,
) -> Any:
    """A subscription.

    Args:
        take: called with each message.
        lost: called with the number of messages that were sent and never came, as far as that is known.
        fault: told what either of them raises.
        raw: whether messages are handed over as CDR bytes.
    """
    losses = Losses(lost, lambda: node.count_publishers(topic) == 1)
    what = f"a message on {topic}"
    safe_take, safe_told, safe_came = (guarded(call, fault, what) for call in (take, losses.told, losses.came))

    def taken(message: Any, about: Any) -> None:  # rclpy counts the parameters
        safe_came(about.get("publication_sequence_number"))
        safe_take(message)

    def told(event: Any) -> None:
        safe_told(int(event.total_count_change))

    try:
        events = SubscriptionEventCallbacks(message_lost=told)
        return node.create_subscription(message_class, topic, taken, qos, event_callbacks=events, raw=raw)
    except UnsupportedEventTypeError:
        return node.create_subscription(message_class, topic, taken, qos, raw=raw)


class Losses:
    """Counts messages that were sent and never came.

    The middleware tells of those that it lost on the way (Fast DDS, Cyclone DDS: best effort), but not of those that
    came and made way for newer ones, because this process had no time to take them. The numbers that a publisher gives
    its messages tell of both, where the middleware has them; but not whose they are, so only of a single publisher.

    Args:
        lost: called with a number of messages.
        alone: whether there is one publisher.
    """

    def __init__(self, lost: Callable[[int], None], alone: Callable[[], bool]) -> None:
        self._lost = lost
        self._alone = alone
        self._last: int | None = None
        self._told = 0  # and not yet seen as a gap in the numbers
        self._seen = 0  # as gaps, and not yet told

    def told(self, number: int) -> None:
        """The middleware lost so many."""
        known = min(number, self._seen)  # what a busy process is told late
        self._seen -= known
        if number > known:
            self._told += number - known
            self._lost(number - known)

    def came(self, number: int | None) -> None:
        """A message came; its number by its publisher, where that is known."""
        last, self._last = self._last, number
        if number is None or last is None or number <= last:  # the first one, or another publisher
            self._told = 0
            return
        missing = number - last - 1
        told = min(missing, self._told)
        self._told -= told
        if missing > told and self._alone():
            self._seen += missing - told
            self._lost(missing - told)
