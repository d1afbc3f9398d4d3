"""What a teacher says of a frame, told to the recorder: its pose, and how far the student is from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from rclpy.serialization import deserialize_message

from stfm_ros.bag_types import RELATIVE_POSE_TYPE, STUDENT_CHECK_TYPE
from stfm_ros.messages import stamp_ns
from stfm_ros.msg import RelativePose, StudentCheck
from stfm_ros.recording.hints import PoseChain
from stfm_ros.recording.recorder import Recorder
from stfm_ros.rotation import quaternion_to_matrix
from stfm_ros.types import FloatArray, PoseStatus


class Hints:
    """Listens to the messages of a teacher, for one recorder."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._chain = PoseChain()
        self._ears: dict[str, Callable[[bytes], None]] = {
            RELATIVE_POSE_TYPE: self._pose,
            STUDENT_CHECK_TYPE: self._check,
        }

    def hear(self, type_name: str, data: bytes) -> None:
        """A message of any type, as CDR bytes."""
        ear = self._ears.get(type_name)
        if ear is not None:
            ear(data)

    def _pose(self, data: bytes) -> None:
        message: Any = deserialize_message(data, RelativePose)
        status = PoseStatus(message.status)
        if not status.has_rotation or (status.has_translation and not message.metric):
            return
        reference_ns = message.reference_stamp.sec * 1_000_000_000 + message.reference_stamp.nanosec
        now_ns = stamp_ns(message.header)
        self._recorder.hint(now_ns, pose=self._chain.add(now_ns, reference_ns, _matrix(message.pose.pose)))

    def _check(self, data: bytes) -> None:
        message: Any = deserialize_message(data, StudentCheck)
        if math.isfinite(message.disagreement):  # the teacher itself may not know
            self._recorder.hint(stamp_ns(message.header), disagreement=float(message.disagreement))


def _matrix(pose: Any) -> FloatArray:
    found = np.eye(4)
    turned, at = pose.orientation, pose.position
    found[:3, :3] = quaternion_to_matrix(np.array([turned.x, turned.y, turned.z, turned.w]))
    found[:3, 3] = at.x, at.y, at.z
    return found
