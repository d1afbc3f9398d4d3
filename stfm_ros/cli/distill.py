"""``stfm distill``: recorded RGB-D bags to new student weights (``stfm_training.distill``)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from stfm_ros.cli.command import Command, Outcome, Screen, table
from stfm_ros.cli.options import add_setting, at_least, given_options
from stfm_ros.cli.train import add_training_settings, require_training, training_config
from stfm_ros.config import Setting, from_mapping, settings

if TYPE_CHECKING:
    from stfm_training.recordings.config import RecordingConfig
    from stfm_training.reporting.record import Evaluation

_RECORDING = "recording."


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bag", type=Path, action="append", required=True, metavar="BAG",
        help="RGB-D recording to train on; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder of the results; goes on if it is one"
    )
    parser.add_argument(
        "--unseen", type=Path, action="append", default=[], metavar="BAG",
        help="recording to measure on only; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="a recipe; without one training/configs/distill.yaml"
    )
    parser.add_argument("--licence", default="", metavar="TEXT", help="terms of the bags, for the model card")
    parser.add_argument(
        "--pairs", type=at_least(1), default=100, metavar="N", help="measured on, of each bag (default 100)"
    )
    add_training_settings(parser)
    add_recording_settings(parser)


def execute(options: argparse.Namespace, screen: Screen) -> Outcome:
    require_training()
    from stfm_training.config import TrainingConfig, read_config
    from stfm_training.distill import RECIPE, distill

    config = read_config(options.config or RECIPE, given_options(options, settings(TrainingConfig)))
    recording = recording_config(options)
    with screen.stages() as progress:
        made = distill(
            options.bag, config, options.out, options.unseen, recording, options.licence, options.pairs, progress
        )
    screen.show(score_table(made.evaluations))
    for text in (*(finding.text for finding in made.findings), *made.notes):
        screen.show(text)
    screen.show(f"report: {made.report}")
    screen.show(f"on the robot: matcher.model: {made.export.resolve()} in the file of parameters (config/matcher.yaml)")
    record = {
        "export": made.export,
        "weights_hash": made.spec.weights_hash,
        "report": made.report,
        "teacher": made.teacher,
        "better": made.better,
        "recordings": score_records(made.evaluations),
        "findings": [asdict(one) for one in made.findings],
        "notes": made.notes,
    }
    return Outcome(record, negative=not made.better)


def score_table(evaluations: Sequence[Evaluation]) -> Table:
    """Each method on each recording."""
    rows = table("recording", "", "AUC@5", "AUC@10", "AUC@20", "< 1e-4", "matches")
    for evaluation in evaluations:
        for method, score in evaluation.main.items():
            aucs = (f"{100 * value:.1f}" for value in score.auc.values())
            precision = next(iter(score.precision.values()))
            rows.add_row(evaluation.name, method, *aucs, f"{precision:.0%}", f"{score.median_matches:.0f}")
        rows.add_section()
    return rows


def score_records(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """The same for ``--json``; see :data:`SCORE_FIELDS`."""
    return [
        {"name": one.name, "relation": one.relation, "scores": {m: s.to_dict() for m, s in one.main.items()}}
        for one in evaluations
    ]


SCORE_FIELDS = {
    "recordings[].name": "what was measured on",
    "recordings[].relation": "held out, or never trained on",
    "recordings[].scores": "by method (before, after, of stfm distill teacher too): as stfm eval gives them",
}


def add_recording_settings(parser: argparse.ArgumentParser) -> None:
    """An option for each setting of how bags are read; none where the training is not installed."""
    if training_config() is not None:
        group = parser.add_argument_group("how bags are read", "for every bag alike")
        for setting in _recording_settings():
            add_setting(group, setting)


def recording_config(options: argparse.Namespace) -> RecordingConfig:
    """What these options say.

    Raises:
        ConfigError: lists every fault.
    """
    from stfm_training.recordings.config import RecordingConfig

    given = given_options(options, _recording_settings())
    return from_mapping(RecordingConfig, {name.removeprefix(_RECORDING): value for name, value in given.items()})


def _recording_settings() -> list[Setting]:
    from stfm_training.recordings.config import RecordingConfig

    return list(settings(RecordingConfig, _RECORDING))


COMMAND = Command(
    name="distill",
    summary="recorded RGB-D bags to new student weights",
    description=(
        "Read bags (image, registered depth, camera_info; poses from a topic, tf, or estimated), train an RGB-D "
        "teacher on them, distil the present student on them, export it, and measure old and new weights on frames "
        "that were held out. Needs no ROS. The report is DIR/student/report.html, what the robot runs is DIR/export. "
        "The same command again goes on where it was stopped."
    ),
    example="stfm distill --bag office.mcap --unseen kitchen.mcap --out runs/office",
    negative="the new weights are no better than the old ones on the held-out frames (AUC at 10 degrees)",
    fields={
        "export": "folder to give to the node as its model",
        "weights_hash": "of the new weights",
        "report": "the page; beside it report.json and README.md, the model card",
        "teacher": "the teacher's weights",
        "better": "whether the new weights beat the old ones on the held-out frames",
        **SCORE_FIELDS,
        "findings[]": "after against before: recording, before, after, gain, its 95 % interval (low, high), what fell",
        "notes": "what could not be measured on, and why",
    },
    arguments=arguments,
    execute=execute,
)
