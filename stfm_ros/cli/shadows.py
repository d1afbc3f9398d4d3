"""What ``stfm run --shadow`` says: students beside the model that is run, on the same pairs of images."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stfm_ros.cli.command import Screen, UsageError, table

if TYPE_CHECKING:
    from stfm_ros.config import AppConfig
    from stfm_ros.report import Plot, Table
    from stfm_ros.shadow import Shadow, StudentCheck
    from stfm_ros.shadow_summary import Summary
    from stfm_ros.tracker import Track

_COLUMNS = (
    "student", "judged of pairs", "disagreement p50", "p95", "common %", "px", "covered %", "right %", "teacher %",
    "poses %", "rotation deg", "direction deg", "1 sigma %", "2 sigma %", "ECE",
)  # fmt: skip
#: of the record of ``stfm run``
FIELDS = {
    "shadow": "one object for each student of --shadow; see docs/teacher.md:",
    "shadow[].student": "its name",
    "shadow[].weights_hash": "first 12 hex digits of the SHA-256 over its weights",
    "shadow[].pairs": "pairs of images that it saw",
    "shadow[].judged": "of these, those with a verdict",
    "shadow[].without": "the others, counted by their verdict; see msg/StudentCheck.msg",
    "shadow[].poses": "share of the judged pairs in which it has a pose",
    "shadow[].matches": "its matches that were judged",
    "shadow[].right": "share of these that is right",
    "shadow[].confidence": "of these by confidence: from (its lower end), judged, right, sum (of the confidences)",
    "shadow[].calibration_error": "expected calibration error of the confidence",
    "shadow[].within_1_sigma": "share of the errors of right matches, by axis; also within_2_sigma",
    "shadow[].as_right": "median over the pairs of its share of right matches as a part of the teacher's",
    "shadow[].disagreement": "median over the pairs; also disagreement_p95",
    "shadow[].common": "median over the pairs, as all else in msg/StudentCheck.msg: also common_px, covered, error_px, "
    "teacher_right, teacher_error_px, rotation_deg, direction_deg, length_m (its size), rotation_nees, "
    "translation_nees",
    "shadow[].ms": "median time of an image",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which students there are."""
    parser.add_argument(
        "--shadow", default="", metavar="LIST",
        help="students (model names) that run beside the model, which is their teacher: how far apart they are and, "
        "with --odometry.scale depth, how often they are right",
    )  # fmt: skip


class Shadows:
    """The students of a run.

    Args:
        names: as ``default,small``; empty for none.

    Raises:
        UsageError: the model that is run says nothing of single matches without depth.
        WeightsError, RuntimeNotAvailable, ConfigError: a student cannot be loaded, or takes depth.
    """

    def __init__(self, names: str, config: AppConfig) -> None:
        from stfm_ros.config import ShadowConfig
        from stfm_ros.matcher import Matcher
        from stfm_ros.shadow import Shadow

        wanted = [name for name in names.replace(" ", "").split(",") if name]
        if wanted and config.odometry.scale != "depth":
            raise UsageError(
                f"--shadow {names}: students are judged by metric poses and depth, and odometry.scale is "
                f"{config.odometry.scale}: add --odometry.scale depth"
            )
        self._shadows: dict[str, Shadow] = {}
        self._checks: dict[str, list[StudentCheck]] = {}
        for name in wanted:
            student = Matcher.from_pretrained(replace(config.matcher, model=name))
            self._shadows[name] = Shadow(student, config, ShadowConfig(model=name))
            self._checks[name] = []

    def add(self, track: Track | None) -> None:
        """Let every student see the images of a track."""
        for name, shadow in self._shadows.items():
            check = None if track is None else shadow.check(track)
            if check is not None:
                self._checks[name].append(check)

    def summaries(self) -> dict[str, Summary]:
        """What there is to say of each."""
        from stfm_ros.shadow_summary import summarise

        return {name: summarise(checks) for name, checks in self._checks.items()}

    def record(self) -> list[dict[str, Any]]:
        """See :data:`FIELDS`."""
        return [
            {"student": name, "weights_hash": self._shadows[name].student.weights_hash, **summary.record()}
            for name, summary in self.summaries().items()
        ]


def show(screen: Screen, summaries: dict[str, Summary]) -> None:
    """The tables, and what is amiss."""
    from stfm_ros.config import ShadowConfig

    if not summaries:
        return
    for columns, rows in ((_COLUMNS, _rows(summaries)), _confidence(summaries)):
        lines = table(*columns)
        for row in rows:
            lines.add_row(*row)
        screen.show(lines)
    for name, summary in summaries.items():
        if warning := summary.warning(ShadowConfig()):
            screen.say(f"stfm: {name}: {warning}")


def parts(summaries: dict[str, Summary]) -> list[Table | Plot]:
    """Of the report: the tables, and what the confidence is worth."""
    from stfm_ros.plots import Series, line_plot
    from stfm_ros.report import Plot, Table

    if not summaries:
        return []
    note = "Matches are judged by the depth of both images and the pose of the model that was run."
    found: list[Table | Plot] = [
        Table("Students", _COLUMNS, tuple(_rows(summaries)), note),
        Table("What a confidence is worth", *_confidence(summaries)),
    ]
    honest = np.array([0.0, 1.0])
    curves = [Series("honest", honest, honest, dashed=True)]
    for name, summary in summaries.items():
        judged, right, total = summary.confidences
        some = judged > 0
        curves.append(Series(name, total[some] / judged[some], right[some] / judged[some]))
    about = "Above the dashed line a student is right more often than its confidence says, below less often."
    found.append(Plot("Confidence of the students", line_plot(curves, "confidence", "share right"), about))
    return found


def _rows(summaries: dict[str, Summary]) -> list[tuple[str, ...]]:
    return [
        (
            name,
            f"{one.judged} of {one.pairs}",
            *(f"{value:.2f}" for value in (one.disagreement, one.disagreement_p95)),
            f"{100 * one.common:.0f}",
            f"{one.common_px:.2f}",
            *(f"{100 * value:.0f}" for value in (one.covered, one.right, one.teacher_right, one.poses)),
            *(f"{value:.2f}" for value in (one.rotation_deg, one.direction_deg)),
            *(f"{100 * value:.0f}" for value in (one.within_1_sigma, one.within_2_sigma)),
            f"{one.calibration_error:.2f}",
        )
        for name, one in summaries.items()
    ]


def _confidence(summaries: dict[str, Summary]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Columns and rows: for every student the share that is right, and of how many, by confidence."""
    from stfm_ros.shadow import BINS

    columns = ("confidence", *(f"{name}: right % (of)" for name in summaries))
    rows = []
    for i in range(BINS):
        counts = [(one.confidences.right[i], one.confidences.judged[i]) for one in summaries.values()]
        cells = [f"{100 * right / judged:.0f} ({judged})" if judged else "-" for right, judged in counts]
        if any(judged for _, judged in counts):
            rows.append((f"{i / BINS:.1f} to {(i + 1) / BINS:.1f}", *cells))
    return columns, tuple(rows)
