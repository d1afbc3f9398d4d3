"""The benchmark as a page: accuracy against cost, a table of each data set, its best and worst pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from stfm_ros.evaluate import EPIPOLAR_THRESHOLDS, epipolar_errors
from stfm_ros.geometry import normalise_points
from stfm_ros.plots import Series, line_plot
from stfm_ros.report import Heading, Notes, Part, Picture, Plot, Report, Table
from stfm_ros.suite.definition import Suite
from stfm_ros.suite.entrants import Entrant
from stfm_ros.suite.measures import BEST, RIGHT_PX
from stfm_ros.suite.readers import HOMOGRAPHY, POINTS, POSE, View
from stfm_ros.suite.runner import Opened
from stfm_ros.suite.summary import Overall, Quartiles, Result
from stfm_ros.types import BoolArray, ByteArray, Matches
from stfm_ros.visualise import draw_matches

PICTURES = 2  #: best and worst pairs that are drawn of a data set, each
_WIDTH = 1100  # of their pictures, px

#: columns of a data set's table by what is measured: heading, name of the figure
COLUMNS = {
    POSE: (
        *((f"AUC@{deg}", f"auc@{deg} poselib") for deg in (5, 10, 20)),
        ("AUC@10 MAGSAC", "auc@10 magsac"),
        ("< 1e-4", "precision@0.0001"),
        ("MMA@3", "mma@3"),
        (f"best {BEST}@3", f"best{BEST}@3"),
    ),
    HOMOGRAPHY: (
        *((f"MMA@{px}", f"mma@{px}") for px in (1, 3, 5)),
        *((f"best {BEST}@{px}", f"best{BEST}@{px}") for px in (1, 3, 5)),
        *((f"corner AUC@{px} px", f"corner_auc@{px}") for px in (3, 5, 10)),
    ),
    POINTS: tuple((f"points < {px} px", f"labelled@{px}") for px in (5, 10, 20)),
}
_UNIT = {POSE: "deg", HOMOGRAPHY: "px", POINTS: "of the labelled points missed"}


def result_table(results: Sequence[Result]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and rows of one data set: per cent with 95 % intervals, milliseconds with quartiles."""
    columns = [column for column in COLUMNS[results[0].measure] if column[1] in results[0].figures]
    posed = results[0].measure == POSE
    heads = ("method", *(head for head, _ in columns), "matches", "failed", "ms [quartiles]", "CPU ms")
    rows = []
    for one in results:
        shown = [f"{one.figures[name]}" for _, name in columns]
        gain = [] if not posed else ["" if one.gain is None else f"{100 * one.gain.value:+.0f} {_span(one)}"]
        counts = (f"{one.matches.median:.0f}", str(one.failures), milliseconds(one.ms), f"{one.cpu_ms.median:.0f}")
        rows.append((one.method, *shown, *counts, *gain))
    return (*heads, "AUC@10 less the model's") if posed else heads, rows


def overall_table(summary: Sequence[Overall]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and rows of the summary."""
    heads = (
        "method",
        "AUC@10",
        "MMA@3 of planes",
        "labelled points < 10 px",
        "ms [quartiles]",
        "CPU ms [quartiles]",
        "GFLOPs",
    )
    rows = []
    for one in summary:
        shares = ("" if figure is None else f"{figure}" for figure in (one.pose, one.homography, one.labelled))
        times = ("" if ms is None else milliseconds(ms) for ms in (one.ms, one.cpu_ms))
        rows.append((one.method, *shares, *times, "" if one.gflops is None else f"{one.gflops:.1f}"))
    return heads, rows


def claims_table(results: Sequence[Result]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and rows of what confidence and sigma claim; no rows where nothing claims anything."""
    names = (
        ("ECE of the confidence", "ece"),
        ("within 1 sigma (68)", "covered@1"),
        ("1.96 sigma (95)", "covered@1.96"),
    )
    rows = []
    for one in results:
        if "ece" in one.figures:
            shown = (f"{one.figures[name]}" if name in one.figures else "" for _, name in names)
            rows.append((one.method, one.dataset, *shown))
    return ("method", "data set", *(head for head, _ in names)), rows


def milliseconds(times: Quartiles) -> str:
    """``143 [139-152]``."""
    return f"{times.median:.0f} [{times.q25:.0f}-{times.q75:.0f}]"


def make_page(
    suite: Suite,
    opened: Mapping[str, Opened],
    results: Sequence[Result],
    summary: Sequence[Overall],
    model: Entrant,
    left_out: Sequence[str],
    facts: Mapping[str, str],
    cost: ByteArray | None,
) -> Report:
    """The page.

    Args:
        model: whose best and worst pairs are drawn.
        cost: the picture of :func:`stfm_ros.suite.cost.draw_cost`.
    """
    parts: list[Part] = [] if cost is None else [Picture("Accuracy against cost", cost, _COST, exact=True)]
    parts.append(_table("Data that no weights were trained on", overall_table(summary), _OVERALL))
    claimed = claims_table(results)
    if claimed[1]:
        parts.append(_table("What confidence and sigma claim", claimed, _CLAIMS, texts=2))
        parts += _reliability(results)
    for name, one in opened.items():
        found = [result for result in results if result.dataset == name]
        parts += _dataset(one, found, model)
    if left_out:
        parts.append(Notes("Left out", tuple(left_out)))
    about = f"Version {suite.version} of the suite, file {suite.hash}. {_PER_CENT}"
    return Report("Matchers on fixed pairs", about, parts=tuple(parts), facts=facts)


def _dataset(opened: Opened, results: Sequence[Result], model: Entrant) -> list[Part]:
    dataset = opened.dataset
    use = "measured on only" if dataset.use == "measure" else "weights may have been trained on it"
    size = f"; {dataset.size}" if dataset.size else ""
    about = f"{dataset.about}{size}; {len(results[0].names)} pairs; {dataset.licence}; {use}"
    parts: list[Part] = [Heading(dataset.name, about), _table(dataset.name, result_table(results))]
    if any(one.bins for one in results):
        parts.append(_bins(results))
    mine = next((one for one in results if one.method == model.name), None)
    return parts + (_pictures(opened, mine, model) if mine is not None else [])


def _bins(results: Sequence[Result]) -> Table:
    edges = sorted({(bin.low, bin.high, bin.views) for one in results for bin in one.bins})
    heads = ("method", *(f"{100 * low:.0f}-{100 * high:.0f} % ({views})" for low, high, views in edges))
    rows = []
    for one in results:
        found = {bin.low: f"{bin.figure}" for bin in one.bins}
        rows.append((one.method, *(found.get(low, "") for low, _, _ in edges)))
    return _table("AUC@10 by overlap", (heads, rows), "In brackets behind the overlap the number of pairs.")


def _reliability(results: Sequence[Result]) -> list[Part]:
    plots: list[Part] = []
    diagonal = np.array([0.0, 1.0])
    for dataset in sorted({one.dataset for one in results if one.reliability and one.measure == POSE}):
        curves = [Series("honest", diagonal, diagonal, dashed=True, colour=5)]
        for one in results:
            if one.dataset == dataset and one.reliability:
                confidence, right, _ = np.array(one.reliability).T
                curves.append(Series(one.method, confidence, right, colour=len(curves) - 1))
        plots.append(Plot(f"Confidence on {dataset}", line_plot(curves, "confidence", "share right"), wide=True))
    return plots


def _pictures(opened: Opened, result: Result, model: Entrant) -> list[Part]:
    order = np.argsort(result.errors, kind="stable").tolist()
    count = min(PICTURES, len(order) // 2) or 1
    numbers = {name: number for number, name in enumerate(opened.reader.names)}
    parts: list[Part] = []
    for rank, chosen in (("best", order[:count]), ("worst", order[::-1][:count])):
        for place in chosen:
            name = result.names[place]
            view = opened.reader.view(numbers[name])
            matches = model.match(*view.images)
            fits = agreeing(view, matches)
            error = result.errors[place]
            about = f"{error:.2g} {_UNIT[result.measure]}" if np.isfinite(error) else "nothing found"
            title = f"{rank}: {name}, {about}"
            note = "" if fits is None else "Green fits the truth."
            parts.append(Picture(title, draw_matches(*view.images, matches, fits, width=_WIDTH), note, wide=False))
    return parts


def agreeing(view: View, matches: Matches) -> BoolArray | None:
    """(n,) whether each match fits what is known of the view; None where that cannot be told of a match."""
    if view.warp is not None:
        errors = matches.keypoints1 - view.warp(matches.keypoints0.astype(np.float64))
        near: BoolArray = np.hypot(errors[:, 0], errors[:, 1]) < RIGHT_PX
        return near
    if view.T_0to1 is None or view.cameras is None:
        return None
    points = zip((matches.keypoints0, matches.keypoints1), view.cameras)
    rays0, rays1 = (normalise_points(keypoints, camera) for keypoints, camera in points)
    fits: BoolArray = epipolar_errors(rays0, rays1, view.T_0to1) < EPIPOLAR_THRESHOLDS[-1]
    return fits


def _span(one: Result) -> str:
    assert one.gain is not None
    return f"[{100 * one.gain.low:+.0f} {100 * one.gain.high:+.0f}]"


def _table(title: str, table: tuple[tuple[str, ...], list[tuple[str, ...]]], note: str = "", texts: int = 1) -> Table:
    return Table(title, table[0], tuple(table[1]), note, texts=texts)


_PER_CENT = (
    "Shares and AUC in per cent with 95 % bootstrap intervals over the pairs. "
    f"Best {BEST}@3: right within 3 px among a method's {BEST} most confident matches, always divided by {BEST}, so "
    "that who finds fewer is charged for them; MMA is of as many matches as a method gives."
)
_COST = (
    "AUC@10 (PoseLib at 1 px), mean over the data sets with poses that no weights were trained on. Left over the wall "
    "time of a whole pair, both images encoded, as the run met it: the load of the machine is told below. Right over "
    "the operations, of those that somebody counted. A dotted line joins the precisions of one model; where they cost "
    "the same they stand side by side."
)
_OVERALL = (
    "Means over data sets: AUC@10 of the pose error by PoseLib, share of matches within 3 px on Oxford's planes, share "
    "of WxBS's labelled points within 10 px of the epipolar lines. Time over all pairs with poses, as the run met "
    "them; operations of a 640x480 pair."
)
_CLAIMS = (
    "ECE: distance of the confidence from the share of matches within 3 px, mean over the matches. Sigma is held "
    "against exact truth alone, on matches within 6 px."
)
