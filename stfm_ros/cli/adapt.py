"""``stfm adapt``: from bags to weights that the robot takes, in one command (``stfm_training.adapt``)."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stfm_ros.cli.build_engine import build_engines, check_engines
from stfm_ros.cli.command import Command, Outcome, Screen, table, to_json
from stfm_ros.cli.distill import SCORE_FIELDS, add_recording_settings, recording_config, score_records, score_table
from stfm_ros.cli.options import at_least, given_options
from stfm_ros.cli.train import add_training_settings, require_training
from stfm_ros.config import MatcherConfig, settings
from stfm_ros.errors import EngineError, RuntimeNotAvailable, StfmError

if TYPE_CHECKING:
    from stfm_ros.runtimes.store import Model
    from stfm_training.adapt import Adapted, Engines

RECORD = "adapt.json"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bags", type=Path, nargs="+", metavar="BAG", help="RGB-D recording to train on")
    parser.add_argument(
        "--out", type=Path, metavar="DIR",
        help="folder of all that is made (default adapted/ and the names of the bags); goes on if it is one",
    )  # fmt: skip
    parser.add_argument(
        "--install", type=Path, metavar="FOLDER",
        help="where weights that got better are put, for matcher.model: FOLDER/current (default DIR/weights); what is "
        "installed there is what they have to beat",
    )  # fmt: skip
    parser.add_argument(
        "--unseen", type=Path, action="append", default=[], metavar="BAG",
        help="recording to measure on only, on which nothing may get clearly worse; may be repeated",
    )  # fmt: skip
    parser.add_argument("--skip-bad", action="store_true", help="leave bags out that are of no use, train on the rest")
    parser.add_argument(
        "--accept-unclear", action="store_true",
        help="install where the mean gains but the 95 %% interval of the gain reaches below 0",
    )  # fmt: skip
    parser.add_argument("--no-engine", action="store_true", help="build no engine, even where there is a GPU for it")
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
    from stfm_training.adapt import WEIGHTS, Adapting, Engines, adapt
    from stfm_training.config import TrainingConfig, read_config
    from stfm_training.distill import RECIPE

    out: Path = options.out or Path("adapted") / "-".join(dict.fromkeys(bag.resolve().stem for bag in options.bags))
    wanted = Adapting(
        read_config(options.config or RECIPE, given_options(options, settings(TrainingConfig))),
        out,
        options.install or out / WEIGHTS,
        options.unseen,
        recording_config(options),
        options.licence,
        options.pairs,
        options.accept_unclear,
        options.skip_bad,
    )

    def build(model: Model) -> Engines:
        return Engines("not built: --no-engine") if options.no_engine else build_if_possible(model, screen)

    with screen.stages() as progress:
        made = adapt(options.bags, wanted, build, screen.say, progress)
    record = record_of(made, out)
    (out / RECORD).write_text(to_json(record) + "\n", encoding="utf-8")
    _show(screen, made)
    return Outcome(record, negative=made.installed is None)


def build_if_possible(model: Model, screen: Screen) -> Engines:
    """The engines of an export for the GPU of this machine; where there are none, why."""
    from stfm_ros.runtimes.engine_cache import EngineCache
    from stfm_ros.runtimes.tensorrt_builder import find_target, pick_flavour
    from stfm_ros.runtimes.tensorrt_runtime import PRECISIONS
    from stfm_training.adapt import Engines

    try:
        flavour = pick_flavour("auto")
        target = find_target(flavour)
    except (RuntimeNotAvailable, EngineError) as fault:
        return Engines(f"none was built: {fault}. On the robot: stfm build-engine MODEL, or let the node build it")
    precision = next(one for one in PRECISIONS if one in model.precisions)
    try:
        engines = build_engines(
            screen, model, flavour, [target], precision, EngineCache(MatcherConfig().engines), workspace_mib=1024
        )
        deviation, why = check_engines(model, flavour, precision, [target], MatcherConfig().engines)
    except StfmError as fault:
        return Engines(f"cannot be had: {fault}", fault=str(fault))
    text = f"{flavour.name} {flavour.version}, {precision}, for {target.gpu or target.compute_capability}; {why}"
    return Engines(text, tuple(engine.path for engine in engines), deviation)


def record_of(made: Adapted, out: Path) -> dict[str, Any]:
    """For ``--json``, and OUT/adapt.json."""
    from stfm_training.reporting.verdict import comparisons

    verdict, placed = made.verdict, made.installed
    return {
        "out": out,
        "accepted": verdict.accepted,
        "verdict": verdict.text,
        "gain": {**asdict(verdict.gain), "word": verdict.gain.word},
        "checks": [asdict(check) for check in verdict.checks],
        "bags": [
            {
                "bag": one.path,
                "usable": one.usable,
                "skipped": one.path in made.skipped,
                "problems": [asdict(problem) for problem in one.problems],
            }
            for one in made.inspections
        ],
        "before": {
            "model": made.before.path,
            "weights_hash": made.before.spec.weights_hash if made.before.spec else "",
        },
        "after": {"model": made.export, "weights_hash": made.after.weights_hash},
        "installed": None
        if placed is None
        else {"model": placed.model, "folder": placed.folder, "previous": placed.previous, "way_back": placed.way_back},
        "engine": {"text": made.engines.text, "files": made.engines.files},
        "report": made.report,
        "teacher": made.teacher,
        "recordings": score_records(made.training.evaluations),
        "findings": [asdict(one) for one in comparisons(made.training.evaluations)],
        "notes": made.training.notes,
    }


def _show(screen: Screen, made: Adapted) -> None:
    screen.show(score_table(made.training.evaluations))
    rows = table("check", "found", "needed", "", numbers=False)
    for check in made.verdict.checks:
        rows.add_row(check.name, check.found, check.needed, "ok" if check.passed else "FAILED")
    screen.show(rows)
    for note in made.training.notes:
        screen.show(note)
    screen.show(made.verdict.text)
    screen.show(f"report: {made.report}")
    placed = made.installed
    if placed is None:
        screen.show(f"nothing was installed; the new weights are in {made.export}")
        return
    screen.show(f"installed: {placed.model} -> {placed.folder.name}")
    screen.show(f"on the robot: matcher.model: {placed.model} in the file of parameters (config/matcher.yaml)")
    screen.show(f"to go back: {placed.way_back}")


COMMAND = Command(
    name="adapt",
    summary="from recorded bags to weights that the robot takes, if they got better",
    description=(
        "One command from bag to robot: inspect the bags (one of no use is refused before anything is trained on it), "
        "train a teacher and distil the student from the shipped weights, export, measure old and new weights on "
        "held-back frames and on scenes that have nothing to do with the bags, build the engine where there is a GPU "
        "to build it for, and install the new weights, or refuse to, where they did not get clearly better or lost "
        "something. Old weights stay beside new ones. The page is DIR/report.html. The same command again goes on "
        "where it was stopped. docs/adapt.md has the rule, word for word."
    ),
    example="stfm adapt office.mcap --install ~/robot/weights",
    negative="the new weights did not get better by the rule, and the old ones stay",
    fields={
        "out": "folder of all that was made; this record is adapt.json there",
        "accepted": "whether the new weights were accepted, and installed",
        "verdict": "the same in words",
        "gain": "AUC at 10 degrees on all held-back pairs: before, after, gain, its 95 % interval (low, high), pairs, "
        "and in a word: better, no clear gain, not better, worse",
        "checks[]": "the parts of the rule: name, found, needed, passed",
        "bags[].bag": "what was inspected",
        "bags[].usable": "whether it is of use",
        "bags[].skipped": "whether it was left out (--skip-bad)",
        "bags[].problems": "as stfm inspect gives them",
        "before": "the old weights: model, weights_hash",
        "after": "the new ones: model (the export), weights_hash",
        "installed": "null, or: model (for matcher.model), folder (what that leads to), previous (what it led to "
        "before), way_back",
        "engine": "text (what was built, or why nothing was), files",
        "report": "the page",
        "teacher": "the teacher's weights",
        **SCORE_FIELDS,
        "findings[]": "after against before on each recording: before, after, gain, low, high, what fell",
        "notes": "what could not be measured on, and why",
    },
    arguments=arguments,
    execute=execute,
)
