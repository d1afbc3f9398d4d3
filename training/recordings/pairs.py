"""Pairs of frames worth training on, and the motion between them: by recorded poses, or by PnP on matches.

A pair is kept if enough of either frame is seen in the other, but not nearly all, and if the depth of both agrees
with the motion. Both frames are trained on, or both are held out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stfm_ros.errors import DatasetError
from stfm_ros.types import BoolArray, ByteArray, Camera, Float32Array, FloatArray
from stfm_training.recordings.config import ESTIMATE, RecordingConfig
from stfm_training.recordings.estimate import Match, Rejected, estimate_motion
from stfm_training.recordings.frames import Progress
from stfm_training.recordings.overlap import LEAST_OVERLAP, MOST_OVERLAP, DepthMaps, visible_pairs

#: least agreement of depth with a motion, and the share of pairs that must reach it for poses to be believed
LEAST_AGREEMENT, LEAST_BELIEVED = 0.75, 0.6
#: recorded poses make at most so many pairs, at random
MOST_POSED_PAIRS = 60_000
#: a gap in time is given up after so many tries, if less than this share of them gave a pair
TRIES, LEAST_YIELD = 8, 0.2
_OUT_OF_RANGE = f"overlap outside {LEAST_OVERLAP:g}-{MOST_OVERLAP:g}"
_CONTRADICTED = "depth contradicts the motion"


class RgbdFrames(Protocol):
    """Images of one camera, and depth of the same size: a recording, or a ``stfm_ros.rgbd.RgbdFolder``."""

    @property
    def camera(self) -> Camera: ...

    def __len__(self) -> int: ...

    def image(self, i: int, /) -> ByteArray: ...

    def depth(self, i: int, /) -> Float32Array: ...


@dataclass(frozen=True)
class PosedPairs:
    """Pairs of frames, the earlier first.

    Attributes:
        index0, index1: (m,) int64.
        T_0to1: (m, 4, 4) float64.
        overlap: (m,) the lesser share of either frame's depth that the other sees.
    """

    index0: NDArray[np.int64]
    index1: NDArray[np.int64]
    T_0to1: FloatArray
    overlap: FloatArray

    def __len__(self) -> int:
        return len(self.index0)

    def take(self, index: NDArray[Any]) -> PosedPairs:
        """The pairs at ``index`` (integers or a boolean mask)."""
        return PosedPairs(self.index0[index], self.index1[index], self.T_0to1[index], self.overlap[index])


def held_out_frames(count: int, share: float) -> BoolArray:
    """(count,) bool: a block of time every so often, so that what is held out is the same place at another moment.

    >>> held_out_frames(10, 0.2).nonzero()[0].tolist()
    [8, 9]
    """
    if share == 0:
        return np.zeros(count, np.bool_)
    period = round(1 / share)
    blocks = period * (2 if count >= 20 * period else 1)
    block = np.arange(count) * blocks // max(count, 1)
    return np.asarray(block % period == period - 1)


def posed_pairs(
    frames: RgbdFrames, poses: FloatArray, poses_from: str, held_out: BoolArray, config: RecordingConfig
) -> tuple[PosedPairs, Counter[str]]:
    """Pairs by the poses of the frames.

    Args:
        poses: (n, 4, 4) camera to a fixed frame.
        poses_from: in words.
        held_out: (n,) frames that are not trained on.

    Returns:
        The pairs, and how many were left out for which reason.

    Raises:
        DatasetError: the poses contradict the depth, or no two frames overlap as they should.
    """
    maps = DepthMaps(frames.camera, (frames.depth(i) for i in range(len(frames))))
    found = visible_pairs(maps, poses, MOST_POSED_PAIRS, np.random.default_rng(config.seed))
    index0, index1 = found[held_out[found[:, 0]] == held_out[found[:, 1]]].T
    T_0to1 = np.linalg.inv(poses[index1]) @ poses[index0]
    comparison = maps.compare(index0, index1, T_0to1)
    agrees = comparison.agreement >= LEAST_AGREEMENT
    if len(agrees) and agrees.mean() < LEAST_BELIEVED:
        raise DatasetError(
            f"the poses ({poses_from}) contradict the depth: of {len(agrees)} pairs of frames that look the same way "
            f"by their poses, {agrees.mean():.0%} agree (median share of points at the same depth "
            f"{np.median(comparison.agreement):.2f}, expected {LEAST_AGREEMENT:g} or more); poses must be of the "
            f"camera's optical frame, or joined to it by tf (pose_frame), and in metres; or choose poses: {ESTIMATE}"
        )
    kept = agrees & comparison.in_range
    left_out = Counter({_CONTRADICTED: int((~agrees).sum()), _OUT_OF_RANGE: int((agrees & ~comparison.in_range).sum())})
    pairs = PosedPairs(index0, index1, T_0to1, comparison.overlap).take(kept)
    _check(pairs, comparison.overlap[agrees], held_out, left_out)
    return pairs, +left_out


def estimated_pairs(
    frames: RgbdFrames, match: Match, held_out: BoolArray, config: RecordingConfig, progress: Progress
) -> tuple[PosedPairs, Counter[str]]:
    """Pairs at many gaps in time, each by PnP of its own: nothing is chained, so nothing drifts.

    Returns, raises:
        As :func:`posed_pairs`.
    """
    maps = DepthMaps(frames.camera, (frames.depth(i) for i in range(len(frames))))
    trials = Trials(held_out, config.max_pairs, np.random.default_rng(config.seed))
    left_out: Counter[str] = Counter()
    rows: list[tuple[int, int, FloatArray, float]] = []
    overlaps: list[float] = []
    for i, j in trials:
        try:
            T_0to1 = estimate_motion(
                match(frames.image(i), frames.image(j)), frames.depth(i), frames.depth(j), frames.camera
            )
            comparison = maps.compare(np.array([i]), np.array([j]), T_0to1[None])
            if comparison.agreement[0] < LEAST_AGREEMENT:
                raise Rejected(_CONTRADICTED)
            overlaps.append(float(comparison.overlap[0]))
            if not comparison.in_range[0]:
                raise Rejected(_OUT_OF_RANGE)
            rows.append((i, j, T_0to1, overlaps[-1]))
            trials.worked()
        except Rejected as reason:
            left_out[str(reason)] += 1
        progress("pairs", trials.tried, config.max_pairs)
    index0, index1, T, overlap = zip(*rows) if rows else ((), (), np.zeros((0, 4, 4)), ())
    pairs = PosedPairs(np.array(index0, np.int64), np.array(index1, np.int64), np.array(T), np.array(overlap))
    _check(pairs, np.array(overlaps), held_out, left_out)
    return pairs, left_out


class Trials:
    """Pairs of frames on one side to try, the gaps in time taken in turn; a gap that gives nothing is given up.

    Attributes:
        tried: pairs so far.
    """

    def __init__(self, held_out: BoolArray, most: int, rng: np.random.Generator) -> None:
        self.tried, self.most = 0, most
        self._yield: dict[int, list[bool]] = {}
        self._starts: dict[int, list[int]] = {}
        gap, step = 1, 1
        while gap < len(held_out):  # 1, 2, 3, 5, 8, ...
            starts = np.flatnonzero(held_out[gap:] == held_out[:-gap])
            self._starts[gap], self._yield[gap] = rng.permutation(starts).tolist(), []
            gap, step = gap + step, gap

    def __iter__(self) -> Iterator[tuple[int, int]]:
        while any(self._open(gap) for gap in self._starts):
            for gap, starts in self._starts.items():
                if self.tried < self.most and self._open(gap):
                    self._last = gap
                    self._yield[gap].append(False)
                    self.tried += 1
                    start = starts.pop()
                    yield start, start + gap

    def worked(self) -> None:
        """The last one gave a pair."""
        self._yield[self._last][-1] = True

    def _open(self, gap: int) -> bool:
        results = self._yield[gap]
        given_up = len(results) >= TRIES and np.mean(results) < LEAST_YIELD
        return self.tried < self.most and bool(self._starts[gap]) and not given_up


def _check(pairs: PosedPairs, overlaps: FloatArray, held_out: BoolArray, left_out: Counter[str]) -> None:
    """Something must be left to train on."""
    if (~held_out[pairs.index0]).any():
        return
    seen = f"{overlaps.min():.2f} to {overlaps.max():.2f}" if len(overlaps) else "none that could be told"
    reasons = ", ".join(f"{count} x {reason}" for reason, count in (+left_out).items()) or "no pair could be tried"
    raise DatasetError(
        f"no pairs of {len(held_out)} frames to train on: expected two that share {LEAST_OVERLAP:g} to "
        f"{MOST_OVERLAP:g} of what they see, the overlaps seen are {seen} ({reasons}); record a camera that moves, and "
        "comes to see the same things from elsewhere"
    )
