"""The teacher node in a process of its own, over DDS: each image with its depth, and what becomes of those without."""

from __future__ import annotations

import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: pip install -r requirements/ros-jazzy.txt")
pytest.importorskip("stfm_ros.msg", reason="needs the generated messages: pip install . where ROS 2 is")

from camera_process import image_message, info_message
from fake_teacher_node import depth_of_points
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_bench import HERE, NodeProcess, Observer, environment, running
from sensor_msgs.msg import CameraInfo, Image
from test_node import watch

from stfm_ros import messages
from stfm_ros.config import TeacherAppConfig, from_mapping, settings
from stfm_ros.errors import ConfigError
from stfm_ros.msg import RelativePose
from stfm_ros.nodes.conversion import to_ros
from stfm_ros.types import Float32Array

__all__ = ["watch"]  # the fixture

STEP_NS = 100_000_000
RELIABLE = (
    "-p", "node.reliability:=reliable", "-p", "node.scale_reliability:=reliable", "-p", "node.policy:=keep_all",
)  # fmt: skip
SCRIPT = "fake_teacher_node.py"
METRES = depth_of_points()


def in_millimetres(metres: Float32Array, stamp_ns: int) -> Image:
    image = Image(height=480, width=640, encoding="16UC1", step=1280)
    image.data.frombytes((1000 * metres).round().astype(np.uint16).tobytes())
    image.header.stamp.sec, image.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    return image


def in_metres(metres: Float32Array, stamp_ns: int) -> Image:
    return to_ros(Image, messages.depth_image(stamp_ns, "camera", metres))


class DepthCamera:
    """Publishes images and depth one by one, in any order."""

    def __init__(self, watch: Observer) -> None:
        watch.most_in_flight = 40
        qos = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
        self.watch = watch
        self.images = watch.create_publisher(Image, "image", qos)
        self.infos = watch.create_publisher(CameraInfo, "camera_info", qos)
        self.depths = watch.create_publisher(Image, "depth", qos)
        self.stamp_ns = 1_000_000_000_000
        self.connect()

    def connect(self) -> None:
        """Wait for the node, and give it the calibration."""
        for publisher in (self.images, self.infos, self.depths):
            self.watch.until("subscriber", lambda one=publisher: one.get_subscription_count() == 1)
        time.sleep(0.5)  # the other side may still be about to match
        self.infos.publish(info_message(self.stamp_ns))
        time.sleep(0.2)

    def step(self) -> int:
        self.stamp_ns += STEP_NS
        return self.stamp_ns

    def image(self) -> None:
        self.images.publish(image_message(self.stamp_ns))

    def depth(self, metres: Float32Array = METRES, late_ns: int = 0) -> None:
        self.depths.publish(in_metres(metres, self.stamp_ns + late_ns))

    def both(self) -> None:
        """An image with its depth, and what the node makes of it."""
        self.step()
        self.image()
        self.depth()
        self.result()

    def result(self) -> RelativePose:
        """The pose of the newest image."""
        wanted = messages.time(self.stamp_ns)

        def there() -> bool:
            stamp = self.watch.poses[-1].header.stamp if self.watch.poses else None
            return stamp is not None and (stamp.sec, stamp.nanosec) == (wanted["sec"], wanted["nanosec"])

        self.watch.until("pose", there, 10)
        return self.watch.poses[-1]


def position(pose: RelativePose) -> list[float]:
    at = pose.pose.pose.position
    return [at.x, at.y, at.z]


def test_every_image_goes_with_its_depth_or_is_counted(watch: Observer) -> None:
    # what decides is what has come, not how long it took on a busy machine
    with running(*RELIABLE, "-p", "teacher.depth_wait_s:=10.0", script=SCRIPT):
        camera = DepthCamera(watch)
        camera.both()
        assert camera.result().status == RelativePose.NO_REFERENCE

        # the depth after its image, before it, in both units, its stamp a little off
        camera.both()
        camera.step()
        camera.depths.publish(in_millimetres(METRES, camera.stamp_ns))
        camera.image()
        camera.result()
        camera.step()
        camera.image()
        camera.depth(late_ns=7_000_000)
        pose = camera.result()
        assert pose.metric and pose.status == RelativePose.OK, pose.reason
        # the points moved by (0.4, 0.1, 0), so the camera moved the other way
        np.testing.assert_allclose(position(pose), [-0.4, -0.1, 0], atol=0.01)
        covariance = np.reshape(pose.pose.covariance, (6, 6))
        assert np.linalg.eigvalsh(covariance).min() > 0 and covariance[0, 0] < 0.01**2
        assert watch.count("failed") == 0

        # an image whose depth is lost, and the next, which is in time
        camera.step()
        camera.image()
        camera.both()
        watch.until("fault", lambda: watch.count("fault.sync") == 1, 10)
        assert watch.count("failed") == watch.count("depth_missing") == 1
        assert "no depth on /depth within 0.02 s" in watch.values["last_error"]
        assert "on /image, which is left out: a depth of a later stamp came" in watch.values["last_error"]

        # depth of another size, and of no known encoding
        camera.step()
        small = in_metres(METRES[:240, :320], camera.stamp_ns)
        camera.depths.publish(small)
        camera.image()
        watch.until("fault", lambda: watch.count("fault.depth") == 1, 10)
        assert "the depth is 320x240, its image is 640x480: expected depth registered" in watch.values["last_error"]
        camera.step()
        broken = in_metres(METRES, camera.stamp_ns)
        broken.encoding = "rgb8"
        camera.depths.publish(broken)
        camera.image()
        camera.both()
        watch.until("faults", lambda: watch.count("fault.scale") == 1 and watch.count("fault.sync") == 2, 10)
        assert camera.result().metric

        # a recording that starts again
        camera.stamp_ns -= 50 * STEP_NS
        camera.both()
        assert camera.result().status == RelativePose.NO_REFERENCE
        camera.both()
        assert camera.result().metric
        watch.until("nothing in flight", lambda: watch.count("in_flight") == 0 and watch.count("received") == 11, 10)
        assert watch.count("failed") == 3 and watch.count("processed") == 11 and watch.count("dropped") == 0
        assert watch.count("depth_paired") == 9 and watch.count("depth_missing") == 2
        assert watch.values["depth_sync_rate"] == "0.818" and watch.values["depth_coverage.p50"] == "1.00"
        assert watch.values["depth_offset_ms.p95"] != watch.values["depth_offset_ms.p50"] == "0.00"
        assert watch.values["fault.stamp"] == "1" and "depth_age_ms.p50" in watch.values
        stamps = [pose.header.stamp.sec * 10**9 + pose.header.stamp.nanosec for pose in watch.poses]
        assert [k for k, (a, b) in enumerate(pairwise(stamps)) if b < a] == [5], "in order, but for the jump"


def test_what_waits_and_what_covers_too_little_is_said(watch: Observer) -> None:
    with running(*RELIABLE, "-p", "teacher.depth_wait_s:=0.3", script=SCRIPT):
        camera = DepthCamera(watch)
        camera.step()
        camera.image()
        watch.until("fault", lambda: watch.count("fault.sync") == 1, 10)
        assert "none came in 0.3 s (teacher.depth_wait_s); none has come at all: remap" in watch.values["last_error"]

        sparse = depth_of_points(base_m=0.0)
        for _ in range(2):
            camera.step()
            camera.image()
            camera.depth(sparse)
            camera.result()
        watch.until("warning", lambda: watch.summary.startswith("depth covers 1% of the pixels (median), expected 30%"))
        assert watch.level == b"\x01" and "teacher.min_coverage" in watch.summary
        change = SetParameters.Request(
            parameters=[
                Parameter("teacher.min_coverage", value=0.001).to_parameter_msg(),
                Parameter("teacher.depth_wait_s", value=10.0).to_parameter_msg(),
            ]
        )
        results = watch.call(SetParameters, "/teacher/set_parameters", change).results
        assert all(result.successful for result in results), results
        watch.until("no warning", lambda: watch.level == b"\x00", 10)

        camera.step()
        camera.image()
        watch.until("image that waits", lambda: watch.count("in_flight") == 1, 10)
        for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE):
            request = ChangeState.Request(transition=Transition(id=transition))
            assert watch.call(ChangeState, "/teacher/change_state", request).success
            watch.until("nothing that waits", lambda: watch.count("in_flight") == 0, 10)
        assert watch.count("dropped") == 1 and watch.count("received") == 4
        camera.connect()
        camera.both()
        assert camera.result().status == RelativePose.NO_REFERENCE


RGB_IN_TEACHER = (
    "matcher.model: teacher takes colour alone, and the teacher node is for a model that takes depth too: name an "
    "RGB-D model (teacher), or start the matcher node (matcher.launch.py, stfm-matcher) with odometry.scale depth for "
    "metres"
)
RGBD_IN_MATCHER = (
    "matcher.model: default takes colour and depth (RGB-D, a teacher), and the matcher node has no depth for it: name "
    "an RGB model (default), or start the teacher node (teacher.launch.py, stfm-teacher)"
)


@pytest.mark.parametrize(
    ("model", "node", "words"),
    [("FakeMatcher", "teacher", RGB_IN_TEACHER), ("FakeTeacher", "matcher", RGBD_IN_MATCHER)],
)
def test_a_model_of_the_other_kind_is_refused(model: str, node: str, words: str) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(HERE)!r}); from fake_teacher_node import {model}; "
        f"from stfm_ros.nodes.{node} import main; sys.exit(main(load={model}))"
    )
    run = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
    assert run.returncode == 1 and f"cannot be configured: {words}" in run.stdout + run.stderr


def test_metres_of_anything_else_are_refused() -> None:
    with pytest.raises(ConfigError, match="odometry.scale: 'none' is not one of depth"):
        from_mapping(TeacherAppConfig, {"odometry.scale": "none", "matcher.model": "default"})
    code, said = NodeProcess("-p", "odometry.scale:=twist", "-p", "teacher.wait:=1.0", script=SCRIPT).wait()
    assert code == 2
    assert "teacher: the configuration has faults:" in said
    assert (
        "odometry.scale: 'twist' is not one of depth" in said and "teacher.wait: unknown setting; did you mean" in said
    )


def test_the_defaults_are_those_of_a_teacher() -> None:
    config = TeacherAppConfig()
    assert (config.matcher.model, config.odometry.scale, config.teacher.depth_wait_s) == ("teacher", "depth", 0.2)
    for setting in settings(TeacherAppConfig):
        assert setting.about.description.endswith(".") and setting.about.fault(setting.default) == "", setting.name
