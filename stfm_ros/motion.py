"""Rigid motions, (4, 4) float64: their composition with covariance, and the twists that make them.

A twist is (6,), linear then angular, in the moving frame; a covariance is (6, 6) in the order ``x y z rotX rotY rotZ``,
about the fixed axes of the parent frame (REP-103).
"""

from __future__ import annotations

import cv2
import numpy as np

from stfm_ros.types import FloatArray


def inverse(motion: FloatArray) -> FloatArray:
    """(4, 4) of a (4, 4)."""
    found = np.eye(4)
    found[:3, :3] = motion[:3, :3].T
    found[:3, 3] = -motion[:3, :3].T @ motion[:3, 3]
    return found


def compose(
    first: FloatArray, first_covariance: FloatArray, second: FloatArray, second_covariance: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """``first @ second``, (4, 4), and its (6, 6), where their errors are independent.

    A pose errs by ``p + dp`` and ``exp(w) R``, about the axes of its parent; so the point ``q`` of the second moves by
    ``dp + w x R q + R dq`` (to first order: T. Barfoot, "State Estimation for Robotics", 2017, section 7.3).
    """
    R, arm = first[:3, :3], first[:3, :3] @ second[:3, 3]
    moved = np.eye(6)
    moved[:3, 3:] = np.cross(np.eye(3), -arm)  # w x arm
    turned = np.kron(np.eye(2), R)
    covariance = moved @ first_covariance @ moved.T + turned @ second_covariance @ turned.T
    return first @ second, (covariance + covariance.T) / 2


def logarithm(motion: FloatArray) -> FloatArray:
    """(6,) the twist, linear then angular and in the moving frame, that makes a motion (4, 4) in a unit of time."""
    w = np.asarray(cv2.Rodrigues(motion[:3, :3])[0]).ravel()
    angle = float(np.linalg.norm(w))
    W: FloatArray = np.cross(np.eye(3), w)  # W x = w x x
    square = 1 / 12 if angle < 1e-4 else 1 / angle**2 - (1 + np.cos(angle)) / (2 * angle * np.sin(angle))
    v = (np.eye(3) - W / 2 + square * W @ W) @ motion[:3, 3]
    return np.concatenate([v, w])


def exponential(twist: FloatArray) -> FloatArray:
    """(4, 4) the motion that a (6,) twist makes in a unit of time, the inverse of :func:`logarithm`."""
    w = np.asarray(twist[3:], np.float64)
    angle = float(np.linalg.norm(w))
    W: FloatArray = np.cross(np.eye(3), w)
    once, twice = (0.5, 1 / 6) if angle < 1e-4 else ((1 - np.cos(angle)) / angle**2, (angle - np.sin(angle)) / angle**3)
    motion = np.eye(4)
    motion[:3, :3] = cv2.Rodrigues(w)[0]
    motion[:3, 3] = (np.eye(3) + once * W + twice * W @ W) @ twist[:3]
    return motion
