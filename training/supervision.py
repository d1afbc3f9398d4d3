"""What is known of a pair of images, reduced to the coarse grid.

Every kind of training pair (rendered, recorded RGB-D, a homography of a photograph) ends here as one
record: for each grid point ``(8 x, 8 y)`` of an image, where it lies in the other image, and whether
that is certain. Cells are numbered row by row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stfm_ros.geometry import normalise_points, project_points
from stfm_ros.types import Camera, Float32Array, FloatArray

CELL = 8
MATCHED, UNKNOWN, UNMATCHED = 1, 0, -1

#: relative depth error under which a warped point is the same surface, and above which another
#: surface hides it; between the two nothing is claimed
SAME_SURFACE = 0.06
HIDDEN = 0.12


class GridWarp(NamedTuple):
    """Where the grid points of one image lie in the other.

    points: (n, 2) float32 pixels of the other image. state: (n,) int8, MATCHED where the point is
    seen there, UNMATCHED where it is known to be out of view or hidden, UNKNOWN where nothing is known.
    """

    points: Float32Array
    state: NDArray[np.int8]


@dataclass(frozen=True)
class View:
    """What a camera sees, through a crop, a change of scale or a turn in the plane of the image.

    The picture stays distorted as the camera's own is; only points are undistorted, on their way to 3-D and back.

    Attributes:
        camera: of the whole image.
        A: (3, 3) affine, maps pixels of the whole image to pixels of this picture.
    """

    camera: Camera
    A: FloatArray = field(default_factory=lambda: np.eye(3))

    def rays(self, points: FloatArray) -> FloatArray:
        """(n, 2) pixels of the picture to (n, 3) rays with z = 1; NaN where the camera has none."""
        rays = normalise_points(_transform(np.asarray(np.linalg.inv(self.A)), points), self.camera)
        return np.column_stack([rays, np.ones(len(rays))])

    def project(self, points: FloatArray) -> FloatArray:
        """(n, 3) points of the camera to (n, 2) pixels of the picture; NaN where they cannot be seen."""
        return _transform(self.A, project_points(points, self.camera))


def grid(height: int, width: int) -> FloatArray:
    """Grid points (n, 2) of an image, in pixels."""
    y, x = np.mgrid[0:height:CELL, 0:width:CELL]
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float64)


def warp_by_depth(depth0: Float32Array, view0: View, depth1: Float32Array, view1: View, T_0to1: FloatArray) -> GridWarp:
    """Warp the grid of image 0 by its depth.

    Args:
        depth0, depth1: (H, W) metres along the optical axis, 0 where there is none; of the views' pictures.
        T_0to1: (4, 4) maps points of camera 0 into camera 1.
    """
    points = grid(*depth0.shape)
    z0 = depth0[points[:, 1].astype(int), points[:, 0].astype(int)].astype(np.float64)
    camera1 = (view0.rays(points) * z0[:, None]) @ T_0to1[:3, :3].T + T_0to1[:3, 3]
    known = (z0 > 0) & np.isfinite(camera1).all(axis=1)
    z1 = camera1[:, 2]
    projected = view1.project(camera1)
    front = known & (z1 > 1e-3) & np.isfinite(projected).all(axis=1)
    warped = np.where(front[:, None], projected, -1e4)
    inside = front & _inside(warped, depth1.shape[0], depth1.shape[1])
    pixel = np.rint(np.where(inside[:, None], warped, 0)).astype(int)
    measured = depth1[pixel[:, 1], pixel[:, 0]]
    error = (z1 - measured) / np.where(z1 > 0, z1, 1.0)
    seen = inside & (measured > 0)
    state = np.zeros(len(points), np.int8)
    state[seen & (np.abs(error) < SAME_SURFACE)] = MATCHED
    state[seen & (error > HIDDEN)] = UNMATCHED
    state[known & ~inside] = UNMATCHED
    return GridWarp(warped.astype(np.float32), state)


def warp_by_homography(H_0to1: FloatArray, known0: NDArray[np.bool_], known1: NDArray[np.bool_]) -> GridWarp:
    """Warp the grid of image 0 by a homography.

    Args:
        H_0to1: (3, 3).
        known0, known1: (H, W) pixels that show the photograph rather than what was filled in.
    """
    points = grid(*known0.shape)
    projected = np.column_stack([points, np.ones(len(points))]) @ H_0to1.T
    front = projected[:, 2] > 1e-6
    warped = np.where(front[:, None], projected[:, :2] / np.where(front, projected[:, 2], 1.0)[:, None], -1e4)
    own = known0[points[:, 1].astype(int), points[:, 0].astype(int)]
    inside = front & _inside(warped, *known1.shape)
    pixel = np.rint(np.where(inside[:, None], warped, 0)).astype(int)
    state = np.zeros(len(points), np.int8)
    state[own & inside & known1[pixel[:, 1], pixel[:, 0]]] = MATCHED
    state[own & ~inside] = UNMATCHED
    return GridWarp(warped.astype(np.float32), state)


def mutual_cells(warp01: GridWarp, warp10: GridWarp, width0: int, width1: int) -> NDArray[np.int64]:
    """The true coarse matches: for each cell of image 0 its cell in image 1, or -1.

    A cell counts when it is seen in the other image and the cell it falls on warps back to it.
    """
    rounded = np.rint(warp01.points / CELL).astype(np.int64)
    columns1, rows1 = width1 // CELL, len(warp10.state) // (width1 // CELL)
    fits = (rounded >= 0).all(1) & (rounded[:, 0] < columns1) & (rounded[:, 1] < rows1)
    cell1 = np.where(fits & (warp01.state == MATCHED), rounded[:, 1] * columns1 + rounded[:, 0], 0)
    back = np.rint(warp10.points[cell1] / CELL).astype(np.int64)
    returns = back[:, 1] * (width0 // CELL) + back[:, 0] == np.arange(len(cell1))
    good = fits & (warp01.state == MATCHED) & (warp10.state[cell1] == MATCHED) & returns
    return np.where(good, cell1, -1)


def _inside(points: FloatArray, height: int, width: int) -> NDArray[np.bool_]:
    x, y = points.T
    return np.asarray((x > -0.5) & (y > -0.5) & (x < width - 0.5) & (y < height - 0.5))  # the area of the pixels


def _transform(A: FloatArray, points: FloatArray) -> FloatArray:
    return np.asarray(points @ A[:2, :2].T + A[:2, 2])
