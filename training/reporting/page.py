"""The report of a training run as one HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import cycle

import numpy as np

from stfm_ros.evaluate import EPIPOLAR_THRESHOLDS, POSE_THRESHOLDS_DEG, PoseScore
from stfm_ros.machine import versions
from stfm_ros.plots import Bars, Series, group_plot, line_plot
from stfm_ros.report import Figure, Finding, Heading, Listing, Notes, Part, Picture, Plot, Report, Table
from stfm_training.reporting.record import AFTER, BEFORE, Evaluation, TrainingReport, pose_errors
from stfm_training.reporting.run_folder import RunFolder, commit
from stfm_training.reporting.tables import table_columns, table_row
from stfm_training.reporting.verdict import HEADLINE_DEG, comparisons, licence_notes

LOSSES = ("loss", "loss_c", "loss_f", "loss_mqd", "loss_att")


@dataclass(frozen=True)
class Curves:
    """Numbers of the log that share a plot."""

    title: str
    names: tuple[str, ...]
    label: str
    log: bool = False


CURVES = (
    Curves("Coarse accuracy", ("coarse_accuracy", "val_coarse_accuracy"), "share of true matches found"),
    Curves("Fine error", ("fine_px", "val_fine_px"), "median, px"),
    Curves("Gradient", ("gradient",), "norm before it is clipped", log=True),
    Curves("Learning rate", ("lr",), "learning rate"),
    Curves("Throughput", ("pairs_s",), "pairs a second"),
    Curves("Waiting for data", ("waiting",), "share of the time"),
)


def training_page(run: RunFolder, report: TrainingReport) -> Report:
    """The page."""
    kind = "RGB-D teacher" if run.weights.channels == 4 else "RGB student"
    found = comparisons(report.evaluations)
    findings = [Finding(one.text, one.tone) for one in sorted(found, key=lambda one: one.tone != "bad")]
    findings += [Finding(note) for note in report.notes]
    parts: list[Part] = []
    for evaluation in report.evaluations:
        parts += _evaluation_parts(evaluation)
    parts += _training_parts(run)
    parts += _data_parts(report)
    parts.append(Notes("Licences and patent", tuple(licence_notes(run, report))))
    if run.config:
        parts.append(Listing("Config, as it was given", run.config))
    subtitle = f"Preset {run.weights.preset}, {kind}, {run.weights.parameters / 1e6:.2f} M parameters"
    if run.log:
        subtitle += f", {int(max(line['step'] for line in run.log))} steps"
    return Report(report.title, subtitle, tuple(_figures(report)), tuple(parts), facts_of(run, report), tuple(findings))


def _figures(report: TrainingReport) -> list[Figure]:
    """Headline numbers: all of the first recording, AUC@10 of the others."""
    figures = []
    for number, evaluation in enumerate(report.evaluations):
        scores = evaluation.main
        new = scores[AFTER] if AFTER in scores else next(iter(scores.values()))
        old = scores.get(BEFORE)
        fine = f"{EPIPOLAR_THRESHOLDS[0]:g}"
        values = [(f"AUC@{key}", new.auc[key], old.auc[key] if old else None) for key in new.auc]
        values.append(
            (
                f"precision < {EPIPOLAR_THRESHOLDS[0]:.0e}".replace("e-0", "e-"),
                new.precision[fine],
                old.precision[fine] if old else None,
            )
        )
        if number:
            values = [row for row in values if row[0] == f"AUC@{HEADLINE_DEG:g}"]
        figures += [_figure(f"{label}, {evaluation.name}", 100 * value, was) for label, value, was in values]
    return figures


def _figure(label: str, value: float, before: float | None) -> Figure:
    if before is None:
        return Figure(label, f"{value:.1f}", "%")
    change = round(value, 1) - round(100 * before, 1)
    tone = "good" if change > 0 else "bad" if change < 0 else ""
    return Figure(f"{label}; was {100 * before:.1f}", f"{value:.1f}", "%", tone)


def _evaluation_parts(evaluation: Evaluation) -> list[Part]:
    one = next(iter(evaluation.main.values()))
    main = evaluation.main
    note = f"{evaluation.relation}; " if evaluation.relation else ""
    note += f"{one.pairs} pairs, {one.image_size}, solver {one.solver} at {one.threshold_px:g} px"
    parts: list[Part] = [Heading(evaluation.name, note)]
    parts.append(
        Table(
            "Pose and matches, in % with 95 % intervals",
            table_columns(one),
            tuple(table_row(score) for scores in evaluation.scores.values() for score in scores.values()),
            "AUC of the pose error (the larger of the angles of rotation and of direction, a failed pair infinite); "
            "precision is the share of matches below that squared epipolar distance in normalised coordinates.",
            frozenset([list(main).index(AFTER)]) if AFTER in main else frozenset(),
            texts=2,
        )
    )
    bars = []
    for (name, score), colour in zip(main.items(), _colours(main)):
        low, high = 100 * np.array(list(score.auc_95.values())).T
        bars.append(Bars(name, 100 * np.array(list(score.auc.values())), low, high, colour))
    groups = [f"AUC@{key}" for key in one.auc]
    parts.append(Plot("Pose AUC, with 95 % intervals", group_plot(groups, bars, "%")))
    parts.append(Plot("Share of pairs below an error", _recall_plot(main), "Pairs without a pose are in none."))
    if evaluation.shown:
        shown_of = AFTER if AFTER in main else next(iter(main))
        note = f"matches of {shown_of} where no other is named; green fits the true motion, red does not"
        parts.append(Heading(f"Pairs of {evaluation.name}", note))
    parts += [
        Picture(shown.title, shown.picture, shown.note, wide=False, begins_row=shown.leads)
        for shown in evaluation.shown
    ]
    return parts


def _colours(names: Iterable[str]) -> list[int]:
    """The accent for the new weights, grey for the old ones, the others in turn."""
    others = cycle((1, 2, 3, 4))
    return [0 if name == AFTER else 5 if name == BEFORE else next(others) for name in names]


def _recall_plot(scores: Mapping[str, PoseScore]) -> str:
    limit = POSE_THRESHOLDS_DEG[-1]
    x = np.linspace(0, limit, 201)
    series = []
    for (name, score), colour in zip(scores.items(), _colours(scores)):
        below = np.searchsorted(np.sort(pose_errors(score)), x, side="right")
        series.append(Series(name, x, 100 * below / max(score.pairs, 1), dashed=name == BEFORE, colour=colour))
    return line_plot(series, "pose error, degrees", "pairs, %")


def _training_parts(run: RunFolder) -> list[Part]:
    names = {name for line in run.log for name in line}
    losses = [name for name in LOSSES if name in names]
    losses += sorted(name for name in names if name.startswith("loss") and name not in losses)
    parts: list[Part] = []
    for curves in (Curves("Losses", tuple(losses), "loss", log=True), *CURVES):
        series = [_smoothed(run.curve(name)) for name in curves.names if name in names]
        if any(len(item.x) for item in series):
            parts.append(Plot(curves.title, line_plot(series, "step", curves.label, log=curves.log)))
    if not parts:
        return []
    note = (
        "Running means over a fortieth of the lines of the log; val: the averaged weights, on pairs that are not "
        "trained on"
    )
    return [Heading("Training", note), *parts]


def _smoothed(series: Series) -> Series:
    """A running mean over a fortieth of the points; few points stay as they are."""
    count = len(series.y) // 40
    if count < 2:
        return series
    known = np.isfinite(series.y)
    kernel = np.ones(count)
    total = np.convolve(np.where(known, series.y, 0), kernel, "valid")
    share = np.convolve(known, kernel, "valid")
    mean = np.divide(total, share, out=np.full(len(total), np.nan), where=share > 0)
    return Series(series.name, np.convolve(series.x, kernel, "valid") / count, mean)


def _data_parts(report: TrainingReport) -> list[Part]:
    if not report.data:
        return []
    rows = tuple(
        (one.name, one.use, one.licence or "not stated", _count(one.images), _count(one.pairs), one.sha256[:16])
        for one in report.data
    )
    columns = ("data", "use", "licence", "images", "pairs", "SHA-256")
    notes = "; ".join(f"{one.name}: {one.note}" for one in report.data if one.note)
    parts: list[Part] = [Heading("Data"), Table("What was trained and measured on", columns, rows, notes, texts=3)]
    rejected = tuple((one.name, reason, f"{n:,}") for one in report.data for reason, n in one.left_out.items() if n)
    if rejected:
        parts.append(Table("Left out", ("data", "reason", "count"), rejected, texts=2))
    return parts


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def facts_of(run: RunFolder, report: TrainingReport) -> dict[str, str]:
    """Names and values for the foot of the page."""
    facts = {"weights": run.weights.hash, "commit": commit(), **report.facts}
    if any(one.sha256 for one in report.data):
        facts["bags"] = "; ".join(
            f"{one.name} {one.sha256}" for one in {d.name: d for d in report.data}.values() if one.sha256
        )
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in versions().items() if name != "stfm_ros")
    if device := _device():
        facts["device"] = device
    return facts


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""
