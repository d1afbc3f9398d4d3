"""Real processes over DDS for the tests: the node in one, the tests that watch it in another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from stfm_ros.msg import Correspondences, RelativePose

HERE = Path(__file__).resolve().parent
DEADLINE_S = 60.0


def environment() -> dict[str, str]:
    """Of every process: a domain of its own, types checked, shared memory."""
    return {
        **os.environ,
        "ROS_PYTHON_CHECK_FIELDS": "1",
        "ROS_DOMAIN_ID": str(os.getpid() % 100 + 1),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "FASTRTPS_DEFAULT_PROFILES_FILE": str(HERE.parent / "config" / "fastdds_shm.xml"),
        "OMP_NUM_THREADS": "1",
    }


class NodeProcess:
    """A matcher node: a script with a matcher of its own, or, where ``pair_ms`` is None, the installed ``node``."""

    def __init__(
        self,
        *ros_args: str,
        pair_ms: float | None = 0.0,
        script: str = "fake_matcher_node.py",
        node: str = "matcher",
    ) -> None:
        command = ["-m", f"stfm_ros.nodes.{node}"] if pair_ms is None else [HERE / script, str(pair_ms)]
        arguments = ["--ros-args", *ros_args] if ros_args else []
        self._said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115, as long as the process; a pipe that nobody empties would stop it
        self.process = subprocess.Popen(
            [sys.executable, *map(str, command), *arguments],
            env=environment(), stderr=subprocess.STDOUT, stdout=self._said, text=True,
        )  # fmt: skip

    def rss_mb(self) -> float:
        """Resident memory."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        raise AssertionError("the node has ended")

    def wait(self) -> tuple[int, str]:
        """Exit code and everything it said, once it ends by itself."""
        code = self.process.wait(timeout=DEADLINE_S)
        self._said.seek(0)
        return code, self._said.read()

    def stop(self) -> tuple[int, str]:
        """Exit code and everything it said, after an interrupt."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


class Observer(Node):
    """Keeps what the node says; spins in a thread of its own."""

    def __init__(self) -> None:
        super().__init__("observer")
        self.matches: deque[Correspondences] = deque(maxlen=50)
        self.poses: deque[RelativePose] = deque(maxlen=50)
        self.most_in_flight = 2
        self.level, self.summary, self.values = b"", "", dict[str, str]()
        self.create_subscription(Correspondences, "matches", lambda msg: self.matches.append(msg), 10)
        self.create_subscription(RelativePose, "relative_pose", lambda msg: self.poses.append(msg), 10)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def count(self, key: str) -> int:
        """A number of /diagnostics, 0 where it is not there."""
        return int(self.values.get(key, "0"))

    def until(self, what: str, condition: Callable[[], Any], deadline_s: float = DEADLINE_S) -> None:
        """Wait for a condition."""
        end = time.monotonic() + deadline_s
        while not condition():
            assert time.monotonic() < end, f"no {what}; level {self.level!r}, {self.summary!r}, {self.values}"
            time.sleep(0.02)

    def call(self, service_type: Any, name: str, request: Any) -> Any:
        """The response of a service."""
        client = self.create_client(service_type, name)
        assert client.wait_for_service(DEADLINE_S)
        future = client.call_async(request)
        self.until(f"answer of {name}", future.done)
        self.destroy_client(client)
        return future.result()

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join()
        self.destroy_node()

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self._executor.spin()

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        status = msg.status[0]
        if not status.name.endswith(": matching"):
            return
        values = {pair.key: pair.value for pair in status.values}
        numbers = [int(values[name]) for name in ("received", "processed", "dropped", "in_flight")]
        assert numbers[0] == sum(numbers[1:]) and 0 <= numbers[3] <= self.most_in_flight, values
        self.level, self.summary, self.values = status.level, status.message, values


@contextmanager
def observer() -> Iterator[Observer]:
    """An observer in this process, in the domain of the node's."""
    os.environ.update({key: value for key, value in environment().items() if key.startswith(("ROS_", "FASTRTPS"))})
    rclpy.init()
    watcher = Observer()
    try:
        yield watcher
    finally:
        watcher.close()
        rclpy.try_shutdown()


@contextmanager
def running(
    *ros_args: str, pair_ms: float | None = 0.0, script: str = "fake_matcher_node.py", node: str = "matcher"
) -> Iterator[NodeProcess]:
    """A node that reports often; it has to end well."""
    process = NodeProcess("-p", "node.diagnostics_period_s:=0.1", *ros_args, pair_ms=pair_ms, script=script, node=node)
    try:
        yield process
    finally:
        code, said = process.stop()
        print(said)
    assert code == 0, said
    assert "Traceback" not in said
