"""Rows to figures. Every figure has a 95 % interval: the bootstrap over the views it was measured on.

Names of figures, each where the data allow it:

    auc@5 poselib ...       area under the recall of the pose error, by threshold in degrees and solver
    precision@0.0001 ...    share of matches below this squared epipolar distance, mean over the views
    mma@3 ...               share of matches within so many pixels of the truth, mean over the views
    best256@3 ...           right ones among the 256 most confident matches, over 256 however many there are; mean
    corner_auc@3 ...        as auc, of the homography's corner error in pixels
    labelled@5 ...          share of labelled points so near the epipolar lines in pixels, mean over the views
    ece                     expected calibration error of the confidence: |confidence - share right|, mean over matches
    covered@1, covered@1.96 share of errors of one axis within so many sigma; .683 and .950 are claimed
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from stfm_ros.evaluate import (
    CORNER_THRESHOLDS_PX,
    EPIPOLAR_THRESHOLDS,
    MMA_THRESHOLDS_PX,
    POSE_THRESHOLDS_DEG,
    auc_gain,
    pose_auc,
)
from stfm_ros.suite.definition import MEASURE, Dataset, Suite
from stfm_ros.suite.entrants import Entrant
from stfm_ros.suite.measures import BEST, LABEL_THRESHOLDS_PX, SOLVERS, Row
from stfm_ros.suite.readers import HOMOGRAPHY, POINTS, POSE
from stfm_ros.types import FloatArray

#: what methods are compared by on each kind of data
HEADLINES = {POSE: "auc@10 poselib", HOMOGRAPHY: "mma@3", POINTS: "labelled@10"}
COMPARED_DEG = 10.0

RowsByMethod = Mapping[str, Sequence[Row]]


@dataclass(frozen=True)
class Figure:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float

    def __format__(self, form: str) -> str:
        """In per cent: ``45 [41-49]``."""
        return f"{100 * self.value:.0f} [{100 * self.low:.0f}-{100 * self.high:.0f}]"


@dataclass(frozen=True)
class Quartiles:
    """Median and quartiles over the views."""

    median: float
    q25: float
    q75: float


@dataclass(frozen=True)
class Bin:
    """One bin of overlap (NaN: of none is known): its views, and :data:`HEADLINES`'s figure on them."""

    low: float
    high: float
    views: int
    figure: Figure


@dataclass(frozen=True)
class Result:
    """One method on one data set.

    Attributes:
        names: of the views.
        figures: by the names above.
        ms, cpu_ms: of a pair, both images encoded: wall time, and processor time of all threads.
        gain: AUC@10 (PoseLib) of this method less that of the model, on the same pairs; None for the model itself,
            and where no pose is known.
        failures: views without a pose (or homography, or fundamental matrix).
        reliability: (confidence, share right, matches) of each bin that holds some.
        errors: of each view, what best and worst are told by: degrees, pixels, or the share of labelled points missed.
    """

    dataset: str
    method: str
    measure: str
    names: tuple[str, ...]
    figures: Mapping[str, Figure]
    matches: Quartiles
    ms: Quartiles
    cpu_ms: Quartiles
    gain: Figure | None
    failures: int
    bins: tuple[Bin, ...]
    reliability: tuple[tuple[float, float, int], ...]
    errors: tuple[float, ...]


@dataclass(frozen=True)
class Overall:
    """One method over all data sets that no weights were trained on.

    Attributes:
        pose, homography, labelled: mean over the data sets of a kind of :data:`HEADLINES`'s figure; None without any.
        ms, cpu_ms: as of :class:`Result`, over the views with poses, which every method saw.
        gflops: see :class:`stfm_ros.suite.entrants.Entrant`.
    """

    method: str
    pose: Figure | None
    homography: Figure | None
    labelled: Figure | None
    ms: Quartiles | None
    cpu_ms: Quartiles | None
    gflops: float | None


def interval(
    rows: Sequence[Any], statistic: Callable[[FloatArray], Sequence[float]], draws: int, seed: int
) -> list[Figure]:
    """The values of a statistic of (n, ...) rows, and their bootstrap intervals over the choice of rows."""
    values = np.asarray(rows, np.float64)
    rng = np.random.default_rng(seed)
    drawn = [statistic(values[rng.integers(0, len(values), len(values))]) for _ in range(draws)]
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return [Figure(*map(float, figure)) for figure in zip(statistic(values), low, high)]


def summarise(dataset: Dataset, measure: str, rows: RowsByMethod, model: str, suite: Suite) -> list[Result]:
    """The results of all methods on one data set.

    Args:
        rows: by method, of the same views in the same order.
        model: the method that the others are compared with.
    """
    return [_result(dataset, measure, name, found, rows.get(model), model, suite) for name, found in rows.items()]


def overall(
    results: Iterable[Result],
    rows: Mapping[str, Mapping[str, Sequence[Row]]],
    entrants: Sequence[Entrant],
    suite: Suite,
) -> list[Overall]:
    """Of each method; ``rows`` by data set and method. One that was not measured everywhere has None there."""
    known = list(results)
    unseen = {name for name, dataset in suite.datasets.items() if dataset.use == MEASURE}
    summary = []
    for entrant in entrants:
        means: dict[str, Figure | None] = {}
        for measure in HEADLINES:
            wanted = sorted({one.dataset for one in known if one.measure == measure and one.dataset in unseen})
            found = [rows[name][entrant.name] for name in wanted if entrant.name in rows[name]]
            complete = bool(wanted) and len(found) == len(wanted)
            means[measure] = _mean(found, measure, suite) if complete else None
        posed = {one.dataset for one in known if one.measure == POSE and one.method == entrant.name}
        timed = [row for name in posed for row in rows[name][entrant.name]]
        ms = _quartiles([row.ms for row in timed]) if timed else None
        cpu_ms = _quartiles([row.cpu_ms for row in timed]) if timed else None
        figures = means[POSE], means[HOMOGRAPHY], means[POINTS]
        summary.append(Overall(entrant.name, *figures, ms, cpu_ms, entrant.gflops))
    return summary


def _result(
    dataset: Dataset,
    measure: str,
    name: str,
    rows: Sequence[Row],
    of_model: Sequence[Row] | None,
    model: str,
    suite: Suite,
) -> Result:
    errors = tuple(_error(row, measure) for row in rows)
    gain = None
    if measure == POSE and of_model is not None and name != model:
        before, after = ([row.errors_deg[SOLVERS[0]] for row in found] for found in (of_model, rows))
        gain = Figure(*auc_gain(before, after, COMPARED_DEG, suite.draws, suite.seed))
    return Result(
        dataset=dataset.name,
        method=name,
        measure=measure,
        names=tuple(row.name for row in rows),
        figures=figures(rows, suite),
        matches=_quartiles([row.matches for row in rows]),
        ms=_quartiles([row.ms for row in rows]),
        cpu_ms=_quartiles([row.cpu_ms for row in rows]),
        gain=gain,
        failures=sum(not np.isfinite(error) for error in errors) if measure != POINTS else 0,
        bins=tuple(_bins(dataset, measure, rows, suite)),
        reliability=_reliability(rows),
        errors=errors,
    )


def figures(rows: Sequence[Row], suite: Suite) -> dict[str, Figure]:
    """All figures that the rows allow; see the head of the module."""
    found: dict[str, Figure] = {}

    def add(names: Iterable[str], values: Sequence[Any], statistic: Callable[[FloatArray], Sequence[float]]) -> None:
        found.update(zip(names, interval(values, statistic, suite.draws, suite.seed)))

    first = rows[0]
    for solver in first.errors_deg:
        names = [f"auc@{deg:g} {solver}" for deg in POSE_THRESHOLDS_DEG]
        add(names, [row.errors_deg[solver] for row in rows], pose_auc)
    if first.precision:
        add([f"precision@{limit:g}" for limit in EPIPOLAR_THRESHOLDS], [row.precision for row in rows], _means)
    if first.mma:
        add([f"mma@{px:g}" for px in MMA_THRESHOLDS_PX], [row.mma for row in rows], _means)
    if first.best:
        add([f"best{BEST}@{px:g}" for px in MMA_THRESHOLDS_PX], [row.best for row in rows], _means)
    if first.corner_px is not None:
        names = [f"corner_auc@{px:g}" for px in CORNER_THRESHOLDS_PX]
        add(names, [row.corner_px for row in rows], lambda errors: pose_auc(errors, CORNER_THRESHOLDS_PX))
    if first.labelled:
        add([f"labelled@{px:g}" for px in LABEL_THRESHOLDS_PX], [row.labelled for row in rows], _means)
    if first.reliability:
        add(["ece"], [row.reliability for row in rows], lambda counts: [calibration_error(counts.sum(axis=0))])
    if first.coverage:
        add(["covered@1", "covered@1.96"], [row.coverage for row in rows], _covered)
    return found


def calibration_error(counts: FloatArray) -> float:
    """Expected calibration error of (bins, 3) counts of :class:`Row`: matches, right ones, sum of confidences."""
    return float(np.abs(counts[:, 2] - counts[:, 1]).sum() / max(counts[:, 0].sum(), 1.0))


def _covered(counts: FloatArray) -> list[float]:
    total, *inside = counts.sum(axis=0).tolist()
    return [count / max(total, 1.0) for count in inside]


def _means(values: FloatArray) -> list[float]:
    return [float(value) for value in values.mean(axis=0)]


def _headline(rows: Sequence[Row], measure: str) -> tuple[list[float], Callable[[FloatArray], Sequence[float]]]:
    """One number of each row, and what makes :data:`HEADLINES`'s figure of them."""
    if measure == POSE:
        return [row.errors_deg[SOLVERS[0]] for row in rows], lambda errors: pose_auc(errors, [COMPARED_DEG])
    values = [row.mma[1] if measure == HOMOGRAPHY else row.labelled[1] for row in rows]
    return values, lambda shares: [float(shares.mean())]


def _bins(dataset: Dataset, measure: str, rows: Sequence[Row], suite: Suite) -> Iterable[Bin]:
    if dataset.bins < 2 or np.isnan(rows[0].overlap):
        return
    edges = np.linspace(*dataset.overlap, dataset.bins + 1)
    places = np.digitize([row.overlap for row in rows], edges[1:-1])
    for place, (low, high) in enumerate(pairwise(edges.tolist())):
        inside = [row for row, where in zip(rows, places.tolist()) if where == place]
        if inside:
            figure = interval(*_headline(inside, measure), suite.draws, suite.seed)[0]
            yield Bin(low, high, len(inside), figure)


def _mean(found: Sequence[Sequence[Row]], measure: str, suite: Suite) -> Figure:
    """Mean over data sets; each draw of the bootstrap draws the views of each anew."""
    rng = np.random.default_rng(suite.seed)
    parts = [
        (np.asarray(values, np.float64), statistic) for values, statistic in (_headline(r, measure) for r in found)
    ]
    value = float(np.mean([statistic(values)[0] for values, statistic in parts]))
    drawn = [
        np.mean([statistic(values[rng.integers(0, len(values), len(values))])[0] for values, statistic in parts])
        for _ in range(suite.draws)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Figure(value, float(low), float(high))


def _reliability(rows: Sequence[Row]) -> tuple[tuple[float, float, int], ...]:
    if not rows[0].reliability:
        return ()
    counts = np.sum([row.reliability for row in rows], axis=0)
    return tuple((total_confidence / n, right / n, int(n)) for n, right, total_confidence in counts.tolist() if n)


def _error(row: Row, measure: str) -> float:
    if measure == POSE:
        return row.errors_deg[SOLVERS[0]]
    if measure == HOMOGRAPHY:
        return float("inf") if row.corner_px is None else row.corner_px
    return 1.0 - row.labelled[1]


def _quartiles(values: Sequence[float]) -> Quartiles:
    median, q25, q75 = np.percentile(values, [50, 25, 75])
    return Quartiles(float(median), float(q25), float(q75))
