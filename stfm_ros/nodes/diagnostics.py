"""/diagnostics: one status with counts, rates, age, latency by stage and the last error; docs/node.md explains it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from stfm_ros import messages
from stfm_ros.nodes.conversion import to_ros
from stfm_ros.nodes.statistics import Statistics, Throttle
from stfm_ros.nodes.subscription import guarded

OK, WARN, ERROR = 0, 1, 2


class Diagnostics:
    """Publishes every ``period_s``, from construction to :meth:`close`.

    Args:
        about: lines that do not change, e.g. the model.
        inputs: the lines of the moment about the inputs, and by topic why it is silent; None while not active.
        warning: what is amiss though there are no faults; empty where nothing is.
    """

    def __init__(
        self,
        node: Node,
        statistics: Statistics,
        period_s: float,
        about: Mapping[str, str],
        inputs: Callable[[], tuple[Mapping[str, str], Mapping[str, str]] | None],
        warning: Callable[[], str],
        throttle: Throttle,
    ) -> None:
        self._node = node
        self._statistics = statistics
        self._about = about
        self._inputs = inputs
        self._warning = warning
        self._throttle = throttle
        self._faults_reported = 0
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # On the steady clock: with use_sim_time, a silent /clock would silence the diagnostics that tell of it.
        publish = guarded(self.publish, self._failed, "the lines of /diagnostics")
        self._timer = node.create_timer(period_s, publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def publish(self) -> None:
        """Publish now, and log why an input is silent."""
        inputs = self._inputs()
        topics, silent = inputs or ({}, {})
        for topic, text in silent.items():
            if self._throttle.allows(topic):
                self._node.get_logger().warning(text)
        values = self._statistics.values()
        faults = self._statistics.faults
        new_faults, self._faults_reported = faults - self._faults_reported, faults
        if silent:
            level, summary = ERROR, "; ".join(silent.values())
        elif new_faults:
            level, summary = WARN, f"{new_faults} faults since the last report, the last: {values['last_error']}"
        elif topics.get("paused") == "true":
            level, summary = OK, "paused"
        elif inputs and (warning := self._warning()):
            level, summary = WARN, warning
        else:
            level, summary = OK, f"{values['rate_out_hz']} Hz" if inputs else "not active"
        name = f"{self._node.get_fully_qualified_name().lstrip('/')}: matching"
        stamp_ns = self._node.get_clock().now().nanoseconds
        fields = messages.diagnostics(stamp_ns, name, level, summary, {**values, **self._about, **topics})
        self._publisher.publish(to_ros(DiagnosticArray, fields))

    def _failed(self, kind: str, reason: str) -> None:
        self._statistics.fault(kind, reason)
        if self._throttle.allows("diagnostics"):
            self._node.get_logger().error(f"cannot publish /diagnostics: {reason}")

    def close(self) -> None:
        """Stop."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_publisher(self._publisher)
