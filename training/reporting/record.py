"""What a training report is made of: data, figures and pictures that the run folder itself does not hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stfm_ros.evaluate import PoseScore
from stfm_ros.types import ByteArray, FloatArray

#: names of methods that are compared; others stand beside them
BEFORE, AFTER, VANILLA = "before", "after", "vanilla"

PATENT = (
    "The method is described in patent application US 2023/0298307: if you ship a product, ask your lawyer what that "
    "means for you."
)


@dataclass(frozen=True)
class Data:
    """A recording or a folder that went into a run.

    Attributes:
        name, use: e.g. ``office.mcap`` and ``training, weight 0.5``.
        licence: its terms, as the config gives them.
        sha256: of the bag; empty for what is no file.
        images, pairs: that were used.
        left_out: how many images or pairs were not, by reason.
        note: e.g. where its poses come from.
    """

    name: str
    use: str
    licence: str = ""
    sha256: str = ""
    images: int | None = None
    pairs: int | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    note: str = ""

    @classmethod
    def of_recording(cls, about: Mapping[str, Any], use: str, licence: str = "", held_out: bool = False) -> Data:
        """Of ``stfm_training.recordings.Recording.about()``; its held-out frames, or the others."""
        counts = about["counts"]
        whole = {name.replace("_", " "): counts[name] for name in ("without_depth", "thinned_out", "without_pose")
                 if counts.get(name)}  # fmt: skip
        left_out = {**whole, **counts.get("rejected", {}), **counts.get("pairs_left_out", {})}
        images, pairs = counts["frames_held_out"], counts["pairs_held_out"]
        if not held_out:
            images, pairs = counts["frames"] - images, counts["pairs"]
        return cls(
            about["bag"], use, licence, about["sha256"], images, pairs, left_out, f"poses from {about['poses_from']}"
        )


@dataclass(frozen=True)
class Shown:
    """A pair as a picture (H, W, 3) uint8 RGB, why it is shown, and what is seen; ``leads``: the next belongs to it."""

    title: str
    note: str
    picture: ByteArray
    leads: bool = False


@dataclass(frozen=True)
class Evaluation:
    """Several methods on the same pairs of a recording, or of rendered scenes.

    Attributes:
        name, relation: what it is, and whether it was trained on (e.g. ``never trained on``).
        scores: of each method, by solver; the first solver stands for the recording.
        shown: pictures, of the method ``after``.
    """

    name: str
    relation: str
    scores: Mapping[str, Mapping[str, PoseScore]]
    shown: tuple[Shown, ...] = ()

    @property
    def main(self) -> Mapping[str, PoseScore]:
        """The scores of the first solver, by method."""
        return next(iter(self.scores.values()))


@dataclass(frozen=True)
class TrainingReport:
    """What the run folder itself does not hold.

    Attributes:
        title: name of the new weights, or of the run.
        evaluations: the unseen recording first.
        data: what was trained and measured on.
        licence: of the weights; what their file says if not given.
        notes: sentences on how to read this, e.g. that the run was cut short.
        facts: further names and values for the foot of the page (time, device).
    """

    title: str
    evaluations: tuple[Evaluation, ...] = ()
    data: tuple[Data, ...] = ()
    licence: str = ""
    notes: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


def pose_errors(score: PoseScore) -> FloatArray:
    """(n,) degrees of each pair, infinite where there is no pose."""
    return np.array([one.error_deg for one in score.scores])
