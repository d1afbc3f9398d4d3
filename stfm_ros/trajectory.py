"""Trajectories as text, in the TUM layout: ``timestamp tx ty tz qx qy qz qw`` a line, ``#`` opens a comment.

Seconds and metres; a pose maps points of the camera (optical frame) into the world. Stamps are kept as integer
nanoseconds, since a float64 of a Unix time is only good to about 0.2 microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stfm_ros.errors import DatasetError
from stfm_ros.rotation import matrix_to_quaternion, quaternion_to_matrix
from stfm_ros.types import FloatArray

NANOSECONDS = 1_000_000_000
LAYOUT = "timestamp tx ty tz qx qy qz qw"


@dataclass(frozen=True)
class Trajectory:
    """Stamped poses.

    Attributes:
        stamps_ns: (n,) int64 nanoseconds.
        poses: (n, 4, 4) float64, camera to world, metres.
    """

    stamps_ns: NDArray[np.int64]
    poses: FloatArray

    def __len__(self) -> int:
        return len(self.stamps_ns)

    @property
    def stamps(self) -> FloatArray:
        """(n,) float64 seconds."""
        return self.stamps_ns / NANOSECONDS


def read_tum(path: Path | str) -> Trajectory:
    """Read a trajectory in TUM layout.

    Raises:
        DatasetError: the file is missing, or a line (named by its number) does not hold eight finite numbers with
            a unit quaternion.
    """
    stamps, rows = [], []
    for where, words in text_rows(Path(path)):
        if len(words) != 8:
            raise DatasetError(f"{where}: {len(words)} values, expected the 8 of '{LAYOUT}' (TUM layout)")
        stamps.append(seconds_to_ns(words[0], where))
        try:
            row = [float(word) for word in words[1:]]
        except ValueError as fault:
            raise DatasetError(f"{where}: {fault}; expected the numbers '{LAYOUT}' (TUM layout)") from None
        length = float(np.linalg.norm(row[3:]))
        if not np.isfinite(row).all() or abs(length - 1) > 1e-2:
            raise DatasetError(
                f"{where}: {' '.join(words[1:])} is no pose: expected finite numbers and a quaternion qx qy qz qw of "
                f"length 1 (it is {length:.3g}); check the order of the columns, w is last"
            )
        rows.append(row)
    values = np.array(rows, np.float64).reshape(-1, 7)
    poses = np.tile(np.eye(4), (len(values), 1, 1))
    poses[:, :3, :3] = quaternion_to_matrix(values[:, 3:])
    poses[:, :3, 3] = values[:, :3]
    return Trajectory(np.array(stamps, np.int64), poses)


def write_tum(path: Path | str, stamps_ns: Sequence[int] | NDArray[np.int64], poses: FloatArray) -> None:
    """Write (n,) stamps in nanoseconds and (n, 4, 4) camera-to-world poses in metres in TUM layout."""
    poses = np.asarray(poses, np.float64).reshape(-1, 4, 4)
    if len(stamps_ns) != len(poses):
        raise DatasetError(f"{len(stamps_ns)} stamps and {len(poses)} poses: expected one stamp a pose")
    lines = [f"# {LAYOUT}"]
    for stamp, pose, quaternion in zip(stamps_ns, poses, matrix_to_quaternion(poses[:, :3, :3]), strict=True):
        numbers = " ".join(f"{value:.9f}" for value in (*pose[:3, 3], *quaternion))
        lines.append(f"{ns_to_text(int(stamp))} {numbers}")
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def text_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """The words of each line that is not empty and no comment, with ``file, line n`` for messages."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as fault:
        raise DatasetError(f"{path} cannot be read as text: {fault}") from None
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if words:
            yield f"{path}, line {number}", words


def seconds_to_ns(text: str, where: str) -> int:
    """Decimal seconds to nanoseconds, exactly."""
    try:
        return int((Decimal(text) * NANOSECONDS).to_integral_value())
    except (InvalidOperation, ValueError, OverflowError):
        raise DatasetError(f"{where}: timestamp {text!r} is no number of seconds") from None


def ns_to_text(stamp_ns: int) -> str:
    """Nanoseconds to decimal seconds with nine decimals, exactly."""
    sign = "-" if stamp_ns < 0 else ""
    return f"{sign}{abs(stamp_ns) // NANOSECONDS}.{abs(stamp_ns) % NANOSECONDS:09d}"
