"""The matcher node in a process of its own, over DDS, with types checked (ROS_PYTHON_CHECK_FIELDS)."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: pip install -r requirements/ros-jazzy.txt")
pytest.importorskip("stfm_ros.msg", reason="needs the generated messages: pip install . where ROS 2 is")

import rclpy
from camera_process import QOS, image_message, info_message
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_bench import HERE, NodeProcess, Observer, environment, observer, running
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from stfm_ros.config import AppConfig, settings
from stfm_ros.msg import RelativePose
from stfm_ros.types import PoseStatus


@pytest.fixture
def watch() -> Iterator[Observer]:
    with observer() as found:
        yield found


@contextmanager
def other_participant() -> Iterator[Node]:
    """A node for a topic whose type differs from the observer's."""
    context = Context()
    rclpy.init(context=context)
    node = Node("other", context=context)
    try:
        yield node
    finally:
        node.destroy_node()
        rclpy.try_shutdown(context=context)


class Camera:
    """Publishes single messages, each with a later stamp."""

    def __init__(self, watch: Observer, reliability: ReliabilityPolicy = ReliabilityPolicy.BEST_EFFORT) -> None:
        self.watch = watch
        qos = QoSProfile(depth=1, reliability=reliability)
        self.images = watch.create_publisher(Image, "image", qos)
        self.infos = watch.create_publisher(CameraInfo, "camera_info", qos)
        self.stamp_ns = 1_000_000_000_000

    def connect(self) -> None:
        self.watch.until("subscriber", lambda: self.images.get_subscription_count() == 1)
        self.watch.until("subscriber", lambda: self.infos.get_subscription_count() == 1)
        time.sleep(1.0)  # the other side may still be about to match

    def send(self, image: Image | None = None, info: CameraInfo | None = None) -> None:
        """Publish, and wait until the node has taken it: two images in a row would replace each other."""
        if info is not None:
            self.infos.publish(info)
            time.sleep(0.15)
        if image is None:
            return
        before = self.watch.count("processed")
        self.images.publish(image)
        self.watch.until("processed image", lambda: self.watch.count("processed") > before, 10)

    def good(self, info: bool = True, size: tuple[int, int] = (640, 480), value: int = 128) -> Image:
        self.stamp_ns += 100_000_000
        image = image_message(self.stamp_ns, size, value)
        self.send(image, info_message(self.stamp_ns, size) if info else None)
        return image


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "count", "pair_ms"), [(10, 60, 20), (60, 2000, 30)])
def test_every_image_is_accounted_for(watch: Observer, rate: int, count: int, pair_ms: float) -> None:
    """At 60 Hz a matcher of 30 ms cannot keep up: images are dropped, and the delay stays that of one image."""
    with running(pair_ms=pair_ms) as node:
        camera = subprocess.Popen(
            [sys.executable, str(HERE / "camera_process.py"), str(rate), str(count)],
            env=environment(), stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        memory = []
        while camera.poll() is None:
            if watch.count("received") > count // 4:
                memory.append(node.rss_mb())
            time.sleep(0.1)
        watch.until("image in flight done", lambda: watch.count("in_flight") == 0)
        final = dict(watch.values)
    assert int(camera.communicate()[0]) == count
    received, processed, dropped = (int(final[key]) for key in ("received", "processed", "dropped"))
    print(final, memory[-1])
    assert received >= 0.8 * count, "best effort on a busy machine loses some, but not most"
    assert received == processed + dropped
    assert final["failed"] == "0" and final["last_error"] == ""
    assert processed == sum(int(value) for key, value in final.items() if key.startswith("status."))
    if rate == 60:
        assert dropped > 0.2 * received
    assert float(final["latency_ms.total.p95"]) < 10 * pair_ms + 200
    assert float(final["age_ms.p95"]) < 250
    assert max(memory) - memory[0] < 8, "memory grows"


def test_a_pair_is_published_with_the_stamps_of_its_images(watch: Observer) -> None:
    with running("-r", "__ns:=/front", "-r", "/front/matches:=/matches", "-r", "/front/relative_pose:=/relative_pose",
                 "-r", "image:=/image"):  # fmt: skip
        camera = Camera(watch)  # /camera_info is found beside /image
        camera.connect()
        first = camera.good()
        second = camera.good()
        watch.until("two poses", lambda: len(watch.poses) == 2 and len(watch.matches) == 2)
    pose, matches = watch.poses[1], watch.matches[1]
    for message in (pose, matches):
        assert message.header == second.header
        assert message.reference_stamp == first.header.stamp
        assert message.reference_frame_id == "camera_optical_frame"
    assert pose.status == RelativePose.OK, pose.reason
    # the points moved by (0.4, 0.1, 0), so the camera moved the other way; one camera sees the direction alone
    position = pose.pose.pose.position
    np.testing.assert_allclose([position.x, position.y, position.z], np.array([-0.4, -0.1, 0]) / 0.17**0.5, atol=0.02)
    assert not pose.metric and pose.matches == 200 and pose.inliers >= 180
    assert abs(pose.pose.pose.orientation.w) > 0.9999
    covariance = np.reshape(pose.pose.covariance, (6, 6))
    assert np.linalg.eigvalsh(covariance).min() >= -1e-12 and covariance.any()
    assert len(matches.keypoints0) == len(matches.keypoints1) == 400
    assert len(matches.confidence) == len(matches.sigma) == len(matches.inliers) == 200
    assert sum(matches.inliers) == pose.inliers
    assert (matches.width0, matches.height0, matches.width1, matches.height1) == (640, 480, 640, 480)
    assert (matches.model_name, matches.weights_hash) == ("fake", "0" * 64)


Change = Callable[[Any], None]


def setter(**fields: Any) -> Change:
    def change(message: Any) -> None:
        for name, value in fields.items():
            setattr(message, name, value)

    return change


BAD_IMAGES = {
    "unknown encoding": (setter(encoding="h264"), "'h264'"),
    "truncated": (lambda msg: setattr(msg, "data", msg.data[:1000]), "1000 bytes of data"),
    "zero size": (setter(width=0, height=0, step=0), "has no pixels"),
    "step too small": (setter(step=10), "step is 10 bytes"),
}
BAD_INFOS = {
    "NaN intrinsics": (setter(k=np.full(9, np.nan)), "not finite"),
    "not calibrated": (setter(k=np.zeros(9)), "must be positive"),
    "distortion model": (setter(distortion_model="fov", d=[0.9]), "distortion model 'fov'"),
    "other size": (setter(width=1280, height=960), "camera_info is of an image of 1280x960"),
}


def test_bad_input_is_counted_and_survived(watch: Observer) -> None:
    with running():
        camera = Camera(watch)
        camera.connect()
        camera.good(info=False)
        assert watch.poses[-1].status == RelativePose.NO_REFERENCE
        camera.good(info=False)
        assert watch.poses[-1].status == RelativePose.NO_CAMERA_INFO
        camera.good()
        assert watch.poses[-1].status == RelativePose.OK, watch.poses[-1].reason

        for number, (name, (change, words)) in enumerate(BAD_IMAGES.items(), 1):
            camera.stamp_ns += 100_000_000
            image = image_message(camera.stamp_ns)
            change(image)
            camera.send(image)
            assert watch.count("fault.image") == watch.count("failed") == number, name
            assert words in watch.values["last_error"], name
            assert camera.good().header == watch.matches[-1].header, f"the node goes on after {name}"

        for number, (name, (change, words)) in enumerate(BAD_INFOS.items(), 1):
            camera.stamp_ns += 100_000_000
            info = info_message(camera.stamp_ns)
            change(info)
            camera.send(image_message(camera.stamp_ns), info)
            watch.until(name, lambda n=number: watch.count("fault.camera_info") == n, 5)
            assert words in watch.values["last_error"], name
            watch.until("pose", lambda info=info: watch.poses[-1].header == info.header, 5)
            assert watch.poses[-1].status == RelativePose.NO_CAMERA_INFO and words in watch.poses[-1].reason
            camera.good()

        camera.stamp_ns -= 50_000_000_000
        camera.good()
        assert watch.count("fault.stamp") == 1 and "jumped back by 49.900 s" in watch.values["last_error"]
        assert watch.poses[-1].reference_stamp == watch.poses[-1].header.stamp, "the image is the new reference"
        camera.stamp_ns -= 100_000_000
        camera.good()
        assert watch.count("fault.stamp") == 2 and "two images carry the stamp" in watch.values["last_error"]

        camera.good(value=0)
        assert watch.poses[-1].status in (RelativePose.FEW_MATCHES, RelativePose.LOST), "a black image"
        assert watch.matches[-1].confidence == watch.matches[-1].keypoints0
        camera.good(size=(320, 240))
        assert (watch.matches[-1].width1, watch.matches[-1].height1) == (320, 240)
        camera.good()
        camera.good()
        assert watch.poses[-1].status == RelativePose.OK, watch.poses[-1].reason
        assert "fault.internal" not in watch.values, watch.values["last_error"]


def test_a_silent_input_is_explained(watch: Observer) -> None:
    with running("-p", "node.input_timeout_s:=0.5", "-p", "node.reliability:=reliable"):
        watch.until("error", lambda: watch.level == b"\x02")
        assert "no message on /image for" in watch.summary and "no message on /camera_info for" in watch.summary
        assert "nobody publishes it; remap image:=<topic>" in watch.summary
        camera = Camera(watch)
        words = "/observer offers best_effort; set node.reliability to best_effort"
        watch.until("cause", lambda: words in watch.summary)
        watch.destroy_publisher(camera.images)
        with other_participant() as other:
            other.create_publisher(CompressedImage, "image", 1)
            watch.until("cause", lambda: "publishes sensor_msgs/msg/CompressedImage there" in watch.summary)
        watch.destroy_publisher(camera.infos)
        camera = Camera(watch, ReliabilityPolicy.RELIABLE)
        watch.until("cause", lambda: "publishes it with a fitting QoS, yet nothing arrives" in watch.summary)
        camera.good()
        watch.until("recovery", lambda: watch.level == b"\x00")


def test_compressed_images_and_the_debug_picture(watch: Observer) -> None:
    import cv2

    pictures: list[Image] = []
    with running("-p", "node.compressed:=true", "-p", "node.debug_image_width:=300", "-r", "image:=/cam/image_raw"):
        images = watch.create_publisher(CompressedImage, "/cam/image_raw/compressed", QOS)
        infos = watch.create_publisher(CameraInfo, "/cam/camera_info", QOS)
        watch.until("subscribers", lambda: images.get_subscription_count() and infos.get_subscription_count())
        watch.create_subscription(Image, "matches/image", lambda msg: pictures.append(msg), 1)
        jpeg = cv2.imencode(".jpg", np.full((480, 640, 3), 90, np.uint8))[1].tobytes()
        stamp_ns = 1_000_000_000
        while len(pictures) < 2:
            stamp_ns += 100_000_000
            info = info_message(stamp_ns)
            infos.publish(info)
            images.publish(CompressedImage(header=info.header, format="bgr8; jpeg compressed bgr8", data=jpeg))
            time.sleep(0.15)
            assert stamp_ns < 20_000_000_000, watch.summary
        broken = CompressedImage(header=info_message(stamp_ns + 1).header, format="jpeg", data=jpeg[:20])
        images.publish(broken)
        watch.until("fault", lambda: watch.count("fault.image") == 1)
        assert "cannot be decoded" in watch.values["last_error"]
    picture = pictures[-1]
    assert (picture.width, picture.encoding, len(picture.data)) == (300, "rgb8", picture.height * 900)


def change_state(watch: Observer, transition: int) -> bool:
    request = ChangeState.Request(transition=Transition(id=transition))
    answer: bool = watch.call(ChangeState, "/matcher/change_state", request).success
    return answer


def set_parameter(watch: Observer, name: str, value: Any) -> Any:
    parameter = RosParameter(name, value=value).to_parameter_msg()
    request = SetParameters.Request(parameters=[parameter])
    return watch.call(SetParameters, "/matcher/set_parameters", request).results[0]


def test_lifecycle_and_parameters(watch: Observer) -> None:
    with running("-p", "node.autostart:=false"):
        camera = Camera(watch)
        names = [setting.name for setting in settings(AppConfig)]
        found = watch.call(
            DescribeParameters, "/matcher/describe_parameters", DescribeParameters.Request(names=names)
        ).descriptors
        for setting, about in zip(settings(AppConfig), found):
            assert about.description.startswith(setting.about.description)
            if setting.about.choices:
                assert setting.about.choices[-1] in about.additional_constraints
            if setting.type in (int, float):
                (limits,) = about.integer_range or about.floating_point_range
                assert (limits.from_value, limits.to_value) == (setting.about.minimum, setting.about.maximum)

        assert set_parameter(watch, "matcher.threshold", 0.3).successful
        assert set_parameter(watch, "matcher.threads", 1).successful
        assert not set_parameter(watch, "matcher.threshold", 1.5).successful
        for _ in range(2):
            assert change_state(watch, Transition.TRANSITION_CONFIGURE)
            watch.until("diagnostics", lambda: watch.summary == "not active")
            assert watch.values["model"] == "fake"
            refused = set_parameter(watch, "matcher.threads", 2)
            assert not refused.successful and "matcher.threads: read when the node" in refused.reason
            assert "deactivate and clean it up" in refused.reason
            assert change_state(watch, Transition.TRANSITION_ACTIVATE)
            camera.connect()
            camera.good()
            watch.matches.clear()
            camera.good()
            watch.until("matches", lambda: watch.matches)
            assert change_state(watch, Transition.TRANSITION_DEACTIVATE)
            watch.until("end of the subscription", lambda: camera.images.get_subscription_count() == 0)
            assert change_state(watch, Transition.TRANSITION_CLEANUP)
        assert change_state(watch, Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)


def test_all_faults_of_the_parameters_are_told_at_once() -> None:
    arguments = ("matcher.threshold:=2.0", "matcher.treshold:=0.3", "pose.min_inliers:=many", "node.reliability:=maybe")
    code, said = NodeProcess(*(word for argument in arguments for word in ("-p", argument))).wait()
    assert code == 2
    assert "matcher.threshold: 2.0 is above the maximum 1" in said
    assert "matcher.treshold: unknown setting; did you mean matcher.threshold?" in said
    assert "pose.min_inliers: expected int, got str 'many'" in said
    assert "node.reliability: 'maybe' is not one of best_effort, reliable" in said
    assert "Traceback" not in said


def test_a_model_that_is_not_there_ends_the_node_with_its_reason() -> None:
    code, said = NodeProcess("-p", "matcher.model:=/no/such/model", pair_ms=None).wait()
    assert code == 1
    assert "cannot be configured" in said and "/no/such/model" in said
    assert "Traceback" not in said


def test_status_constants_equal_the_enum() -> None:
    for status in PoseStatus:
        assert getattr(RelativePose, status.name) == status
