"""Accuracy against cost in one picture: AUC@10 over the wall time of a pair, and beside it over its operations.

Precisions of one model (``default``, ``default@fp32``) and how often it looks are a family: one colour, a marker each,
and a line between them. matplotlib is imported when something is drawn.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike

from stfm_ros.baselines import BASELINES
from stfm_ros.suite.summary import Figure, Overall, Quartiles
from stfm_ros.types import ByteArray, FloatArray

OURS = ("#0d9488", "#4f46e5", "#be185d", "#15803d")  #: of our models, by family
CLASSICAL, OTHERS = "#64748b", "#b45309"
MARKERS = ("o", "D", "^", "v", "P")  #: of a family's members
LOG = 4.0  #: costs that differ by more than this factor lie on a logarithmic axis
_GAPS_PT = (5.0, 14.0, 26.0)  # from a dot to its name; a name further off than the first gets a line
_ACROSS, _UP = 0.16, 0.08  # room for names beyond what is drawn, at each end of an axis
# what a name pays, in its own area that lies on marks, on another name, or beyond the frame; and for each further gap
_ON_MARK, _ON_NAME, _OUTSIDE, _FURTHER = 4.0, 20.0, 20.0, 0.15
_APART_PT = 9.0  # between members of a family that cost the same


@dataclass(frozen=True)
class Style:
    """How a method is drawn: ``first`` is the member of its family that is named in full."""

    name: str
    first: str
    colour: str
    marker: str


@dataclass(frozen=True)
class Dot:
    """A method in one panel: its cost, and what it gets for it."""

    method: str
    cost: Quartiles
    pose: Figure


def styles(methods: Sequence[str]) -> dict[str, Style]:
    """By method, in order; names are those of the tables, of a family's later members what is special alone."""
    found: dict[str, Style] = {}
    families: dict[str, list[str]] = {}
    ours = 0
    for method in methods:
        family = re.split("[@,]", method)[0]
        members = families.setdefault(family, [])
        members.append(method)
        first = members[0]
        if len(members) > 1:
            name, colour = method.removeprefix(family).lstrip(", "), found[first].colour
        elif method.startswith("stfm "):
            name, colour, ours = method, OURS[ours % len(OURS)], ours + 1
        else:
            name, colour = method, CLASSICAL if method in BASELINES else OTHERS
        marker = "s" if method in BASELINES else MARKERS[(len(members) - 1) % len(MARKERS)]
        found[method] = Style(name, first, colour, marker)
    return found


def draw_cost(summary: Sequence[Overall], threads: int, path: Path) -> ByteArray | None:
    """The picture, written to ``path`` and returned as (H, W, 3) uint8 RGB.

    The second panel shows those whose operations somebody counted, and is left out where there are none.

    Args:
        threads: that the methods were given; 0 is their own choice.

    Returns:
        None where there is nothing to draw, or matplotlib is not installed.
    """
    posed = [(one, one.pose) for one in summary if one.pose is not None]
    timed = [Dot(one.method, one.ms, pose) for one, pose in posed if one.ms is not None]
    counted = [
        Dot(one.method, Quartiles(one.gflops, one.gflops, one.gflops), pose)
        for one, pose in posed
        if one.gflops is not None
    ]
    if not timed:
        return None
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Page
    except ImportError:
        return None
    given = f"{threads} thread{'s' * (threads > 1)}" if threads else "threads as each chooses"
    panels = [(timed, f"ms a pair, {given} (median, quartiles)"), (counted, "GFLOPs of a 640x480 pair")]
    panels = [panel for panel in panels if panel[0]]
    page = Page(figsize=(5.4 * len(panels), 4.8), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(page)
    looks = styles([dot.method for dot in timed])
    drawn = []
    for axes, (dots, label) in zip(page.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels):
        axes.set_xlabel(label)
        drawn.append((axes, dots, _draw(axes, dots, looks)))
    bounds = np.array([_up(dot)[1:] for dot in timed])
    drawn[0][0].set_ylabel("AUC@10, % (95 % interval)")
    drawn[0][0].set_ylim(*_wider(bounds.min(), bounds.max(), _UP))
    canvas.draw()  # only now it is known where anything lies
    page.set_layout_engine("none")
    for axes, dots, places in drawn:
        _write_names(axes, dots, looks, places)
    page.savefig(path)
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    return None if picture is None else np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def place_names(points: ArrayLike, sizes: ArrayLike, marks: ArrayLike, frame: ArrayLike, gaps: ArrayLike) -> FloatArray:
    """Where names are written so that they do not lie on each other, on marks, or beyond the frame, if it can be had.

    Each name tries eight directions at each distance and takes the one that costs least beside the others' present
    places, again and again until none moves.

    Args:
        points: (n, 2) what is named.
        sizes: (n, 2) width and height of the names.
        marks: (m, 4) boxes x0 y0 x1 y1 that should stay free.
        frame: (4,) box that names should stay within.
        gaps: distances of a name from its point, dearer one by one.

    Returns:
        (n, 2) lower left corners.
    """
    points, sizes = np.asarray(points, np.float64), np.asarray(sizes, np.float64)
    marks, frame = np.asarray(marks, np.float64).reshape(-1, 4), np.asarray(frame, np.float64)
    ways = [(x, y) for x, y in product((1, -1, 0), (1, -1, 0)) if (x, y) != (0, 0)]
    steps = np.array([(x, y, gap) for gap in np.asarray(gaps).tolist() for x, y in ways], np.float64)
    dearer = _FURTHER * np.repeat(np.arange(len(steps) // len(ways)), len(ways))
    # a name's corner is off its point by the gap, and by its own size where it lies to the left or below
    reach = steps[:, 2] / np.hypot(steps[:, 0], steps[:, 1])
    corners = points[:, None] + steps[:, :2] * reach[:, None] + sizes[:, None] * (steps[:, :2] - 1) / 2
    boxes = np.concatenate([corners, corners + sizes[:, None]], axis=2)
    areas = sizes.prod(axis=1)[:, None]
    outside = areas - _shared(boxes, frame[None])[..., 0]
    alone = dearer + (_ON_MARK * _shared(boxes, marks).sum(axis=2) + _OUTSIDE * outside) / areas
    chosen = alone.argmin(axis=1)
    for _ in range(len(points)):
        before = chosen.copy()
        for i in range(len(points)):
            others = np.delete(boxes[np.arange(len(points)), chosen], i, axis=0)
            chosen[i] = np.argmin(alone[i] + _ON_NAME * _shared(boxes[i], others).sum(axis=1) / areas[i])
        if (chosen == before).all():
            break
    found: FloatArray = corners[np.arange(len(points)), chosen]
    return found


def _shared(boxes: FloatArray, others: FloatArray) -> FloatArray:
    """Areas (..., m) that boxes (..., 4) have in common with others (m, 4)."""
    low = np.maximum(boxes[..., None, :2], others[:, :2])
    high = np.minimum(boxes[..., None, 2:], others[:, 2:])
    shared: FloatArray = np.maximum(high - low, 0).prod(axis=-1)
    return shared


def _draw(axes: Any, dots: Sequence[Dot], looks: dict[str, Style]) -> list[Any]:
    """Dots with their bars, and lines between those of a family; the transform that each was drawn with."""
    from matplotlib.colors import to_rgba
    from matplotlib.ticker import LogLocator, NullLocator
    from matplotlib.transforms import ScaledTranslation

    costs = [dot.cost.median for dot in dots]
    least, most = min(dot.cost.q25 for dot in dots), max(dot.cost.q75 for dot in dots)
    if max(costs) > LOG * min(costs):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlim(*np.exp(_wider(np.log(least), np.log(most), _ACROSS)))
    else:
        axes.set_xlim(*_wider(least, most, _ACROSS))
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    places = []
    for dot in dots:
        look = looks[dot.method]
        alike = [one for one in dots if one.cost == dot.cost and looks[one.method].first == look.first]
        aside = _APART_PT / 72 * (alike.index(dot) - (len(alike) - 1) / 2)
        place = axes.transData + ScaledTranslation(aside, 0, axes.figure.dpi_scale_trans)
        (x, left, right), (y, low, high) = _across(dot), _up(dot)
        bars = {"xerr": [[x - left], [right - x]]} if right > left else {}
        axes.errorbar(
            x, y, yerr=[[y - low], [high - y]], **bars,
            fmt=look.marker, color=look.colour, ecolor=to_rgba(look.colour, 0.5), elinewidth=1.2, markersize=6.5,
            markeredgecolor="white", markeredgewidth=0.6, transform=place, zorder=3,
        )  # fmt: skip
        places.append(place)
    for first, last in _pairs(dots, looks):
        if dots[first].cost != dots[last].cost:
            across, up = ([along(dots[i])[0] for i in (first, last)] for along in (_across, _up))
            axes.plot(across, up, color=looks[dots[first].method].colour, linewidth=1.2, linestyle=(0, (1, 1.5)))
    return places


def _write_names(axes: Any, dots: Sequence[Dot], looks: dict[str, Style], places: Sequence[Any]) -> None:
    from matplotlib.patheffects import withStroke

    pixel = axes.figure.dpi / 72  # a point in pixels
    at = np.array([place.transform((_across(dot)[0], _up(dot)[0])) for dot, place in zip(dots, places)])
    marks = []
    for dot, place, point in zip(dots, places, at):
        (x, left, right), (y, low, high) = _across(dot), _up(dot)
        for ends, thick in (([point, point], 4), (place.transform([(left, y), (right, y)]), 1)):
            marks.append([*(ends[0] - thick * pixel), *(ends[1] + thick * pixel)])
        lower, upper = place.transform([(x, low), (x, high)])
        marks.append([*(lower - pixel), *(upper + pixel)])
    for first, last in _pairs(dots, looks):
        between = np.linspace(at[first], at[last], 40)
        marks += np.hstack([between - pixel, between + pixel]).tolist()
    names = []
    for dot in dots:
        look = looks[dot.method]
        names.append(axes.text(0, 0, look.name, color=look.colour, fontsize=9, zorder=4, transform=None))
        names[-1].set_path_effects([withStroke(linewidth=2, foreground="white")])
    sizes = [name.get_window_extent().size for name in names]
    gaps = pixel * np.array(_GAPS_PT)
    corners = place_names(at, sizes, marks, axes.get_window_extent().extents, gaps)
    for name, point, corner, size in zip(names, at, corners, sizes):
        name.set_position(corner)
        near = np.clip(point, corner, corner + size)
        if np.hypot(*(near - point)) > 1.2 * gaps[0]:
            ends = axes.transData.inverted().transform([point, near])
            axes.plot(*ends.T, color=name.get_color(), linewidth=0.6, zorder=2)


def _pairs(dots: Sequence[Dot], looks: dict[str, Style]) -> list[tuple[int, int]]:
    """Numbers of dots between which a line is drawn: of each family the first and every other."""
    firsts = {dot.method: number for number, dot in enumerate(dots)}
    named = [(firsts.get(looks[dot.method].first), number) for number, dot in enumerate(dots)]
    return [(first, number) for first, number in named if first is not None and first != number]


def _wider(low: float, high: float, share: float) -> tuple[float, float]:
    """Limits of an axis that leave a share of its length free at each end."""
    room = share * (high - low) or 0.5
    return low - room, high + room


def _across(dot: Dot) -> tuple[float, float, float]:
    """Median and quartiles."""
    return dot.cost.median, dot.cost.q25, dot.cost.q75


def _up(dot: Dot) -> tuple[float, float, float]:
    """Value and interval, per cent."""
    return 100 * dot.pose.value, 100 * dot.pose.low, 100 * dot.pose.high
