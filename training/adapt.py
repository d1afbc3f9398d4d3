"""From bags to weights that a robot takes, in one go: ``stfm adapt``.

1. Each bag is inspected; one that is of no use is refused before anything is trained on it. 2. The bags are read; too
few held-back pairs to judge by are refused as well. 3., 4. A teacher is trained, and the student distilled from the
shipped weights. 5. It is exported. 6. Old and new weights are measured: on held-back frames, on bags that are never
trained on, and on scenes that have nothing to do with the bags. 7. The engine is built where there is a GPU to build it
for. 8. The rule (``gate``) decides; the report says why; what is accepted is installed, else the old weights stay.

    OUT/report.html   verdict, inspection, before and after, training          OUT/recordings/  the bags, read
    OUT/teacher/, OUT/student/, OUT/export/   as ``distill`` leaves them       OUT/weights/     what the robot takes

The same call again goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from stfm_ros.config import MatcherConfig
from stfm_ros.demo import DEMO_BAG
from stfm_ros.errors import DatasetError
from stfm_ros.matcher import Matcher
from stfm_ros.parity import Deviation, check_reference
from stfm_ros.posed_bag import PosedBag
from stfm_ros.report import write_report
from stfm_ros.runtimes import load_runtime
from stfm_ros.runtimes.installed import CURRENT, PREVIOUS, Installed, check_folder, install, installed
from stfm_ros.runtimes.store import Model, find_model, shipped
from stfm_ros.types import EngineSpec
from stfm_training.config import TEACHER_OF_STUDENT, DataConfig, TrainingConfig
from stfm_training.distill import (
    EXPORT,
    HELD_OUT,
    STUDENT,
    TEACHER,
    Bags,
    compared,
    evaluate,
    export_calibrated,
    read_bags,
    report_of,
    train_student,
    train_teacher,
)
from stfm_training.evaluation import UNSEEN
from stfm_training.gate import LEAST_PAIRS, Check, Elsewhere, Verdict, judge
from stfm_training.inspection import Inspection, inspect_bag
from stfm_training.inspection.problem import ERROR, WARNING
from stfm_training.mix import Progress
from stfm_training.recordings.config import RecordingConfig
from stfm_training.reporting.adaptation import adaptation_page
from stfm_training.reporting.record import AFTER, BEFORE, Evaluation, TrainingReport
from stfm_training.reporting.run_folder import RunFolder, WeightsFile
from stfm_training.sources.homographies import Homographies
from stfm_training.sources.pair import Source
from stfm_training.sources.rendered import Rendered
from stfm_training.training_report import CARD, write_training_report
from stfm_training.validate import Known, measure

STEPS = (
    "inspecting the bags", "reading the bags", "training the teacher", "distilling the student", "exporting",
    "measuring before and after", "building the engine", "deciding",
)  # fmt: skip
REPORT, RECORDINGS, WEIGHTS = "report.html", "recordings", "weights"

#: pairs of each kind that have nothing to do with the bags, and frames of the demo's recording that they are seen on
ELSEWHERE_PAIRS, ELSEWHERE_FRAMES = 24, 6


@dataclass(frozen=True)
class Engines:
    """What became of the engine: in words; how far it is from the export, where it was run; and why it cannot be had.

    ``fault`` is for a GPU that is there and an engine that is not: the robot could not start with these weights.
    """

    text: str
    files: tuple[Path, ...] = ()
    deviation: Deviation | None = None
    fault: str = ""


@dataclass(frozen=True)
class Adapted:
    """What came out.

    Attributes:
        inspections: of all bags, those that were left out too.
        skipped: bags that were left out.
        before, after: the old weights and the new ones, as the robot runs them.
        installed: None where the old weights stay.
    """

    inspections: tuple[Inspection, ...]
    skipped: tuple[Path, ...]
    before: Model
    after: EngineSpec
    export: Path
    teacher: Path
    training: TrainingReport
    verdict: Verdict
    engines: Engines
    report: Path
    installed: Installed | None


@dataclass(frozen=True)
class Adapting:
    """What is wanted, but for the bags.

    Attributes:
        config: a recipe, ``stfm_training.distill.RECIPE`` as it is or changed.
        out: folder of the results; goes on if it holds some of these bags and settings.
        install: folder that accepted weights are installed in.
        unseen: bags to measure on only.
        recording: how bags are read.
        licence: of the bags, for the model card.
        pairs: measured on, of each bag at the most.
        unclear: whether a gain will do that is not clear.
        skip: whether bags that are of no use are left out, instead of refusing them all.
    """

    config: TrainingConfig
    out: Path
    install: Path
    unseen: Sequence[Path] = ()
    recording: RecordingConfig = field(default_factory=RecordingConfig)
    licence: str = ""
    pairs: int = 100
    unclear: bool = False
    skip: bool = False


def adapt(
    bags: Sequence[Path],
    wanted: Adapting,
    build: Callable[[Model], Engines] = lambda model: Engines("not asked for"),
    step: Callable[[str], None] = lambda text: None,
    progress: Progress = lambda stage, done, total: None,
) -> Adapted:
    """Adapt the weights to bags and install them, if they got better.

    Args:
        build: makes the engine of an export, where there is a GPU for it.
        step: told of each of :data:`STEPS` as it begins, and what came of it.
        progress: called with a stage, what is done, and of how much.

    Raises:
        DatasetError: a bag is of no use, or holds too little to judge by; says of each problem what to do.
        StfmError: of bags, config, weights, folders or training, each with the next step.
    """
    steps = iter(STEPS)

    def begin() -> None:
        name = next(steps)
        step(f"{STEPS.index(name) + 1}/{len(STEPS)} {name}")

    out = wanted.out
    config = completed(wanted.config, out)
    check_folder(wanted.install)

    begin()
    inspections = inspect_bags(bags, wanted.unseen, wanted.recording, step, progress)
    skipped = unusable(inspections, wanted.skip)
    for bag in skipped:
        step(f"    left out: {bag}")

    begin()
    train_on, unseen = ([bag for bag in some if bag not in skipped] for some in (bags, wanted.unseen))
    read = read_bags(train_on, config, unseen, wanted.recording, wanted.licence, wanted.pairs, progress)
    step(f"    {check_enough(read)} held-back pairs to judge by")

    begin()
    teacher = train_teacher(read, out)
    begin()
    weights = train_student(read, teacher, out)
    begin()
    spec = export_calibrated(weights, out / EXPORT, out.resolve().name, read)

    begin()
    after = find_model(str(out / EXPORT))
    before = replaced(wanted.install, read.start, spec)
    evaluations = evaluate(read, compared(str(before.path), after.path), progress)
    elsewhere = measure_elsewhere(before, after, progress)
    begin()
    engines = build(after)
    step(f"    {engines.text}")

    begin()
    verdict = decide(evaluations, elsewhere, deviations_of(after), engines, wanted.unclear)
    training = report_of(read, spec.name, evaluations, wanted.licence)
    write_training_report(out / STUDENT, training)
    page = adaptation_page(RunFolder.read(out / STUDENT), training, inspections, verdict, engines.text)
    write_report(out / REPORT, page)
    card = out / STUDENT / CARD
    placed = install(after.path, wanted.install, [card, out / REPORT]) if verdict.accepted else None
    return Adapted(
        inspections, skipped, before, spec, after.path, teacher, training, verdict, engines, out / REPORT, placed
    )


# -- before the work ---------------------------------------------------------------------------------


def completed(config: TrainingConfig, out: Path) -> TrainingConfig:
    """The config with what one need not say: bags are prepared in ``out``, the preset is that of the weights to begin
    from, and a teacher that is trained begins from the shipped one, where there is one and no other is named.

    Raises:
        WeightsError: there are no such weights.
    """
    start = config.model.start or "default"
    model = replace(config.model, start=start, preset=WeightsFile.read(find_model(start).weights).preset)
    data, teacher = config.data, config.teacher
    if data.cache == DataConfig().cache:
        data = replace(data, cache=str(out / RECORDINGS))
    if not teacher.weights and teacher.start == TEACHER_OF_STUDENT and TEACHER in shipped():
        teacher = replace(teacher, start=TEACHER)
    return replace(config, model=model, data=data, teacher=teacher)


def inspect_bags(
    bags: Sequence[Path],
    unseen: Sequence[Path],
    config: RecordingConfig,
    step: Callable[[str], None],
    progress: Progress,
) -> tuple[Inspection, ...]:
    """All bags looked at; what is wrong with them is told.

    Raises:
        BagError: a bag is missing, or cannot be opened at all.
        DatasetError: a bag is to be trained on and never to be trained on.
    """
    both = {bag.resolve() for bag in bags} & {bag.resolve() for bag in unseen}
    if both:
        names = ", ".join(sorted(map(str, both)))
        raise DatasetError(f"{names} is to be trained on and to be measured on as unseen: give it once")
    found = []
    for bag in (*bags, *unseen):
        one = inspect_bag(bag, config, match=lambda: Matcher.from_pretrained().match, progress=progress)
        pairs = f", about {one.outlook.pairs} training pairs" if one.outlook else ""
        step(f"    {bag.name}: {'usable' if one.usable else 'of no use'}{pairs}")
        for problem in one.problems:
            if problem.severity == WARNING:
                step(f"        {problem}")
        found.append(one)
    return tuple(found)


def unusable(inspections: Sequence[Inspection], skip: bool) -> tuple[Path, ...]:
    """The bags to leave out.

    Raises:
        DatasetError: there are such bags and they are not to be skipped, or nothing else is left.
    """
    bad = [one for one in inspections if not one.usable]
    left = len(inspections) - len(bad)
    if not bad or (skip and left):
        return tuple(one.path for one in bad)
    lines = ["nothing was trained, for the inspection found bags of no use:"]
    for one in bad:
        lines += [f"  {one.path}", *(f"    {problem}" for problem in one.problems if problem.severity == ERROR)]
    name = bad[0].path
    lines.append(f"  see it in pictures: stfm inspect {name} --report {name.stem}.html")
    if left:
        lines.append("  or leave such bags out: --skip-bad")
    raise DatasetError("\n".join(lines))


def check_enough(read: Bags) -> int:
    """How many held-back pairs there are to judge by.

    Raises:
        DatasetError: too few.
    """
    pairs = sum(len(test.pairs) for test in read.tests if test.relation == HELD_OUT)
    if pairs < LEAST_PAIRS:
        raise DatasetError(
            f"nothing was trained, for nothing could be said of the result: {pairs} pairs of held-back frames can be "
            f"measured on, expected at least {LEAST_PAIRS}: record for longer and move the camera sideways, give more "
            "bags, or hold back more frames (--recording.held_out 0.4)"
        )
    return pairs


# -- after the training ------------------------------------------------------------------------------


def replaced(folder: Path, start: str, after: EngineSpec) -> Model:
    """The weights that the new ones would replace: what is installed, else what the student began as.

    Where the new ones are installed already, as after the same call, it is what was there before them.
    """
    for link in (CURRENT, PREVIOUS):
        model = installed(folder, link)
        if model is not None and model.spec is not None and model.spec.weights_hash != after.weights_hash:
            return replace(model, path=model.path.resolve())
    return find_model(start)


def measure_elsewhere(before: Model, after: Model, progress: Progress) -> dict[str, Elsewhere]:
    """Old and new weights on scenes that have nothing to do with the bags, whose truth is exact."""
    with PosedBag(DEMO_BAG) as demo:
        frames = np.linspace(0, len(demo) - 1, ELSEWHERE_FRAMES).astype(int)
        pictures = Homographies([demo.image(int(i)) for i in frames])
    sources: dict[str, Source] = {"pictures": pictures, "rendered": Rendered([])}
    matchers = {
        name: Matcher.from_pretrained(MatcherConfig(model=str(model.path)))
        for name, model in ((BEFORE, before), (AFTER, after))
    }
    alike = len({(matcher.height, matcher.width) for matcher in matchers.values()}) == 1
    rounds = [matchers] if alike else [{name: matcher} for name, matcher in matchers.items()]
    found = {}
    for done, (name, source) in enumerate(sources.items()):
        progress("elsewhere", done, len(sources))
        known: dict[str, Known] = {}
        for some in rounds:
            known |= measure(some, source, ELSEWHERE_PAIRS, UNSEEN)
        found[name] = Elsewhere.of(known[BEFORE], known[AFTER], MatcherConfig().threshold)
    progress("elsewhere", len(sources), len(sources))
    return found


def deviations_of(model: Model) -> dict[str, Deviation]:
    """How far each precision of an export is from its own reference pair, in ONNX Runtime."""
    found = {}
    for precision in model.precisions:
        runtime, _, _ = load_runtime(model, MatcherConfig(runtime="onnxruntime", precision=precision))
        found[f"export, {precision}"] = check_reference(runtime, model)
    return found


def decide(
    evaluations: Sequence[Evaluation],
    elsewhere: Mapping[str, Elsewhere],
    deviations: Mapping[str, Deviation],
    engines: Engines,
    unclear: bool,
) -> Verdict:
    """The rule (``gate``), applied to all that was measured."""
    held_back = [one for one in evaluations if one.relation == HELD_OUT]
    unseen = [one for one in evaluations if one.relation != HELD_OUT]
    if engines.deviation is not None:
        deviations = {**deviations, "engine": engines.deviation}
    verdict = judge(held_back, unseen, elsewhere, deviations, unclear)
    if engines.fault:
        failed = Check("engine", engines.fault, "an engine for the GPU at hand", False)
        return replace(verdict, checks=(*verdict.checks, failed))
    return verdict
