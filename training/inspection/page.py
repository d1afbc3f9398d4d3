"""The page of an inspection: what is wrong on top, then pictures, plots and tables of each bag."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from stfm_ros.plots import Bars, Series, group_plot, line_plot
from stfm_ros.report import Figure, Finding, Heading, Notes, Part, Picture, Plot, Report, Table, write_report
from stfm_ros.types import ByteArray, Float32Array, FloatArray
from stfm_training.inspection.edges import Alignment, depth_edges
from stfm_training.inspection.inspection import Inspection
from stfm_training.inspection.outlook import OVERLAP_BINS
from stfm_training.inspection.problem import ERROR, WARNING
from stfm_training.inspection.samples import DEPTH_BINS, Sample, Shown
from stfm_training.inspection.tables import TOPIC_COLUMNS, facts, topic_rows

IN_PLACE, BEST = (255, 60, 90), (60, 230, 140)
_WIDTH_PX = 560
_MAP_PX = 9


def write_page(path: Path, inspections: Sequence[Inspection]) -> None:
    """Write the page.

    Raises:
        ConfigError: the file cannot be written.
    """
    write_report(path, make_page(inspections))


def make_page(inspections: Sequence[Inspection]) -> Report:
    """One page of all bags."""
    names = ", ".join(one.path.name for one in inspections)
    findings = [finding for one in inspections for finding in _findings(one, len(inspections) > 1)]
    usable = sum(one.usable for one in inspections)
    figures = [
        Figure("bags worth training on", f"{usable} of {len(inspections)}", tone="good" if usable else "bad"),
        Figure("frames with depth", str(sum(_with_depth(one) for one in inspections))),
        Figure("training pairs expected", str(sum(one.outlook.pairs for one in inspections if one.outlook))),
    ]
    parts = [part for one in inspections for part in _parts(one)]
    return Report(f"Inspection of {names}", "before training", tuple(figures), tuple(parts), {}, tuple(findings))


def _with_depth(one: Inspection) -> int:
    return int(np.count_nonzero(one.selection.depths >= 0))


def _findings(one: Inspection, several: bool) -> list[Finding]:
    name = f"{one.path.name}: " if several else ""
    found = [Finding(f"{name}{problem}.", "bad" if problem.severity == ERROR else "") for problem in one.problems]
    worst = any(problem.severity in (ERROR, WARNING) for problem in one.problems)
    return found if worst else [Finding(f"{name}nothing is wrong with it.", "good"), *found]


def _parts(one: Inspection) -> list[Part]:
    parts: list[Part] = [
        Heading(one.path.name, f"{one.duration_s:.1f} s; {len(one.samples.frames)} frames were looked at")
    ]
    parts.append(Notes("What was found", tuple(f"{name}: {value}" for name, value in facts(one))))
    for shown in one.samples.shown:
        parts.append(_picture(shown, one.alignment))
    if one.alignment is not None:
        parts.append(_agreement(one.alignment))
    parts += _plots(one)
    parts.append(Table("Topics", TOPIC_COLUMNS, topic_rows(one), texts=2))
    return parts


def _agreement(alignment: Alignment) -> Picture:
    low, high = float(alignment.agreement.min()), float(alignment.agreement.max())
    grey = np.round(255 * (alignment.agreement - low) / max(high - low, 1e-9)).astype(np.uint8)
    large = cv2.resize(grey, None, fx=_MAP_PX, fy=_MAP_PX, interpolation=cv2.INTER_NEAREST)
    picture = np.asarray(cv2.cvtColor(cv2.applyColorMap(large, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB), np.uint8)
    middle = (alignment.agreement.shape[0] // 2, alignment.agreement.shape[1] // 2)
    x, y = (middle[axis] + alignment.offset_px[axis] / alignment.px for axis in (0, 1))
    cv2.drawMarker(picture, _centre(middle[1], middle[0]), IN_PLACE, cv2.MARKER_CROSS, 3 * _MAP_PX, 2)
    cv2.circle(picture, _centre(x, y), _MAP_PX, BEST, 2, cv2.LINE_AA)
    note = (
        f"Displacement of the depth, {-middle[0] * alignment.px:.0f} to {middle[0] * alignment.px:.0f} px either way. "
        "Cross: in place. Ring: where edges of depth agree best with edges of the image."
    )
    return Picture("Alignment of depth", picture, note, exact=True, wide=False)


def _centre(x: float, y: float) -> tuple[int, int]:
    return round((x + 0.5) * _MAP_PX), round((y + 0.5) * _MAP_PX)


def _picture(shown: Shown, alignment: Alignment | None) -> Picture:
    scale = _WIDTH_PX / shown.image.shape[1]
    size = (_WIDTH_PX, round(shown.image.shape[0] * scale))
    image = np.asarray(cv2.resize(shown.image, size, interpolation=cv2.INTER_AREA), np.uint8)
    title = f"At {shown.second:.1f} s"
    if shown.depth is None:
        return Picture(title, image, "No depth.", wide=False)
    depth = np.asarray(cv2.resize(shown.depth, size, interpolation=cv2.INTER_NEAREST), np.float32)
    with_edges = image // 2 + 60
    x, y = depth_edges(depth)
    edges = (x != 0) | (y != 0)
    with_edges[edges] = IN_PLACE
    note = "Edges of depth on the image (red), and the depth."
    if alignment is not None and alignment.distance_px > 1:
        moved = np.array([[1, 0, -alignment.offset_px[0] * scale], [0, 1, -alignment.offset_px[1] * scale]])
        with_edges[cv2.warpAffine(edges.astype(np.uint8), moved, size, flags=cv2.INTER_NEAREST) > 0] = BEST
        note = "Edges of depth on the image: as recorded (red), and where they agree best (green); and the depth."
    return Picture(title, np.hstack([with_edges, coloured(depth)]), note)


def coloured(depth: Float32Array) -> ByteArray:
    """(H, W, 3) RGB of a depth image, near is red; black where there is none."""
    valid = depth > 0
    if not valid.any():
        return np.zeros((*depth.shape, 3), np.uint8)
    near, far = np.log(np.percentile(depth[valid], (2, 98)))
    log = np.log(np.where(valid, depth, 1))
    grey = np.clip(255 * (far - log) / max(float(far - near), 1e-6), 0, 255).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    return np.asarray(np.where(valid[..., None], colours, 0), np.uint8)


def _plots(one: Inspection) -> list[Part]:
    frames = one.samples.frames
    if not frames:
        return []
    seconds = np.array([frame.second for frame in frames])
    grey = [Series("brightness / 255", seconds, _of(frames, lambda frame: frame.exposure.mean / 255))]
    grey.append(Series("blur", seconds, _of(frames, lambda frame: frame.blur)))
    if one.samples.depths:
        grey.append(Series("share with depth", seconds, _of(frames, lambda f: f.depth.valid if f.depth else np.nan)))
    moved = [Series("image", seconds, _of(frames, lambda frame: frame.flow_px), points=True)]
    parts: list[Part] = [
        Plot("Over time", line_plot(grey, "s", "")),
        Plot("Motion from one image to the next", line_plot(moved, "s", "px")),
    ]
    depths = [frame.depth for frame in frames if frame.depth]
    counts = np.sum([depth.histogram for depth in depths], axis=0) if depths else np.zeros(1)
    if counts.any():
        seen = slice(max(int(np.flatnonzero(counts)[0]) - 1, 0), int(np.flatnonzero(counts)[-1]) + 2)
        middle = np.sqrt(DEPTH_BINS[1:] * DEPTH_BINS[:-1])
        share = Series("share of the pixels", middle[seen], counts[seen] / counts.sum())
        parts.append(Plot("Depth", line_plot([share], "m", "")))
    if one.outlook is not None and len(one.outlook.overlaps):
        none = np.full(len(OVERLAP_BINS) - 1, np.nan)
        labels = [f"{low:.1f}" for low in OVERLAP_BINS[:-1]]
        bars = Bars("pairs", np.array(one.outlook.histogram, np.float64), none, none)
        parts.append(Plot("Overlap of the pairs that were looked at", group_plot(labels, [bars], "pairs")))
    return parts


def _of(frames: Sequence[Sample], value: Callable[[Sample], float]) -> FloatArray:
    return np.array([value(frame) for frame in frames], np.float64)
