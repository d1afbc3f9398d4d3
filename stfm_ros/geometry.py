"""Two-view geometry: from matches to a relative pose, what it is worth, and why.

``T_0to1`` maps points of camera 0 into camera 1: ``X1 = R X0 + t``; a match satisfies ``x1' [t]x R x0 = 0``.
Points are undistorted and lie on the plane z = 1 (*rays*). Residuals are in pixels of the received
image: each ray comes with the size of a pixel there, so that a fisheye's border counts for what it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from stfm_ros.config import PoseConfig
from stfm_ros.types import BoolArray, Camera, FloatArray, Matches, PoseStatus, RelativePose

#: rad^2 an axis of a rotation nobody knows (uniform over SO(3)), and of a direction nobody knows
UNKNOWN_ROTATION = (np.pi**2 / 3 + 2) / 3
UNKNOWN_DIRECTION = 1 / 3
#: floor of the match noise in px: below it quantisation and calibration rule, not the matches
NOISE_FLOOR_PX = 0.1
#: scale of the robust loss in standard deviations of the noise
SCALE = 2.5
DEFAULTS = PoseConfig()


def normalise_points(points_px: ArrayLike, camera: Camera) -> FloatArray:
    """Undistorted points on the plane z = 1.

    Args:
        points_px: (n, 2) pixels of the image as received.
        camera: its calibration; any of :data:`stfm_ros.types.DISTORTION_MODELS`.

    Returns:
        (n, 2) float64 ``(X / Z, Y / Z)`` in the optical frame; NaN where the pixel is not finite or looks
        sideways or backwards, which no point on that plane can stand for.
    """
    points = np.asarray(points_px, dtype=np.float64).reshape(-1, 2)
    rays = np.full_like(points, np.nan)
    finite = np.isfinite(points).all(axis=1)
    if finite.any():
        pixels = points[finite][:, None]
        if camera.distortion_model == "equidistant":
            found = cv2.fisheye.undistortPoints(pixels, camera.K, camera.D)
        else:
            stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 40, 1e-10)  # OpenCV's 5 rounds leave 0.1 px
            found = cv2.undistortPointsIter(pixels, camera.K, camera.D, np.eye(3), np.eye(3), stop)
        rays[finite] = np.asarray(found, dtype=np.float64).reshape(-1, 2)
    rays[~(np.abs(rays) < 1e3).all(axis=1)] = np.nan  # OpenCV marks what has no inverse with -1e6
    return rays


def project_points(points: ArrayLike, camera: Camera) -> FloatArray:
    """Where points are seen, the inverse of :func:`normalise_points`.

    Args:
        points: (n, 3) in the optical frame, any unit.
        camera: any of :data:`stfm_ros.types.DISTORTION_MODELS`.

    Returns:
        (n, 2) float64 pixels of the image as received, perhaps outside it; NaN where the point is not in front of the
        camera, or so far out that the distortion's polynomial folds it back towards the image.
    """
    points = np.asarray(points, dtype=np.float64).reshape(-1, 3)
    pixels = np.full((len(points), 2), np.nan)
    ahead = points[:, 2] > 1e-9
    rays = points[ahead, :2] / points[ahead, 2:]
    if camera.distortion_model == "none":
        pixels[ahead] = rays @ camera.K[:2, :2].T + camera.K[:2, 2]
        return pixels
    if not len(rays):
        return pixels
    project = cv2.fisheye.projectPoints if camera.distortion_model == "equidistant" else cv2.projectPoints
    still = np.zeros(3)
    found = project(np.column_stack([rays, np.ones(len(rays))])[:, None], still, still, camera.K, camera.D)[0]
    seen = np.asarray(found, np.float64).reshape(-1, 2)
    error = np.linalg.norm(normalise_points(seen, camera) - rays, axis=1)
    pixels[ahead] = np.where((error < 1e-3 * (1 + np.linalg.norm(rays, axis=1) ** 2))[:, None], seen, np.nan)
    return pixels


def estimate_relative_pose(
    matches: Matches, camera0: Camera | None, camera1: Camera | None, config: PoseConfig = DEFAULTS
) -> RelativePose:
    """The motion between two images, with its covariance and what it is worth.

    A robust essential matrix (USAC with local optimisation), then Levenberg-Marquardt on the
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
    rays = _Rays.of(matches, camera0, camera1)
    if len(rays) < config.min_inliers:
        return no_pose(n, PoseStatus.FEW_MATCHES, f"{len(rays)} usable matches, fewer than {config.min_inliers}")

    shift_px = float(np.median(_displacement_px(rays, np.eye(3))))
    if shift_px < config.static_px:
        reason = f"median displacement {shift_px:.2f} px is below {config.static_px:g} px: the camera stands still"
        still = rays.mask(_displacement_px(rays, np.eye(3)) < config.inlier_px, n)
        variance = max(config.static_px, shift_px) ** 2 / rays.focal**2
        return _rotation_pose(np.eye(3), np.eye(3) * variance, still, PoseStatus.STATIC, reason)

    model = _robust_model(rays, config)
    if model is None:
        return no_pose(n, PoseStatus.FEW_MATCHES, "no essential matrix explains the matches")
    plane = _homography(rays.take(np.abs(_sampson_px(rays, *model)) < config.inlier_px))
    R, t, scale_px = _refine(rays, [model, *_plane_motions(rays, plane)], config.inlier_px)
    inliers = (np.abs(_sampson_px(rays, R, t)) < config.inlier_px) & _in_front(rays, R, t)
    count = int(inliers.sum())
    if count < config.min_inliers:
        reason = f"{count} of {len(rays)} matches agree on a pose, fewer than {config.min_inliers}"
        return no_pose(n, PoseStatus.FEW_MATCHES, reason)
    return _judge(rays, n, R, t, inliers, scale_px, plane, config)


# -- the steps ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rays:
    """The usable matches in normalised coordinates.

    Attributes:
        x0, x1: (m, 3) float64, last column 1.
        pixel0, pixel1: (m,) size of a pixel on the plane z = 1 at each point.
        sigma: (m,) pixels, relative weights: only their ratios matter.
        index: (m,) positions among the matches that were given.
        focal: mean focal length in pixels.
    """

    x0: FloatArray
    x1: FloatArray
    pixel0: FloatArray
    pixel1: FloatArray
    sigma: FloatArray
    index: NDArray[np.int64]
    focal: float

    def __len__(self) -> int:
        return len(self.index)

    def take(self, keep: BoolArray) -> _Rays:
        """The matches where ``keep``."""
        x0, x1, pixel0, pixel1 = self.x0[keep], self.x1[keep], self.pixel0[keep], self.pixel1[keep]
        return _Rays(x0, x1, pixel0, pixel1, self.sigma[keep], self.index[keep], self.focal)

    def mask(self, keep: BoolArray, n: int) -> BoolArray:
        """``keep`` as a mask over the ``n`` matches that were given."""
        whole = np.zeros(n, np.bool_)
        whole[self.index[keep]] = True
        return whole

    @staticmethod
    def of(matches: Matches, camera0: Camera, camera1: Camera) -> _Rays:
        rays0, pixel0 = _rays_and_pixels(matches.keypoints0, camera0)
        rays1, pixel1 = _rays_and_pixels(matches.keypoints1, camera1)
        sigma = np.asarray(matches.sigma, dtype=np.float64)
        usable = np.isfinite(rays0 + rays1).all(axis=1) & np.isfinite(pixel0 + pixel1) & (sigma > 0)
        usable &= np.isfinite(sigma)
        usable &= _first_of_equals(np.column_stack([matches.keypoints0, matches.keypoints1]))
        sigma = sigma[usable]
        typical = float(np.median(sigma)) if len(sigma) else 1.0
        focal = float(np.mean([camera0.K[0, 0], camera0.K[1, 1], camera1.K[0, 0], camera1.K[1, 1]]))
        return _Rays(
            _homogeneous(rays0[usable]),
            _homogeneous(rays1[usable]),
            pixel0[usable],
            pixel1[usable],
            np.clip(sigma / typical, 0.25, 4.0),  # no match may rule or vanish by its sigma alone
            np.flatnonzero(usable),
            focal,
        )


def _robust_model(rays: _Rays, config: PoseConfig) -> tuple[FloatArray, FloatArray] | None:
    """R, t from an essential matrix by OpenCV's USAC, the sign of t by cheirality."""
    try:
        E, mask = cv2.findEssentialMat(
            rays.x0[:, :2].copy(),
            rays.x1[:, :2].copy(),
            np.eye(3),
            cv2.USAC_DEFAULT,
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
    choices = [(np.asarray(R, np.float64), sign * direction) for R in (R1, R2) for sign in (1.0, -1.0)]
    return max(choices, key=lambda choice: int(_in_front(inliers, *choice).sum()))


def _refine(
    rays: _Rays, starts: list[tuple[FloatArray, FloatArray]], inlier_px: float
) -> tuple[FloatArray, FloatArray, float]:
    """R, t at the minimum of a robust loss, and its scale in pixels, which follows the noise of the matches.

    A scale that is wider than the noise lets chance outliers bend the pose. A scene that is nearly a plane
    has a second minimum near the plane's other decomposition: that is why there are several starts.
    """
    refined = [_levenberg_marquardt(rays, *start, inlier_px, rounds=6) for start in starts]
    R, t = min(refined, key=lambda motion: _robust_cost(_sampson_px(rays, *motion) / rays.sigma, inlier_px))
    rays = rays.take(_in_front(rays, R, t))
    scale_px = float(np.clip(SCALE * _noise_px(_sampson_px(rays, R, t), inlier_px), 0.3, 1.5 * inlier_px))
    return *_levenberg_marquardt(rays, R, t, scale_px), scale_px


def _noise_px(residuals_px: FloatArray, inlier_px: float) -> float:
    """Standard deviation of the residuals of inliers, by their median."""
    sizes = np.abs(residuals_px)
    near = sizes[sizes < inlier_px]
    return max(1.4826 * float(np.median(near)), NOISE_FLOOR_PX) if len(near) else inlier_px


def _judge(
    rays: _Rays,
    n: int,
    R: FloatArray,
    t: FloatArray,
    inliers: BoolArray,
    scale_px: float,
    plane: FloatArray | None,
    config: PoseConfig,
) -> RelativePose:
    """Which motion the inliers can tell apart, and how well."""
    kept, mask = rays.take(inliers), rays.mask(inliers, n)
    count = len(kept)
    residuals = _sampson_px(kept, R, t)
    noise_px = _noise_px(residuals, config.inlier_px)
    essential = _gric(residuals, noise_px, dimension=3, parameters=5)

    turn = _fit_rotation(kept, R)
    shifts = _displacement_px(kept, turn)
    if _gric(shifts, noise_px, dimension=2, parameters=3) <= essential:
        covariance = np.eye(3) * max(noise_px, float(np.median(shifts))) ** 2 / (kept.focal**2 * count)
        reason = f"a rotation alone explains {count} matches (median residual {np.median(shifts):.2f} px)"
        return _rotation_pose(turn, covariance, mask, PoseStatus.ROTATION_ONLY, reason)

    parallax = float(np.degrees(np.median(_angles(kept.x0 @ R.T, kept.x1))))
    status, reason = PoseStatus.OK, f"{count} inliers of {n} matches, median parallax {parallax:.2f} deg"
    if parallax < config.min_parallax_deg:
        status = PoseStatus.LOW_PARALLAX
        reason = f"median parallax {parallax:.2f} deg is below {config.min_parallax_deg:g} deg: weak translation"
    elif _gric(_homography_px(kept, plane), noise_px, dimension=2, parameters=8) <= essential:
        status = PoseStatus.PLANAR
        reason = f"one plane explains {count} matches: a twin of this motion fits them as well"
    covariance = _covariance(rays.take(_in_front(rays, R, t)), R, t, scale_px)
    return RelativePose(R, t, covariance, mask, status, reason, parallax)


def _covariance(rays: _Rays, R: FloatArray, t: FloatArray, scale_px: float) -> FloatArray:
    """(6, 6) of camera 1 in camera 0, in REP-103 order, from the residuals as they are.

    The sandwich ``A^-1 B A^-1`` of an M-estimator needs no guess of the noise and knows what the robust
    loss cuts away (P. Huber, "Robust Statistics", 1981, section 7.6). With ``R <- exp(w) R`` and
    ``t <- t + B d`` the published pose is ``(R', -R' t)``: its position moves by ``-R' (B d + t x w)``, and
    about the fixed axes of camera 0 it turns by ``-R' w``.
    """
    residuals, jacobian, basis = _linearise(rays, R, t)
    ratio = (residuals / scale_px) ** 2
    influence = residuals / (1 + ratio) ** 2
    curvature = (1 - 3 * ratio) / (1 + ratio) ** 3
    A = (jacobian * curvature[:, None]).T @ jacobian
    B = (jacobian * (influence**2 + NOISE_FLOOR_PX**2 * (ratio < 1))[:, None]).T @ jacobian
    inverse = np.linalg.pinv(A, hermitian=True)
    moved = np.zeros((6, 5))
    moved[:3, :3] = -R.T @ _skew(t)
    moved[:3, 3:] = -R.T @ basis
    moved[3:, :3] = -R.T
    covariance: FloatArray = moved @ inverse @ B @ inverse @ moved.T
    symmetric: FloatArray = (covariance + covariance.T) / 2
    return symmetric


def no_pose(n: int, status: PoseStatus, reason: str) -> RelativePose:
    """The record that says why ``n`` matches give no pose; its covariance is that of knowing nothing."""
    covariance = np.diag([UNKNOWN_DIRECTION] * 3 + [UNKNOWN_ROTATION] * 3)
    return RelativePose(np.eye(3), np.zeros(3), covariance, np.zeros(n, np.bool_), status, reason)


def _rotation_pose(
    R: FloatArray, rotation_covariance: FloatArray, inliers: BoolArray, status: PoseStatus, reason: str
) -> RelativePose:
    covariance = np.diag([UNKNOWN_DIRECTION] * 3 + [0.0] * 3)
    covariance[3:, 3:] = R.T @ rotation_covariance @ R
    return RelativePose(R, np.zeros(3), covariance, inliers, status, reason)


# -- residuals and their minimum ---------------------------------------------------------------------


def _sampson_px(rays: _Rays, R: FloatArray, t: FloatArray) -> FloatArray:
    """(n,) signed Sampson errors in pixels: first-order distances of the match to the epipolar manifold."""
    E = _skew(t) @ R
    lines1, lines0 = rays.x0 @ E.T, rays.x1 @ E
    algebraic = np.sum(rays.x1 * lines1, axis=1)
    norm = np.sqrt(_squares(lines1) * rays.pixel1**2 + _squares(lines0) * rays.pixel0**2)
    residuals: FloatArray = algebraic / np.maximum(norm, 1e-15)
    return residuals


def _linearise(rays: _Rays, R: FloatArray, t: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Weighted Sampson errors (n,), their derivatives (n, 5) by (w, d), and the (3, 2) basis of d."""
    basis = _tangent(t)
    E = _skew(t) @ R
    turned = [_skew(t) @ _skew(axis) @ R for axis in np.eye(3)]
    derivatives = np.stack([*turned, *(_skew(direction) @ R for direction in basis.T)])  # (5, 3, 3)
    lines1, lines0 = rays.x0 @ E.T, rays.x1 @ E
    d_lines1 = (rays.x0 @ derivatives.reshape(15, 3).T).reshape(-1, 5, 3)
    d_lines0 = (rays.x1 @ derivatives.transpose(1, 0, 2).reshape(3, 15)).reshape(-1, 5, 3)
    algebraic = np.sum(rays.x1 * lines1, axis=1)
    d_algebraic = (d_lines1 @ rays.x1[:, :, None])[..., 0]
    square1, square0 = rays.pixel1**2, rays.pixel0**2
    norm = np.sqrt(np.maximum(_squares(lines1) * square1 + _squares(lines0) * square0, 1e-30))
    d_norm = (d_lines1[..., :2] @ (lines1[:, :2] * square1[:, None])[:, :, None])[..., 0]
    d_norm += (d_lines0[..., :2] @ (lines0[:, :2] * square0[:, None])[:, :, None])[..., 0]
    jacobian = d_algebraic / norm[:, None] - d_norm * (algebraic / norm**3)[:, None]
    return algebraic / norm / rays.sigma, jacobian / rays.sigma[:, None], basis


def _levenberg_marquardt(
    rays: _Rays, R: FloatArray, t: FloatArray, scale_px: float, rounds: int = 15
) -> tuple[FloatArray, FloatArray]:
    """The minimum of ``sum r^2 / (1 + r^2 / scale^2)`` (Geman-McClure) over R (3) and the direction of t (2)."""
    damping = 1e-4
    residuals, jacobian, basis = _linearise(rays, R, t)
    cost = _robust_cost(residuals, scale_px)
    for _ in range(rounds):
        weighted = jacobian * (1 / (1 + (residuals / scale_px) ** 2) ** 2)[:, None]
        information = weighted.T @ jacobian
        damped = information + damping * np.diag(np.diag(information) + 1e-12)
        step = -np.linalg.lstsq(damped, weighted.T @ residuals, rcond=None)[0]
        R_new = np.asarray(cv2.Rodrigues(step[:3])[0]) @ R
        t_new = t + basis @ step[3:]
        t_new /= np.linalg.norm(t_new)
        residuals_new, jacobian_new, basis_new = _linearise(rays, R_new, t_new)
        cost_new = _robust_cost(residuals_new, scale_px)
        gain = cost - cost_new
        if gain > 0:
            R, t, residuals, jacobian, basis = R_new, t_new, residuals_new, jacobian_new, basis_new
            cost = cost_new
        if abs(gain) <= 1e-6 * cost:
            break
        damping *= 0.1 if gain > 0 else 10.0
    return R, t


def _robust_cost(residuals: FloatArray, scale_px: float) -> float:
    squares = residuals**2
    return float(np.sum(squares / (1 + squares / scale_px**2)))


def _fit_rotation(rays: _Rays, R: FloatArray) -> FloatArray:
    """The rotation that best takes the rays of image 0 to those of image 1, robustly, starting at ``R``."""
    unit0, unit1 = _unit(rays.x0), _unit(rays.x1)
    for _ in range(5):
        shifts = _displacement_px(rays, R)
        scale = max(float(np.median(shifts)), NOISE_FLOOR_PX)
        weights = 1 / (1 + (shifts / (2 * scale)) ** 2)
        U, _, Vt = np.linalg.svd((unit1 * weights[:, None]).T @ unit0)
        R = U @ np.diag([1.0, 1.0, np.sign(np.linalg.det(U @ Vt))]) @ Vt
    return R


def _gric(errors_px: FloatArray, noise_px: float, dimension: int, parameters: int) -> float:
    """Geometric robust information criterion of a two-view model: the smaller explains better.

    Source: P. Torr, "Bayesian model estimation and selection for epipolar geometry and generic manifold
    fitting", IJCV 2002. ``dimension`` is 3 for epipolar geometry, 2 for a homography.
    """
    n, data = len(errors_px), 4
    squares = np.nan_to_num(errors_px / noise_px, nan=np.inf, posinf=np.inf) ** 2
    fit = float(np.minimum(squares, 2.0 * (data - dimension)).sum())
    return fit + dimension * n * float(np.log(data)) + parameters * float(np.log(data * n))


def _homography(rays: _Rays) -> FloatArray | None:
    """(3, 3) that maps rays of image 0 to those of image 1, if many lie near one plane."""
    if len(rays) < 4:
        return None
    H, _ = cv2.findHomography(rays.x0[:, :2], rays.x1[:, :2], cv2.RANSAC, 3.0 / rays.focal, maxIters=200)
    return None if H is None or not np.isfinite(H).all() else np.asarray(H, np.float64)


def _homography_px(rays: _Rays, H: FloatArray | None) -> FloatArray:
    """(n,) distances in pixels, shared by both images, to a homography; infinite if there is none."""
    if H is None:
        return np.full(len(rays), np.inf)
    mapped = rays.x0 @ H.T
    depth = np.where(np.abs(mapped[:, 2:]) > 1e-9, mapped[:, 2:], 1e-9)
    distance = np.linalg.norm(mapped[:, :2] / depth - rays.x1[:, :2], axis=1)
    shared: FloatArray = distance / np.hypot(rays.pixel0, rays.pixel1)
    return shared


def _plane_motions(rays: _Rays, H: FloatArray | None) -> list[tuple[FloatArray, FloatArray]]:
    """The (up to two) motions that explain a homography with its plane in front of the camera."""
    if H is None or abs(np.linalg.det(H)) < 1e-9:
        return []
    _, rotations, translations, normals = cv2.decomposeHomographyMat(H, np.eye(3))
    middle = rays.x0.mean(axis=0)
    return [
        (np.asarray(R, np.float64), np.asarray(t, np.float64).ravel() / np.linalg.norm(t))
        for R, t, normal in zip(rotations, translations, normals)
        if float(middle @ np.ravel(normal)) > 0 and np.linalg.norm(t) > 1e-9
    ]


# -- small things ------------------------------------------------------------------------------------


def _displacement_px(rays: _Rays, R: FloatArray) -> FloatArray:
    """(n,) how far rays of image 0, turned by ``R``, fall from those of image 1, in pixels shared by both images."""
    pixels = np.hypot(_angular(rays.x0, rays.pixel0), _angular(rays.x1, rays.pixel1))
    shared: FloatArray = _angles(rays.x0 @ R.T, rays.x1) / pixels
    return shared


def _in_front(rays: _Rays, R: FloatArray, t: FloatArray) -> BoolArray:
    """(n,) whether the point of closest approach of both rays lies before both cameras."""
    turned = rays.x0 @ R.T
    normal = np.cross(turned, rays.x1)  # l0 turned + t = l1 x1
    depth0 = -np.sum(np.cross(t, rays.x1) * normal, axis=1)
    depth1 = -np.sum(np.cross(t, turned) * normal, axis=1)
    return np.asarray((depth0 > 0) & (depth1 > 0))


def _rays_and_pixels(points_px: ArrayLike, camera: Camera) -> tuple[FloatArray, FloatArray]:
    """Rays (n, 2) and the size of a pixel at each (n,), by differences over one pixel."""
    points = np.asarray(points_px, dtype=np.float64).reshape(-1, 2)
    half_x, half_y = np.array([0.5, 0.0]), np.array([0.0, 0.5])
    shifted = np.concatenate([points, points + half_x, points - half_x, points + half_y, points - half_y])
    rays, right, left, below, above = np.split(normalise_points(shifted, camera), 5)
    along_x, along_y = right - left, below - above
    area = np.abs(along_x[:, 0] * along_y[:, 1] - along_x[:, 1] * along_y[:, 0])
    return rays, np.sqrt(np.maximum(area, 1e-12))


def _first_of_equals(rows: FloatArray) -> BoolArray:
    """(n,) False where an equal row came before: a match given twice is one observation."""
    first = np.zeros(len(rows), np.bool_)
    if len(rows):
        first[np.unique(rows, axis=0, return_index=True)[1]] = True
    return first


def _angular(rays: FloatArray, pixel: FloatArray) -> FloatArray:
    """Radians a pixel: on the plane z = 1 an area shrinks by cos^3 of the angle to the axis."""
    radians: FloatArray = pixel / np.linalg.norm(rays, axis=1) ** 1.5
    return radians


def _angles(a: FloatArray, b: FloatArray) -> FloatArray:
    """(n,) radians between rows, exact for small angles."""
    angles: FloatArray = np.arctan2(np.linalg.norm(np.cross(a, b), axis=1), np.sum(a * b, axis=1))
    return angles


def _unit(vectors: FloatArray) -> FloatArray:
    unit: FloatArray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _squares(lines: FloatArray) -> FloatArray:
    squares: FloatArray = lines[:, 0] ** 2 + lines[:, 1] ** 2
    return squares


def _homogeneous(points: FloatArray) -> FloatArray:
    return np.column_stack([points, np.ones(len(points))])


def _skew(v: FloatArray) -> FloatArray:
    x, y, z = v
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def _tangent(t: FloatArray) -> FloatArray:
    """(3, 2) orthonormal columns at right angles to ``t``."""
    cross = _skew(t / np.linalg.norm(t))
    first = cross[int(np.argmin(np.abs(t)))]
    first = first / np.linalg.norm(first)
    return np.column_stack([first, cross @ first])
