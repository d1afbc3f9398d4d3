"""Unit quaternions ``(x, y, z, w)`` (ROS's order) to and from rotation matrices; arrays of them at once."""

from __future__ import annotations

import numpy as np

from stfm_ros.types import FloatArray


def quaternion_to_matrix(quaternion: FloatArray) -> FloatArray:
    """(..., 4) quaternions, normalised here, to (..., 3, 3) rotation matrices."""
    q = np.asarray(quaternion, np.float64)
    x, y, z, w = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def matrix_to_quaternion(matrix: FloatArray) -> FloatArray:
    """(..., 3, 3) rotation matrices to (..., 4) unit quaternions with w >= 0.

    Source: I. Y. Bar-Itzhack, "New method for extracting the quaternion from a rotation matrix", 2000: the
    eigenvector of a symmetric 4x4 matrix, well-conditioned at every angle and for matrices that are not quite
    orthonormal.
    """
    R = np.asarray(matrix, np.float64)
    trace = np.trace(R, axis1=-2, axis2=-1)
    N = np.empty((*R.shape[:-2], 4, 4))
    N[..., :3, :3] = R + np.swapaxes(R, -1, -2) - trace[..., None, None] * np.eye(3)
    skew = np.stack([R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]], axis=-1)
    N[..., :3, 3] = N[..., 3, :3] = skew
    N[..., 3, 3] = trace
    quaternion: FloatArray = np.linalg.eigh(N)[1][..., -1]
    return np.where(quaternion[..., 3:] < 0, -quaternion, quaternion)
