"""Keeps what a matcher node publishes, as plain values: the listening side of `stfm demo`."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from stfm_ros.messages import stamp_ns
from stfm_ros.msg import Correspondences, RelativePose

_QOS = QoSProfile(depth=200, reliability=ReliabilityPolicy.RELIABLE)


class Collector:
    """Subscribes to ``matches``, ``relative_pose`` and ``/diagnostics``.

    Args:
        node: its namespace is the matcher's.
        matcher: fully qualified name of the matcher node, whose diagnostics are kept.

    Attributes:
        poses: one dict of numbers for each RelativePose, in order of arrival.
        correspondences: by stamp in nanoseconds: x0 y0 x1 y1 confidence sigma inlier, (n, 7) float32.
        diagnostics: the newest lines of the matcher.
    """

    def __init__(self, node: Node, matcher: str) -> None:
        self.poses: list[dict[str, Any]] = []
        self.correspondences: dict[int, np.ndarray] = {}
        self.diagnostics: dict[str, str] = {}
        self.diagnosed_s = -np.inf
        self._matcher = matcher.lstrip("/")
        self._subscriptions = [
            node.create_subscription(Correspondences, "matches", self._take_matches, _QOS),
            node.create_subscription(RelativePose, "relative_pose", self._take_pose, _QOS),
            node.create_subscription(DiagnosticArray, "/diagnostics", self._take_diagnostics, _QOS),
        ]

    def is_idle(self, since_s: float) -> bool:
        """Whether the matcher, as it said after ``since_s`` (time.monotonic), has done all it received."""
        lines = self.diagnostics
        if self.diagnosed_s < since_s or lines.get("in_flight") != "0":
            return False
        results = int(lines.get("processed", 0)) - int(lines.get("failed", 0))
        return len(self.poses) >= results and len(self.correspondences) >= results

    def _take_matches(self, msg: Correspondences) -> None:
        columns = [
            *np.asarray(msg.keypoints0, np.float32).reshape(-1, 2).T,
            *np.asarray(msg.keypoints1, np.float32).reshape(-1, 2).T,
            np.asarray(msg.confidence, np.float32),
            np.asarray(msg.sigma, np.float32),
            np.asarray(msg.inliers, np.float32),
        ]
        self.correspondences[stamp_ns(msg.header)] = np.stack(columns, 1)

    def _take_pose(self, msg: RelativePose) -> None:
        position, orientation = msg.pose.pose.position, msg.pose.pose.orientation
        self.poses.append(
            {
                "stamp_ns": stamp_ns(msg.header),
                "reference_stamp_ns": int(msg.reference_stamp.sec) * 1_000_000_000 + int(msg.reference_stamp.nanosec),
                "arrival_ns": time.time_ns(),
                "position": [position.x, position.y, position.z],
                "orientation": [orientation.x, orientation.y, orientation.z, orientation.w],
                "matches": int(msg.matches),
                "inliers": int(msg.inliers),
                "parallax_deg": float(msg.parallax_deg),
                "metric": bool(msg.metric),
                "status": int(msg.status),
                "reason": str(msg.reason),
            }
        )

    def _take_diagnostics(self, msg: DiagnosticArray) -> None:
        for status in msg.status:
            if status.name.partition(":")[0] == self._matcher:
                self.diagnostics = {pair.key: pair.value for pair in status.values}
                self.diagnosed_s = time.monotonic()
