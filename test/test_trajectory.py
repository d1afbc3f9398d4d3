"""TUM trajectories and quaternions: round trips, exact stamps, wording of refusals."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stfm_ros.errors import DatasetError
from stfm_ros.rotation import matrix_to_quaternion, quaternion_to_matrix
from stfm_ros.trajectory import read_tum, write_tum

angles = st.floats(-np.pi, np.pi)
rotation_vectors = st.tuples(angles, angles, angles).map(np.array)


@given(rotation_vectors)
def test_quaternion_and_matrix_are_inverse(vector: NDArray[np.float64]) -> None:
    R = np.asarray(cv2.Rodrigues(vector)[0], np.float64)
    quaternion = matrix_to_quaternion(R)
    assert np.linalg.norm(quaternion) == pytest.approx(1)
    assert quaternion[3] >= 0
    np.testing.assert_allclose(quaternion_to_matrix(quaternion), R, atol=1e-12)


def test_quaternion_by_hand() -> None:
    half = np.sqrt(0.5)
    np.testing.assert_allclose(
        quaternion_to_matrix(np.array([0, 0, half, half])), [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-12
    )
    np.testing.assert_allclose(np.abs(matrix_to_quaternion(np.diag([1.0, -1.0, -1.0]))), [1, 0, 0, 0], atol=1e-12)
    assert matrix_to_quaternion(np.tile(np.eye(3), (2, 3, 1, 1))).shape == (2, 3, 4)


def test_round_trip_with_exact_stamps(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    poses = np.tile(np.eye(4), (5, 1, 1))
    poses[:, :3, :3] = quaternion_to_matrix(rng.normal(size=(5, 4)))
    poses[:, :3, 3] = rng.normal(size=(5, 3))
    stamps = [0, 1, 1305031229528748123, 1305031229528748124, 2**62]
    write_tum(tmp_path / "t.txt", stamps, poses)
    back = read_tum(tmp_path / "t.txt")
    assert back.stamps_ns.tolist() == stamps
    assert len(back) == 5
    assert back.stamps[2] == pytest.approx(1305031229.528748)
    np.testing.assert_allclose(back.poses, poses, atol=1e-8)


def test_comments_and_empty_files(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("# a comment\n\n1.5 0 0 1 0 0 0 1 # of a line\n")
    assert read_tum(path).stamps_ns.tolist() == [1_500_000_000]
    path.write_text("")
    assert read_tum(path).poses.shape == (0, 4, 4)


@pytest.mark.parametrize(
    ("line", "wording"),
    [
        ("1 2 3", "t.txt, line 2: 3 values, expected the 8 of 'timestamp tx ty tz qx qy qz qw'"),
        ("1 0 0 0 0 0 zero 1", "line 2: could not convert string to float: 'zero'; expected the numbers"),
        ("1 0 0 0 0 0 0 0", "expected finite numbers and a quaternion qx qy qz qw of length 1 (it is 0); check the"),
        ("1 nan 0 0 0 0 0 1", "expected finite numbers"),
        ("soon 0 0 0 0 0 0 1", "line 2: timestamp 'soon' is no number of seconds"),
        ("nan 0 0 0 0 0 0 1", "line 2: timestamp 'nan' is no number of seconds"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, line: str, wording: str) -> None:
    path = tmp_path / "t.txt"
    path.write_text(f"# heading\n{line}\n")
    with pytest.raises(DatasetError) as fault:
        read_tum(path)
    assert wording in str(fault.value)


def test_missing_file_and_wrong_counts(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.txt cannot be read as text: .*No such file"):
        read_tum(tmp_path / "none.txt")
    with pytest.raises(DatasetError, match="1 stamps and 2 poses: expected one stamp a pose"):
        write_tum(tmp_path / "t.txt", [1], np.tile(np.eye(4), (2, 1, 1)))
