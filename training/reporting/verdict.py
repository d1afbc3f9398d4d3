"""Whether the new weights are better than the old ones, in sentences that hide nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stfm_ros.evaluate import auc_gain
from stfm_training.reporting.record import AFTER, BEFORE, PATENT, VANILLA, Evaluation, TrainingReport, pose_errors
from stfm_training.reporting.run_folder import RunFolder

HEADLINE_DEG = 10.0  #: AUC up to this error stands for a recording


@dataclass(frozen=True)
class Comparison:
    """One method against another on one recording; shares in [0, 1].

    Attributes:
        gain, low, high: of AUC@10 and its 95 % interval over the choice of pairs.
        worse: measures that fell, in words.
    """

    recording: str
    relation: str
    old: str
    new: str
    before: float
    after: float
    gain: float
    low: float
    high: float
    pairs: int
    worse: tuple[str, ...]

    @property
    def tone(self) -> str:
        """good or bad where the interval leaves no doubt; bad too where the figure fell at all."""
        return "good" if self.low > 0 else "bad" if self.gain < 0 else ""

    @property
    def text(self) -> str:
        """The comparison in a sentence."""
        if self.low > 0 or self.high < 0:
            verdict = f"is {'better' if self.low > 0 else 'worse'} than {self.old}"
        else:
            within = "within the spread of the pairs"
            verdict = f"is lower than {self.old}, {within}" if self.gain < 0 else f"and {self.old} are alike, {within}"
        where = f"{self.recording} ({self.relation})" if self.relation else self.recording
        text = (
            f"{where}: {self.new} {verdict}. AUC@{HEADLINE_DEG:g} {100 * self.before:.1f} → {100 * self.after:.1f} "
            f"({100 * self.gain:+.1f}, 95 % interval {100 * self.low:+.1f} to {100 * self.high:+.1f}, "
            f"{self.pairs} pairs)."
        )
        return text + (f" Fell: {', '.join(self.worse)}." if self.worse else "")


def compare(evaluation: Evaluation, old: str = BEFORE, new: str = AFTER) -> Comparison | None:
    """``new`` against ``old``; None where one of them was not measured."""
    scores = evaluation.main
    if old not in scores or new not in scores:
        return None
    before, after = scores[old], scores[new]
    gain, low, high = auc_gain(pose_errors(before), pose_errors(after), HEADLINE_DEG)
    key = f"{HEADLINE_DEG:g}"
    measures = [(f"AUC@{name}", before.auc[name], after.auc[name]) for name in before.auc]
    measures += [
        (f"precision < {float(name):.0e}".replace("e-0", "e-"), before.precision[name], after.precision[name])
        for name in before.precision
    ]
    worse = [f"{name} {100 * a:.1f} → {100 * b:.1f}" for name, a, b in measures if b < a]
    return Comparison(
        evaluation.name, evaluation.relation, old, new, before.auc[key], after.auc[key], gain, low, high, after.pairs,
        tuple(worse),
    )  # fmt: skip


def comparisons(evaluations: Sequence[Evaluation]) -> list[Comparison]:
    """After against before, and where there was nothing before, against a student without a teacher."""
    found = []
    for evaluation in evaluations:
        found += [compare(evaluation)] if BEFORE in evaluation.main else [compare(evaluation, VANILLA)]
    return [one for one in found if one is not None]


def licence_of(run: RunFolder, report: TrainingReport) -> str:
    """Of the weights: as the report has it, else as their file has it."""
    return report.licence or run.weights.about.get("licence", "") or "not stated"


def licence_notes(run: RunFolder, report: TrainingReport) -> list[str]:
    """Terms of weights and data, and the patent, in sentences."""
    terms = [f"{one.name} ({one.use}): {one.licence or 'not stated'}" for one in report.data]
    trained = [one for one in report.data if one.use.startswith("training") and not one.licence]
    notes = [f"Weights: {licence_of(run, report)}.", *(f"Data: {text}." for text in dict.fromkeys(terms))]
    if trained:
        names = ", ".join(dict.fromkeys(one.name for one in trained))
        notes.append(
            f"The terms of {names} were not given (mix[].licence): find them out before you pass the weights on."
        )
    return [*notes, PATENT]
