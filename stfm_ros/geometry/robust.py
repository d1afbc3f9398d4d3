"""The minimum of a robust loss over a motion.

The loss is Geman and McClure's ``r^2 / (1 + r^2 / scale^2)``: a residual far beyond the scale costs ``scale^2`` and
pulls at nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from stfm_ros.types import FloatArray

#: a step that lowers the loss by a smaller share is the last one; and where only the neighbourhood is asked for
ENOUGH = 1e-6
ROUGHLY = 1e-4


class Motion(NamedTuple):
    """R (3, 3), t (3,), and what they cost."""

    R: FloatArray
    t: FloatArray
    cost: float


def minimise(
    linearise: Callable[[FloatArray, FloatArray], tuple[FloatArray, FloatArray]],
    step_on: Callable[[FloatArray, FloatArray, FloatArray], tuple[FloatArray, FloatArray]],
    R: FloatArray,
    t: FloatArray,
    scale: float,
    rounds: int,
    enough: float = ENOUGH,
) -> Motion:
    """Levenberg-Marquardt from a start.

    The loss is flatter than its weighted squares, so that steps of those fall short; they are made longer by as much
    as the loss is flatter on average, as in the H-algorithm of P. Huber, "Robust Statistics", 1981, section 7.8.

    Args:
        linearise: of a motion the weighted residuals, of any shape, and their derivatives (p, that shape).
        step_on: a motion after a step (p,).
        scale: of the loss.
        rounds: at most.
        enough: see ENOUGH.
    """
    damping, hurry = 1e-4, True
    residuals, jacobian = linearise(R, t)
    tail = 1 / (1 + (residuals.ravel() / scale) ** 2)
    cost = float(np.sum(1 - tail))
    for _ in range(rounds):
        rows, weights = jacobian.reshape(len(jacobian), -1), tail**2
        weighted = rows * weights
        information = weighted @ rows.T
        information[np.diag_indices(len(rows))] += damping * (np.diag(information) + 1e-12)
        solved, step = cv2.solve(information, weighted @ residuals.ravel(), flags=cv2.DECOMP_CHOLESKY)
        curvature = float(np.sum(weights * (4 * tail - 3)))
        flatter = min(float(weights.sum()) / max(curvature, 1e-12), 2.0) if hurry else 1.0
        R_new, t_new = step_on(R, t, -flatter * np.asarray(step, np.float64).ravel())
        residuals_new, jacobian_new = linearise(R_new, t_new)
        tail_new = 1 / (1 + (residuals_new.ravel() / scale) ** 2)
        cost_new = float(np.sum(1 - tail_new))
        gain = cost - cost_new
        hurry = solved and gain > 0
        if hurry:
            R, t, residuals, jacobian, tail, cost = R_new, t_new, residuals_new, jacobian_new, tail_new, cost_new
        if abs(gain) <= enough * cost:
            break
        damping = max(0.1 * damping, 1e-9) if hurry else 10 * damping
    return Motion(R, t, cost * scale**2)
