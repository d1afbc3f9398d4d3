"""What ``stfm run`` says of trajectories: one row a method, with its errors where the truth is known.

The errors are those of :mod:`stfm_ros.odometry_error`.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stfm_ros.cli.command import Screen, table
from stfm_ros.cli.options import at_least
from stfm_ros.errors import DatasetError, RuntimeNotAvailable

if TYPE_CHECKING:
    from stfm_ros.bags import BagReader
    from stfm_ros.odometry_error import Alignment
    from stfm_ros.offline import RunResult
    from stfm_ros.report import Plot, Table
    from stfm_ros.trajectory import Trajectory

_COLUMNS = ("method", "placed %", "breaks", "ATE Sim3 m", "ATE SE3 m", "RPE m", "RPE %", "RPE deg", "ms an image")
#: of the record of ``stfm run``
FIELDS = {
    "ground_truth": "null, or the topic or the file of the true poses",
    "rpe_frames": "images that a motion of the RPE spans",
    "methods": "one object for the model, and for each of --methods:",
    "methods[].method": "its name",
    "methods[].placed": "share of the images that were placed, 0 to 1",
    "methods[].breaks": "times the chain of poses was interrupted",
    "methods[].ms": "median of an image: decoding, matching and pose",
    "methods[].sim3": "null without a truth, or the errors after a rigid motion and a scale laid it onto the truth:",
    "methods[].sim3.scale": "that the trajectory was multiplied with",
    "methods[].sim3.ate_m": "root mean square distance of the positions",
    "methods[].sim3.rpe_m": "root mean square error of the translation over rpe_frames images",
    "methods[].sim3.rpe_percent": "the same, of the root mean square of the true translations",
    "methods[].sim3.rpe_deg": "root mean square error of the rotation over rpe_frames images",
    "methods[].sim3.compared": "images that have a place and a true one",
    "methods[].se3": "the same after a rigid motion alone, where the trajectory is in metres; else null",
    "methods[].fault": "null, or why there are no errors although there is a truth",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the comparison is told."""
    parser.add_argument(
        "--ground-truth", default="", metavar="TOPIC_OR_FILE",
        help="true poses of the camera: a topic of the bag, or a file in TUM layout (default: that of import-rgbd, "
        "where the bag has it); none leaves the errors out",
    )  # fmt: skip
    parser.add_argument(
        "--rpe-frames",
        type=at_least(1),
        default=1,
        metavar="N",
        help="images that a motion of the RPE spans (default 1)",
    )
    parser.add_argument(
        "--methods", default="none", metavar="LIST",
        help="what goes the same way beside the model: sift, orb, akaze (default none)",
    )  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One method; errors are None without a truth, SE3 also without metres, ``fault`` says why else."""

    method: str
    placed: float
    breaks: int
    ms: float
    sim3: Alignment | None = None
    se3: Alignment | None = None
    fault: str | None = None

    def record(self) -> dict[str, Any]:
        """See :data:`FIELDS`."""
        plain = {name: getattr(self, name) for name in ("method", "placed", "breaks", "ms", "fault")}
        return plain | {"sim3": _record(self.sim3), "se3": _record(self.se3)}

    def texts(self) -> tuple[str, ...]:
        """The cells of :data:`_COLUMNS`; the RPE is of the metric trajectory where there is one."""
        best = self.se3 or self.sim3
        errors = ["-"] * 5
        if best is not None and self.sim3 is not None:
            errors = [f"{self.sim3.ate_m:.3f}", f"{self.se3.ate_m:.3f}" if self.se3 else "-"]
            errors += [f"{best.rpe_m:.4f}", f"{best.rpe_percent:.1f}", f"{best.rpe_deg:.3f}"]
        return self.method, f"{100 * self.placed:.0f}", str(self.breaks), *errors, f"{self.ms:.0f}"


def find_truth(reader: BagReader, options: argparse.Namespace) -> str:
    """Where the truth is, by the options or as ``stfm import-rgbd`` writes it; "" where there is none."""
    from stfm_ros.import_rgbd import POSE_TOPIC, POSE_TYPE

    if options.ground_truth:
        return "" if options.ground_truth == "none" else str(options.ground_truth)
    topic = reader.topics.get(POSE_TOPIC)
    return POSE_TOPIC if topic is not None and topic.type == POSE_TYPE and topic.count else ""


def load_truth(bag: Path, where: str, asked: bool, screen: Screen) -> Trajectory | None:
    """The truth; without evo it is an error where it was ``asked`` for, and told where it was only found.

    Raises:
        RuntimeNotAvailable, BagError, DatasetError: see :mod:`stfm_ros.odometry_error`.
    """
    from stfm_ros.odometry_error import require_evo, true_trajectory

    if not where:
        return None
    try:
        require_evo()
    except RuntimeNotAvailable as fault:
        if asked:
            raise
        screen.say(f"stfm: no errors beside {where}: {fault}")
        return None
    return true_trajectory(bag, where)


def judge(method: str, result: RunResult, truth: Trajectory | None, frames: int) -> Row:
    """A method by what came of it."""
    from stfm_ros.odometry_error import compare

    stages = [np.asarray(times) for times in result.timings_ms.values()]
    ms = float(np.median(np.sum(stages, axis=0))) if stages else float("nan")
    sim3, se3, fault = None, None, None
    if truth is not None:
        try:
            sim3 = compare(result.placed, truth, with_scale=True, frames=frames)
            se3 = compare(result.placed, truth, with_scale=False, frames=frames) if result.scale_topic else None
        except DatasetError as why:
            fault = str(why)
    return Row(method, len(result.stamps_ns) / max(result.read, 1), result.breaks, ms, sim3, se3, fault)


def show(screen: Screen, rows: list[Row], frames: int) -> None:
    """The table, and what kept a method out of it."""
    lines = table(*_COLUMNS)
    for row in rows:
        lines.add_row(*row.texts())
    screen.show(lines)
    if any(row.sim3 for row in rows):
        screen.show(_about(frames))
    for row in rows:
        if row.fault:
            screen.say(f"stfm: {row.method} has no errors: {row.fault}")


def parts(rows: list[Row], frames: int) -> list[Table | Plot]:
    """Of the report: the table, the paths over the true one, and the errors over time."""
    from stfm_ros.plots import Series, line_plot, path_plot
    from stfm_ros.report import Plot, Table

    known = [(row.method, row.se3 or row.sim3) for row in rows]
    laid = [(name, alignment) for name, alignment in known if alignment is not None]
    note = _about(frames) if laid else ""
    found: list[Table | Plot] = [Table("Trajectories", _COLUMNS, tuple(row.texts() for row in rows), note)]
    if not laid:
        return found
    longest = max((alignment for _, alignment in laid), key=lambda alignment: len(alignment.truth))
    across, up = np.sort(np.argsort(-np.ptp(longest.truth, axis=0), kind="stable")[:2]).tolist()
    paths = [Series("truth", longest.truth[:, across], longest.truth[:, up], dashed=True)]
    errors: list[Series] = []
    began_ns = longest.stamps_ns[0]
    for name, alignment in laid:
        paths.append(Series(name, alignment.positions[:, across], alignment.positions[:, up]))
        seconds = (alignment.stamps_ns - began_ns) / 1e9
        errors.append(Series(name, seconds, alignment.errors_m, colour=len(errors) + 1))
    how = "by a rigid motion" if laid[0][1] is rows[0].se3 else "by a rigid motion and a scale"
    axes = [f"{'xyz'[axis]} of the truth's world, m" for axis in (across, up)]
    found.append(Plot("Trajectories over the truth", path_plot(paths, *axes), f"Laid onto the truth {how}."))
    found.append(Plot("Error over time", line_plot(errors, "s", "m"), "Distance to the true position, after that."))
    return found


def _record(alignment: Alignment | None) -> dict[str, Any] | None:
    if alignment is None:
        return None
    plain = {name: getattr(alignment, name) for name in ("scale", "ate_m", "rpe_m", "rpe_percent", "rpe_deg")}
    return plain | {"compared": len(alignment.stamps_ns)}


def _about(frames: int) -> str:
    apart = "from one image to the next" if frames == 1 else f"over {frames} images"
    return (
        f"ATE: root mean square distance to the true positions, laid onto them with a scale (Sim3) or without (SE3); "
        f"RPE: of the motion {apart}. Images that were not placed do not count in either."
    )
