"""/diagnostics of a recorder: whether it records, and what became of every message; docs/recording.md explains it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from stfm_ros import messages
from stfm_ros.nodes.conversion import to_ros
from stfm_ros.nodes.diagnostics import ERROR, OK, WARN
from stfm_ros.nodes.statistics import Throttle
from stfm_ros.nodes.subscription import guarded
from stfm_ros.recording.ledger import Tally
from stfm_ros.recording.pairing import Role
from stfm_ros.recording.recorder import Status

_MB = 1_000_000


@dataclass(frozen=True)
class Situation:
    """A recording, as it is told.

    Attributes:
        bag: its folder.
        silent: by topic that is silent: whether the recording is worth nothing without it, and why it is.
    """

    bag: str
    status: Status
    paused: bool
    silent: Mapping[str, tuple[bool, str]]


class Report:
    """Publishes every ``period_s``, from construction to :meth:`close`, and logs what goes wrong.

    Args:
        situation: of the moment; None while the node is not active.
        fault: told what the report itself raises.
    """

    def __init__(
        self,
        node: Node,
        period_s: float,
        situation: Callable[[], Situation | None],
        fault: Callable[[str, str], None],
        throttle: Throttle,
    ) -> None:
        self._node = node
        self._situation = situation
        self._throttle = throttle
        self._ended = ""
        self._lost = Counter[str]()
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # On the steady clock: with use_sim_time, a silent /clock would silence the diagnostics that tell of it.
        publish = guarded(self.publish, fault, "the lines of /diagnostics")
        self._timer = node.create_timer(period_s, publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def publish(self) -> None:
        """Publish now."""
        now = self._situation()
        values = lines(now) if now else {}
        level, summary = self._level(now) if now else (OK, "not active")
        name = f"{self._node.get_fully_qualified_name().lstrip('/')}: recording"
        fields = messages.diagnostics(self._node.get_clock().now().nanoseconds, name, level, summary, values)
        self._publisher.publish(to_ros(DiagnosticArray, fields))

    def close(self) -> None:
        """Stop."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_publisher(self._publisher)

    def _level(self, now: Situation) -> tuple[int, str]:
        status = now.status
        if status.reason and status.reason != self._ended:
            self._node.get_logger().error(f"the recording has ended: {status.reason}")
        self._ended = status.reason
        for topic, (_, text) in now.silent.items():
            if self._throttle.allows(topic):
                self._node.get_logger().warning(text)
        lost, self._lost = self._lost, _lost(status)
        news = {reason: number - lost[reason] for reason, number in self._lost.items() if number > lost[reason]}
        if status.reason:
            return ERROR, f"not recording: {status.reason}"
        texts = [text for _, text in now.silent.values()]
        if texts:
            return (ERROR if any(required for required, _ in now.silent.values()) else WARN), "; ".join(texts)
        if "bad_stamp" in news:
            return WARN, status.faults["bad_stamp"]
        if news:
            said = ", ".join(f"{reason} {number}" for reason, number in news.items())
            return WARN, f"messages lost since the last report: {said}; this computer or its disk is too slow"
        return OK, "paused" if now.paused else "recording"


def lines(now: Situation) -> dict[str, str]:
    """The lines of /diagnostics. Of frames and of each topic, taken = kept + all of left_out + waiting."""
    status = now.status
    found = {
        "recording": str(status.recording).lower(),
        "reason": status.reason,
        "paused": str(now.paused).lower(),
        "bag": now.bag,
    }
    for tally in status.topics.values():
        if tally.role == Role.IMAGE.value:
            counts = {"taken": tally.taken, "kept": tally.written, "waiting": tally.waiting, "missed": tally.missed}
            found |= {f"frames.{name}": str(count) for name, count in counts.items()}
            found |= {f"frames.left_out.{reason}": str(count) for reason, count in sorted(tally.left_out.items())}
    found |= {f"topic.{name}": in_words(tally) for name, tally in status.topics.items()}
    found |= {
        "mb_written": f"{status.bytes_written / _MB:.1f}",
        "mb_waiting": f"{status.bytes_waiting / _MB:.1f}",
        "mb_free": f"{status.free_bytes / _MB:.0f}",
        "slowest_sync_s": f"{status.slowest_sync_s:.3f}",
    }
    found |= {f"silent.{topic}": text for topic, (_, text) in now.silent.items()}
    found |= {f"fault.{kind}": text for kind, text in status.faults.items()}
    return found


def in_words(tally: Tally) -> str:
    """What became of the messages of a topic."""
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(tally.left_out.items()))
    parts = [f"taken {tally.taken}, kept {tally.written}", f"left out: {reasons}" if reasons else ""]
    parts += [f"waiting {tally.waiting}" if tally.waiting else "", f"missed {tally.missed}" if tally.missed else ""]
    return "; ".join(filter(None, parts))


def _lost(status: Status) -> Counter[str]:
    """Messages that nobody chose to leave out, by reason."""
    found = Counter[str]()
    for tally in status.topics.values():
        found["missed"] += tally.missed
        found.update({reason: tally.left_out[reason] for reason in ("bad_stamp", "queue_full", "not_written")})
    return found
