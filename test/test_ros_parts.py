"""The parts of the node that need no DDS: conversion, the newest-frame worker, statistics, topics."""

from __future__ import annotations

import logging
import threading
import time
from array import array
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stfm_ros import messages
from stfm_ros.nodes.statistics import Statistics, Throttle
from stfm_ros.nodes.worker import Worker
from stfm_ros.types import Matches, PoseStatus, RelativePose

TRACK: Any = SimpleNamespace(
    stamp_ns=1_700_000_000_123_456_789,
    frame_id="camera_optical_frame",
    reference_stamp_ns=1_699_999_999_999_999_999,
    reference_frame_id="camera_optical_frame",
    size0=(640, 480),
    size1=(np.int64(320), np.int64(240)),  # as they come out of array shapes and arithmetic
    matches=Matches(
        np.arange(6, dtype=np.float32).reshape(3, 2),
        np.arange(6, 12, dtype=np.float32).reshape(3, 2),
        np.array([0.9, 0.8, 0.7], np.float32),
        np.array([0.5, 0.6, 0.7], np.float32),
    ),
    pose=RelativePose(
        R=np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),  # 90 degrees about z
        t=np.array([1.0, 0.0, 0.0]),
        covariance=np.arange(36, dtype=np.float32).reshape(6, 6),
        inliers=np.array([True, False, True]),
        status=PoseStatus.LOW_PARALLAX,
        reason="median parallax 0.3 deg",
        parallax_deg=np.float32(0.3),  # type: ignore[arg-type]
        metric=np.bool_(True),  # type: ignore[arg-type]
    ),
)


@given(st.integers(0, 2**31 * 10**9 - 1))
def test_a_stamp_survives(stamp: int) -> None:
    fields = messages.time(np.int64(stamp))  # type: ignore[arg-type]
    assert stamp == fields["sec"] * 10**9 + fields["nanosec"]
    header = SimpleNamespace(stamp=SimpleNamespace(**fields))
    assert messages.stamp_ns(header) == stamp


def test_camera_info_is_beside_its_image() -> None:
    assert messages.camera_info_topic("/cam/image_raw") == "/cam/camera_info"
    assert messages.camera_info_topic("/cam/image_raw/compressed") == "/cam/camera_info"
    assert messages.camera_info_topic("/image") == "/camera_info"


class TestConversion:
    """Under ROS_PYTHON_CHECK_FIELDS=1, see conftest.py."""

    @pytest.fixture(autouse=True)
    def _ros(self) -> None:
        pytest.importorskip("stfm_ros.msg", reason="needs the generated messages: pip install . where ROS 2 is")

    def test_correspondences(self) -> None:
        from stfm_ros.msg import Correspondences
        from stfm_ros.nodes.conversion import to_ros

        fields = messages.correspondences(TRACK, "small", "ab" * 32)
        assert set(fields) == set(Correspondences.get_fields_and_field_types())
        msg = to_ros(Correspondences, fields)
        assert (msg.header.stamp.sec, msg.header.stamp.nanosec) == (1_700_000_000, 123_456_789)
        assert (msg.reference_stamp.sec, msg.reference_stamp.nanosec) == (1_699_999_999, 999_999_999)
        assert (msg.width0, msg.height0, msg.width1, msg.height1) == (640, 480, 320, 240)
        assert msg.keypoints0 == array("f", range(6)) and msg.keypoints1 == array("f", range(6, 12))
        assert msg.confidence == array("f", [0.9, 0.8, 0.7])
        assert list(msg.inliers) == [True, False, True] and type(msg.inliers[0]) is bool
        assert msg.header.frame_id == msg.reference_frame_id == "camera_optical_frame"

    def test_relative_pose_is_of_the_camera_in_the_reference(self) -> None:
        from stfm_ros.msg import RelativePose as Message
        from stfm_ros.nodes.conversion import to_ros

        fields = messages.relative_pose(TRACK)
        assert set(fields) == set(Message.get_fields_and_field_types())
        msg = to_ros(Message, fields)
        position, orientation = msg.pose.pose.position, msg.pose.pose.orientation
        # the inverse of X1 = R X0 + t: turned by -90 degrees about z, at -R^T t = (0, 1, 0)
        np.testing.assert_allclose([position.x, position.y, position.z], [0, 1, 0], atol=1e-12)
        half = np.sqrt(0.5)
        quaternion = [orientation.x, orientation.y, orientation.z, orientation.w]
        np.testing.assert_allclose(quaternion, [0, 0, -half, half], atol=1e-12)
        np.testing.assert_array_equal(msg.pose.covariance, np.arange(36))
        assert msg.metric is True and msg.parallax_deg == pytest.approx(0.3)
        assert (msg.matches, msg.inliers, msg.status) == (3, 2, Message.LOW_PARALLAX)

    def test_nothing_matched(self) -> None:
        from stfm_ros.msg import Correspondences
        from stfm_ros.nodes.conversion import to_ros

        empty = SimpleNamespace(**vars(TRACK))
        empty.matches = Matches.empty()
        empty.pose = replace(TRACK.pose, inliers=np.zeros(0, bool))
        msg = to_ros(Correspondences, messages.correspondences(empty, "small", ""))
        assert msg.keypoints0 == msg.sigma == array("f") and list(msg.inliers) == []

    def test_image_and_diagnostics(self) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from sensor_msgs.msg import Image

        from stfm_ros.images import decode_image
        from stfm_ros.nodes.conversion import to_ros

        rgb = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        np.testing.assert_array_equal(decode_image(to_ros(Image, messages.image(5, "f", rgb[:, ::-1]))), rgb[:, ::-1])
        msg = to_ros(DiagnosticArray, messages.diagnostics(5, "n", 1, "s", {"a": "1", "b": "2"}))
        assert msg.status[0].level == b"\x01"
        assert [(pair.key, pair.value) for pair in msg.status[0].values] == [("a", "1"), ("b", "2")]

    def test_what_is_made_of_odometry(self) -> None:
        from geometry_msgs.msg import TransformStamped
        from nav_msgs.msg import Odometry
        from sensor_msgs.msg import PointCloud2

        from stfm_ros.nodes.conversion import to_ros

        pose = np.eye(4)
        pose[:3] = [[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3]]  # 90 degrees about z
        points = np.array([[0.5, -0.5, 2.0], [1, 2, 4]])
        estimate: Any = SimpleNamespace(
            stamp_ns=5, child_frame="base_link", pose=pose, covariance=np.arange(36.0).reshape(6, 6),
            twist=np.arange(6.0), twist_covariance=np.eye(6),
            placed=SimpleNamespace(points=points, index=np.array([0, 2])),
        )  # fmt: skip
        found = to_ros(Odometry, messages.odometry(estimate, "odom"))
        assert (found.header.frame_id, found.child_frame_id) == ("odom", "base_link")
        np.testing.assert_array_equal(found.pose.covariance, np.arange(36))
        assert (found.twist.twist.linear.z, found.twist.twist.angular.x) == (2.0, 3.0)
        transform = to_ros(TransformStamped, messages.transform(estimate, "odom"))
        assert (transform.header.frame_id, transform.child_frame_id) == ("odom", "base_link")
        at, turned = transform.transform.translation, transform.transform.rotation
        np.testing.assert_allclose([at.x, at.y, at.z, turned.z, turned.w], [1, 2, 3, np.sqrt(0.5), np.sqrt(0.5)])
        lost = to_ros(Odometry, messages.lost_odometry(5, "odom", "base_link"))
        assert lost.pose.pose.orientation.w == 0 and set(np.diag(np.reshape(lost.pose.covariance, (6, 6)))) == {9999.0}

        track = SimpleNamespace(**vars(TRACK), image0=np.full((8, 8, 3), (1, 2, 3), np.uint8))
        cloud = to_ros(PointCloud2, messages.point_cloud(track, estimate))  # type: ignore[arg-type]
        assert (cloud.header.frame_id, cloud.header.stamp.nanosec) == ("camera_optical_frame", 999_999_999)
        rows = np.frombuffer(cloud.data, np.float32).reshape(2, cloud.point_step // 4)
        np.testing.assert_array_equal(rows[:, :3], points.astype(np.float32))
        np.testing.assert_allclose(rows[:, 4:], [[0.9, 0.5], [0.7, 0.7]])
        assert rows[:, 3].copy().view(np.uint32).tolist() == [0x010203] * 2

    def test_a_wrong_field_or_size_is_refused(self) -> None:
        from geometry_msgs.msg import PoseWithCovariance
        from std_msgs.msg import Header

        from stfm_ros.nodes.conversion import to_ros

        with pytest.raises(KeyError, match="Header has no field 'frame': expected one of stamp, frame_id"):
            to_ros(Header, {"frame": "x"})
        with pytest.raises(ValueError, match=r"PoseWithCovariance.covariance has 9 values: expected 36"):
            to_ros(PoseWithCovariance, {"covariance": np.eye(3)})


def unexpected(fault: Exception) -> None:
    raise fault


def test_the_worker_outlives_what_its_work_raises() -> None:
    seen: list[int] = []
    failed: list[str] = []
    done = threading.Event()

    def work(item: int) -> None:
        if item < 2:
            raise RuntimeError(f"item {item}")
        seen.append(item)
        done.set()

    worker = Worker(work, lambda: None, lambda fault: failed.append(str(fault)))
    worker.open(3)
    for item in range(3):
        worker.submit(item)
    assert done.wait(5)
    assert worker.close(5) and worker.busy_s == 0
    assert failed == ["item 0", "item 1"] and seen == [2]


def test_the_end_does_not_wait_for_ever_for_work_that_hangs() -> None:
    go = threading.Event()
    worker: Worker[int] = Worker(lambda item: assert_done(go.wait(10)), lambda: None, unexpected)
    worker.open()
    worker.submit(0)
    while not worker.busy_s:
        time.sleep(0.001)
    time.sleep(0.05)
    assert worker.busy_s >= 0.05
    assert not worker.close(0.05)
    go.set()
    assert worker.close(5)


def assert_done(done: bool) -> None:
    assert done


def test_the_worker_keeps_the_newest_and_drops_the_rest() -> None:
    seen: list[int] = []
    dropped: list[int] = []
    started, go = threading.Event(), threading.Event()

    def work(item: int) -> None:
        seen.append(item)
        started.set()
        assert go.wait(5)

    worker = Worker(work, lambda: dropped.append(1), unexpected)
    worker.open()
    worker.submit(0)
    assert started.wait(5)
    for item in range(1, 10):
        worker.submit(item)
    go.set()
    deadline = time.monotonic() + 5
    while len(seen) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    worker.close()
    assert seen == [0, 9] and len(dropped) == 8
    worker.submit(10)
    assert len(dropped) == 9, "after the end everything is dropped"


def test_stopping_drops_what_waits_and_finishes_what_is_in_work() -> None:
    seen: list[int] = []
    dropped: list[int] = []
    started = threading.Event()

    def work(item: int) -> None:
        started.set()
        time.sleep(0.05)
        seen.append(item)

    worker = Worker(work, lambda: dropped.append(1), unexpected)
    worker.open()
    worker.submit(0)
    assert started.wait(5)
    worker.submit(1)
    worker.close()
    assert seen == [0] and len(dropped) == 1


def test_a_worker_with_room_keeps_the_order_and_drops_the_oldest() -> None:
    seen: list[int] = []
    dropped: list[int] = []
    started, go = threading.Event(), threading.Event()

    def work(item: int) -> None:
        seen.append(item)
        started.set()
        assert go.wait(5)

    worker = Worker(work, lambda: dropped.append(1), unexpected)
    worker.open(3)
    worker.submit(0)
    assert started.wait(5)
    for item in range(1, 6):
        worker.submit(item)
    go.set()
    deadline = time.monotonic() + 5
    while len(seen) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    worker.close()
    assert seen == [0, 3, 4, 5] and len(dropped) == 2


def test_every_opening_is_worked_on_by_the_same_thread_until_the_end() -> None:
    seen: list[tuple[int, int]] = []
    worker = Worker(lambda item: seen.append((item, threading.get_ident())), lambda: None, unexpected)
    for item in range(3):
        worker.open()
        worker.submit(item)
        while len(seen) <= item:
            time.sleep(0.001)
        assert worker.close(5)
    assert [item for item, _ in seen] == [0, 1, 2] and len({thread for _, thread in seen}) == 1
    (thread,) = [one for one in threading.enumerate() if one.ident == seen[0][1]]
    worker.end()
    thread.join(5)
    assert not thread.is_alive()


def test_the_counts_add_up() -> None:
    statistics = Statistics()
    for _ in range(5):
        statistics.receive(age_ms=3.0)
    statistics.succeed("OK", {"total": 10.0})
    statistics.succeed("OK", {"total": 30.0})
    statistics.fault("image", "no pixels")
    statistics.fail()
    statistics.drop()
    values = statistics.values()
    counts = {key: values[key] for key in ("received", "processed", "dropped", "failed", "in_flight")}
    assert counts == {"received": "5", "processed": "3", "dropped": "1", "failed": "1", "in_flight": "1"}
    assert values["status.OK"] == "2" and values["fault.image"] == "1" and statistics.faults == 1
    assert values["latency_ms.total.p50"] == "20.00" and values["age_ms.p95"] == "3.00"
    assert values["rate_in_hz"] == "1.00" and values["rate_out_hz"] == "0.40"
    assert values["last_error"] == "image: no pixels"


def test_a_fault_of_every_image_does_not_fill_the_log() -> None:
    throttle = Throttle(60.0)
    assert [throttle.allows("image") for _ in range(3)] == [True, False, False]
    assert throttle.allows("stamp")


def test_what_the_core_logs_is_in_the_nodes_log() -> None:
    pytest.importorskip("rclpy")
    from stfm_ros.nodes.logs import forwarded

    class Logger:
        lines: ClassVar[list[tuple[str, str]]] = []

        def __getattr__(self, level: str) -> Any:
            return lambda text: self.lines.append((level, text))

    log = logging.getLogger("stfm_ros.runtimes.tensorrt_builder")
    with forwarded(Logger()):  # type: ignore[arg-type]
        log.debug("of TensorRT's own")
        log.info("building pair.onnx: %d s spent", 35)
        log.warning("stale")
        log.error("broken")
    log.info("later")
    assert Logger.lines == [("info", "building pair.onnx: 35 s spent"), ("warning", "stale"), ("error", "broken")]
