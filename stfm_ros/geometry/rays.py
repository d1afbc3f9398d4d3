"""Matches as rays: undistorted, on the plane z = 1, each with the size of a pixel there.

Residuals are in pixels of the received image, so that a fisheye's border counts for what it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stfm_ros.geometry.points import normalise_points
from stfm_ros.types import BoolArray, Camera, FloatArray, Matches

#: skew(v) is their sum weighted by v
GENERATORS: FloatArray = np.array(
    [[[0, 0, 0], [0, 0, -1], [0, 1, 0]], [[0, 0, 1], [0, 0, 0], [-1, 0, 0]], [[0, -1, 0], [1, 0, 0], [0, 0, 0]]],
    np.float64,
)


@dataclass(frozen=True)
class Rays:
    """The usable matches in normalised coordinates.

    Attributes:
        x0, x1: (m, 3) float64, last column 1.
        pixel0, pixel1: (m,) size of a pixel on the plane z = 1 at each point.
        sigma: (m,) pixels, relative weights: only their ratios matter.
        points0_px: (m, 2) pixels of the received image 0.
        index: (m,) positions among the matches that were given.
        focal: mean focal length in pixels.
        sigma_px: median of the matches' own sigma; that of each is ``sigma sigma_px``.
        width_px: of the images, their mean.
    """

    x0: FloatArray
    x1: FloatArray
    pixel0: FloatArray
    pixel1: FloatArray
    sigma: FloatArray
    points0_px: FloatArray
    index: NDArray[np.int64]
    focal: float
    sigma_px: float
    width_px: float

    def __len__(self) -> int:
        return len(self.index)

    def take(self, keep: BoolArray) -> Rays:
        """The matches where ``keep``."""
        x0, x1, pixel0, pixel1 = self.x0[keep], self.x1[keep], self.pixel0[keep], self.pixel1[keep]
        points0_px, sigma, index = self.points0_px[keep], self.sigma[keep], self.index[keep]
        return Rays(x0, x1, pixel0, pixel1, sigma, points0_px, index, self.focal, self.sigma_px, self.width_px)

    def mask(self, keep: BoolArray, n: int) -> BoolArray:
        """``keep`` as a mask over the ``n`` matches that were given."""
        whole = np.zeros(n, np.bool_)
        whole[self.index[keep]] = True
        return whole

    @staticmethod
    def of(matches: Matches, camera0: Camera, camera1: Camera) -> Rays:
        rays0, pixel0 = rays_and_pixels(matches.keypoints0, camera0)
        rays1, pixel1 = rays_and_pixels(matches.keypoints1, camera1)
        sigma = np.asarray(matches.sigma, dtype=np.float64)
        usable = np.isfinite(rays0 + rays1).all(axis=1) & np.isfinite(pixel0 + pixel1) & (sigma > 0)
        usable &= np.isfinite(sigma)
        usable &= first_of_equals(np.column_stack([matches.keypoints0, matches.keypoints1]))
        sigma = sigma[usable]
        typical = float(np.median(sigma)) if len(sigma) else 1.0
        focal = float(np.mean([camera0.K[0, 0], camera0.K[1, 1], camera1.K[0, 0], camera1.K[1, 1]]))
        return Rays(
            homogeneous(rays0[usable]),
            homogeneous(rays1[usable]),
            pixel0[usable],
            pixel1[usable],
            np.clip(sigma / typical, 0.25, 4.0),  # no match may rule or vanish by its sigma alone
            np.asarray(matches.keypoints0, np.float64)[usable],
            np.flatnonzero(usable),
            focal,
            typical,
            (camera0.width + camera1.width) / 2,
        )


def displacement_px(rays: Rays, R: FloatArray) -> FloatArray:
    """(n,) how far rays of image 0, turned by ``R``, fall from those of image 1, in pixels shared by both images."""
    pixels = np.hypot(angular(rays.x0, rays.pixel0), angular(rays.x1, rays.pixel1))
    shared: FloatArray = angles(rays.x0 @ R.T, rays.x1) / pixels
    return shared


def moves_px(rays: Rays) -> FloatArray:
    """(n, 2) displacements from image 0 to image 1, undistorted, in pixels of image 1."""
    moves: FloatArray = (rays.x1 - rays.x0)[:, :2] / rays.pixel1[:, None]
    return moves


def in_front(rays: Rays, R: FloatArray, t: FloatArray) -> BoolArray:
    """(n,) whether the point of closest approach of both rays lies before both cameras."""
    turned, seen = rays.x0 @ R.T, rays.x1  # l0 turned + t = l1 seen, in least squares
    across, along0, along1 = dots(turned, seen), turned @ t, seen @ t
    depth0 = across * along1 - dots(seen, seen) * along0
    depth1 = dots(turned, turned) * along1 - across * along0
    return np.asarray((depth0 > 0) & (depth1 > 0))


def rays_and_pixels(points_px: ArrayLike, camera: Camera) -> tuple[FloatArray, FloatArray]:
    """Rays (n, 2) and the size of a pixel at each (n,), by differences over one pixel."""
    points = np.asarray(points_px, dtype=np.float64).reshape(-1, 2)
    half_x, half_y = np.array([0.5, 0.0]), np.array([0.0, 0.5])
    shifted = np.concatenate([points, points + half_x, points - half_x, points + half_y, points - half_y])
    rays, right, left, below, above = np.split(normalise_points(shifted, camera), 5)
    along_x, along_y = right - left, below - above
    area = np.abs(along_x[:, 0] * along_y[:, 1] - along_x[:, 1] * along_y[:, 0])
    return rays, np.sqrt(np.maximum(area, 1e-12))


def first_of_equals(rows: FloatArray) -> BoolArray:
    """(n,) False where an equal row came before: a match given twice is one observation."""
    first = np.zeros(len(rows), np.bool_)
    if len(rows):
        first[np.unique(rows, axis=0, return_index=True)[1]] = True
    return first


def angular(rays: FloatArray, pixel: FloatArray) -> FloatArray:
    """Radians a pixel: on the plane z = 1 an area shrinks by cos^3 of the angle to the axis."""
    radians: FloatArray = pixel / dots(rays, rays) ** 0.75
    return radians


def angles(a: FloatArray, b: FloatArray) -> FloatArray:
    """(n,) radians between rows, exact for small angles."""
    a, b = unit(a), unit(b)
    less, more = a - b, a + b
    angles: FloatArray = 2 * np.arctan2(np.sqrt(dots(less, less)), np.sqrt(dots(more, more)))
    return angles


def dots(a: FloatArray, b: FloatArray) -> FloatArray:
    """(n,) products of rows."""
    products: FloatArray = np.einsum("ij,ij->i", a, b)
    return products


def unit(vectors: FloatArray) -> FloatArray:
    unit: FloatArray = vectors / np.sqrt(dots(vectors, vectors))[:, None]
    return unit


def squares(lines: FloatArray) -> FloatArray:
    squares: FloatArray = lines[:, 0] ** 2 + lines[:, 1] ** 2
    return squares


def homogeneous(points: FloatArray) -> FloatArray:
    return np.column_stack([points, np.ones(len(points))])


def skew(v: FloatArray) -> FloatArray:
    x, y, z = v
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def tangent(t: FloatArray) -> FloatArray:
    """(3, 2) orthonormal columns at right angles to ``t``."""
    cross = skew(t / math.sqrt(t @ t))
    first = cross[int(np.argmin(np.abs(t)))]
    first = first / math.sqrt(first @ first)
    return np.column_stack([first, cross @ first])


def nearest_rotation(matrix: ArrayLike) -> FloatArray:
    """The rotation (3, 3) nearest to a matrix; OpenCV's are orthonormal to single precision where E is degenerate."""
    U, _, Vt = np.linalg.svd(np.asarray(matrix, np.float64))
    rotation: FloatArray = U @ np.diag([1.0, 1.0, np.sign(np.linalg.det(U @ Vt))]) @ Vt
    return rotation
