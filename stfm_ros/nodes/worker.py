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

    One thread for all its life, between an opening and the next as well: a runtime and the allocator keep memory for
    each thread that ever called them.

    Args:
        work: what is to be done with an item.
        drop: called once for each item that ``work`` never sees.
        failed: called with what ``work`` raised; the thread goes on with the next item.
    """

    def __init__(
        self, work: Callable[[T], None], drop: Callable[[], None], failed: Callable[[Exception], None]
    ) -> None:
        self._work = work
        self._drop = drop
        self._failed = failed
        self._room = 0  # closed
        self._ended = False
        self._waiting: deque[T] = deque()
        self._began: float | None = None
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="worker", daemon=True).start()

    @property
    def busy_s(self) -> float:
        """For how long the thread has been at the item in work; 0 where there is none."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    def open(self, room: int = 1) -> None:
        """Take items from now on.

        Args:
            room: items that may wait; with 1, the newest alone.
        """
        with self._changed:
            self._room = room

    def submit(self, item: T) -> None:
        """Leave an item for the thread, in place of the oldest where there is no room. Never blocks for long."""
        with self._changed:
            self._waiting.append(item)
            too_many = len(self._waiting) > self._room
            if too_many:
                self._waiting.popleft()
            self._changed.notify_all()
        if too_many:
            self._drop()

    def close(self, patience_s: float | None = None) -> bool:
        """Drop the items that wait and those that come, and return when the one in work is done.

        Args:
            patience_s: at most so long; None is for ever.

        Returns:
            Whether it is done.
        """
        with self._changed:
            self._room = 0
            waited = len(self._waiting)
            self._waiting.clear()
        for _ in range(waited):
            self._drop()
        with self._changed:
            return self._changed.wait_for(lambda: self._began is None, patience_s)

    def end(self) -> None:
        """Close for ever: the thread ends, after the item in work if there is one."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if self._ended:
                    return
                item = self._waiting.popleft()
                self._began = time.monotonic()
            try:
                self._work(item)
            except Exception as fault:  # a thread that ended would leave a node that only seems to work
                self._failed(fault)
            del item  # an image is not kept until the next one comes
            with self._changed:
                self._began = None
                self._changed.notify_all()
