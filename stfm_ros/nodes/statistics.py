"""What the node counts and measures, and how /diagnostics words it.

``received = processed + dropped + in_flight`` holds at every moment: an image is in flight (one in work, and those that
wait: one, or under keep_all up to node.queue) until it is processed, with or without a result, or dropped: for a newer
one, or since the node is paused.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

#: latencies and ages are those of this many images, rates those of this time
WINDOW = 300
RATE_WINDOW_S = 5.0
_TIMES = 4096  # moments that are kept for the rates
_LONGEST = 1000  # characters of a fault: a message may hold text and numbers without end


class Statistics:
    """Counts, rates, age and latency of the images since the node was configured. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._statuses: Counter[str] = Counter()
        self._latency_ms: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=WINDOW))
        self._inliers: deque[float] = deque(maxlen=WINDOW)
        self._age_ms: deque[float] = deque(maxlen=WINDOW)
        self._arrivals: deque[float] = deque(maxlen=_TIMES)
        self._results: deque[float] = deque(maxlen=_TIMES)
        self._last_error = ""

    def receive(self, age_ms: float) -> None:
        """An image came in, so long after its stamp."""
        with self._lock:
            self._counts["received"] += 1
            self._age_ms.append(age_ms)
            self._arrivals.append(time.monotonic())

    def drop(self) -> None:
        """An image made way for a newer one."""
        with self._lock:
            self._counts["dropped"] += 1

    def lose(self, number: int) -> None:
        """So many images were sent and never came, as the middleware says."""
        with self._lock:
            self._counts["lost"] += number

    def place(self, placed: bool) -> None:
        """An image was given to the odometry, which placed it or not."""
        with self._lock:
            self._counts["placed" if placed else "unplaced"] += 1

    def succeed(self, status: str, latency_ms: Mapping[str, float], inliers: int = 0) -> None:
        """An image was processed and published, with this pose status, inliers and this time in each stage."""
        with self._lock:
            self._inliers.append(inliers)
            self._counts["processed"] += 1
            self._statuses[status] += 1
            self._results.append(time.monotonic())
            for stage, value in latency_ms.items():
                self._latency_ms[stage].append(value)

    def fail(self) -> None:
        """An image was processed and gave nothing."""
        with self._lock:
            self._counts["processed"] += 1
            self._counts["failed"] += 1

    def fault(self, kind: str, reason: str) -> None:
        """Something is wrong with an input; it may still give a result (an image without its camera_info)."""
        with self._lock:
            self._faults[kind] += 1
            self._last_error = shortened(f"{kind}: {reason}")

    @property
    def faults(self) -> int:
        """How many faults there were, of every kind."""
        with self._lock:
            return sum(self._faults.values())

    def values(self) -> dict[str, str]:
        """The lines of /diagnostics; docs/node.md says what each means."""
        with self._lock:
            count = self._counts
            done = count["processed"] + count["dropped"]
            lines = {name: str(count[name]) for name in ("received", "processed", "dropped", "failed", "lost")}
            lines["in_flight"] = str(count["received"] - done)
            lines |= {f"fault.{kind}": str(number) for kind, number in sorted(self._faults.items())}
            lines |= {f"status.{status}": str(number) for status, number in sorted(self._statuses.items())}
            if count["placed"] or count["unplaced"]:
                lines |= {"odometry_placed": str(count["placed"]), "odometry_unplaced": str(count["unplaced"])}
            lines |= percentiles("inliers", self._inliers)
            lines["rate_in_hz"] = f"{_rate(self._arrivals):.2f}"
            lines["rate_out_hz"] = f"{_rate(self._results):.2f}"
            lines |= percentiles("age_ms", self._age_ms)
            for stage, values in self._latency_ms.items():
                lines |= percentiles(f"latency_ms.{stage}", values)
            lines["last_error"] = self._last_error
            return lines


class Throttle:
    """Lets a text of each kind through once in a while, so that a fault of every image does not fill the log."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._last: dict[str, float] = {}

    def allows(self, kind: str) -> bool:
        """Whether the last time for this kind is long enough ago; counts as a time if so."""
        now = time.monotonic()
        if now - self._last.get(kind, -np.inf) < self._period_s:
            return False
        self._last[kind] = now
        return True


def shortened(text: str) -> str:
    """A text of bounded length."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ... ({len(text)} characters)"


def percentiles(name: str, values: Iterable[float], wanted: Sequence[int] = (50, 95)) -> dict[str, str]:
    """The lines ``name.p50`` and so on; none where there are no values."""
    found = list(values)
    if not found:
        return {}
    return {f"{name}.p{which}": f"{value:.2f}" for which, value in zip(wanted, np.percentile(found, wanted))}


def _rate(times: Iterable[float]) -> float:
    now = time.monotonic()
    return sum(now - moment <= RATE_WINDOW_S for moment in times) / RATE_WINDOW_S
