"""The student beside the teacher, in its node: what :mod:`stfm_ros.shadow` finds, as messages and in /diagnostics.

One StudentCheck on ``student_check`` for each image that the student sees, and one status of /diagnostics, named
``<node>: student``, with the figures of the last ``shadow.window`` of them. docs/teacher.md says what each is.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode

from stfm_ros import messages
from stfm_ros.config import MatcherConfig, TeacherAppConfig
from stfm_ros.errors import ConfigError, StfmError
from stfm_ros.msg import StudentCheck
from stfm_ros.nodes.conversion import to_ros
from stfm_ros.nodes.diagnostics import OK, WARN
from stfm_ros.nodes.subscription import guarded
from stfm_ros.shadow import Shadow, check_is_student
from stfm_ros.shadow_summary import summarise

if TYPE_CHECKING:
    from stfm_ros import shadow
    from stfm_ros.matcher import Matcher
    from stfm_ros.tracker import Track

TOPIC = "student_check"


def load_student(load: Callable[[MatcherConfig], Matcher], config: TeacherAppConfig) -> Matcher | None:
    """The model that ``shadow.model`` names; None where it names none.

    Args:
        load: makes a matcher.

    Raises:
        ConfigError: it cannot be loaded, or takes depth.
    """
    if not config.shadow.model:
        return None
    try:
        student = load(replace(config.matcher, model=config.shadow.model))
    except StfmError as missing:
        raise ConfigError(f"shadow.model: {missing}") from None
    check_is_student(student)
    return student


class NodeShadow:
    """The topic and the status of a student, from construction to :meth:`close`.

    Args:
        teacher: name of the model and hash of its weights.
        fault: told the kind and the reason of what goes wrong.
    """

    def __init__(
        self,
        node: LifecycleNode,
        student: Matcher,
        config: TeacherAppConfig,
        teacher: tuple[str, str],
        fault: Callable[[str, str], None],
    ) -> None:
        self._node = node
        self._config = config
        self._teacher = teacher
        self._student = student.model_name, student.weights_hash
        self._shadow = Shadow(student, config, config.shadow)
        self._lock = threading.Lock()
        self._checks: deque[shadow.StudentCheck] = deque(maxlen=config.shadow.window)
        self._publisher = node.create_lifecycle_publisher(StudentCheck, TOPIC, 10)
        self._diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._timer = node.create_timer(
            config.node.diagnostics_period_s,
            guarded(self._diagnose, fault, "the student's lines of /diagnostics"),
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )
        node.get_logger().info(f"student {student.model_name} ({student.weights_hash[:12]}) runs beside the teacher")

    def configure(self, config: TeacherAppConfig) -> None:
        """Take settings that may change while the node runs."""
        self._config = self._shadow.config = config
        self._shadow.shadow = config.shadow
        self._shadow.student.config = replace(config.matcher, model=config.shadow.model)

    def take(self, track: Track) -> None:
        """Run the student on the images of a track, and publish how far it is from the teacher."""
        check = self._shadow.check(track)
        if check is None:
            return
        with self._lock:
            self._checks.append(check)
        if self._publisher.get_subscription_count():
            fields = messages.student_check(track, check, self._teacher, self._student)
            self._publisher.publish(to_ros(StudentCheck, fields))

    def close(self) -> None:
        """Take the topics back."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_publisher(self._diagnostics)
        self._node.destroy_lifecycle_publisher(self._publisher)

    def _diagnose(self) -> None:
        with self._lock:
            checks = list(self._checks)
        summary = summarise(checks)
        warning = summary.warning(self._config.shadow)
        said = warning or f"{summary.judged} of the last {summary.pairs} pairs judged"
        values = {**summary.lines(), "model": self._student[0], "weights_hash": self._student[1]}
        name = f"{self._node.get_fully_qualified_name().lstrip('/')}: student"
        now_ns = self._node.get_clock().now().nanoseconds
        fields = messages.diagnostics(now_ns, name, WARN if warning else OK, said, values)
        self._diagnostics.publish(to_ros(DiagnosticArray, fields))
