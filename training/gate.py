"""Whether new weights may replace old ones: the rule of ``stfm adapt``. They may if all of this holds.

held back    AUC@10 of the pose error on held-back frames of the bags, all taken together, gains, and the 95 % interval
             of the gain lies above 0. The interval is a paired bootstrap over groups of pairs that share their first
             image. Where it reaches below 0 there is *no clear gain*, and the old weights stay unless one asks for it
             (``unclear``); where the mean does not gain, they stay whatever one asks for.
each bag     On no single bag, trained on or never seen, is the whole interval below 0.
elsewhere    On scenes that have nothing to do with the bags (rendered, and pictures through homographies; exact truth)
             the share of right ones among equally many matches, the most confident of each, falls by no more than
             :data:`RIGHT_MAY_FALL`, and the share of what was found by no more than :data:`FOUND_MAY_FALL` of what it
             was. (Equally many, for weights that find more would else be blamed for the harder ones.)
export       Each precision of the export finds :data:`COMMON` of the matches of its own reference pair.
engine       Where one was built for the GPU at hand: the same.

What one recording cannot tell is said nowhere: another day, other light, another robot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stfm_ros.evaluate import auc_gain, pose_auc
from stfm_ros.parity import Deviation
from stfm_training.reporting.record import AFTER, BEFORE, Evaluation, pose_errors
from stfm_training.reporting.verdict import HEADLINE_DEG
from stfm_training.validate import RIGHT_PX, Known

LEAST_PAIRS = 20  #: held-back pairs; with fewer an interval means nothing
RIGHT_MAY_FALL = 0.03  #: of the share of right matches elsewhere, absolute
FOUND_MAY_FALL = 0.15  #: of the share of what could be found elsewhere, relative
COMMON = 0.9  #: share of the matches of the reference pair

BETTER, UNCLEAR, NOT_BETTER, WORSE = "better", "no clear gain", "not better", "worse"


@dataclass(frozen=True)
class Gain:
    """AUC@10 after against before on the same pairs, shares in [0, 1], with the 95 % interval of the gain."""

    before: float
    after: float
    gain: float
    low: float
    high: float
    pairs: int

    @staticmethod
    def of(evaluations: Sequence[Evaluation]) -> Gain:
        """Of all pairs of these evaluations together; each was measured with both weights."""
        before, after = (
            np.concatenate([pose_errors(one.main[name]) for one in evaluations]) for name in (BEFORE, AFTER)
        )
        groups = [
            f"{number} {score.index0}" for number, one in enumerate(evaluations) for score in one.main[AFTER].scores
        ]
        gain, low, high = auc_gain(before, after, HEADLINE_DEG, groups=groups)
        areas = [pose_auc(errors, [HEADLINE_DEG])[0] for errors in (before, after)]
        return Gain(areas[0], areas[1], gain, low, high, len(before))

    @property
    def word(self) -> str:
        """One of better, no clear gain, not better, worse."""
        if self.high < 0:
            return WORSE
        if self.gain <= 0:
            return NOT_BETTER
        return BETTER if self.low > 0 else UNCLEAR

    def __str__(self) -> str:
        return (
            f"AUC@{HEADLINE_DEG:g} {100 * self.before:.1f} → {100 * self.after:.1f} ({100 * self.gain:+.1f}, 95 % "
            f"interval {100 * self.low:+.1f} to {100 * self.high:+.1f}, {self.pairs} pairs)"
        )


@dataclass(frozen=True)
class Elsewhere:
    """Old and new weights on scenes that have nothing to do with the bags, each number before and after.

    Attributes:
        matches: a pair, above the threshold.
        right: share of right ones among equally many matches, the most confident of each.
        found: share of what could be matched that was matched right, above the threshold.
    """

    matches: tuple[float, float]
    right: tuple[float, float]
    found: tuple[float, float]

    @staticmethod
    def of(before: Known, after: Known, threshold: float) -> Elsewhere:
        """Of all matches of the same pairs."""
        old, new = before.score(threshold), after.score(threshold)
        ranked = [np.sort(known.rows[known.rows[:, 0] >= threshold, 0])[::-1] for known in (before, after)]
        count = min(map(len, ranked))
        limits = [confidence[count - 1] if count else np.inf for confidence in ranked]
        right = before.score(limits[0]).right, after.score(limits[1]).right
        return Elsewhere((old.matches, new.matches), right, (old.found, new.found))


@dataclass(frozen=True)
class Check:
    """A part of the rule: what was found, what was needed, and whether that is so."""

    name: str
    found: str
    needed: str
    passed: bool


@dataclass(frozen=True)
class Verdict:
    """What the rule says of new weights."""

    gain: Gain
    checks: tuple[Check, ...]

    @property
    def accepted(self) -> bool:
        """Whether they may replace the old ones."""
        return all(check.passed for check in self.checks)

    @property
    def text(self) -> str:
        """In a sentence or two."""
        if self.accepted:
            clear = "better" if self.gain.word == BETTER else "not clearly better, and were asked for all the same"
            return f"The new weights are {clear}: on held-back frames {self.gain}."
        failed = "; ".join(
            f"{check.name}: {check.found}, needed {check.needed}" for check in self.checks if not check.passed
        )
        return f"The old weights stay. {failed[:1].upper()}{failed[1:]}."


def judge(
    held_back: Sequence[Evaluation],
    unseen: Sequence[Evaluation],
    elsewhere: Mapping[str, Elsewhere],
    deviations: Mapping[str, Deviation],
    unclear: bool = False,
) -> Verdict:
    """Apply the rule.

    Args:
        held_back: of the bags that were trained on, each with the methods ``before`` and ``after``.
        unseen: of bags that never were.
        elsewhere: by what was measured on.
        deviations: of each way to run the new weights from their reference pair.
        unclear: whether a gain will do whose interval reaches below 0.
    """
    gain = Gain.of(held_back)
    needed = "a gain" if unclear else "an interval above 0"
    enough = gain.word == BETTER or (unclear and gain.word == UNCLEAR)
    checks = [Check("held back", f"{gain.word}, {gain}", needed, enough)]
    for one in (*(held_back if len(held_back) > 1 else ()), *unseen):
        of_bag = Gain.of([one])
        found = f"{of_bag.word}, {of_bag}"
        checks.append(Check(f"{one.name} alone", found, "no interval wholly below 0", of_bag.word != WORSE))
    for name, scene in elsewhere.items():
        checks += _elsewhere(f"elsewhere, {name}", scene)
    for name, ran in deviations.items():
        found = f"{ran.found} matches of {ran.expected}, {ran.common:.1%} common"
        checks.append(Check(name, found, f"{COMMON:.0%} common", ran.common >= COMMON))
    return Verdict(gain, tuple(checks))


def _elsewhere(where: str, scene: Elsewhere) -> list[Check]:
    matches, right, found = scene.matches, scene.right, scene.found
    return [
        Check(
            f"{where}, right",
            f"{right[0]:.1%} → {right[1]:.1%} of {min(matches):.0f} matches a pair within {RIGHT_PX:g} px",
            f"at most {100 * RIGHT_MAY_FALL:g} points less",
            right[1] >= right[0] - RIGHT_MAY_FALL,
        ),
        Check(
            f"{where}, found",
            f"{found[0]:.1%} → {found[1]:.1%} of what could be",
            f"at most {FOUND_MAY_FALL:.0%} of it less",
            found[1] >= (1 - FOUND_MAY_FALL) * found[0],
        ),
    ]
