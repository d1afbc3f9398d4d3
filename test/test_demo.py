"""The demo: errors by hand, what is said where it cannot run, and the whole of it in real processes."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from stfm_ros import demo, messages
from stfm_ros.bags import BagReader, BagWriter
from stfm_ros.demo import DEMO_BAG, judge, run_demo
from stfm_ros.demo_result import Recording, Spread, answers, chain, summarise, truth_of
from stfm_ros.errors import BagError, ConfigError, RosNotAvailable, StfmError
from stfm_ros.rotation import matrix_to_quaternion
from stfm_ros.types import FloatArray, PoseStatus

HAS_ROS = all(importlib.util.find_spec(name) for name in ("rclpy", "stfm_ros.msg"))
needs_ros = pytest.mark.skipif(not HAS_ROS, reason="ROS 2 or the package's messages are not installed")
SECOND = 1_000_000_000


def transform(x: float, yaw_deg: float) -> FloatArray:
    T = np.eye(4)
    T[:3, :3] = cv2.Rodrigues(np.array([0, np.radians(yaw_deg), 0]))[0]
    T[0, 3] = x
    return T


def pose(stamp: int, reference: int, estimate: FloatArray, status: PoseStatus = PoseStatus.OK) -> dict[str, Any]:
    return {
        "stamp_ns": stamp,
        "reference_stamp_ns": reference,
        "arrival_ns": stamp + 50_000_000,
        "position": estimate[:3, 3].tolist(),
        "orientation": matrix_to_quaternion(estimate[:3, :3]).tolist(),
        "matches": 9,
        "inliers": 7,
        "parallax_deg": 2.0,
        "metric": False,
        "status": int(status),
        "reason": "",
    }


def recording(poses: list[dict[str, Any]], frames: int = 4) -> Recording:
    """Frame k has the stamp k s in the bag and was sent with 100 + k s."""
    sent = tuple((k * SECOND, (100 + k) * SECOND) for k in range(frames))
    lines = {"received": "4", "dropped": "1", "failed": "0", "latency_ms.pair.p50": "8.0", "latency_ms.pair.p95": "9.0"}
    rows = {p["stamp_ns"]: np.tile(np.float32([10, 10, 12, 10, 0.9, 1, 1]), (9, 1)) for p in poses}
    return Recording(sent, tuple(poses), rows, lines)


TRUTH = {k * SECOND: transform(0.1 * k, 2.0 * k) for k in range(4)}


def at(frame: int) -> int:
    return (100 + frame) * SECOND


def test_a_perfect_answer_has_no_error_and_a_wrong_one_its_angle() -> None:
    true = np.linalg.inv(TRUTH[0]) @ TRUTH[2 * SECOND]
    wrong = true @ transform(0, 3.0)
    backwards = true.copy()
    backwards[:3, 3] *= -1
    turned = np.eye(4)
    turned[:3, :3], turned[:3, 3] = wrong[:3, :3], cv2.Rodrigues(np.array([0, 0, np.radians(20)]))[0] @ true[:3, 3]
    found = [answers(recording([pose(at(2), at(0), T)]), TRUTH)[0] for T in (true, turned, backwards)]
    assert [round(a.rotation_deg, 6) for a in found] == [0, 3, 0]
    assert [round(a.direction_deg, 6) for a in found] == [0, 20, 180]
    assert found[0].end_to_end_ms == pytest.approx(50)
    assert (found[0].source_ns, found[0].reference_ns) == (2 * SECOND, 0)


def test_a_status_without_rotation_or_translation_is_not_judged() -> None:
    still = pose(at(1), at(0), np.eye(4), PoseStatus.ROTATION_ONLY)
    lost = pose(at(2), at(0), np.eye(4), PoseStatus.LOST)
    stranger = pose(at(3) + 5, at(0), np.eye(4))
    found = answers(recording([lost, still, stranger]), TRUTH)
    assert [a.status for a in found] == [PoseStatus.ROTATION_ONLY, PoseStatus.LOST]
    assert found[0].rotation_deg == pytest.approx(2)
    assert math.isnan(found[0].direction_deg)
    assert math.isnan(found[1].rotation_deg)
    result = summarise(recording([lost, still]), found, {})
    assert (result.sent, result.received, result.dropped, result.posed) == (4, 4, 1, 1)
    assert result.statuses == {"ROTATION_ONLY": 1, "LOST": 1}
    assert result.latency_ms["pair"] == Spread(8.0, 9.0)
    assert result.ok
    assert not summarise(recording([lost]), found[1:], {}).ok
    assert json.loads(json.dumps(result.to_dict()))["direction_deg"] == {"median": None, "p95": None}


def test_answers_chain_to_the_true_path() -> None:
    poses = []
    for frame, reference in ((1, 0), (2, 0), (3, 2)):
        step = np.linalg.inv(TRUTH[reference * SECOND]) @ TRUTH[frame * SECOND]
        step[:3, 3] /= np.linalg.norm(step[:3, 3])
        poses.append(pose(at(frame), at(reference), step))
    chained = chain(answers(recording(poses), TRUTH), TRUTH)
    assert sorted(chained) == sorted(TRUTH)
    for stamp, T in chained.items():
        np.testing.assert_allclose(T, TRUTH[stamp], atol=1e-9)


def test_the_shipped_recording_is_small_and_has_its_truth() -> None:
    assert DEMO_BAG.stat().st_size < 4e6
    truth = truth_of(DEMO_BAG)
    with BagReader(DEMO_BAG) as reader:
        counts = {name: info.count for name, info in reader.topics.items()}
    assert len(truth) == 60
    assert counts == {"/camera/camera_info": 60, "/camera/image/compressed": 60, "/camera/pose": 60}
    stamps = sorted(truth)
    moves = [np.linalg.norm(truth[b][:3, 3] - truth[a][:3, 3]) for a, b in pairwise(stamps)]
    assert 0.01 < np.median(moves) < 0.02


def test_page_and_pictures_are_written(tmp_path: Path) -> None:
    truth = truth_of(DEMO_BAG)
    stamps = sorted(truth)
    sent = tuple((stamp, stamp + 7) for stamp in stamps)
    poses = [pose(s + 7, stamps[0] + 7, np.linalg.inv(truth[stamps[0]]) @ truth[s]) for s in stamps[1:]]
    rows = {p["stamp_ns"]: np.tile(np.float32([10, 10, 12, 10, 0.9, 1, 1]), (9, 1)) for p in poses}
    result = judge(DEMO_BAG, Recording(sent, tuple(poses), rows, {"received": "60"}), tmp_path)
    assert result.rotation_deg.median < 1e-5
    assert result.direction_deg.p95 < 1e-4
    assert len(result.files["pictures"]) == 3
    assert all(cv2.imread(name) is not None for name in result.files["pictures"])
    assert "Trajectory from above" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "demo.json").read_text(encoding="utf-8"))["posed"] == 59


def test_a_demo_without_any_pose_still_writes_its_page(tmp_path: Path) -> None:
    result = judge(DEMO_BAG, Recording(((0, 0),), (), {}, {}), tmp_path)
    assert not result.ok
    assert "none" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert dict(result.rows())["frames"].startswith("1 sent, 0 received, 0 matched, 0 dropped, 1 lost")


def test_without_ros_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "rclpy" else find(name))
    with pytest.raises(RosNotAvailable, match=r"rclpy cannot be imported: .*source ROS 2 .*requirements/ros-jazzy.txt"):
        run_demo(tmp_path)
    everything = {"rclpy": 1, "sensor_msgs": 1, "diagnostic_msgs": 1}
    monkeypatch.setattr(importlib.util, "find_spec", everything.get)
    with pytest.raises(RosNotAvailable, match=r"stfm_ros.msg cannot be imported: .*STFM_ROS_MSGS=1 pip install"):
        run_demo(tmp_path)


def test_bad_input_is_refused_before_any_process_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo, "require_ros", lambda: None)
    monkeypatch.setattr(demo, "_play", lambda *_: pytest.fail("a process was started"))
    with pytest.raises(ConfigError, match="rate 0: expected more than 0 and at most 1000 frames per second"):
        run_demo(tmp_path, rate=0)
    with pytest.raises(BagError, match=r"nothing.mcap does not exist"):
        run_demo(tmp_path, tmp_path / "nothing.mcap")
    with BagWriter(tmp_path / "poses.mcap") as writer:
        writer.write("/pose", "geometry_msgs/msg/PoseStamped", messages.pose_stamped(0, "world", np.eye(4)), 0)
    with pytest.raises(BagError, match=r"no topic of type sensor_msgs/msg/CompressedImage"):
        run_demo(tmp_path, tmp_path / "poses.mcap")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"folder .*file cannot be made"):
        run_demo(tmp_path / "file")


@needs_ros
@pytest.mark.slow
def test_the_recording_goes_through_the_real_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """ORB stands in for the network: what is tested is the way there and back."""
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))
    steps: list[tuple[int, int]] = []
    result = run_demo(
        tmp_path, rate=5, progress=lambda done, total: steps.append((done, total)), matcher="orb_matcher_node"
    )
    assert result.sent == 60
    assert result.ok
    assert result.failed == 0
    answered = sum(result.statuses.values())
    assert answered + result.dropped == result.received <= 60  # every frame is accounted for
    moving = {"OK", "PLANAR", "LOW_PARALLAX", "TWO_MOTIONS", "STATIC", "ROTATION_ONLY"}
    assert set(result.statuses) <= {"NO_REFERENCE", *moving}
    assert result.rotation_deg.median < 0.5
    assert result.direction_deg.median < 15
    ms = {stage: spread.median for stage, spread in result.latency_ms.items()}
    assert {"wait", "decode", "features", "pair", "pose", "publish", "overhead", "total", "end to end"} <= set(ms)
    assert max(ms["decode"], ms["publish"]) < ms["overhead"] < ms["total"]
    assert result.about["model"] == "orb"
    assert steps[-1] == (60, 60)
    assert all(Path(name).is_file() for names in result.files.values() for name in names)


@needs_ros
def test_a_node_that_ends_is_an_error_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(
        StfmError, match=r"(?s)the matcher node ended with code 2:.*threshold: 3.0 is above the maximum 1"
    ):
        run_demo(tmp_path, parameters={"matcher.threshold": 3.0})
