"""What listens to a node under faults: all its outputs with their times of arrival, and its /diagnostics."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
from nav_msgs.msg import Path as PathMessage
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image, PointCloud2

from stfm_ros.messages import stamp_ns
from stfm_ros.msg import Correspondences, RelativePose
from stfm_ros.types import PoseStatus

WITH_POSE = [int(status) for status in PoseStatus if status.has_rotation]
COUNTS = ("received", "processed", "dropped", "in_flight")


class Listener(Node):
    """Takes every output, as a busy robot does; spins in a thread of its own.

    Args:
        namespace: of the matcher node, whose name is ``matcher``.

    Attributes:
        poses: of each RelativePose: stamp, status, reason, and the time of arrival (CLOCK_MONOTONIC).
        odometry: the newest messages.
        came: how many messages, by topic.
        level, summary, values: of the newest /diagnostics; ``diagnosed_s`` is when it came.
        unbalanced: reports of which ``received = processed + dropped + in_flight`` does not hold.
    """

    def __init__(self, namespace: str = "") -> None:
        super().__init__("listener", namespace=namespace)
        self.poses: deque[tuple[int, int, str, float]] = deque(maxlen=2000)
        self.odometry: deque[Odometry] = deque(maxlen=2000)
        self.came: Counter[str] = Counter()
        self.level, self.summary, self.values = b"", "", dict[str, str]()
        self.diagnosed_s = 0.0
        self.unbalanced: list[dict[str, str]] = []
        self._matcher = f"{namespace}/matcher".lstrip("/")
        self.create_subscription(RelativePose, "relative_pose", self._take_pose, 100)
        self.create_subscription(Odometry, "odometry", self._take_odometry, 100)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._take_diagnostics, 100)
        for kind, topic in (
            (Correspondences, "matches"), (PoseWithCovarianceStamped, "pose"), (PathMessage, "path"),
            (PointCloud2, "points"), (Image, "matches/image"),
        ):  # fmt: skip
            self.create_subscription(kind, topic, lambda msg, topic=topic: self.came.update([topic]), 100)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def count(self, key: str) -> int:
        """A number of /diagnostics, 0 where it is not there."""
        return int(self.values.get(key, "0"))

    def wait(self, condition: Callable[[], Any], seconds: float) -> bool:
        """Whether a condition came true in time."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def settle(self) -> None:
        """Wait for a report of now, with nothing in flight."""
        after = time.monotonic() + 0.25
        self.wait(lambda: self.diagnosed_s > after and self.count("in_flight") == 0, 5)

    def call(self, kind: Any, name: str, request: Any) -> Any:
        """The response of a service, or None."""
        client = self.create_client(kind, name)
        try:
            if not client.wait_for_service(5):
                return None
            future = client.call_async(request)
            return future.result() if self.wait(future.done, 10) else None
        finally:
            self.destroy_client(client)

    def poses_of(self, answer: dict[str, Any]) -> list[tuple[int, int, str, float]]:
        """The poses of what a camera says it sent, in the order of arrival."""
        stamps, first = set(answer["stamps_ns"]), answer["at_s"][0]
        return [pose for pose in list(self.poses) if pose[0] in stamps and pose[3] >= first]

    def latencies_s(self, answer: dict[str, Any]) -> list[float]:
        """From the sending of each image to the arrival of its pose."""
        sent = dict(zip(answer["stamps_ns"][::-1], answer["at_s"][::-1]))  # the first time of a repeated one
        return [at - sent[stamp] for stamp, _, _, at in self.poses_of(answer)]

    def recovery_s(self, answer: dict[str, Any]) -> float:
        """From the sending of the first image to the first arrival of a pose that may be used."""
        arrivals = [at for _, status, _, at in self.poses_of(answer) if status in WITH_POSE]
        return min(arrivals, default=float("inf")) - float(answer["at_s"][0])

    def close(self) -> None:
        """Stop."""
        self._executor.shutdown()
        self._thread.join()
        self.destroy_node()

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self._executor.spin()

    def _take_pose(self, msg: RelativePose) -> None:
        self.came["relative_pose"] += 1
        self.poses.append((stamp_ns(msg.header), int(msg.status), str(msg.reason), time.monotonic()))

    def _take_odometry(self, msg: Odometry) -> None:
        self.came["odometry"] += 1
        self.odometry.append(msg)

    def _take_diagnostics(self, msg: DiagnosticArray) -> None:
        status = msg.status[0]
        if status.name.partition(":")[0] != self._matcher:
            return
        self.values = {pair.key: pair.value for pair in status.values}
        self.level, self.summary, self.diagnosed_s = status.level, status.message, time.monotonic()
        received, processed, dropped, in_flight = (int(self.values[name]) for name in COUNTS)
        if received != processed + dropped + in_flight or not 0 <= in_flight <= 2:
            self.unbalanced.append(self.values)
