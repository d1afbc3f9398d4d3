"""Rates, gaps and stamps of topics, and how far apart the stamps of two topics are. Times are integer nanoseconds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stfm_ros.posed_bag import nearest

#: an interval this many times the usual one is a gap
GAP = 2.5


@dataclass(frozen=True)
class TopicFacts:
    """One topic.

    Attributes:
        name, type, count: as in the bag.
        role: what it is taken as (image, depth, camera_info, poses), or empty.
        why: it is taken so.
        rate_hz, jitter_ms: one over the usual interval, and how far 95 % of the intervals stay within of it.
        gaps, longest_gap_s: intervals of more than 2.5 times the usual one, and the longest interval.
        backwards: stamps that are not later than the one received before.
        delay_ms, delay_spread_ms: receipt minus stamp, median and the span from 5 % to 95 %.
        megabytes: of image data.
        frame_id: of the first message.

    NaN, or 0 for counts, where it is not read.
    """

    name: str
    type: str
    count: int
    role: str = ""
    why: str = ""
    rate_hz: float = float("nan")
    jitter_ms: float = float("nan")
    gaps: int = 0
    longest_gap_s: float = float("nan")
    backwards: int = 0
    delay_ms: float = float("nan")
    delay_spread_ms: float = float("nan")
    megabytes: float = float("nan")
    frame_id: str = ""


def intervals(stamps: NDArray[np.int64], receipts: NDArray[np.int64]) -> dict[str, float | int]:
    """The fields of :class:`TopicFacts` that (n,) stamps and times of receipt tell."""
    if len(stamps) < 2:
        return {}
    stamped = bool(np.any(stamps))
    steps = np.diff(stamps if stamped else receipts) / 1e9
    forward = steps[steps > 0]
    usual = float(np.median(forward)) if len(forward) else float("nan")
    delay = (receipts - stamps) / 1e6 if stamped else np.full(1, np.nan)
    low, middle, high = np.percentile(delay, (5, 50, 95))
    return {
        "rate_hz": 1 / usual,
        "jitter_ms": float(np.percentile(np.abs(forward - usual), 95)) * 1e3 if len(forward) else float("nan"),
        "gaps": int(np.count_nonzero(forward > GAP * usual)),
        "longest_gap_s": float(forward.max(initial=0.0)),
        "backwards": int(np.count_nonzero(steps <= 0)),
        "delay_ms": float(middle),
        "delay_spread_ms": float(high - low),
    }


@dataclass(frozen=True)
class Sync:
    """How far the stamps of one topic are from the nearest of another.

    Attributes:
        paired: share of the stamps with another within the tolerance.
        median_ms, p95_ms: of the distance; ``offset_ms``: median of the other stamp minus this one.
    """

    paired: float
    median_ms: float
    p95_ms: float
    offset_ms: float


def sync(stamps: NDArray[np.int64], others: NDArray[np.int64], tolerance_ns: int) -> Sync | None:
    """Of (n,) stamps and (m,) others; None where one of them is empty."""
    if len(stamps) == 0 or len(others) == 0:
        return None
    offset = (others[nearest(stamps, others, np.iinfo(np.int64).max)] - stamps) / 1e6
    distance = np.abs(offset)
    median, p95 = np.percentile(distance, (50, 95))
    return Sync(float(np.mean(distance <= tolerance_ns / 1e6)), float(median), float(p95), float(np.median(offset)))
