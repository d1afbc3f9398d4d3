"""Errors in units of their covariance: normalised squared errors, and the share that intervals cover.

A covariance is honest where the normalised estimation error squared (NEES) of d dimensions follows chi2 with d degrees
of freedom: its mean is d, and 68 % and 95 % of it lie below that distribution's quantiles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike

from stfm_ros.types import FloatArray, RelativePose

LEVELS = (0.68, 0.95)
#: quantiles of chi2 at LEVELS, by degrees of freedom
QUANTILES = {1: (0.98895, 3.84146), 2: (2.27887, 5.99146), 3: (3.50588, 7.81473)}
#: what the coverage at each of LEVELS has to lie in
BANDS = ((0.60, 0.76), (0.90, 0.98))


@dataclass(frozen=True)
class Coverage:
    """How often a region of a given probability held the truth.

    Attributes:
        count: errors.
        dof: dimensions of each.
        covered: share of errors within the regions of LEVELS.
        nees_mean, nees_median: of the squared errors in units of their covariance; ``nees_expected`` is what the mean
            should be (the median of chi2 is 0.455, 1.386 and 2.366 for 1, 2 and 3 dimensions).
    """

    count: int
    dof: int
    covered: tuple[float, ...]
    nees_mean: float
    nees_median: float
    nees_expected: float

    @property
    def honest(self) -> bool:
        """Whether both coverages lie within BANDS."""
        return all(low <= share <= high for share, (low, high) in zip(self.covered, BANDS))


def coverage(squares: ArrayLike, dof: int) -> Coverage:
    """Of squared errors (n,) in units of their covariance; NaN where there are none."""
    values = np.asarray(squares, np.float64).ravel()
    if not len(values):
        return Coverage(0, dof, (float("nan"),) * len(LEVELS), float("nan"), float("nan"), dof)
    covered = tuple(float((values <= limit).mean()) for limit in QUANTILES[dof])
    return Coverage(len(values), dof, covered, float(values.mean()), float(np.median(values)), dof)


def probability(squares: ArrayLike, dof: int) -> FloatArray:
    """(n,) chi2's distribution function at squared errors: uniform in [0, 1] where the covariance is honest."""
    x = np.asarray(squares, np.float64).ravel()
    if dof == 2:
        below: FloatArray = 1 - np.exp(-x / 2)
        return below
    normal = np.array([math.erf(math.sqrt(value / 2)) for value in x])
    return normal if dof == 1 else normal - np.sqrt(2 * x / np.pi) * np.exp(-x / 2)


@dataclass(frozen=True)
class PoseErrors:
    """One pose against the truth.

    Attributes:
        rotation_nees: 3 dimensions.
        translation_nees: 2 dimensions for a direction, 3 where metric.
        rotation_deg, translation: sizes of the errors; the latter in degrees, or in metres where metric.
        rotation_axes, translation_axes: errors along the axes of the covariance's ellipsoid, in deviations.
    """

    rotation_nees: float
    translation_nees: float
    rotation_deg: float
    translation: float
    rotation_axes: FloatArray
    translation_axes: FloatArray


def pose_errors(pose: RelativePose, T_0to1: FloatArray) -> PoseErrors:
    """The published pose (camera 1 in camera 0) against the true motion (4, 4)."""
    R, position = pose.camera1_in_camera0
    true_R, true_position = T_0to1[:3, :3].T, -T_0to1[:3, :3].T @ T_0to1[:3, 3]
    turned = cv2.Rodrigues(true_R @ R.T)[0].ravel()
    rotation_axes = _whitened(turned, pose.covariance[3:, 3:])
    if pose.metric:
        moved, covariance = true_position - position, pose.covariance[:3, :3]
        size = float(np.linalg.norm(moved))
    else:
        tangent = np.linalg.svd(position[None])[2][1:]
        truth = true_position / np.linalg.norm(true_position)
        sideways = tangent @ truth
        angle = float(np.arctan2(np.linalg.norm(sideways), position @ truth))
        moved = sideways * angle / max(float(np.linalg.norm(sideways)), 1e-12)
        covariance = tangent @ pose.covariance[:3, :3] @ tangent.T
        size = float(np.degrees(angle))
    axes = _whitened(moved, covariance)
    return PoseErrors(
        float(rotation_axes @ rotation_axes),
        float(axes @ axes),
        float(np.degrees(np.linalg.norm(turned))),
        size,
        rotation_axes,
        axes,
    )


def _whitened(error: FloatArray, covariance: FloatArray) -> FloatArray:
    values, vectors = np.linalg.eigh(covariance)
    whitened: FloatArray = (vectors.T @ error) / np.sqrt(np.maximum(values, 1e-30))
    return whitened
