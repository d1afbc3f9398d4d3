"""How many training pairs the distillation would make of a bag, and how much they overlap: by its rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stfm_ros.errors import StfmError
from stfm_ros.types import BoolArray, Camera, Float32Array, FloatArray
from stfm_training.inspection.samples import Decoder
from stfm_training.recordings.config import RecordingConfig
from stfm_training.recordings.estimate import Match, Rejected, estimate_motion
from stfm_training.recordings.overlap import DepthMaps, visible_pairs
from stfm_training.recordings.pairs import LEAST_AGREEMENT, MOST_POSED_PAIRS, Trials, held_out_frames

#: pairs of frames that are tried where motions have to be estimated
TRIALS = 24
#: edges of the histogram of overlap
OVERLAP_BINS = np.linspace(0, 1, 11)


@dataclass(frozen=True)
class Outlook:
    """What to expect.

    Attributes:
        by: ``poses`` or ``matches``.
        looked_at: pairs of frames that were compared.
        agreeing: share of them whose depth agrees with their motion; by matches, whose motion could be estimated too.
        pairs: expected for training.
        overlaps: (m,) of the pairs that agree.
    """

    by: str
    looked_at: int
    agreeing: float
    pairs: int
    overlaps: FloatArray

    @property
    def histogram(self) -> list[int]:
        """Of the overlaps in :data:`OVERLAP_BINS`."""
        return [int(count) for count in np.histogram(self.overlaps, OVERLAP_BINS)[0]]


def by_poses(
    depths: dict[int, Float32Array], camera: Camera, poses: FloatArray, config: RecordingConfig
) -> Outlook | None:
    """From the depth of some rows and the (n, 4, 4) poses of all; None where fewer than two rows have depth."""
    rows = np.array(sorted(depths), np.int64)
    if len(rows) < 2:
        return None
    held_out = held_out_frames(len(poses), config.held_out)
    maps = DepthMaps(camera, (depths[row] for row in rows.tolist()))
    found = visible_pairs(maps, poses[rows], MOST_POSED_PAIRS, np.random.default_rng(config.seed))
    index0, index1 = found.T
    T_0to1 = np.linalg.inv(poses[rows[index1]]) @ poses[rows[index0]]
    comparison = maps.compare(index0, index1, T_0to1)
    agrees = comparison.agreement >= LEAST_AGREEMENT
    trained = ~held_out[rows[index0]] & ~held_out[rows[index1]]
    kept = int(np.count_nonzero(agrees & comparison.in_range & trained))
    sampled = int(np.count_nonzero(~held_out[rows]))
    possible, all_possible = sampled * (sampled - 1) / 2, _pairs_of(int(np.count_nonzero(~held_out)))
    visible = len(found) / _pairs_of(len(rows)) * _pairs_of(len(poses))
    scale = all_possible / max(possible, 1) * min(1.0, MOST_POSED_PAIRS / max(visible, 1))
    agreeing = float(agrees.mean()) if len(found) else float("nan")
    return Outlook("poses", len(found), agreeing, round(kept * scale), comparison.overlap[agrees])


def by_matches(
    decoder: Decoder,
    camera: Camera,
    match: Match,
    config: RecordingConfig,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Outlook:
    """Try a few of the pairs that the distillation would try."""
    held_out: BoolArray = held_out_frames(len(decoder), config.held_out)
    trials = Trials(held_out, min(TRIALS, config.max_pairs), np.random.default_rng(config.seed))
    agreed, trained = [], 0
    for i, j in trials:
        try:
            depths = decoder.depth(i), decoder.depth(j)
            T_0to1 = estimate_motion(match(decoder.image(i), decoder.image(j)), *depths, camera)
            comparison = DepthMaps(camera, depths).compare(np.array([0]), np.array([1]), T_0to1[None])
            if comparison.agreement[0] >= LEAST_AGREEMENT:
                agreed.append(float(comparison.overlap[0]))
                if comparison.in_range[0]:
                    trained += not held_out[i]
                    trials.worked()
        except (Rejected, StfmError):
            pass
        progress(trials.tried, trials.most)
    tried = max(trials.tried, 1)
    most = min(config.max_pairs, int(_pairs_of(len(decoder))))
    return Outlook("matches", trials.tried, len(agreed) / tried, round(trained / tried * most), np.array(agreed))


def _pairs_of(count: int) -> float:
    return max(count * (count - 1) / 2, 1.0)
