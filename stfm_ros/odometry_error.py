"""How far a trajectory is from the truth, by the package evo (https://github.com/MichaelGrupp/evo).

    ATE   distances of the positions after the estimate is laid onto the truth as a whole: by a rigid motion (SE3), or
          by one with a scale (Sim3), which is all that can be asked of one camera without metres
    RPE   how far the motion over a number of images is off, beside the true one: translation and rotation

Both are root mean squares. Poses map the camera (optical frame) into a world, which may be another one for each; the
truth has to be of the camera itself. Neither counts what was not placed: say the share that was, beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stfm_ros import messages
from stfm_ros.bags import BagReader
from stfm_ros.errors import DatasetError, RuntimeNotAvailable
from stfm_ros.posed_bag import POSE_TYPES, TOLERANCE_NS, nearest, pose_matrix
from stfm_ros.trajectory import Trajectory, read_tum
from stfm_ros.types import FloatArray

#: fewer poses cannot be laid onto a truth
MIN_POSES = 3


@dataclass(frozen=True)
class Alignment:
    """A trajectory laid onto the truth, and what is left.

    Attributes:
        scale: that the estimate was multiplied with; 1 for SE3.
        ate_m: root mean square of ``errors_m``.
        rpe_m: of the translation of one motion, in the truth's metres.
        rpe_percent: the same as a share of the root mean square of the true motions.
        rpe_deg: of its rotation.
        stamps_ns: (n,) int64 of the images that were compared.
        errors_m: (n,) float64 distances of the positions.
        positions, truth: (n, 3) float64, in the world of the truth.
    """

    scale: float
    ate_m: float
    rpe_m: float
    rpe_percent: float
    rpe_deg: float
    stamps_ns: NDArray[np.int64]
    errors_m: FloatArray
    positions: FloatArray
    truth: FloatArray


def compare(estimate: Trajectory, truth: Trajectory, with_scale: bool, frames: int = 1) -> Alignment:
    """Lay a trajectory onto the truth.

    Args:
        with_scale: Sim3, else SE3.
        frames: placed images that the motions of the RPE span.

    Raises:
        RuntimeNotAvailable: evo is not installed.
        DatasetError: too few poses have a true one, or they tell no alignment.
    """
    evo = require_evo()
    pairs = nearest(estimate.stamps_ns, truth.stamps_ns)
    found = np.flatnonzero(pairs >= 0)
    if len(found) < max(MIN_POSES, frames + 1):
        raise DatasetError(
            f"{len(found)} of {len(estimate)} placed images have a true pose within {TOLERANCE_NS / 1e6:g} ms, "
            f"expected {max(MIN_POSES, frames + 1)} at least: is the truth of this recording, on its clock?"
        )
    poses, true_poses = estimate.poses[found], truth.poses[pairs[found]]
    ours, true = (evo.trajectory.PosePath3D(poses_se3=list(each)) for each in (poses, true_poses))
    try:
        _, _, scale = ours.align(true, correct_scale=with_scale)
    except evo.EvoException as fault:
        raise DatasetError(
            f"the trajectory cannot be laid onto the truth ({fault}): one of them stands still or moves along a line"
        ) from None
    ate = _measure(evo.metrics.APE(evo.metrics.PoseRelation.translation_part), true, ours)
    rpe = {
        name: _measure(
            evo.metrics.RPE(relation, frames, evo.metrics.Unit.frames, all_pairs=True), true, ours
        )
        for name, relation in (
            ("m", evo.metrics.PoseRelation.translation_part),
            ("deg", evo.metrics.PoseRelation.rotation_angle_deg),
        )
    }  # fmt: skip
    moved = np.linalg.norm(true_poses[frames:, :3, 3] - true_poses[:-frames, :3, 3], axis=1)
    rpe_m = _rms(rpe["m"])
    return Alignment(
        scale=float(scale) if with_scale else 1.0,
        ate_m=_rms(ate),
        rpe_m=rpe_m,
        rpe_percent=100 * rpe_m / max(_rms(moved), 1e-12),
        rpe_deg=_rms(rpe["deg"]),
        stamps_ns=estimate.stamps_ns[found],
        errors_m=ate,
        positions=np.asarray(ours.positions_xyz),
        truth=true_poses[:, :3, 3],
    )


def true_trajectory(bag: Path, where: str) -> Trajectory:
    """True poses of the camera.

    Args:
        bag: the recording.
        where: a topic of it (one of ``stfm_ros.posed_bag.POSE_TYPES``), or a file in TUM layout.

    Raises:
        BagError: there is neither such a file nor such a topic; lists the candidates.
        DatasetError: the file cannot be read, or what is there is no pose.
    """
    if Path(where).is_file():
        return read_tum(where)
    with BagReader(bag) as reader:
        topic = reader.find_topic(POSE_TYPES, where)
        rows = [(messages.stamp_ns(message.header), pose_matrix(message)) for _, message, _ in reader.messages([topic])]
    known = [row for row in rows if np.isfinite(row[1]).all()]
    if not known:
        raise DatasetError(f"{topic} of {bag} holds {len(rows)} messages and no finite pose: name another topic")
    known.sort(key=lambda row: row[0])
    return Trajectory(np.array([stamp for stamp, _ in known], np.int64), np.stack([pose for _, pose in known]))


def require_evo() -> Any:
    """The parts of evo that are used here.

    Raises:
        RuntimeNotAvailable: it is not installed.
    """
    try:
        from evo import EvoException
        from evo.core import metrics, trajectory
    except ImportError as fault:
        raise RuntimeNotAvailable(
            f"errors of a trajectory are measured by the package evo, which is not installed ({fault}): pip install "
            "evo, or pip install '.[eval]' in the source folder"
        ) from None
    return SimpleNamespace(metrics=metrics, trajectory=trajectory, EvoException=EvoException)


def _measure(metric: Any, true: Any, ours: Any) -> FloatArray:
    metric.process_data((true, ours))
    return np.asarray(metric.error, np.float64)


def _rms(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
