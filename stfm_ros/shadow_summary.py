"""What many checks of a student say together: the figures of /diagnostics and of ``stfm run --shadow``.

Shares and calibration are over all matches of all pairs that were judged, differences are medians over these pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stfm_ros.config import ShadowConfig
from stfm_ros.shadow import BINS, Confidences, StudentCheck, Verdict

#: pairs from which on there is enough to warn of
ENOUGH = 10
_NAN = float("nan")


@dataclass(frozen=True)
class Summary:
    """Of a student beside a teacher. NaN is what is not known.

    Attributes:
        pairs: that were looked at.
        judged: of these, those with a verdict.
        without: those without, by :class:`stfm_ros.shadow.Verdict`.
        poses: share of the judged pairs in which the student has a pose.
        common, common_px: medians over the pairs.
        matches: of the student that were judged.
        right: share of these.
        error_px: median over the pairs of their medians.
        teacher_right, teacher_error_px: the same of the teacher, medians over the pairs.
        covered: median over the pairs.
        as_right: median of the student's share as a part of the teacher's.
        within_1_sigma, within_2_sigma: of the errors of right matches, by axis.
        rotation_deg, direction_deg, length_m: medians over the pairs, the length's of its size.
        rotation_nees, translation_nees: medians over the pairs.
        disagreement, disagreement_p95: over the pairs.
        confidences: of all matches that were judged.
        ms: median time that the student took for an image.
    """

    pairs: int
    judged: int
    without: dict[str, int]
    poses: float
    common: float
    common_px: float
    matches: int
    right: float
    error_px: float
    teacher_right: float
    teacher_error_px: float
    covered: float
    as_right: float
    within_1_sigma: float
    within_2_sigma: float
    rotation_deg: float
    direction_deg: float
    length_m: float
    rotation_nees: float
    translation_nees: float
    disagreement: float
    disagreement_p95: float
    confidences: Confidences
    ms: float

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: by how much confidence and share of right matches differ, over the matches.

        Source: M. Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015.
        """
        judged, right, total = self.confidences
        return float(np.abs(right - total).sum() / judged.sum()) if judged.any() else _NAN

    def record(self) -> dict[str, Any]:
        """For JSON: every figure by name."""
        counts = zip(*(column.tolist() for column in self.confidences))
        return {
            **{name: value for name, value in vars(self).items() if name != "confidences"},
            "calibration_error": self.calibration_error,
            "confidence": [
                {"from": i / BINS, "judged": judged, "right": right, "sum": total}
                for i, (judged, right, total) in enumerate(counts)
            ],
        }

    def lines(self) -> dict[str, str]:
        """By name, as text; what is not known is left out."""
        values = {
            "disagreement.p50": self.disagreement,
            "disagreement.p95": self.disagreement_p95,
            "common": self.common,
            "common_px": self.common_px,
            "right": self.right,
            "error_px": self.error_px,
            "teacher_right": self.teacher_right,
            "teacher_error_px": self.teacher_error_px,
            "covered": self.covered,
            "as_right": self.as_right,
            "poses": self.poses,
            "rotation_deg": self.rotation_deg,
            "direction_deg": self.direction_deg,
            "length_m": self.length_m,
            "rotation_nees": self.rotation_nees,
            "translation_nees": self.translation_nees,
            "within_1_sigma": self.within_1_sigma,
            "within_2_sigma": self.within_2_sigma,
            "calibration_error": self.calibration_error,
            "latency_ms.student": self.ms,
        }
        lines = {"pairs": str(self.pairs), "judged": str(self.judged)}
        lines |= {f"without.{name}": str(number) for name, number in self.without.items()}
        lines |= {name: f"{value:.3f}" for name, value in values.items() if np.isfinite(value)}
        for i, (judged, right, total) in enumerate(zip(*self.confidences)):
            if judged:
                name = f"confidence {i / BINS:.1f}-{(i + 1) / BINS:.1f}"
                lines[name] = f"said {total / judged:.2f}, right {right / judged:.2f} (n={judged})"
        return lines

    def warning(self, config: ShadowConfig) -> str:
        """In what the student falls short of what is wanted, and what to do; empty where it does not."""
        if self.judged < ENOUGH:
            return ""
        wanted = (
            ("of the teacher's share of right matches", self.as_right, config.warn_right, "warn_right"),
            ("of the places where the teacher is right covered", self.covered, config.warn_covered, "warn_covered"),
            ("of the pairs with a pose", self.poses, config.warn_poses, "warn_poses"),
        )
        short = [
            f"{100 * value:.0f} % {what}, expected {100 * least:.0f} % at least (shadow.{setting})"
            for what, value, least, setting in wanted
            if value < least
        ]
        if not short:
            return ""
        return (
            f"the student is weak here: {'; '.join(short)}; record this place (collect.launch.py) and train it on the "
            "recording (stfm adapt BAG)"
        )


def summarise(checks: Sequence[StudentCheck]) -> Summary:
    """The figures of some checks; those without a verdict are only counted."""
    judged = [check for check in checks if check.verdict is Verdict.JUDGED]

    def over(value: Callable[[StudentCheck], float], percent: float = 50.0) -> float:
        known = [number for check in judged if np.isfinite(number := value(check))]
        return float(np.percentile(known, percent)) if known else _NAN

    confidences = Confidences(*(np.sum([check.confidences[i] for check in judged], axis=0) for i in range(3)))
    confidences = confidences if judged else Confidences.none()
    right = confidences.right.sum()
    return Summary(
        pairs=len(checks),
        judged=len(judged),
        without=dict(Counter(check.verdict.name for check in checks if check.verdict is not Verdict.JUDGED)),
        poses=_ratio(sum(check.student_status.has_rotation for check in judged), len(judged)),
        common=over(lambda check: check.common),
        common_px=over(lambda check: check.common_px),
        matches=int(confidences.judged.sum()),
        right=_ratio(right, confidences.judged.sum()),
        error_px=over(lambda check: check.error_px),
        teacher_right=over(lambda check: check.teacher_right),
        teacher_error_px=over(lambda check: check.teacher_error_px),
        covered=over(lambda check: check.covered),
        as_right=over(lambda check: check.as_right),
        within_1_sigma=_ratio(_weighted(judged, "within_1_sigma"), right),
        within_2_sigma=_ratio(_weighted(judged, "within_2_sigma"), right),
        rotation_deg=over(lambda check: check.pose.rotation_deg),
        direction_deg=over(lambda check: check.pose.direction_deg),
        length_m=over(lambda check: abs(check.pose.length_m)),
        rotation_nees=over(lambda check: check.pose.rotation_nees),
        translation_nees=over(lambda check: check.pose.translation_nees),
        disagreement=over(lambda check: check.disagreement),
        disagreement_p95=over(lambda check: check.disagreement, 95.0),
        confidences=confidences,
        ms=float(np.median([sum(check.timings_ms.values()) for check in checks])) if checks else _NAN,
    )


def _weighted(checks: Iterable[StudentCheck], name: str) -> float:
    """How many errors of right matches lie within, an axis counting half."""
    found = ((float(getattr(check, name)), int(check.confidences.right.sum())) for check in checks)
    return sum(share * number for share, number in found if number)


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else _NAN
