"""A thread that works on the newest items: what it has no time for is dropped, so its delay is bounded."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Worker(Generic[T]):
    """Calls ``work`` with the items that were submitted, in their order, in its own thread.

    Args:
        drop: called once for each item that ``work`` never sees.
        failed: called with what ``work`` raised; the thread goes on with the next item.
        room: items that may wait; with 1, the newest alone.
    """

    def __init__(
        self,
        work: Callable[[T], None],
        drop: Callable[[], None],
        failed: Callable[[Exception], None],
        room: int = 1,
    ) -> None:
        self._work = work
        self._drop = drop
        self._failed = failed
        self._room = room
        self._waiting: deque[T] = deque()
        self._stopping = False
        self._began: float | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._thread.start()

    @property
    def busy_s(self) -> float:
        """For how long the thread has been at the item in work; 0 where there is none."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    def submit(self, item: T) -> None:
        """Leave an item for the thread, in place of the oldest where there is no room. Never blocks for long."""
        with self._changed:
            if not self._stopping:
                self._waiting.append(item)
            too_many = self._stopping or len(self._waiting) > self._room
            if too_many and not self._stopping:
                self._waiting.popleft()
            self._changed.notify()
        if too_many:
            self._drop()

    def stop(self, patience_s: float | None = None) -> bool:
        """Drop the items that wait, and return when the one in work is done.

        Args:
            patience_s: at most so long; None is for ever.

        Returns:
            Whether it is done. Else the thread ends after it, and with the process at the latest.
        """
        with self._changed:
            self._stopping = True
            waited = len(self._waiting)
            self._waiting.clear()
            self._changed.notify()
        for _ in range(waited):
            self._drop()
        self._thread.join(patience_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                if self._stopping:
                    return
                item = self._waiting.popleft()
            self._began = time.monotonic()
            try:
                self._work(item)
            except Exception as fault:  # a thread that ended would leave a node that only seems to work
                self._failed(fault)
            finally:
                self._began = None
                del item  # an image is not kept until the next one comes
