"""A thread that works on the newest item: what it has no time for is dropped, so its delay stays that of one item."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class NewestWorker(Generic[T]):
    """Calls ``work`` with the newest item that was submitted, in its own thread.

    Args:
        work: must not raise.
        drop: called once for each item that ``work`` never sees.
    """

    def __init__(self, work: Callable[[T], None], drop: Callable[[], None]) -> None:
        self._work = work
        self._drop = drop
        self._waiting: T | None = None
        self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="newest-worker", daemon=True)
        self._thread.start()

    def submit(self, item: T) -> None:
        """Leave an item for the thread, in place of the one that waits. Never blocks for long."""
        with self._changed:
            replaced = self._waiting is not None or self._stopping
            self._waiting = None if self._stopping else item
            self._changed.notify()
        if replaced:
            self._drop()

    def stop(self) -> None:
        """Drop the item that waits and return when the one in work is done."""
        with self._changed:
            self._stopping = True
            waited = self._waiting is not None
            self._waiting = None
            self._changed.notify()
        if waited:
            self._drop()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._stopping)
                item, self._waiting = self._waiting, None
            if item is None:
                return
            self._work(item)
