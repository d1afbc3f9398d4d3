"""A student beside the teacher in its node, over DDS."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: pip install -r requirements/ros-jazzy.txt")
pytest.importorskip("stfm_ros.msg", reason="needs the generated messages: pip install . where ROS 2 is")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from fake_matcher_node import FakeMatcher
from fake_shadow_node import OFF_PX, WRONG
from fake_teacher_node import depth_of_points
from ros_bench import NodeProcess, Observer, running
from test_node import watch
from test_teacher_node import RELIABLE, DepthCamera

from stfm_ros.config import MatcherConfig, TeacherAppConfig, from_mapping
from stfm_ros.errors import ConfigError
from stfm_ros.matcher import Matcher
from stfm_ros.msg import RelativePose, StudentCheck
from stfm_ros.nodes.shadow import load_student
from stfm_ros.types import Float32Array

__all__ = ["watch"]  # the fixture

SCRIPT = "fake_shadow_node.py"
SHADOW = (*RELIABLE, "-p", "shadow.model:=student", "-p", "tracker.keyframe_inliers:=20")


def depth_after() -> Float32Array:
    """(480, 640) metres of the same points where they are seen after the motion, which keeps their distance."""
    points = np.random.default_rng(0).uniform((-2.0, -1.5, 4.0), (2.0, 1.5, 8.0), (200, 3))
    metres = np.full((480, 640), 5.0, np.float32)
    for (x, y), z in zip(FakeMatcher(MatcherConfig())._keypoints1.round().astype(int), points[:, 2]):
        metres[y - 2 : y + 3, max(x - 2, 0) : x + 3] = z
    return metres


def test_what_the_student_does_is_said_for_every_image(watch: Observer) -> None:
    checks: list[StudentCheck] = []
    statuses: list[DiagnosticStatus] = []
    watch.create_subscription(StudentCheck, "student_check", checks.append, 50)
    watch.create_subscription(
        DiagnosticArray,
        "/diagnostics",
        lambda msg: statuses.extend(status for status in msg.status if status.name == "teacher: student"),
        10,
    )
    with running(*SHADOW, "-p", "shadow.window:=10", script=SCRIPT):
        camera = DepthCamera(watch)
        watch.until("publisher", lambda: watch.count_publishers("student_check") == 1, 10)
        camera.step(), camera.image(), camera.depth(depth_of_points())
        camera.result()
        for _ in range(12):
            camera.step(), camera.image(), camera.depth(depth_after())
            camera.result()
        watch.until("checks", lambda: len(checks) == 13, 10)
        watch.until("a warning", lambda: statuses and statuses[-1].level == DiagnosticStatus.WARN, 10)
        assert watch.count("fault.internal") == 0

    first, last = checks[0], checks[-1]
    assert first.verdict == StudentCheck.NO_REFERENCE and np.isnan(first.disagreement) and first.reason == "first image"
    assert (last.header.stamp, last.reference_stamp) == (watch.poses[-1].header.stamp, watch.poses[-1].reference_stamp)
    assert last.header.frame_id == last.reference_frame_id == "camera_optical_frame"
    assert (last.teacher_name, last.teacher_hash) == ("fake", "0" * 64)
    assert (last.student_name, last.student_hash) == ("fake student", "1" * 64)
    assert (last.verdict, last.reason) == (StudentCheck.JUDGED, "")
    assert (last.teacher_matches, last.student_matches) == (200, 200)
    assert last.teacher_inliers > 150 and 100 < last.student_inliers <= 150
    assert last.limit_px == 3.0 and 100 < last.judged <= 200
    assert last.right == pytest.approx(1 - WRONG.mean(), abs=0.05)
    assert last.common == pytest.approx(1 - WRONG.mean(), abs=0.05) and last.common_px == 0.0 and last.error_px < 0.5
    assert last.teacher_right == 1.0 and last.covered >= last.right
    assert last.disagreement == pytest.approx(1 - min(last.right / last.teacher_right, last.covered))
    assert list(last.confidence_judged) == [0] * 9 + [last.judged]
    assert last.confidence_right[9] == round(last.right * last.judged)
    assert last.confidence_sum[9] == pytest.approx(0.9 * last.judged, rel=1e-5)
    assert last.teacher_status == RelativePose.OK and last.student_status == RelativePose.OK
    assert last.rotation_deg < 1.0 and last.direction_deg < 10.0 and np.isnan(last.length_m)
    assert last.within_1_sigma <= last.within_2_sigma and last.rotation_nees >= 0

    values = {pair.key: pair.value for pair in statuses[-1].values}
    assert statuses[-1].message.startswith("the student is weak here: ")
    assert values["pairs"] == values["judged"] == "10" and values["model"] == "fake student"
    assert float(values["right"]) == pytest.approx(last.right, abs=1e-3)
    assert values["confidence 0.9-1.0"].startswith("said 0.90, right 0.7")
    assert last.limit_px < OFF_PX


def test_a_student_that_cannot_be_one_is_refused_at_the_start() -> None:
    code, said = NodeProcess("-p", "shadow.model:=teacher", script=SCRIPT).wait()
    words = "shadow.model names fake, which takes colour and depth: expected what runs on a robot without depth"
    assert code == 1 and words in said


def test_a_student_that_is_not_there_is_named_by_its_parameter() -> None:
    config = from_mapping(TeacherAppConfig, {"shadow.model": "defualt"})
    with pytest.raises(ConfigError, match="^shadow.model: .*defualt.*default"):
        load_student(Matcher.from_pretrained, config)
    assert load_student(Matcher.from_pretrained, TeacherAppConfig()) is None
