"""Plots as inline SVG for a self-contained page: no scripts, no fonts, colours by the page's own CSS.

Series are coloured by the classes ``s0`` .. ``s5``, text and axes by ``currentColor``, so that one plot serves a light
and a dark page. Values that are not finite leave a gap in a line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

import numpy as np

from stfm_ros.types import FloatArray

WIDTH, HEIGHT = 640, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 16, 30, 44


@dataclass(frozen=True)
class Series:
    """A named row of points.

    Attributes:
        x, y: (n,) float64.
        points: draw dots instead of a line.
        dashed: draw the line dashed, e.g. for a reference.
        colour: class ``s0`` .. ``s5`` of its own; by position if not given.
    """

    name: str
    x: FloatArray
    y: FloatArray
    points: bool = False
    dashed: bool = False
    colour: int | None = None


def line_plot(series: Sequence[Series], x_label: str, y_label: str, zero: bool = True, log: bool = False) -> str:
    """Lines over a common axis; ``zero`` makes the y axis start at 0, ``log`` makes it logarithmic."""
    if log:
        series = [replace(item, y=_log10(item.y)) for item in series]
    frame = _Frame(*_range(series, "x"), *_range(series, "y", zero and not log), x_label, y_label, log)
    return frame.svg("".join(frame.draw(i, item) for i, item in enumerate(series)) + _legend(series))


def path_plot(series: Sequence[Series], x_label: str, y_label: str) -> str:
    """Paths in a plane: both axes have one scale; a ring marks each start."""
    x0, x1 = _range(series, "x")
    y0, y1 = _range(series, "y")
    wide, high = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
    per_px = max((x1 - x0) / wide, (y1 - y0) / high)
    mid_x, mid_y = (x0 + x1) / 2, (y0 + y1) / 2
    half_x, half_y = per_px * wide / 2, per_px * high / 2
    frame = _Frame(mid_x - half_x, mid_x + half_x, mid_y - half_y, mid_y + half_y, x_label, y_label)
    body = "".join(frame.draw(i, item) for i, item in enumerate(series))
    for i, item in enumerate(series):
        if len(item.x):
            x, y = frame.at(item.x[0], item.y[0])
            body += f'<circle class="{_class(i, item)} ring" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
    return frame.svg(body + _legend(series))


@dataclass(frozen=True)
class Bars:
    """One value a group, with the ends of its whisker; (n,) float64, not finite where there is none.

    ``colour`` as of :class:`Series`.
    """

    name: str
    values: FloatArray
    low: FloatArray
    high: FloatArray
    colour: int | None = None


def group_plot(groups: Sequence[str], bars: Sequence[Bars], y_label: str) -> str:
    """Upright bars side by side in each group, each with a whisker and its value."""
    ends = [Series("", np.zeros(len(item.high)), np.fmax(item.values, item.high)) for item in bars]
    frame = _Frame(0.0, float(max(len(groups), 1)), *_range(ends, "y", zero=True), "", y_label)
    width = min(0.8 / max(len(bars), 1), 0.2)
    per_unit = frame.at(1, 0)[0] - frame.at(0, 0)[0]
    parts = []
    for g, group in enumerate(groups):
        middle, bottom = frame.at(g + 0.5, 0)
        parts.append(f'<text x="{middle:.1f}" y="{bottom + 18:.1f}" text-anchor="middle">{escape(group)}</text>')
        for i, item in enumerate(bars):
            value, low, high = float(item.values[g]), float(item.low[g]), float(item.high[g])
            if not math.isfinite(value):
                continue
            x, y = frame.at(g + 0.5 + (i - (len(bars) - 1) / 2) * width, value)
            wide = 0.8 * width * per_unit
            parts.append(
                f'<rect class="{_class(i, item)} bar" x="{x - wide / 2:.1f}" y="{y:.1f}" width="{wide:.1f}" '
                f'height="{bottom - y:.1f}" rx="2"/>'
            )
            top = y
            if math.isfinite(low) and math.isfinite(high):
                (_, foot), (_, top) = frame.at(0, low), frame.at(0, high)
                parts.append(f'<path class="whisker" d="M{x:.1f} {foot:.1f}V{top:.1f}M{x - 4:.1f} {top:.1f}h8"/>')
            label = f"{value:.3g}"
            parts.append(f'<text class="soft" x="{x:.1f}" y="{top - 6:.1f}" text-anchor="middle">{label}</text>')
    return frame.svg("".join(parts) + _legend(bars), x_ticks=False)


@dataclass(frozen=True)
class Span:
    """A bar: the median, with a whisker to the 95th percentile."""

    name: str
    p50: float
    p95: float


def bar_plot(spans: Sequence[Span], unit: str) -> str:
    """Horizontal bars, one a row, with their values."""
    row, left = 30, 110
    height = row * len(spans) + 46
    top = max([span.p95 for span in spans if math.isfinite(span.p95)], default=1.0) or 1.0
    scale = (WIDTH - left - 130) / top
    parts = []
    for i, span in enumerate(spans):
        y = 12 + row * i
        middle = y + row / 2 - 4
        parts.append(f'<text x="{left - 10}" y="{middle + 4:.1f}" text-anchor="end">{escape(span.name)}</text>')
        parts.append(
            f'<rect class="s0 bar" x="{left}" y="{y}" width="{span.p50 * scale:.1f}" height="{row - 10}" rx="3"/>'
        )
        a, b = left + span.p50 * scale, left + span.p95 * scale
        parts.append(f'<path class="whisker" d="M{a:.1f} {middle:.1f}H{b:.1f}M{b:.1f} {y + 4}v{row - 18}"/>')
        label = f"{span.p50:.3g} / {span.p95:.3g} {unit}"
        parts.append(f'<text class="soft" x="{b + 8:.1f}" y="{middle + 4:.1f}">{escape(label)}</text>')
    note = f'<text class="soft" x="{left}" y="{height - 10}">median, whisker to the 95th percentile</text>'
    return _document(WIDTH, height, "".join(parts) + note)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers from ``low`` to ``high``."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


class _Frame:
    """Axes, and where a value lies on the page."""

    def __init__(
        self, x0: float, x1: float, y0: float, y1: float, x_label: str, y_label: str, log: bool = False
    ) -> None:
        self.x0, self.x1, self.y0, self.y1 = x0, x1, y0, y1
        self.x_label, self.y_label = x_label, y_label
        self.log = log  # y is then the logarithm of what is written beside the axis

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Page coordinates of a value."""
        right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
        return (
            _LEFT + (x - self.x0) / (self.x1 - self.x0) * (right - _LEFT),
            bottom - (y - self.y0) / (self.y1 - self.y0) * (bottom - _TOP),
        )

    def draw(self, index: int, series: Series) -> str:
        """A series as dots or as a line with gaps."""
        places = [self.at(x, y) if np.isfinite([x, y]).all() else None for x, y in zip(series.x, series.y, strict=True)]
        colour = _class(index, series)
        if series.points:
            return "".join(
                f'<circle class="{colour} dot" cx="{p[0]:.1f}" cy="{p[1]:.1f}" r="2.5"/>' for p in places if p
            )
        steps, pen = [], "M"
        for place in places:
            steps.append(f"{pen}{place[0]:.1f} {place[1]:.1f}" if place else "")
            pen = "L" if place else "M"
        dashed = " dashed" if series.dashed else ""
        return f'<path class="{colour} line{dashed}" d="{"".join(steps)}"/>'

    def _y_ticks(self) -> list[tuple[float, float]]:
        """Where lines are drawn, and what is written beside them."""
        if not self.log:
            return [(value, value) for value in ticks(self.y0, self.y1)]
        powers = range(math.floor(self.y0), math.ceil(self.y1) + 1)
        steps = (1,) if self.y1 - self.y0 > 3 else (1, 2, 5)
        values = [step * 10.0**power for power in powers for step in steps]
        return [(math.log10(v), v) for v in values if self.y0 - 1e-9 <= math.log10(v) <= self.y1 + 1e-9]

    def svg(self, body: str, x_ticks: bool = True) -> str:
        """The whole plot."""
        parts = []
        bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
        for value in ticks(self.x0, self.x1, 7) if x_ticks else []:
            x, _ = self.at(value, self.y0)
            parts.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{bottom}"/>')
            parts.append(f'<text class="soft" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{value:.4g}</text>')
        for place, value in self._y_ticks():
            _, y = self.at(self.x0, place)
            parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>')
            parts.append(f'<text class="soft" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>')
        middle_x, middle_y = (_LEFT + right) / 2, (_TOP + bottom) / 2
        parts.append(f'<text x="{middle_x:.0f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(self.x_label)}</text>')
        turn = f'transform="rotate(-90 14 {middle_y:.0f})"'
        parts.append(f'<text x="14" y="{middle_y:.0f}" text-anchor="middle" {turn}>{escape(self.y_label)}</text>')
        return _document(WIDTH, HEIGHT, "".join(parts) + body)


def _range(series: Sequence[Series], axis: str, zero: bool = False) -> tuple[float, float]:
    values = np.concatenate([np.asarray(getattr(item, axis), np.float64) for item in series]) if series else np.zeros(0)
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if zero:
        low, high = min(low, 0.0), high * 1.08 if high > 0 else high
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _log10(values: FloatArray) -> FloatArray:
    values = np.asarray(values, np.float64)
    return np.log10(values, out=np.full(values.shape, np.nan), where=values > 0)


def _class(index: int, item: Series | Bars) -> str:
    return f"s{(index if item.colour is None else item.colour) % 6}"


def _legend(items: Sequence[Series | Bars]) -> str:
    parts, x = [], float(_LEFT)
    for i, item in enumerate(items):
        parts.append(f'<rect class="{_class(i, item)} bar" x="{x:.0f}" y="9" width="12" height="4" rx="2"/>')
        parts.append(f'<text x="{x + 17:.0f}" y="15">{escape(item.name)}</text>')
        x += 34 + 6.6 * len(item.name)
    return "".join(parts)


def _document(width: int, height: int, body: str) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" xmlns="http://www.w3.org/2000/svg">{body}</svg>'
