"""From matches to a relative pose, what it is worth, and why."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from stfm_ros.config import PoseConfig
from stfm_ros.geometry.degeneracy import (
    fit_rotation,
    gric,
    homography,
    homography_px,
    plane_motions,
    rival_motion,
    rotation_covariance,
)
from stfm_ros.geometry.epipolar import Minimum, covariance_of, refine, robust_model, sampson_px
from stfm_ros.geometry.noise import CELL, UNKNOWN_DIRECTION, UNKNOWN_ROTATION, noise_px
from stfm_ros.geometry.rays import Rays, angles, displacement_px
from stfm_ros.types import BoolArray, Camera, FloatArray, Matches, PoseStatus, RelativePose

DEFAULTS = PoseConfig()
#: what counts as border, as a share of the image's width
BORDER = 2 * CELL


def estimate_relative_pose(
    matches: Matches, camera0: Camera | None, camera1: Camera | None, config: PoseConfig = DEFAULTS
) -> RelativePose:
    """The motion between two images, with its covariance and what it is worth.

    A robust essential matrix (USAC, best matches first), then Levenberg-Marquardt on the
    Sampson error weighted by each match's sigma. Deterministic. Never raises because of the matches and
    never returns NaN; what is wrong is said by ``status`` and ``reason``.

    Args:
        matches: best first, pixels of the received images.
        camera0, camera1: calibrations; without one there is no pose (``NO_CAMERA_INFO``).
        config: thresholds.
    """
    n = len(matches)
    if camera0 is None or camera1 is None:
        which = " and ".join(str(i) for i, camera in enumerate((camera0, camera1)) if camera is None)
        return no_pose(n, PoseStatus.NO_CAMERA_INFO, f"no calibration for image {which}: publish camera_info")
    rays = Rays.of(matches, camera0, camera1)
    if len(rays) < config.min_inliers:
        return no_pose(n, PoseStatus.FEW_MATCHES, f"{len(rays)} usable matches, fewer than {config.min_inliers}")
    pose = _one_motion(rays, n, config)
    if not pose.status.has_rotation:
        return pose
    count, right = int(pose.inliers.sum()), expected_right(matches, pose.inliers)
    if pose.status.has_translation and right < config.min_inliers:
        reason = (
            f"{count} matches agree on a pose, but by their confidences {right:.0f} of them are right, fewer than "
            f"{config.min_inliers}"
        )
        return no_pose(n, PoseStatus.FEW_MATCHES, reason)
    away = _away_from_border(matches, camera0, camera1)
    inner = expected_right(matches, pose.inliers & away)
    if inner < min(config.min_inliers, right / 2):
        reason = (
            f"only {inner:.0f} of {right:.0f} inliers, counted by confidence, lie away from the border of the image: "
            "along it matches agree whatever is seen"
        )
        return no_pose(n, PoseStatus.FEW_MATCHES, reason)
    return _with_rival(pose, rays.take(away[rays.index]), config)  # along the border nothing moves but the frame


def expected_right(matches: Matches, inliers: BoolArray) -> float:
    """How many of the inliers are right by their own confidences.

    Each of a few weak matches may agree by chance, as where a pattern repeats; many weak ones may not.
    """
    return float(matches.confidence[inliers].sum(dtype=np.float64))


def _one_motion(rays: Rays, n: int, config: PoseConfig) -> RelativePose:
    """The motion that explains most of the ``n`` matches."""
    shift_px = float(np.median(displacement_px(rays, np.eye(3))))
    if shift_px < config.static_px:
        reason = f"median displacement {shift_px:.2f} px is below {config.static_px:g} px: the camera stands still"
        still = rays.mask(displacement_px(rays, np.eye(3)) < config.inlier_px, n)
        variance = max(config.static_px, shift_px) ** 2 / rays.focal**2
        return rotation_pose(np.eye(3), np.eye(3) * variance, still, PoseStatus.STATIC, reason)

    model = robust_model(rays, config)
    if model is None:
        return no_pose(n, PoseStatus.FEW_MATCHES, "no essential matrix explains the matches")
    plane = homography(rays.take(np.abs(sampson_px(rays, *model)) < config.inlier_px))
    minima = refine(rays, [model, *plane_motions(rays, plane)], config.inlier_px)
    inliers = (np.abs(sampson_px(rays, minima[0].R, minima[0].t)) < config.inlier_px) & minima[0].possible
    count = int(inliers.sum())
    if count < config.min_inliers:
        reason = f"{count} of {len(rays)} matches agree on a pose, fewer than {config.min_inliers}"
        return no_pose(n, PoseStatus.FEW_MATCHES, reason)
    return _judge(rays, n, minima, inliers, plane, config)


def _judge(
    rays: Rays,
    n: int,
    minima: list[Minimum],
    inliers: BoolArray,
    plane: FloatArray | None,
    config: PoseConfig,
) -> RelativePose:
    """Which motion the inliers can tell apart, and how well."""
    kept, mask = rays.take(inliers), rays.mask(inliers, n)
    R, t, count = minima[0].R, minima[0].t, len(kept)
    residuals = sampson_px(kept, R, t)
    # what matches of like displacement have in common was taken up by the motion
    noise = noise_px(residuals, config.inlier_px) / np.sqrt(1 - config.shared_error)
    essential = gric(residuals, noise, dimension=3, parameters=5)

    parallax = float(np.degrees(np.median(angles(kept.x0 @ R.T, kept.x1))))
    turn = fit_rotation(kept, R)
    shifts = displacement_px(kept, turn)
    turned = f"a rotation alone explains {count} matches (median residual {np.median(shifts):.2f} px)"
    if gric(shifts, noise, dimension=2, parameters=3) <= essential:
        return rotation_pose(
            turn, rotation_covariance(kept, turn, config, parallax), mask, PoseStatus.ROTATION_ONLY, turned
        )
    all_shifts = displacement_px(rays, turn)
    apart = all_shifts > 2 * config.inlier_px  # what a rotation clearly leaves open
    showing, agreeing = int(apart.sum()), int((apart & inliers).sum())
    if showing < len(rays) / 2 and 2 * agreeing < showing:
        rest = all_shifts < config.inlier_px
        reason = f"{turned}; of {showing} others only {agreeing} agree on a translation"
        # the essential matrix explains the others better, so its rotation may be the true one
        between = cv2.Rodrigues(R @ turn.T)[0]
        covariance = rotation_covariance(rays.take(rest), turn, config, parallax) + between @ between.T
        return rotation_pose(turn, covariance, rays.mask(rest, n), PoseStatus.ROTATION_ONLY, reason)

    status, reason = PoseStatus.OK, f"{count} inliers of {n} matches, median parallax {parallax:.2f} deg"
    if parallax < config.min_parallax_deg:
        status = PoseStatus.LOW_PARALLAX
        reason = f"median parallax {parallax:.2f} deg is below {config.min_parallax_deg:g} deg: weak translation"
    elif gric(homography_px(kept, plane), noise, dimension=2, parameters=8) <= essential:
        status = PoseStatus.PLANAR
        reason = f"one plane explains {count} matches: a twin of this motion fits them as well"
    covariance = covariance_of(rays, minima[0], minima[1:], config.shared_error)
    return RelativePose(R, t, covariance, mask, status, reason, parallax)


def _away_from_border(matches: Matches, camera0: Camera, camera1: Camera) -> BoolArray:
    """(n,) whether both keypoints are more than BORDER inside of their images.

    Where a pattern repeats, a network still tells points apart by how far they are from the border: what matches there
    is the image's frame with itself, along the border.
    """
    inside = np.ones(len(matches), np.bool_)
    for points, camera in ((matches.keypoints0, camera0), (matches.keypoints1, camera1)):
        margin = BORDER * camera.width
        inside &= (points >= margin).all(axis=1)
        inside &= (points <= np.array([camera.width, camera.height]) - 1 - margin).all(axis=1)
    return inside


def _with_rival(pose: RelativePose, rays: Rays, config: PoseConfig) -> RelativePose:
    """The pose, less certain where the other matches agree on another motion."""
    moves = pose.status.has_translation
    errors = np.abs(sampson_px(rays, pose.R, pose.t)) if moves else displacement_px(rays, pose.R)
    rival = rival_motion(rays, errors, config)
    if rival is None:
        return pose
    reason = (
        f"{pose.reason}; {rival.count} other matches, on {100 * rival.share:.0f} % of the image, agree on a second "
        "motion: something moves by itself, or a pattern repeats"
    )
    status = PoseStatus.TWO_MOTIONS if moves else pose.status
    return replace(pose, covariance=pose.covariance + rival.doubt(pose.R, pose.t), status=status, reason=reason)


def no_pose(n: int, status: PoseStatus, reason: str) -> RelativePose:
    """The record that says why ``n`` matches give no pose; its covariance is that of knowing nothing."""
    covariance = np.diag([UNKNOWN_DIRECTION] * 3 + [UNKNOWN_ROTATION] * 3)
    return RelativePose(np.eye(3), np.zeros(3), covariance, np.zeros(n, np.bool_), status, reason)


def rotation_pose(
    R: FloatArray, rotation_covariance: FloatArray, inliers: BoolArray, status: PoseStatus, reason: str
) -> RelativePose:
    covariance = np.diag([UNKNOWN_DIRECTION] * 3 + [0.0] * 3)
    covariance[3:, 3:] = R.T @ rotation_covariance @ R
    return RelativePose(R, np.zeros(3), covariance, inliers, status, reason)
