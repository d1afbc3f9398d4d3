"""Errors of trajectories against known ones, and ``stfm run`` beside the truth."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from sequences import OrbMatcher, rgbd_folder

from stfm_ros.cli import COMMANDS, main
from stfm_ros.cli.command import to_json
from stfm_ros.cli.trajectories import Row
from stfm_ros.errors import BagError, DatasetError, RuntimeNotAvailable
from stfm_ros.import_rgbd import import_rgbd
from stfm_ros.odometry_error import compare, true_trajectory
from stfm_ros.trajectory import Trajectory, write_tum
from stfm_ros.types import FloatArray

pytest.importorskip("evo", reason="the extra 'eval'")
STAMPS = 1_000_000_000 + 100_000_000 * np.arange(40)


def turn(degrees: float, axis: int = 1) -> FloatArray:
    w = np.zeros(3)
    w[axis] = np.radians(degrees)
    return np.asarray(cv2.Rodrigues(w)[0])


def spiral(step: float = 0.1, drift_deg: float = 0.0) -> Trajectory:
    """Forty poses, each by the same motion from the one before it; ``drift_deg`` is turned too much about z."""
    motion = np.eye(4)
    motion[:3, :3] = turn(9.0) @ turn(drift_deg, 2)
    motion[:3, 3] = step * np.array([0.6, 0.0, 0.8])
    rise = np.eye(4)
    rise[1, 3] = 0.02 * step / 0.1
    poses = [np.eye(4)]
    for _ in range(39):
        poses.append(poses[-1] @ rise @ motion)
    return Trajectory(STAMPS, np.stack(poses))


def elsewhere(trajectory: Trajectory, scale: float = 1.0) -> Trajectory:
    """The same in another world, and of another scale."""
    world = np.eye(4)
    world[:3, :3], world[:3, 3] = turn(70.0, 0) @ turn(20.0, 2), (5.0, -2.0, 1.0)
    poses = trajectory.poses.copy()
    poses[:, :3, 3] *= scale
    return Trajectory(trajectory.stamps_ns, world @ poses)


def test_another_world_and_scale_are_no_error_for_sim3_but_the_scale_is_one_for_se3() -> None:
    truth = spiral()
    found = compare(elsewhere(truth, 0.25), truth, with_scale=True)
    assert found.scale == pytest.approx(4.0, rel=1e-6)
    assert max(found.ate_m, found.rpe_m, found.rpe_deg) < 1e-6
    np.testing.assert_allclose(found.positions, truth.poses[:, :3, 3], atol=1e-6)
    rigid = compare(elsewhere(truth, 0.25), truth, with_scale=False)
    assert rigid.scale == 1.0
    spread = truth.poses[:, :3, 3] - truth.poses[:, :3, 3].mean(axis=0)
    assert rigid.ate_m == pytest.approx(0.75 * np.sqrt((spread**2).sum(axis=1).mean()), rel=1e-6)
    assert rigid.rpe_percent == pytest.approx(75.0, rel=1e-6)


def test_a_position_that_is_off_is_told_where_it_is() -> None:
    truth, estimate = spiral(), elsewhere(spiral())
    estimate.poses[7, :3, 3] += [0.0, 0.3, 0.0]
    found = compare(estimate, truth, with_scale=False)
    assert int(found.errors_m.argmax()) == 7
    assert found.errors_m[7] == pytest.approx(0.3, rel=0.05)
    assert found.ate_m == pytest.approx(0.3 / np.sqrt(40), rel=0.05)
    assert found.stamps_ns[7] == STAMPS[7]


@pytest.mark.parametrize("frames", [1, 5])
def test_relative_errors_are_those_of_a_motion(frames: int) -> None:
    found = compare(elsewhere(spiral(drift_deg=0.02)), spiral(), with_scale=False, frames=frames)
    assert found.rpe_deg == pytest.approx(0.02 * frames, rel=0.1)  # about an axis that turns meanwhile
    longer = compare(elsewhere(spiral(step=0.101)), spiral(), with_scale=False, frames=frames)
    assert longer.rpe_percent == pytest.approx(1.0, rel=1e-3)
    assert longer.rpe_deg < 1e-5


def test_images_without_a_true_pose_do_not_count() -> None:
    truth = spiral()
    every_third = Trajectory(truth.stamps_ns[::3] + 4_000_000, truth.poses[::3])
    assert len(compare(elsewhere(truth), every_third, with_scale=False).stamps_ns) == len(every_third)
    with pytest.raises(
        DatasetError, match=r"^0 of 40 placed images have a true pose within 10 ms, expected 3 at least"
    ):
        compare(truth, Trajectory(truth.stamps_ns + 20_000_000_000, truth.poses), with_scale=True)
    with pytest.raises(DatasetError, match="expected 11 at least"):
        compare(truth, Trajectory(truth.stamps_ns[:8], truth.poses[:8]), with_scale=True, frames=10)


def test_what_stands_still_cannot_be_laid_onto_a_truth() -> None:
    still = Trajectory(STAMPS, np.tile(np.eye(4), (40, 1, 1)))
    with pytest.raises(DatasetError, match="cannot be laid onto the truth.*stands still or moves along a line"):
        compare(still, spiral(), with_scale=True)


def test_without_evo_the_command_to_install_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "evo", None)
    with pytest.raises(RuntimeNotAvailable, match=r"not installed .*: pip install evo, or pip install '\.\[eval\]'"):
        compare(spiral(), spiral(), with_scale=True)


def test_a_method_that_cannot_be_compared_has_a_row_all_the_same() -> None:
    row = Row("orb", placed=0.5, breaks=2, ms=7.4, fault="too few")
    assert row.texts() == ("orb", "50", "2", "-", "-", "-", "-", "-", "7")
    assert '"sim3": null' in to_json(row.record())


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six small images of a wall two metres away, by a camera that moves along a curve; with depth."""
    folder = rgbd_folder(tmp_path_factory.mktemp("wall") / "wall", 6)
    whole = cv2.resize(np.random.default_rng(1).integers(0, 255, (60, 90, 3), np.uint8), None, fx=8, fy=8)
    poses = np.tile(np.eye(4), (6, 1, 1))
    for i in range(6):
        x, y = 30 * i, 6 * i * i  # px, at 150 px a metre
        cv2.imwrite(str(folder / "rgb" / f"{i:06}.png"), whole[y : y + 240, x : x + 320])
        poses[i, :2, 3] = x / 150, y / 150
    write_tum(folder / "poses.txt", STAMPS[:6], poses)
    import_rgbd(folder, folder.with_suffix(".mcap"))
    return folder.with_suffix(".mcap")


def test_truth_is_a_topic_or_a_file(bag: Path, tmp_path: Path) -> None:
    by_topic = true_trajectory(bag, "/camera/pose")
    assert len(by_topic) == 6
    write_tum(tmp_path / "truth.txt", by_topic.stamps_ns, by_topic.poses)
    np.testing.assert_allclose(true_trajectory(bag, str(tmp_path / "truth.txt")).poses, by_topic.poses, atol=1e-8)
    with pytest.raises(BagError, match=r"(?s)has no topic /pose.*/camera/pose"):
        true_trajectory(bag, "/pose")


class Run:
    """``stfm run`` with ORB in the network's place."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr("stfm_ros.cli.run.load_matcher", lambda config: OrbMatcher())
        self.capsys = capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        code = main(["run", *map(str, arguments)])
        return code, *self.capsys.readouterr()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(monkeypatch, capsys)


def test_run_prints_one_row_a_method(run: Run, bag: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    code, out, err = run(bag, "--methods", "orb", "--odometry.scale", "depth", "--rpe-frames", 2, "--report", report)
    assert code == 0, err
    head, *rows = [line.split() for line in out[out.index("method") :].splitlines()[:4] if "──" not in line]
    assert head[:2] == ["method", "placed"] and [row[:2] for row in rows[:2]] == [["stfm", "orb"], ["orb", "100"]]
    assert rows[0][2:8] == rows[1][1:7], "the same matcher under another name goes the same way"
    ate_sim3, ate_se3, rpe_m = (float(text) for text in rows[1][3:6])
    assert 0 < ate_sim3 <= ate_se3 < 0.05 and 0 < rpe_m < 0.05
    assert "over 2 images" in out
    page = report.read_text(encoding="utf-8")
    assert "Trajectories over the truth" in page and "Error over time" in page and "by a rigid motion." in page


def test_run_finds_the_truth_and_leaves_it_where_that_is_wanted(
    run: Run, bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    fields = next(command.fields for command in COMMANDS if command.name == "run")
    code, out, err = run(bag, "--json", "--odometry.scale", "depth")
    assert code == 0, err
    record = json.loads(out)
    (row,) = record["methods"]
    assert record["ground_truth"] == "/camera/pose" and record["rpe_frames"] == 1
    assert row["placed"] == 1.0 and row["se3"]["scale"] == 1.0 and row["fault"] is None
    assert set(row["sim3"]) == {name.split(".")[-1] for name in fields if name.startswith("methods[].sim3.")}
    assert row["sim3"]["compared"] == 6 and row["sim3"]["ate_m"] < 0.05

    record = json.loads(run(bag, "--json", "--ground-truth", "none")[1])
    assert record["ground_truth"] is None and record["methods"][0]["sim3"] is None
    assert run(bag, "--methods", "sift,surf")[0] == 2
    code, _, err = run(bag, "--ground-truth", tmp_path / "none.txt")
    assert code == 2 and "has no topic" in err

    monkeypatch.setitem(sys.modules, "evo", None)
    code, _, err = run(bag, "--ground-truth", "/camera/pose")
    assert code == 2 and "pip install evo" in err
    code, out, err = run(bag)
    assert code == 0 and "no errors beside /camera/pose" in err and "pip install evo" in err
    assert "RPE" not in out[out.index("ms an image", out.index("breaks")) :], "nothing is explained that is not there"
