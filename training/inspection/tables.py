"""An inspection as rows of text, for the screen and for the page."""

from __future__ import annotations

import math

import numpy as np

from stfm_training.inspection.inspection import Inspection
from stfm_training.inspection.samples import medians

TOPIC_COLUMNS = ("topic", "taken as", "messages", "Hz", "jitter ms", "gaps", "longest s", "back", "late ms", "MB")


def topic_rows(one: Inspection) -> tuple[tuple[str, ...], ...]:
    """Of :data:`TOPIC_COLUMNS`."""
    rows = []
    for topic in one.topics:
        rows.append(
            (
                topic.name,
                topic.role,
                str(topic.count),
                _number(topic.rate_hz, ".1f"),
                _number(topic.jitter_ms, ".1f"),
                str(topic.gaps),
                _number(topic.longest_gap_s, ".2f"),
                str(topic.backwards),
                _number(topic.delay_ms, ".0f"),
                _number(topic.megabytes, ".1f"),
            )
        )
    return tuple(rows)


def facts(one: Inspection) -> tuple[tuple[str, str], ...]:
    """What was looked at, and what was found."""
    selection, frames = one.selection, one.samples.frames
    left_out = ", ".join(f"{n} {why.replace('_', ' ')}" for why, n in selection.counts.items() if n and why != "images")
    taken = [f"{role} {name} ({selection.why.get(role)})" for role, name in selection.topics.items() if name]
    rows = [("taken", "; ".join(taken))]
    rows += [("images", f"{selection.counts.get('images', 0)}" + (f"; {left_out}" if left_out else ""))]
    rows += [(f"{role} from the image", _sync(one, role)) for role in one.sync]
    if selection.camera is not None:
        camera = selection.camera
        fx, fy, cx, cy = camera.K[0, 0], camera.K[1, 1], camera.K[0, 2], camera.K[1, 2]
        size, lens = f"{camera.width}x{camera.height}", camera.distortion_model
        rows.append(("camera", f"{size}, fx {fx:.1f} fy {fy:.1f} cx {cx:.1f} cy {cy:.1f}, distortion {lens}"))
    depths = [frame.depth for frame in frames if frame.depth]
    if depths:
        low, middle, high = (np.median([getattr(d, name) for d in depths]) for name in ("low_m", "median_m", "high_m"))
        valid = medians([depth.valid for depth in depths])
        rows.append(("depth", f"{middle:.3g} m ({low:.3g} to {high:.3g}), on {valid[1]:.0%} of the pixels"))
    rows += _aligned(one) + _motion(one)
    if frames:
        mean, span = (medians([getattr(f.exposure, name) for f in frames])[1] for name in ("mean", "span"))
        clipped = medians([max(f.exposure.dark, f.exposure.bright) for f in frames])[1]
        low, middle, high = medians([frame.blur for frame in frames])
        rows.append(("blur", f"{middle:.2f} ({low:.2f} to {high:.2f}); 0 is sharp, 1 is nothing but blur"))
        rows.append(("exposure", f"mean {mean:.0f}, span {span:.0f} of 255; {clipped:.1%} black or white"))
    return tuple(rows)


def _sync(one: Inspection, role: str) -> str:
    sync = one.sync[role]
    return f"{sync.median_ms:.1f} ms, 95 % {sync.p95_ms:.1f} ms; {sync.paired:.1%} pair"


def _aligned(one: Inspection) -> list[tuple[str, str]]:
    rows = []
    if (edges := one.alignment) is not None:
        x, y = edges.offset_px
        agreement = f"agreement {edges.here:.2f} in place, {edges.best:.2f} there, {edges.elsewhere:.2f} elsewhere"
        rows.append(("alignment", f"depth lies {x:+.1f}, {y:+.1f} px off the image; {agreement}"))
    if (lag := one.lag) is not None:
        rows.append(("lag of depth", f"{lag.frames:+g} frames; the image moves {lag.flow_px:.1f} px a frame"))
    return rows


def _motion(one: Inspection) -> list[tuple[str, str]]:
    rows = []
    frames = one.samples.frames
    low, flow, high = medians([frame.flow_px for frame in frames])
    if math.isfinite(flow):
        rows.append(("motion", f"{flow:.1f} px ({low:.1f} to {high:.1f}) from one image to the next"))
    if (check := one.pose_check) is not None:
        span = f"{_number(check.scale_low, '.3g')} to {_number(check.scale_high, '.3g')}"
        told = f"depth moves {_number(check.scale, '.3g')} times as far ({span})"
        length = told if math.isfinite(check.scale) else "too little motion to compare lengths"
        rows.append(
            (
                "poses",
                f"{one.selection.poses_from}; {length}; turns differ by "
                f"{_number(check.angle_deg, '.2f')} deg, axes by {_number(check.turn_deg, '.2f')} deg; "
                f"{check.estimated} of {check.tried} pairs",
            )
        )
    if (pairs := one.outlook) is not None:
        agree = f"depth agrees with the motion in {_number(pairs.agreeing, '.0%')} of {pairs.looked_at} looked at"
        rows.append(("training pairs", f"about {pairs.pairs}, by {pairs.by}; {agree}"))
    return rows


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"
