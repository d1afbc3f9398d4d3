"""A recording that was read into a folder: frames, and pairs of them whose motion is known and was checked.

    recording.json   where it came from, the camera, the topics, what was left out and why
    motions.npz      stamps_ns (n,), poses (n, 4, 4), held_out (n,), and of the pairs index0, index1, T_0to1, overlap
    rgb/*.jpg|png    as they were recorded, or PNG where they were raw
    depth/*.png      16 bit, millimetres, 0 = none; registered to the image, perhaps smaller

Camera axes are x right, y down, z forward; poses are camera to world, metres.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stfm_ros.errors import DatasetError
from stfm_ros.pairs import DEFAULTS, Pair, Sampling, rotation_angle_deg, spread
from stfm_ros.types import BoolArray, Camera, FloatArray
from stfm_training.recordings.frames import Frames
from stfm_training.recordings.pairs import PosedPairs

RECORD, MOTIONS = "recording.json", "motions.npz"
VERSION = 1


@dataclass(frozen=True)
class KnownPair(Pair):
    """A pair for ``stfm_ros.evaluate`` whose motion is known even where no frame has a pose."""

    motion: FloatArray

    @property
    def T_0to1(self) -> FloatArray:
        """(4, 4) float64."""
        return self.motion


class Recording(Frames):
    """The folder that :func:`stfm_training.recordings.prepare` wrote; frames are read when they are asked for.

    Attributes:
        path: the folder.
        record: recording.json.
        camera: of every image.
        stamps_ns: (n,) int64; stamps: (n,) float64 seconds.
        poses: (n, 4, 4) camera to world, NaN where motions were estimated pair by pair.
        held_out_frames: (n,) bool, frames that no training pair touches.
        train, held_out: pairs of frames on one side.

    Raises:
        DatasetError: there is no such folder, or it is not whole.
    """

    def __init__(self, path: Path | str) -> None:
        path = Path(path)
        try:
            self.record: dict[str, Any] = json.loads((path / RECORD).read_text(encoding="utf-8"))
            with np.load(path / MOTIONS) as arrays:
                motions = dict(arrays)
            names, camera = self.record["images"], Camera(**self.record["camera"])
        except (OSError, ValueError, KeyError, TypeError) as fault:
            raise DatasetError(
                f"{path} is no prepared recording ({fault}): prepare the bag again, into this or another folder"
            ) from None
        super().__init__(path, names, camera)
        self.stamps_ns: NDArray[np.int64] = motions["stamps_ns"]
        self.stamps: FloatArray = self.stamps_ns / 1e9
        self.poses: FloatArray = motions["poses"]
        self.held_out_frames: BoolArray = motions["held_out"]
        pairs = PosedPairs(*(motions[name] for name in ("index0", "index1", "T_0to1", "overlap")))
        outside = self.held_out_frames[pairs.index0]
        self.train, self.held_out = pairs.take(~outside), pairs.take(outside)

    @property
    def counts(self) -> dict[str, Any]:
        """Images of the bag, and how many of them, and of the pairs, were left out for which reason."""
        counts: dict[str, Any] = self.record["counts"]
        return counts

    def pairs_to_measure(self, sampling: Sampling = DEFAULTS, held_out: bool = True) -> list[Pair]:
        """Pairs spread over overlap for ``stfm_ros.evaluate``: of the held-out frames, or of the others.

        Where no poses were recorded, their motion is the estimate of the matcher that prepared the recording: good
        enough to tell a bad model from a good one, not to rank models that are better than that matcher.

        Raises:
            DatasetError: there is none with a baseline worth a pose.
        """
        pairs, rng = self.held_out if held_out else self.train, np.random.default_rng(sampling.seed)
        medians: dict[int, float] = {}
        kept = []
        for row, (i, T) in enumerate(zip(pairs.index0.tolist(), pairs.T_0to1)):
            if i not in medians:
                depth = self.depth(i)
                medians[i] = float(np.median(depth[depth > 0]))
            far = float(np.linalg.norm(T[:3, 3])) >= sampling.min_baseline * medians[i]
            if far and rotation_angle_deg(T[:3, :3]) < sampling.max_rotation_deg:
                kept.append(row)
        if not kept:
            raise DatasetError(
                f"{self.path}: none of the {len(pairs)} {'held-out ' if held_out else ''}pairs has a baseline of "
                f"{sampling.min_baseline:g} of the depth: hold out more frames, or evaluate another bag"
            )
        edges = np.linspace(sampling.min_overlap, sampling.max_overlap, sampling.bins + 1)[1:-1]
        chosen = sorted(kept[k] for k in spread(np.digitize(pairs.overlap[kept], edges), sampling.count, rng))
        columns = vars(pairs.take(np.array(chosen))).values()
        return [KnownPair(self, int(i), int(j), float(overlap), T) for i, j, T, overlap in zip(*columns)]

    def about(self) -> dict[str, Any]:
        """What a model card says of the recording."""
        wanted = ("bag", "topics", "poses_from", "camera", "counts")
        return {"sha256": self.record["made_from"]["sha256"], **{name: self.record[name] for name in wanted}}
