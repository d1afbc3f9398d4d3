"""From recorded bags to new student weights.

    distill([Path("office.mcap")], config, Path("runs/office"))

1. Each bag is read once: frames, poses from a topic, tf, or estimated from depth (``recordings``). 2. A teacher, unless
one is given, begins as the present student with a channel more, and learns on these bags what depth tells. 3. The
student goes on from its present weights, from ground truth and teacher. 4. Both are exported and measured, before and
after, on frames of the bags that were held out, and on bags never trained on. 5. Report and model card.

    OUT/teacher/    the teacher's run             OUT/student/  the student's run, with report.html and README.md
    OUT/export/     what the robot runs           recordings/   the bags, prepared (data.cache)
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stfm_ros.config import MatcherConfig
from stfm_ros.errors import ConfigError, DatasetError
from stfm_ros.evaluate import Method
from stfm_ros.matcher import Matcher
from stfm_ros.pairs import Pair, Sampling
from stfm_ros.runtimes.store import SPEC, find_model
from stfm_ros.types import EngineSpec
from stfm_training.config import TEACHER_OF_STUDENT, TrainingConfig
from stfm_training.evaluation import as_method, matcher_of
from stfm_training.export import export
from stfm_training.mix import Opened, Progress
from stfm_training.recordings.config import RecordingConfig
from stfm_training.recordings.recording import Recording
from stfm_training.reporting.run_folder import WeightsFile
from stfm_training.reporting.verdict import Comparison, comparisons
from stfm_training.run import train
from stfm_training.sources.recorded import Recorded
from stfm_training.training_report import (
    AFTER,
    BEFORE,
    Data,
    Evaluation,
    TrainingReport,
    evaluate_recording,
    write_training_report,
)
from stfm_training.validate import measure, sigma_factor

BAG = "BAG"  #: in the mix of a recipe: each bag that is given
TEACHER, STUDENT, EXPORT = "teacher", "student", "export"  #: folders of the results
RECIPE = Path(__file__).resolve().parent / "configs" / "distill.yaml"

SIZE = (480, 640, 1024)  #: height, width and k of an export where the student began as bare weights
SIGMA_PAIRS, SIGMA_SEED = 24, 12345
NEVER, HELD_OUT = "never trained on", "held-out frames of a bag that was trained on"


@dataclass(frozen=True)
class Distilled:
    """What came out: the export, the report, the teacher's weights, what was measured, and what could not be."""

    export: Path
    spec: EngineSpec
    report: Path
    teacher: Path
    evaluations: tuple[Evaluation, ...]
    notes: tuple[str, ...]

    @property
    def findings(self) -> list[Comparison]:
        """After against before, on each recording."""
        return comparisons(self.evaluations)

    @property
    def better(self) -> bool:
        """Whether the new weights beat the old ones on the held-out frames of the bags, in the mean."""
        gains = [one.gain for one in self.findings if one.relation == HELD_OUT]
        return bool(gains) and float(np.mean(gains)) > 0


def with_bags(config: TrainingConfig, bags: Sequence[Path], recording: RecordingConfig, licence: str) -> TrainingConfig:
    """The recipe with every line of the path BAG written out for each bag.

    Raises:
        ConfigError: no line of it takes the bags.
    """
    if not any(line.path == BAG and line.source == "recorded" for line in config.mix):
        raise ConfigError(f"mix: no line 'source: recorded, path: {BAG}' takes the bags; see {RECIPE}")
    mix = [line for line in config.mix if line.path != BAG]
    for line in config.mix:
        if line.path == BAG:
            shared = replace(line, weight=line.weight / len(bags), licence=licence or line.licence)
            if line.source == "recorded":
                shared = replace(shared, recording=recording)
            mix += [replace(shared, path=str(bag.resolve())) for bag in bags]
    return replace(config, mix=tuple(mix))


def distill(
    bags: Sequence[Path],
    config: TrainingConfig,
    out: Path,
    unseen: Sequence[Path] = (),
    recording: RecordingConfig | None = None,
    licence: str = "",
    pairs: int = 100,
    progress: Progress = lambda stage, done, total: None,
) -> Distilled:
    """Train a teacher and a student on bags, export and measure; goes on where it was interrupted.

    Args:
        bags: to train on; a share of the frames of each is held out.
        config: a recipe, see :data:`RECIPE`.
        out: folder of the results.
        unseen: bags to measure on only, with poses.
        recording: how bags are read.
        licence: of the bags, for the model card.
        pairs: measured on, of each bag at the most.
        progress: called with a stage, what is done, and of how much.

    Raises:
        StfmError: of bags, config, weights or training, each with the next step.
    """
    read = read_bags(bags, config, unseen, recording, licence, pairs, progress)
    teacher = train_teacher(read, out)
    weights = train_student(read, teacher, out)
    spec = export_calibrated(weights, out / EXPORT, out.name, read)
    evaluations = evaluate(read, compared(read.start, out / EXPORT, teacher), progress)
    page, _, _ = write_training_report(out / STUDENT, report_of(read, out.name, evaluations, licence))
    return Distilled(out / EXPORT, spec, page, teacher, evaluations, read.notes)


# -- the stages, each of which goes on where it was interrupted --------------------------------------


class Test(NamedTuple):
    """Pairs of a bag that weights are measured on, and what the bag is to the training."""

    name: str
    relation: str
    pairs: Sequence[Pair]


@dataclass(frozen=True)
class Bags:
    """All that is read before hours of work.

    Attributes:
        config: with the bags in its mix.
        opened: what is trained on.
        measured: bags that are never trained on.
        tests: what is measured on, those bags first.
        notes: what cannot be measured on, and why.
    """

    config: TrainingConfig
    opened: Opened
    measured: tuple[Recording, ...]
    tests: tuple[Test, ...]
    notes: tuple[str, ...]

    @property
    def start(self) -> str:
        """The model that the student begins as."""
        return self.config.model.start or "default"


def read_bags(
    bags: Sequence[Path],
    config: TrainingConfig,
    unseen: Sequence[Path] = (),
    recording: RecordingConfig | None = None,
    licence: str = "",
    pairs: int = 100,
    progress: Progress = lambda stage, done, total: None,
) -> Bags:
    """Read the bags, now or before, and choose what is measured on; see :func:`distill`."""
    recording = recording or RecordingConfig()
    config = with_bags(config, bags, recording, licence)
    find_model(config.model.start or "default")  # before hours of work
    if config.teacher.start != TEACHER_OF_STUDENT:
        find_model(config.teacher.start)
    opened = Opened(config, progress)
    everything = replace(recording, held_out=0.0)
    measured = [opened.prepared(bag, everything) for bag in unseen]
    tests, notes = choose_tests(measured, list(opened.recordings.values()), Sampling(count=pairs))
    return Bags(config, opened, tuple(measured), tuple(tests), notes)


def choose_tests(
    unseen: Sequence[Recording], trained: Sequence[Recording], sampling: Sampling
) -> tuple[list[Test], tuple[str, ...]]:
    """All of the bags that are never trained on, the held-out frames of the others, and what cannot be measured on.

    Raises:
        DatasetError: a bag that is given to measure on has no pair for it.
    """
    tests = [Test(one.record["bag"], NEVER, one.pairs_to_measure(sampling, held_out=False)) for one in unseen]
    notes = []
    for one in trained:
        try:
            tests.append(Test(one.record["bag"], HELD_OUT, one.pairs_to_measure(sampling)))
        except DatasetError as fault:
            notes.append(f"Not measured on the held-out frames of {one.record['bag']}: {fault}")
    return tests, tuple(notes)


def train_teacher(read: Bags, out: Path) -> Path:
    """The weights of the teacher that is given, or of one that is trained here.

    It begins as the student does, or from ``teacher.start``, which may be of another preset.
    """
    config = read.config
    if config.teacher.weights:
        return Path(config.teacher.weights)
    optimiser = replace(config.optimiser, steps=config.teacher.steps or config.optimiser.steps)
    config = replace(config, optimiser=optimiser)
    if config.teacher.start != TEACHER_OF_STUDENT:
        weights = find_model(config.teacher.start).weights
        model = replace(config.model, preset=WeightsFile.read(weights).preset, start=config.teacher.start)
        config = replace(config, model=model)
    return train(TEACHER, config, out / TEACHER, read.opened)


def train_student(read: Bags, teacher: Path, out: Path) -> Path:
    """The student's weights."""
    config = replace(read.config, teacher=replace(read.config.teacher, weights=str(teacher.resolve())))
    return train(STUDENT, config, out / STUDENT, read.opened)


def export_calibrated(weights: Path, out: Path, name: str, read: Bags) -> EngineSpec:
    """The export, of the size of what the student began as, its sigma as large as the errors on held-out pairs say
    whose truth is exact (none recorded). One that is there already is taken as it is."""
    before = find_model(read.start).spec
    height, width, k = (before.height, before.width, before.k) if before else SIZE
    there = find_model(str(out)).spec if (out / SPEC).is_file() else None
    wanted = (name, height, width, k, WeightsFile.read(weights).hash)
    if there and (there.name, there.height, there.width, there.k, there.weights_hash) == wanted:
        return there
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".sigma-") as temporary:
        export(weights, Path(temporary) / name, name, height, width, k, precisions=("fp32",))
        matcher = Matcher.from_pretrained(MatcherConfig(model=str(Path(temporary) / name)))
        exact = [source for source, _ in read.opened.held_out if not isinstance(source, Recorded)]
        rows = [measure({"model": matcher}, source, SIGMA_PAIRS, SIGMA_SEED)["model"].rows for source in exact]
        factor = sigma_factor(np.concatenate(rows)) if rows else None
    return export(weights, out, name, height, width, k, factor or 1.0)


def compared(before: str, after: Path, teacher: Path | None = None) -> dict[str, Method]:
    """Old and new weights as the robot runs them, and the teacher, which takes longer than both, if it is given."""
    new = Matcher.from_pretrained(MatcherConfig(model=str(after)))
    old = Matcher.from_pretrained(MatcherConfig(model=before))
    methods = {BEFORE: as_method(old), AFTER: as_method(new)}
    return methods if teacher is None else methods | {TEACHER: as_method(matcher_of(teacher, new.height, new.width))}


def evaluate(read: Bags, methods: Mapping[str, Method], progress: Progress) -> tuple[Evaluation, ...]:
    """Methods measured on all that was chosen for it."""
    return tuple(
        evaluate_recording(test.name, methods, test.pairs, test.relation, progress=partial(progress, test.name))
        for test in read.tests
    )


def report_of(read: Bags, title: str, evaluations: tuple[Evaluation, ...], licence: str = "") -> TrainingReport:
    """What the report of the student's run says beyond the run's own folder."""
    return TrainingReport(title, evaluations, data_of(read), licence, read.notes)


def data_of(read: Bags) -> tuple[Data, ...]:
    """What went in, for the report."""
    found = []
    for line in read.config.mix:
        use = f"training, {line.source}, weight {line.weight:g}"
        one = read.opened.recordings.get(line.path)
        if one is not None and line.source == "recorded":
            found.append(Data.of_recording(one.about(), use, line.licence))
            found.append(Data.of_recording(one.about(), "measuring", line.licence, held_out=True))
        else:
            found.append(Data(Path(line.path).name or "procedural textures", use, line.licence))
    return (*found, *(Data.of_recording(one.about(), "measuring") for one in read.measured))
