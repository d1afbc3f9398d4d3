"""One method on one view: a row of numbers, from which every figure is made.

A row holds what the truth of its view allows; the rest is empty.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import cv2
import numpy as np

from stfm_ros.evaluate import MMA_THRESHOLDS_PX, corner_error, epipolar_precision, rays_of, solve_pair
from stfm_ros.solvers import find_solver
from stfm_ros.suite.readers import View
from stfm_ros.types import FloatArray, Matches

SOLVERS = ("poselib", "magsac")
LABEL_THRESHOLDS_PX = (5.0, 10.0, 20.0)
FUNDAMENTAL_PX = 1.0  #: inlier threshold of the fundamental matrix that labelled points are held against
RIGHT_PX = 3.0  #: a match is right within this distance of the truth, as MMA@3
BEST = 256  #: so many matches are asked of every method, where methods are compared at the same number
CONFIDENCE_BINS = 10
#: sigma is asked of matches this near the truth, those that are wrong are the confidence's to tell
SIGMA_PX = 6.0
_SHARES = (1.0, 1.96)  # sigmas of one axis that hold 68 and 95 %


@dataclass(frozen=True)
class Row:
    """One method on one view.

    Attributes:
        name: of the view.
        overlap: as of :class:`View`.
        matches: how many.
        ms, cpu_ms: wall time of the call, and processor time of all its threads, which a busy machine stretches less.
        errors_deg: by solver, the larger of the angles of rotation and of direction; infinite where there is no pose.
        precision: share of matches below each of ``stfm_ros.evaluate.EPIPOLAR_THRESHOLDS``.
        mma: share of matches within each of ``MMA_THRESHOLDS_PX`` of the truth, of those whose truth is known.
        best: right ones within each of ``MMA_THRESHOLDS_PX``, as :func:`right_of_best`.
        corner_px: of the homography through the matches; infinite where there is none.
        labelled: share of the labelled points within each of LABEL_THRESHOLDS_PX of the epipolar lines that the
            matches give.
        reliability: for each of CONFIDENCE_BINS equal bins of confidence the matches whose truth is known, the right
            ones, and the sum of their confidences.
        coverage: errors of one axis of the matches within SIGMA_PX, and how many are within 1 and 1.96 sigma.
    """

    name: str
    overlap: float
    matches: int
    ms: float
    cpu_ms: float
    errors_deg: dict[str, float]
    precision: tuple[float, ...] = ()
    mma: tuple[float, ...] = ()
    best: tuple[float, ...] = ()
    corner_px: float | None = None
    labelled: tuple[float, ...] = ()
    reliability: tuple[tuple[float, ...], ...] = ()
    coverage: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What is infinite is written as the word inf, for JSON has no number for it; what is NaN as null."""
        return {key: _written(value) for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Row:
        """The inverse of :meth:`to_json`.

        Raises:
            TypeError, ValueError, KeyError: the record is not one.
        """
        values = {field.name: _read(record[field.name]) for field in fields(cls)} | {"name": str(record["name"])}
        return cls(**values | {"overlap": float("nan") if values["overlap"] is None else values["overlap"]})


def measure(
    name: str, view: View, matches: Matches, times: tuple[float, float], claims: bool = False, exact: bool = False
) -> Row:
    """Hold matches against what is known of a view.

    Args:
        times: wall and processor time of the call, ms.
        claims: whether confidence and sigma of the matches claim to be a probability and pixels.
        exact: whether the truth is good enough to hold sigma against.
    """
    found: dict[str, Any] = {"errors_deg": {}}
    if view.T_0to1 is not None and view.cameras is not None:
        rays = rays_of(matches, view.cameras)
        found["precision"] = epipolar_precision(rays, view.T_0to1, len(matches))
        for solver in SOLVERS:
            solve, threshold_px = find_solver(solver)
            angles = solve_pair(rays, view.cameras, view.T_0to1, solve, threshold_px)[:2]
            found["errors_deg"][solver] = max(angles)
    if view.warp is not None:
        errors = matches.keypoints1 - view.warp(matches.keypoints0.astype(np.float64))
        known = np.flatnonzero(~np.isnan(errors).any(axis=1))
        errors, kept = errors[known], matches.take(known)
        distances = np.hypot(errors[:, 0], errors[:, 1])
        found["mma"] = tuple(float(np.mean(distances < px)) if len(kept) else 0.0 for px in MMA_THRESHOLDS_PX)
        found["best"] = right_of_best(kept.confidence, distances)
        if claims:
            found["reliability"] = reliability(kept.confidence, distances < RIGHT_PX)
        if claims and exact:
            found["coverage"] = coverage(errors, kept.sigma)
    if view.H_0to1 is not None:
        height, width = view.images[0].shape[:2]
        found["corner_px"] = corner_error(matches, view.H_0to1, width, height)
    if view.labels is not None:
        distances = label_distances(matches, view.labels)
        found["labelled"] = tuple(float(np.mean(distances < px)) for px in LABEL_THRESHOLDS_PX)
    return Row(name, view.overlap, len(matches), *times, **found)


def right_of_best(confidence: Any, distances: Any) -> tuple[float, ...]:
    """Of the BEST most confident matches the share within each of ``MMA_THRESHOLDS_PX`` of the truth.

    Always divided by BEST: who finds fewer is charged for what is missing. Of equal confidences the first count.

    Args:
        confidence: (n,), larger is better.
        distances: (n,) pixels from the truth.
    """
    chosen = np.asarray(distances, np.float64)[np.argsort(-np.asarray(confidence, np.float64), kind="stable")[:BEST]]
    return tuple(float((chosen < px).sum() / BEST) for px in MMA_THRESHOLDS_PX)


def reliability(confidence: Any, right: Any) -> tuple[tuple[float, ...], ...]:
    """See :class:`Row`; ``confidence`` (n,) in [0, 1] and ``right`` (n,) bool."""
    bins = np.clip((np.asarray(confidence, np.float64) * CONFIDENCE_BINS).astype(np.int64), 0, CONFIDENCE_BINS - 1)
    weights = (None, np.asarray(right, np.float64), np.asarray(confidence, np.float64))
    counts = [np.bincount(bins, weight, minlength=CONFIDENCE_BINS) for weight in weights]
    return tuple(tuple(map(float, row)) for row in np.stack(counts, axis=1).tolist())


def coverage(errors: FloatArray, sigma: Any) -> tuple[int, ...]:
    """See :class:`Row`; ``errors`` (n, 2) pixels and ``sigma`` (n,) pixels per axis."""
    near = np.hypot(errors[:, 0], errors[:, 1]) < SIGMA_PX
    ratio = np.abs(errors[near]) / np.maximum(np.asarray(sigma, np.float64)[near, None], 1e-9)
    return ratio.size, *(int((ratio < share).sum()) for share in _SHARES)


def label_distances(matches: Matches, labels: FloatArray) -> FloatArray:
    """How far labelled points (n, 4) lie from the epipolar lines that the matches give, pixels.

    The fundamental matrix is OpenCV's MAGSAC at FUNDAMENTAL_PX; the larger of the distances in both images counts, as
    in WxBS. Infinite where the matches give no fundamental matrix.
    """
    nothing = np.full(len(labels), np.inf)
    if len(matches) < 8:
        return nothing
    F, _ = cv2.findFundamentalMat(
        matches.keypoints0, matches.keypoints1, cv2.USAC_MAGSAC, FUNDAMENTAL_PX, 0.9999, 10000
    )  # fmt: skip
    if F is None or F.shape != (3, 3) or not np.isfinite(F).all():
        return nothing
    points0, points1 = (np.column_stack([part, np.ones(len(labels))]) for part in (labels[:, :2], labels[:, 2:]))
    lines1, lines0 = points0 @ F.T, points1 @ F
    algebraic = np.abs(np.sum(points1 * lines1, axis=1))
    norms = np.minimum(np.hypot(lines1[:, 0], lines1[:, 1]), np.hypot(lines0[:, 0], lines0[:, 1]))
    distances: FloatArray = algebraic / np.maximum(norms, 1e-12)
    return distances


def _written(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf"
    if isinstance(value, dict):
        return {key: _written(item) for key, item in value.items()}
    return [_written(item) for item in value] if isinstance(value, (list, tuple)) else value


def _read(value: Any) -> Any:
    if isinstance(value, str) and value == "inf":
        return math.inf
    if isinstance(value, dict):
        return {key: _read(item) for key, item in value.items()}
    return tuple(_read(item) for item in value) if isinstance(value, list) else value
