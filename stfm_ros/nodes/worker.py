"""A thread that works on the newest items: what it has no time for is dropped, so its delay is bounded."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Worker(Generic[T]):
    """Calls ``work`` with the items that were submitted, in their order, in its own thread.

    Args:
        work: must not raise.
        drop: called once for each item that ``work`` never sees.
        room: items that may wait; with 1, the newest alone.
    """

    def __init__(self, work: Callable[[T], None], drop: Callable[[], None], room: int = 1) -> None:
        self._work = work
        self._drop = drop
        self._room = room
        self._waiting: deque[T] = deque()
        self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._thread.start()

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

    def stop(self) -> None:
        """Drop the items that wait and return when the one in work is done."""
        with self._changed:
            self._stopping = True
            waited = len(self._waiting)
            self._waiting.clear()
            self._changed.notify()
        for _ in range(waited):
            self._drop()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                if self._stopping:
                    return
                item = self._waiting.popleft()
            self._work(item)
