"""The essential matrix: found robustly, refined by Sampson errors, with its covariance.

A match satisfies ``x1' [t]x R x0 = 0``. ``R <- exp(w) R`` and ``t <- t + B d`` are the five parameters ``(w, d)``;
``B`` is the tangent of the unit vector t.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from stfm_ros.config import PoseConfig
from stfm_ros.geometry.noise import (
    UNKNOWN_DIRECTION,
    UNKNOWN_ROTATION,
    Alike,
    estimate_covariance,
    noise_px,
    scale_px,
    with_prior,
)
from stfm_ros.geometry.rays import (
    GENERATORS,
    Rays,
    angular,
    in_front,
    moves_px,
    nearest_rotation,
    skew,
    squares,
    tangent,
    unit,
)
from stfm_ros.geometry.robust import ENOUGH, ROUGHLY, Motion, minimise
from stfm_ros.types import BoolArray, FloatArray

#: a point's depth may leave what its noise allows by so many standard deviations
DEPTH_SIGMAS = 3.0
#: inverse depths spread around their median; further than so many of their (logarithmic) deviations is no scene
NEAR_DEVIATIONS = 3.5
MIN_DEVIATION = 0.25
#: two motions this near each other are one; ten times as much in the direction of translation
SAME_RAD = 1e-3


@dataclass(frozen=True)
class Minimum:
    """A motion at a minimum of the robust loss.

    Attributes:
        R, t: (3, 3) and (3,) of unit length.
        scale_px: of the loss.
        cost: the loss; matches at an impossible depth count as outliers.
        possible: (m,) whether the depth of each match is possible.
    """

    R: FloatArray
    t: FloatArray
    scale_px: float
    cost: float
    possible: BoolArray


def robust_model(rays: Rays, config: PoseConfig) -> tuple[FloatArray, FloatArray] | None:
    """R, t from an essential matrix by OpenCV's USAC, the sign of t by cheirality.

    Samples are drawn from the best matches first (PROSAC). After the refinement OpenCV's other samplers and PoseLib
    end in the same minima; docs/calibration.md has figures.
    """
    try:
        E, mask = cv2.findEssentialMat(
            rays.x0[:, :2].copy(),
            rays.x1[:, :2].copy(),
            np.eye(3),
            cv2.USAC_PROSAC,
            config.confidence if config.confidence < 1.0 else 1.0 - 1e-9,
            config.inlier_px / rays.focal,
            config.max_iterations,
        )
    except cv2.error:  # degenerate samples, e.g. all points on one line
        return None
    if E is None or len(E) < 3 or not np.isfinite(E[:3]).all():
        return None
    R1, R2, t = cv2.decomposeEssentialMat(E[:3])
    inliers = rays.take(np.asarray(mask).ravel() > 0)
    direction = np.asarray(t, np.float64).ravel()
    choices = [(nearest_rotation(R), sign * direction) for R in (R1, R2) for sign in (1.0, -1.0)]
    return max(choices, key=lambda choice: int(in_front(inliers, *choice).sum()))


def refine(rays: Rays, starts: list[tuple[FloatArray, FloatArray]], inlier_px: float) -> list[Minimum]:
    """The minima of a robust loss that the starts lead to, best first.

    There are several starts, since a scene that is nearly a plane has a second minimum near the plane's other
    decomposition; what cannot be ruled out is kept. All have the scale of the first one found.
    """
    found = (_minimise(rays, *start, inlier_px, 6, ROUGHLY) for start in starts)
    coarse = sorted(found, key=lambda motion: motion.cost)
    close = 1.1 * coarse[0].cost + 20 * inlier_px**2  # more than the coarse loss can be wrong by
    minima: list[Minimum] = []
    scale = 0.0
    for i, (R, t, cost) in enumerate(coarse):
        if cost > close or any(_alike(R, t, other) for other in coarse[:i]):
            continue
        for _ in range(2):  # which depths are possible follows from the motion, and the motion from them
            kept = rays.take(possible_depth(rays, R, t, inlier_px))
            if not minima:
                scale = scale_px(sampson_px(kept, R, t) / kept.sigma, inlier_px)
            R, t, _ = _minimise(kept, R, t, scale, 15, ENOUGH)
        possible = possible_depth(rays, R, t, inlier_px)
        squared = (sampson_px(rays, R, t) / rays.sigma) ** 2
        cost = float(np.where(possible, squared / (1 + squared / scale**2), scale**2).sum())
        minima.append(Minimum(R, t, scale, cost, possible))
    return sorted(minima, key=lambda minimum: minimum.cost)


def _minimise(rays: Rays, R: FloatArray, t: FloatArray, scale: float, rounds: int, enough: float) -> Motion:
    return minimise(partial(linearise, rays), step_on, R, t, scale, rounds, enough)


def _alike(R: FloatArray, t: FloatArray, other: Motion) -> bool:
    """Whether two starts have come to the same minimum."""
    return bool(np.abs(R - other.R).max() < SAME_RAD and np.abs(t - other.t).max() < 10 * SAME_RAD)


def possible_depth(rays: Rays, R: FloatArray, t: FloatArray, inlier_px: float) -> BoolArray:
    """(m,) whether each match may show a point of the scene: not behind a camera, nor nearer than any other by far.

    Far points with little parallax stay, whatever their noise makes of the sign. A chance match is mostly very near
    or behind; near ones have to go since a match tells of t in proportion to its parallax: one wrong match of 200 px
    weighs as much as 400 right ones of 10 px and draws t until its own residual vanishes.
    """
    closeness, deviation = _closeness(rays, R, t)
    residuals = sampson_px(rays, R, t) / rays.sigma
    deviation = DEPTH_SIGMAS * deviation * noise_px(residuals, inlier_px) * np.sqrt(2)
    possible = (closeness > -deviation) & (np.sum((rays.x0 @ R.T) * rays.x1, axis=1) > 0)
    known = (np.abs(residuals) < inlier_px) & (closeness > deviation)
    if np.count_nonzero(known) >= 10:
        logarithms = np.log(closeness[known])
        middle = float(np.median(logarithms))
        spread = max(1.4826 * float(np.median(np.abs(logarithms - middle))), MIN_DEVIATION)
        possible &= closeness - deviation < np.exp(middle + NEAR_DEVIATIONS * spread)
    return np.asarray(possible)


def _closeness(rays: Rays, R: FloatArray, t: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(m,) baseline over range, negative behind the cameras, and its deviation where the noise is one pixel."""
    turned, seen = unit(rays.x0 @ R.T), unit(rays.x1)
    along = t - turned * (turned @ t)[:, None]
    squared = np.maximum(np.sum(along**2, axis=1), 1e-12)  # sine of the angle to the epipole
    closeness = np.sum((seen - turned) * along, axis=1) / squared
    deviation = np.hypot(angular(rays.x0, rays.pixel0), angular(rays.x1, rays.pixel1)) * rays.sigma / np.sqrt(squared)
    return closeness, deviation


def covariance_of(rays: Rays, best: Minimum, others: list[Minimum], shared_error: float = 0.0) -> FloatArray:
    """(6, 6) of camera 1 in camera 0, in REP-103 order.

    The published pose is ``(R', -R' t)``: its position moves by ``-R' (B d + t x w)``, and about the fixed axes of
    camera 0 it turns by ``-R' w``. Another minimum that the residuals cannot rule out adds its distance, squared and
    weighted by how likely it is. ``shared_error`` is that of :class:`stfm_ros.geometry.noise.Alike`.
    """
    R, t = best.R, best.t
    kept = rays.take(best.possible)
    residuals, jacobian = linearise(kept, R, t)
    alike = Alike(shared_error, rays.sigma_px, rays.width_px, moves_px(kept), _by_point1(kept, R, t)[:, None])
    estimate = estimate_covariance(residuals[:, None], jacobian.T[:, None], kept.points0_px, best.scale_px, alike)
    # what the matches leave open is known as well as by no match at all
    parameters = with_prior(estimate.covariance, [UNKNOWN_ROTATION] * 3 + [UNKNOWN_DIRECTION] * 2)
    moved = np.zeros((6, 5))
    moved[:3, :3] = -R.T @ skew(t)
    moved[:3, 3:] = -R.T @ tangent(t)
    moved[3:, :3] = -R.T
    covariance: FloatArray = moved @ parameters @ moved.T
    position = -R.T @ t
    for other in others:
        odds = float(np.exp(-max(other.cost - best.cost, 0.0) / (2 * estimate.variance)))
        far = np.concatenate([-other.R.T @ other.t, cv2.Rodrigues(other.R.T @ R)[0].ravel()])
        far[:3] -= position * (position @ far[:3])  # along the unit vector nothing varies
        covariance = covariance + odds / (1 + odds) * np.outer(far, far)
    symmetric: FloatArray = (covariance + covariance.T) / 2
    return symmetric


def sampson_px(rays: Rays, R: FloatArray, t: FloatArray) -> FloatArray:
    """(n,) signed Sampson errors in pixels: first-order distances of the match to the epipolar manifold."""
    E = skew(t) @ R
    lines1, lines0 = rays.x0 @ E.T, rays.x1 @ E
    algebraic = np.sum(rays.x1 * lines1, axis=1)
    norm = np.sqrt(squares(lines1) * rays.pixel1**2 + squares(lines0) * rays.pixel0**2)
    residuals: FloatArray = algebraic / np.maximum(norm, 1e-15)
    return residuals


def _by_point1(rays: Rays, R: FloatArray, t: FloatArray) -> FloatArray:
    """(n, 2) derivatives of weighted Sampson errors by the pixel of image 1, to first order."""
    E = skew(t) @ R
    lines1, lines0 = rays.x0 @ E.T, rays.x1 @ E
    norm = np.sqrt(squares(lines1) * rays.pixel1**2 + squares(lines0) * rays.pixel0**2)
    by_point: FloatArray = lines1[:, :2] * (rays.pixel1 / np.maximum(norm, 1e-15) / rays.sigma)[:, None]
    return by_point


def linearise(rays: Rays, R: FloatArray, t: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Weighted Sampson errors (n,) and their derivatives (5, n) by ``(w, d)``."""
    cross = skew(t)
    E = cross @ R
    by_turn, by_direction = cross @ (GENERATORS @ R), np.tensordot(tangent(t).T, GENERATORS, 1) @ R
    derivatives = np.concatenate([by_turn, by_direction]).reshape(5, 9)
    x0, x1 = np.ascontiguousarray(rays.x0.T), np.ascontiguousarray(rays.x1.T)
    lines1, lines0 = E @ x0, E.T @ x1
    scaled1, scaled0 = lines1[:2] * rays.pixel1**2, lines0[:2] * rays.pixel0**2
    norm = np.sqrt(np.maximum((lines1[:2] * scaled1 + lines0[:2] * scaled0).sum(axis=0), 1e-30))
    residuals = (x1 * lines1).sum(axis=0) / norm
    # by the entries of E, (3, 3, n): x1 x0^T / norm, less what the norm changes
    shrink = residuals / norm
    left, right = x1.copy(), np.zeros_like(x0)
    left[:2] -= shrink * scaled1
    right[:2] = shrink * scaled0
    by_entry = left[:, None] * x0 - x1[:, None] * right
    weight = 1 / (norm * rays.sigma)
    return residuals / rays.sigma, (derivatives @ by_entry.reshape(9, -1)) * weight


def step_on(R: FloatArray, t: FloatArray, step: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The motion after a step ``(w, d)``."""
    moved = t + tangent(t) @ step[3:]
    return np.asarray(cv2.Rodrigues(step[:3])[0]) @ R, moved / np.linalg.norm(moved)
