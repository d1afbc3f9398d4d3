"""Brings image and depth together: by message_filters where it is installed (every ROS has it, PyPI has not).

Without it ``stfm_ros.scale.NearestStamp`` does, by the same rules; offline it always does. One difference: the
synchroniser gives a depth image to one image and is done with it, which shows where images come more often than every
``odometry.depth_slop_s``.
"""

from __future__ import annotations

import threading
from collections import deque
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

from rclpy.duration import Duration
from rclpy.time import Time

from stfm_ros.messages import valid_stamp_ns
from stfm_ros.scale import ANEW_NS, DEPTHS, DepthPairs, NearestStamp

#: the earliest stamp that a message can carry, which rclpy's Time would refuse
_EARLIEST_NS = -(2**31) * 1_000_000_000


def depth_pairs() -> DepthPairs:
    """The synchroniser of message_filters, or the package's own where that is not installed."""
    return NearestStamp() if find_spec("message_filters") is None else Synchroniser()


class Synchroniser:
    """message_filters' ApproximateTimeSynchronizer as a :class:`stfm_ros.scale.DepthPairs`.

    It is given the stamps of the images alone, so that it holds no picture, and no image waits in it.
    """

    name = "message_filters"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begin()

    def add_image(self, header: Any, slop_ns: int) -> None:
        """See :class:`stfm_ros.scale.DepthPairs`."""
        self._add(0, valid_stamp_ns(header), None, slop_ns)

    def add_depth(self, message: Any, slop_ns: int) -> None:
        """See :class:`stfm_ros.scale.DepthPairs`."""
        self._add(1, valid_stamp_ns(message.header), message, slop_ns)

    def find(self, stamp_ns: int, slop_ns: int) -> Any | None:
        """See :class:`stfm_ros.scale.DepthPairs`."""
        with self._lock:
            return next((depth for stamp, depth in reversed(self._pairs) if stamp == stamp_ns), None)

    def _begin(self) -> None:
        from message_filters import ApproximateTimeSynchronizer, SimpleFilter

        self._inputs = SimpleFilter(), SimpleFilter()
        self._synchroniser = ApproximateTimeSynchronizer(self._inputs, DEPTHS, 0.0)
        self._synchroniser.registerCallback(self._paired)
        self._newest: list[int | None] = [None, None]
        self._pairs: deque[tuple[int, Any]] = deque(maxlen=DEPTHS)

    def _add(self, which: int, stamp: int, message: Any, slop_ns: int) -> None:
        with self._lock:
            newest = self._newest[which]
            if newest is not None and stamp < newest - ANEW_NS:
                self._begin()  # it would drop every stamp that lies before those of the last run
            self._newest[which] = stamp
            self._synchroniser.slop = Duration(nanoseconds=slop_ns + 1)  # which it takes to be too much
            time = Time(nanoseconds=stamp - _EARLIEST_NS)
            self._inputs[which].signalMessage(SimpleNamespace(header=SimpleNamespace(stamp=time), of=(stamp, message)))

    def _paired(self, image: Any, depth: Any) -> None:
        """Called by the synchroniser out of :meth:`_add`."""
        self._pairs.append((image.of[0], depth.of[1]))
