"""Holds each image until its depth is there, for a model that looks at both; needs no ROS.

The depth of an image may come before or after it. It is the nearest within ``odometry.depth_slop_s``, so an image goes
on as soon as no nearer one can come: when a depth of its own stamp or a later one has come. A topic keeps its order:
where a depth beyond that is there and an image's own is not, its own is lost, and the image is given up at once.
Where none comes at all, it is given up after a while.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stfm_ros.frames import Frame
from stfm_ros.messages import stamp_ns
from stfm_ros.nodes.statistics import WINDOW, percentiles
from stfm_ros.scale import ANEW_NS, DEPTHS
from stfm_ros.types import Float32Array


@dataclass(frozen=True)
class Patience:
    """How far off a depth may be (odometry.depth_slop_s), and how long an image waits for it (teacher.depth_wait_s)."""

    slop_s: float
    wait_s: float


class DepthGate:
    """Frames in, frames with depth out, in their order; used by one thread.

    Args:
        find: the depth message of the image of a stamp; None where there is none so far.
        deliver: called with each frame and its depth.
        give_up: called with each frame that gets none, and why.
        image_topic, depth_topic: for that reason.

    Attributes:
        patience: may be replaced at any time.
    """

    def __init__(
        self,
        find: Callable[[int], Any | None],
        deliver: Callable[[Frame], None],
        give_up: Callable[[Frame, str], None],
        patience: Patience,
        image_topic: str = "image",
        depth_topic: str = "depth",
    ) -> None:
        self.patience = patience
        self._find = find
        self._deliver = deliver
        self._give_up = give_up
        self._topics = image_topic, depth_topic
        self._waiting: deque[Frame] = deque()
        self._depths: deque[int] = deque(maxlen=DEPTHS)  # stamps, newest last
        self._ticked_s = -np.inf

    def __len__(self) -> int:
        """How many frames wait."""
        return len(self._waiting)

    def take_frame(self, frame: Frame) -> None:
        """An image came in."""
        if self._waiting and _stamp(frame) < _stamp(self._waiting[-1]):
            self._give_up_all("the stamps jumped back before its depth came")
        self._waiting.append(frame)
        self._look()
        if len(self._waiting) > DEPTHS:
            oldest = self._waiting.popleft()
            self._give_up(oldest, self._why(oldest, f"{DEPTHS} images behind it wait for theirs as well"))

    def take_depth(self, message: Any) -> None:
        """A depth image came in, and can be found."""
        stamp = stamp_ns(message.header)
        if self._depths and stamp < self._depths[-1] - ANEW_NS:
            self._depths.clear()
        self._depths.append(stamp)
        self._look()

    def tick(self) -> None:
        """Give up the frames that have waited too long; to be called again and again while any wait.

        They are those that had waited too long when it was called before: what lay in the queues of a busy process by
        then has been taken since.
        """
        self._look(self._ticked_s - self.patience.wait_s)
        self._ticked_s = time.monotonic()

    def _look(self, patient_since_s: float = -np.inf) -> None:
        """Let go of the frames whose depth is there or lost, and of those that came before a time."""
        while self._waiting:
            frame = self._waiting[0]
            depth, lost = self._find(_stamp(frame)), self._lost(frame, patient_since_s)
            if depth is not None and (lost or self._is_settled(frame)):
                self._waiting.popleft()
                self._deliver(replace(frame, depth=depth))
            elif lost:
                self._waiting.popleft()
                self._give_up(frame, lost)
            else:
                return

    def close(self) -> list[Frame]:
        """The frames that wait; they are forgotten here."""
        waiting = list(self._waiting)
        self._waiting.clear()
        return waiting

    def _is_settled(self, frame: Frame) -> bool:
        """Whether no nearer depth can come."""
        return bool(self._depths) and self._depths[-1] >= _stamp(frame)

    def _lost(self, frame: Frame, patient_since_s: float) -> str:
        """Why there will be no (other) depth for a frame; empty while there may be."""
        if self._depths:
            later = self._depths[-1] - _stamp(frame)
            if self.patience.slop_s * 1e9 < later < ANEW_NS:  # beyond, it is of another run of a recording
                return self._why(frame, "a depth of a later stamp came, its own was lost")
        if frame.received_s <= patient_since_s:
            return self._why(frame, f"none came in {self.patience.wait_s:g} s (teacher.depth_wait_s)")
        return ""

    def _give_up_all(self, why: str) -> None:
        for frame in self.close():
            self._give_up(frame, self._why(frame, why))

    def _why(self, frame: Frame, why: str) -> str:
        images, depths = self._topics
        return (
            f"no depth on {depths} within {self.patience.slop_s:g} s (odometry.depth_slop_s) of the image "
            f"{_stamp(frame)} ns on {images}, which is left out: {why}; {self._nearest(_stamp(frame))}"
        )

    def _nearest(self, stamp: int) -> str:
        """How far off the nearest depth is, and what to do about it."""
        off_s = min(((depth - stamp) / 1e9 for depth in self._depths), key=abs, default=None)
        if off_s is None:
            return "none has come at all: remap depth:=<topic>, set node.depth_transport, or start the depth camera"
        if abs(off_s) * 1e9 > ANEW_NS:
            return (
                f"the nearest is {abs(off_s):.1f} s off: the depth has stopped, or another clock stamps it; check its "
                "driver"
            )
        return (
            f"the nearest is {abs(off_s) * 1e3:.1f} ms {'later' if off_s > 0 else 'earlier'}: where this is so now and "
            "then, depth is lost on the way (set node.scale_reliability reliable, use config/fastdds_shm.xml in both "
            "processes); where always, raise odometry.depth_slop_s or let the driver synchronise both"
        )


class DepthStatistics:
    """How well depth and images go together, for /diagnostics; of the last images. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._paired = 0
        self._missing = 0
        self._with_depth: deque[bool] = deque(maxlen=WINDOW)
        self._offset_ms: deque[float] = deque(maxlen=WINDOW)
        self._age_ms: deque[float] = deque(maxlen=WINDOW)
        self._coverage: deque[float] = deque(maxlen=WINDOW)

    def receive(self, age_ms: float) -> None:
        """A depth image came in, so long after its stamp."""
        with self._lock:
            self._age_ms.append(age_ms)

    def pair(self, off_ns: int) -> None:
        """An image has got its depth, whose stamp is so far off."""
        with self._lock:
            self._paired += 1
            self._with_depth.append(True)
            self._offset_ms.append(abs(off_ns) / 1e6)

    def miss(self) -> None:
        """An image was given up for want of depth."""
        with self._lock:
            self._missing += 1
            self._with_depth.append(False)

    def cover(self, depth: Float32Array) -> None:
        """An image with this depth, (H, W) metres, was worked on."""
        with self._lock:
            self._coverage.append(np.count_nonzero(depth) / depth.size)

    @property
    def coverage(self) -> float | None:
        """The median share of the pixels that have depth; None where there was none so far."""
        with self._lock:
            return float(np.median(self._coverage)) if self._coverage else None

    def values(self) -> dict[str, str]:
        """The lines of /diagnostics; docs/teacher.md says what each means."""
        with self._lock:
            lines = {"depth_paired": str(self._paired), "depth_missing": str(self._missing)}
            if self._with_depth:
                lines["depth_sync_rate"] = f"{np.mean(self._with_depth):.3f}"
            return (
                lines
                | percentiles("depth_offset_ms", self._offset_ms)
                | percentiles("depth_age_ms", self._age_ms)
                | percentiles("depth_coverage", self._coverage, (50, 10))
            )


def _stamp(frame: Frame) -> int:
    return stamp_ns(frame.image.header)
