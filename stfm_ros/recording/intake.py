"""The door of a recorder: callbacks of any thread leave messages here and go on, and every message is counted.

What waits is bounded in bytes from here until it is written or left out, wherever in the recorder it is.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stfm_ros.recording.ledger import Tally
from stfm_ros.recording.pairing import Hint, Item


class Intake:
    """Messages that were taken, what became of them, and whether the recording goes on.

    Args:
        most_bytes: of messages that wait.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._came = threading.Event()
        self._items: deque[Item] = deque()
        self._hints: deque[tuple[int, Hint]] = deque()
        self._tallies: dict[str, Tally] = {}
        self._faults: dict[str, str] = {}
        self._bytes = 0
        self._closing = False
        self._reason = ""

    # From the callbacks.

    def open(self, topic: str, tally: Tally) -> None:
        """Take messages of one more topic."""
        with self._lock:
            self._tallies[topic] = tally

    def take(self, item: Item) -> bool:
        """Leave a message; False where it is left out at once: the recording has ended, or there is no room."""
        with self._lock:
            tally = self._tallies[item.topic]
            tally.taken += 1
            tally.last_ns = item.receipt_ns
            tally.first_ns = tally.first_ns or item.receipt_ns
            reason = ""
            if self._closing or self._reason:
                reason = "stopped"
            elif not 0 < item.receipt_ns < 2**63:  # a clock that has not begun says 0
                reason = "bad_stamp"
                words = f"{item.topic}: received at {item.receipt_ns} ns: where use_sim_time is set, /clock has to be"
                self._faults.setdefault(reason, words)
            elif self._bytes + item.size > self._most_bytes:
                reason = "queue_full"
            if reason:
                tally.left_out[reason] += 1
                return False
            self._bytes += item.size
            self._items.append(item)
        self._came.set()
        return True

    def miss(self, topic: str, number: int) -> None:
        """So many messages were sent and never came."""
        with self._lock:
            self._tallies[topic].missed += number

    def hint(self, stamp_ns: int, hint: Hint) -> None:
        """Leave what others know of a frame."""
        with self._lock:
            self._hints.append((stamp_ns, hint))
        self._came.set()

    def close(self) -> bool:
        """Take nothing more; whether this is the first time."""
        with self._lock:
            first = not self._closing
            self._closing = True
        self._came.set()
        return first

    # From the recorder.

    def next(self) -> tuple[Item | None, list[tuple[int, Hint]]]:
        """The oldest message that waits, and the hints that came."""
        with self._lock:
            hints = list(self._hints)
            self._hints.clear()
            return (self._items.popleft() if self._items else None), hints

    def wait(self, seconds: float) -> None:
        """Until something comes, at most so long."""
        self._came.wait(seconds)
        self._came.clear()

    def written(self, item: Item, name: str) -> None:
        """A message was written under this name."""
        with self._lock:
            self._tallies[item.topic].recorded_as = name
            self._tallies[item.topic].written += 1
            self._bytes -= item.size

    def leave_out(self, item: Item, reason: str, fault: str = "") -> None:
        """A message was not written; of each reason, the first fault is remembered."""
        with self._lock:
            self._tallies[item.topic].left_out[reason] += 1
            self._bytes -= item.size
            if fault:
                self._faults.setdefault(reason, f"{item.topic}: {fault}")

    def stop(self, reason: str, fault: str = "") -> None:
        """The recording has ended; the first reason counts."""
        with self._lock:
            self._reason = self._reason or reason
            if fault:
                self._faults.setdefault("unfinished", fault)

    def settle(self, stored: Mapping[str, int]) -> None:
        """What still waits is never written; by topic, ``stored`` messages are in the bag, whatever was given to it."""
        with self._lock:
            for name, tally in self._tallies.items():
                tally.written = stored.get(name, 0)
                if tally.waiting:
                    tally.left_out["not_written"] += tally.waiting
            self._items.clear()
            self._bytes = 0

    # From anywhere.

    @property
    def reason(self) -> str:
        """Why nothing is taken any more; empty while it is."""
        with self._lock:
            return self._reason or ("closing" if self._closing else "")

    @property
    def bytes_waiting(self) -> int:
        """Of messages that are neither written nor left out."""
        with self._lock:
            return self._bytes

    @property
    def faults(self) -> dict[str, str]:
        """The first of each kind."""
        with self._lock:
            return dict(self._faults)

    def tallies(self) -> dict[str, Tally]:
        """What became of the messages so far, by topic."""
        with self._lock:
            return {name: replace(tally, left_out=tally.left_out.copy()) for name, tally in self._tallies.items()}

    def record(self) -> dict[str, dict[str, Any]]:
        """The same, as ledger and manifest keep it."""
        return {name: tally.record() for name, tally in self.tallies().items()}
