"""Which camera_info belongs to an image: the one of its stamp; of cameras that do not stamp them alike, the newest.

Topics overtake each other: most drivers publish an image first and its camera_info after it, and DDS promises an order
within a topic alone. An image that was paired with the calibration before its own is wrong wherever that changes:
zoom, focus, resolution. So where the camera is known to stamp both alike, an image waits for its own calibration, at
most until the next image comes, and :data:`WAIT_S`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

Stamp = tuple[int, int]
#: drivers send both within a millisecond or two; a busy computer takes longer to hand them over
WAIT_S = 0.1
#: calibrations that are kept for images that come late
_KEPT = 10
Deliver = Callable[[Any, Any, float], None]


class Calibrations:
    """Pairs images and calibrations as they come in, in one thread.

    Args:
        deliver: called with each image, its calibration (None where there was none yet) and the time of its receipt
            (time.monotonic), in the order of receipt.
        waits: called when an image begins to wait: call :meth:`give_up` after :data:`WAIT_S`.
    """

    def __init__(self, deliver: Deliver, waits: Callable[[], None] = lambda: None) -> None:
        self._deliver = deliver
        self._waits = waits
        self._infos: deque[Any] = deque(maxlen=_KEPT)
        self._waiting: tuple[Any, float] | None = None
        self._last: Stamp | None = None  # of an image that went without its own
        self._alike = False  # whether the camera stamps both alike

    def take_image(self, msg: Any) -> None:
        """An image came in."""
        received_s = time.monotonic()
        self.give_up()
        stamp = _stamp(msg)
        own = next((info for info in reversed(self._infos) if _stamp(info) == stamp), None)
        if own is not None:
            self._alike = True
        elif self._alike and stamp > _stamp(self._infos[-1]):
            self._waiting = msg, received_s
            self._waits()
            return
        else:
            self._last = stamp
        self._deliver(msg, self._newest if own is None else own, received_s)

    def take_info(self, msg: Any) -> None:
        """A calibration came in."""
        stamp = _stamp(msg)
        if self._waiting is not None and stamp < _stamp(self._waiting[0]):
            return  # of an image before: the one that waits has its own still to come
        self._infos.append(msg)
        if self._waiting is not None:
            self._release()
        elif stamp == self._last:
            self._alike = True

    def give_up(self) -> None:
        """Let the image that waits go with what there is: its own calibration was lost, or there is none."""
        if self._waiting is not None:
            self._alike = False
            self._release()

    @property
    def _newest(self) -> Any:
        return self._infos[-1] if self._infos else None

    def _release(self) -> None:
        assert self._waiting is not None
        waiting, self._waiting = self._waiting, None
        self._deliver(waiting[0], self._newest, waiting[1])


def _stamp(msg: Any) -> Stamp:
    return msg.header.stamp.sec, msg.header.stamp.nanosec
