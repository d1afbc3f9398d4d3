"""What residuals say of the noise: its size, and how far that of neighbours is the same.

The loss of every refinement is Geman and McClure's ``r^2 / (1 + r^2 / scale^2)``; ``influence`` is half of its
derivative and ``curvature`` the derivative of that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stfm_ros.types import BoolArray, Float32Array, FloatArray

#: rad^2 an axis of a rotation nobody knows (uniform over SO(3)), and of a direction nobody knows
UNKNOWN_ROTATION = (np.pi**2 / 3 + 2) / 3
UNKNOWN_DIRECTION = 1 / 3
#: floor of the match noise in px: below it quantisation and calibration rule, not the matches
NOISE_FLOOR_PX = 0.1
#: scale of the robust loss in standard deviations of the noise
SCALE = 2.5
#: neighbours are nearer than so many times the spacing of the matches: those around, and those around them
RINGS = (1.6, 3.2)
#: a cell of the network's grid, as a share of the image's width
CELL = 8 / 640
#: pairs of neighbours that are worth as much as the belief that noise is independent
PRIOR_PAIRS = 50
#: correlation of matches that are neither neighbours nor moved alike, as a share of ``Alike.share``: what a network as
#: a whole gets wrong. Too small to be seen in one pair of images, it keeps 1000 matches from being 1000 times as
#: good as one. Measured on the network's own matches of rendered scenes (docs/calibration.md)
FAR_SHARE = 0.0015
_CHUNK = 64  # rows of a matrix of distances at a time


def noise_px(residuals_px: FloatArray, inlier_px: float) -> float:
    """Standard deviation of the residuals of inliers, by their median."""
    sizes = np.abs(residuals_px)
    near = sizes[sizes < inlier_px]
    return max(1.4826 * float(np.median(near)), NOISE_FLOOR_PX) if len(near) else inlier_px


def scale_px(residuals_px: FloatArray, inlier_px: float) -> float:
    """Scale of the loss for residuals; wider than the noise it would let chance outliers bend the pose."""
    return float(np.clip(SCALE * noise_px(residuals_px, inlier_px), 0.3, 1.5 * inlier_px))


@dataclass(frozen=True)
class Estimate:
    """Covariance (p, p) of what was estimated, and ``variance``: of a weighted residual, as often as it counts.

    Sums of squares divided by ``variance`` compare hypotheses; neighbours that err alike make it larger.
    """

    covariance: FloatArray
    variance: float


@dataclass(frozen=True)
class Alike:
    """Matches that moved alike err alike: along each axis a network's error is a wave over the displacement, as long
    as a cell of its grid. So err all matchers that work on a grid (M. Shimizu and M. Okutomi, "Precise sub-pixel
    estimation on area-based matching", ICCV 2001). Residuals show the wave where displacements differ; where all are
    the same it looks like motion, and only what is known beforehand says that it is there.

    Attributes:
        share: of a match's variance that is the wave's, below 1; known beforehand.
        sigma_px: of a match of weight 1. Residuals smaller than it do not say that the matches are better: the
            motion has taken up what they have in common.
        width_px: of the image.
        moves_px: (n, 2) displacements.
        along: (n, k, 2) how residuals change with the place of the match in image 1, by pixel.
    """

    share: float
    sigma_px: float
    width_px: float
    moves_px: FloatArray
    along: FloatArray

    def waves(self, use: BoolArray) -> FloatArray:
        """(m, k, 4) how residuals change with the amplitudes of cosine and sine along x and y, by pixel."""
        along = self.along[use]
        angles = 2 * np.pi / (CELL * self.width_px) * self.moves_px[use]
        waves = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        return np.reshape(along[..., None] * waves[:, None], (len(along), along.shape[1], 4))

    def information(
        self, residuals: FloatArray, jacobian: FloatArray, inverse: FloatArray, variance: float, use: BoolArray
    ) -> tuple[FloatArray, FloatArray]:
        """What the waves do to the sum of ``J_i^T r_i``: its second moment by ``variance``, (p, p), and the waves
        themselves as far as the residuals show them, (m, k).

        Args:
            residuals: (m, k) those that are used.
            jacobian: (m, k, p) of these.
            inverse: (p, p) of their information.
            variance: of a residual.
            use: (n,) which those are.
        """
        p = jacobian.shape[2]
        if self.share <= 0:
            return np.zeros((p, p)), np.zeros_like(residuals)
        rows, waves = jacobian.reshape(-1, p), self.waves(use).reshape(-1, 4)
        by_match = max(float(np.mean(self.along[use] ** 2) * 2), 1e-12)  # variance of a residual by that of a match
        total = max(variance / (1 - self.share) / by_match, self.sigma_px**2)
        across = rows.T @ waves
        left_open = waves.T @ waves - across.T @ inverse @ across  # by the motion, which takes up its part
        covariance = variance * np.linalg.inv(left_open + np.eye(4) * variance / (self.share * total))
        seen = waves.T @ residuals.ravel() - across.T @ inverse @ (rows.T @ residuals.ravel())
        amplitudes = covariance @ seen / variance
        moments = np.outer(amplitudes, amplitudes) + covariance
        return across @ moments @ across.T / variance, (waves @ amplitudes).reshape(residuals.shape)


def with_prior(covariance: FloatArray, variances: list[float]) -> FloatArray:
    """(p, p) of what was estimated, where each parameter is known beforehand to a variance."""
    scale = np.sqrt(variances)
    values, axes = np.linalg.eigh(covariance / np.outer(scale, scale))
    axes, values = scale[:, None] * axes, np.maximum(values, 0)
    known: FloatArray = (axes * (values / (1 + values))) @ axes.T
    return known


def estimate_covariance(
    residuals: FloatArray, jacobian: FloatArray, points_px: FloatArray, scale: float, alike: Alike | None = None
) -> Estimate:
    """Covariance of an M-estimate at its minimum.

    Huber's covariance with his correction for small samples (P. Huber, "Robust Statistics", 1981, section 7.6): the
    residuals, weighted by sigma, have one variance, which the sandwich of single residuals would have to learn anew for
    each match. Between neighbours a network errs alike (a cell looks at what the next one looks at): the
    correlation is taken from the residuals themselves and adds to the middle of the sandwich, where White has
    independence.

    Args:
        residuals: (n, k) weighted by sigma, k components of each match.
        jacobian: (n, k, p) their derivatives.
        points_px: (n, 2) where the matches lie, pixels.
        scale: of the loss.
        alike: what matches of like displacement have in common.
    """
    p = jacobian.shape[2]
    use = np.sum(residuals**2, axis=1) < residuals.shape[1] * (3 / SCALE * scale) ** 2
    residuals, jacobian = residuals[use], jacobian[use]
    ratio = (residuals / scale) ** 2
    influence, curvature = residuals / (1 + ratio) ** 2, (1 - 3 * ratio) / (1 + ratio) ** 3
    n, mean = residuals.size, max(float(curvature.mean()), 0.1)
    correction = (1 + p / n * float(curvature.var()) / mean**2) * n / max(n - p, 1)
    variance = max((correction / mean) ** 2 * float((influence**2).mean()), NOISE_FLOOR_PX**2)
    rows = jacobian.reshape(-1, p)
    information = rows.T @ rows
    inverse = np.linalg.pinv(information, hermitian=True)
    shared = FAR_SHARE * (alike.share if alike else 0.0) * len(influence) * information
    if alike is not None:
        linear = correction / mean  # of a residual to its influence
        waves, shown = alike.information(linear * influence, jacobian, inverse, variance, use)
        shared += waves
        influence = influence - shown / linear
    shared += _shared_information(influence, jacobian, points_px[use], inverse)
    covariance = variance * (inverse + inverse @ shared @ inverse)
    times = 1 + float(np.trace(inverse @ shared)) / p
    return Estimate((covariance + covariance.T) / 2, variance * times)


def _shared_information(
    influence: FloatArray, jacobian: FloatArray, points_px: FloatArray, inverse: FloatArray
) -> FloatArray:
    """(p, p) sum over neighbours i, j of their correlation times ``J_i^T J_j``, made positive.

    The fit itself makes residuals of neighbours differ, by ``J_i inverse J_j^T`` of their variance; that is given back.
    """
    sums, pairs, products = _over_neighbours(influence, jacobian, points_px)
    mean_square = max(float((influence**2).mean()), 1e-12)
    sums = sums / mean_square + np.tensordot(products, inverse, 2)
    correlation = np.clip(sums / (pairs + 2 * PRIOR_PAIRS), 0, 0.9)
    values, vectors = np.linalg.eigh(np.tensordot(correlation, products, 1))
    shared: FloatArray = (vectors * np.maximum(values, 0)) @ vectors.T
    return shared


def _over_neighbours(
    influence: FloatArray, jacobian: FloatArray, points_px: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Of each of RINGS: the sum of ``psi_i . psi_j`` over ordered pairs of neighbours, their number (times k), and the
    sum of ``J_i^T J_j`` (p, p)."""
    n, k, p = jacobian.shape
    limits = np.array(RINGS) * _spacing_px(points_px)
    down = np.argsort(points_px[:, 1])  # so that neighbours are near each other in the list too
    points = points_px[down]
    columns = np.concatenate([influence[down], jacobian[down].reshape(n, k * p), np.ones((n, 1))], axis=1)
    columns = columns.astype(np.float32)
    ends = np.searchsorted(points[:, 1], points[:, 1] + limits[-1], side="right")
    sums, pairs, products = np.zeros(len(RINGS)), np.zeros(len(RINGS)), np.zeros((len(RINGS), p, p))
    for begin in range(0, n, _CHUNK):
        stop = min(begin + _CHUNK, n)
        some, others = columns[begin:stop], columns[begin : ends[stop - 1]]  # each pair of chunks once
        squares = _squared_distances(points[begin:stop], points[begin : ends[stop - 1]])
        inner = (squares == 0).astype(np.float32)  # a match and itself
        for ring, limit in enumerate(limits):
            within = (squares <= limit**2).astype(np.float32)
            near = within - inner
            near[:, : stop - begin] *= 0.5  # these pairs come twice
            inner = within
            across = near @ others
            sums[ring] += 2 * float(np.sum(some[:, :k] * across[:, :k]))
            pairs[ring] += 2 * k * float(across[:, -1].sum())
            product = some[:, k:-1].reshape(-1, p).T @ across[:, k:-1].reshape(-1, p)
            products[ring] += product + product.T
    return sums, pairs, products


def _spacing_px(points_px: FloatArray) -> float:
    """Median distance from a point to its nearest neighbour, of about 200 of the points."""
    if len(points_px) < 2:
        return 1.0
    some = points_px[:: 1 + len(points_px) // 200]
    squares = _squared_distances(some, points_px)
    squares = np.where(squares == 0, np.inf, squares)
    nearest = np.sqrt(squares.min(axis=1))
    return float(np.median(nearest[np.isfinite(nearest)])) if np.isfinite(nearest).any() else 1.0


def _squared_distances(a: FloatArray, b: FloatArray) -> Float32Array:
    """(n, m) float32 of points (n, 2) and (m, 2)."""
    (x0, y0), (x1, y1) = a.astype(np.float32).T, b.astype(np.float32).T
    x, y = x0[:, None] - x1, y0[:, None] - y1
    np.multiply(x, x, out=x)
    np.multiply(y, y, out=y)
    distances: Float32Array = np.add(x, y, out=x)
    return distances
