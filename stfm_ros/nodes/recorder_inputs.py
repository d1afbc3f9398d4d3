"""The subscriptions of a recorder: each begins when its topic is there, by the type and QoS that its publishers offer.

Messages stay CDR bytes. Where publishers differ the subscription asks for what all of them give, as ``ros2 bag record``
does; when that changes it is made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import Qos, QosDurability, QosReliability

from stfm_ros.bag_types import typestore
from stfm_ros.errors import BagError
from stfm_ros.nodes.recorder_topics import Wanted
from stfm_ros.nodes.subscription import guarded, subscribe_guarded
from stfm_ros.nodes.watchdog import UNKNOWN_NODE, InputWatch
from stfm_ros.recording.pairing import Role
from stfm_ros.recording.qos import qos_of
from stfm_ros.recording.recorder import Recorder, Topic

#: how often the graph is asked for topics that are not there yet, seconds
LOOK_S = 0.2
#: messages that wait where this process has no time for them: two seconds of images, or much of small ones
_DEPTHS = {Role.IMAGE: 60, Role.DEPTH: 60}
_DEPTH = 500
Fault = Callable[[str, str], None]


class RecorderInputs:
    """From construction to :meth:`close`.

    Args:
        recorder: is given every message; topics whose type is known are given to it at once.
        hear: given the type and the bytes of each message too.
        fault: told the kind and the reason of what goes wrong.
    """

    def __init__(
        self,
        node: Node,
        topics: Sequence[Wanted],
        recorder: Recorder,
        hear: Callable[[str, bytes], None],
        fault: Fault,
    ) -> None:
        self._node = node
        self._inputs = [_Input(node, wanted, recorder, hear, fault) for wanted in topics]
        look = guarded(self.look, fault, "the topics of the graph")
        self._timer = node.create_timer(LOOK_S, look, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.look()

    def look(self) -> None:
        """Subscribe to what has come."""
        for one in self._inputs:
            one.look()

    def silence(self) -> dict[str, tuple[bool, str]]:
        """By topic that is silent or cannot be recorded: whether it is required, and why."""
        found = {one.wanted.name: (one.wanted.required, one.silence()) for one in self._inputs}
        return {name: (required, text) for name, (required, text) in found.items() if text}

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_timer(self._timer)
        for one in self._inputs:
            one.close()


class _Input:
    """One topic."""

    def __init__(
        self, node: Node, wanted: Wanted, recorder: Recorder, hear: Callable[[str, bytes], None], fault: Fault
    ) -> None:
        self.wanted = wanted
        self._node = node
        self._recorder = recorder
        self._hear = hear
        self._fault = fault
        self._depth = _DEPTHS.get(wanted.role, _DEPTH)
        self._subscription: Any = None
        self._type = wanted.type
        self._asked: tuple[ReliabilityPolicy, DurabilityPolicy] | None = None
        self._refused = ""
        self._heard = False
        # which would get whatever is published
        self._watch = self._watch_for(QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))

    def look(self) -> None:
        """Subscribe where somebody publishes, and again where the QoS that all publishers offer has changed."""
        if self._refused:
            return
        found = self._node.get_publishers_info_by_topic(self.wanted.name)
        known = [one for one in found if one.node_name != UNKNOWN_NODE]
        kind = self._type or (known[0].topic_type if known else "")
        offers = [one.qos_profile for one in known if one.topic_type == kind]
        if not offers:
            return
        qos = asked(offers, self._depth)
        if (qos.reliability, qos.durability) == self._asked:
            return
        try:
            check_definition(kind, known)
            found_class = message_class(kind)
            if not self._type:
                self._recorder.add_topic(Topic(self.wanted.name, kind, self.wanted.role))
        except BagError as fault:
            self._refused = f"{self.wanted.name} cannot be recorded: {fault}; or take it out of {self.wanted.setting}"
            self._fault("topic", self._refused)
            return
        self.close()
        self._type = kind
        self._asked = qos.reliability, qos.durability
        self._recorder.set_qos(self.wanted.name, stored(offers, qos))
        self._watch = self._watch_for(qos)
        self._subscription = subscribe_guarded(
            self._node, found_class, self.wanted.name, qos, self._take, self._miss, self._fault, raw=True
        )
        self._node.get_logger().info(f"recording {self.wanted.name} ({kind}, {qos.reliability.name.lower()})")

    def silence(self) -> str:
        """Why nothing comes; empty where it does, or where it is latched and has come."""
        if self._heard and self._asked is not None and self._asked[1] == DurabilityPolicy.TRANSIENT_LOCAL:
            return ""
        return self._refused or self._watch.silence()

    def close(self) -> None:
        """Unsubscribe."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def _watch_for(self, qos: QoSProfile) -> InputWatch:
        timeout_s = self._recorder.config.storage.silence_s
        kind = self._type or "any type"
        return InputWatch(self._node, self.wanted.name, kind, qos, timeout_s, self.wanted.remedy, self.wanted.setting)

    def _take(self, data: bytes) -> None:
        self._heard = True
        self._watch.seen()
        self._recorder.take(self.wanted.name, data, self._node.get_clock().now().nanoseconds)
        self._hear(self._type, data)

    def _miss(self, number: int) -> None:
        self._watch.missed(number)
        self._recorder.miss(self.wanted.name, number)


def asked(offers: Sequence[QoSProfile], depth: int) -> QoSProfile:
    """What fits all of these publishers: as reliable, and as durable, as the least of them."""
    reliable = all(offer.reliability == ReliabilityPolicy.RELIABLE for offer in offers)
    durable = all(offer.durability == DurabilityPolicy.TRANSIENT_LOCAL for offer in offers)
    return QoSProfile(
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if durable else DurabilityPolicy.VOLATILE,
    )


def stored(offers: Sequence[QoSProfile], qos: QoSProfile) -> Qos:
    """What the bag says of a topic: the first offer, with what all of them give."""
    return qos_of(offers[0])._replace(
        reliability=QosReliability(int(qos.reliability)), durability=QosDurability(int(qos.durability))
    )


def check_definition(type_name: str, publishers: Sequence[Any]) -> None:
    """Bytes of another definition than the one that the bag would hold could not be read again.

    Raises:
        BagError: somebody publishes such.
    """
    if type_name not in typestore().fielddefs:
        return  # which the recorder says
    ours = typestore().hash_rihs01(type_name)
    for one in publishers:
        theirs = str(getattr(one, "topic_type_hash", ""))  # Humble has none
        if one.topic_type == type_name and theirs.startswith("RIHS01_") and theirs != ours:
            raise BagError(
                f"{one.node_name} publishes {type_name} of another definition than this installation has: install the "
                "same version of its package on both sides"
            )


def message_class(type_name: str) -> type[Any]:
    """The class of a message type; DDS needs it, though bytes are all that is taken.

    Raises:
        BagError: it is not installed here.
    """
    package, _, name = type_name.replace("/msg/", "/").partition("/")
    try:
        found: type[Any] = getattr(import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError) as missing:
        raise BagError(
            f"{type_name} is not installed here ({missing}): install {package}, or source its workspace"
        ) from missing
    return found
