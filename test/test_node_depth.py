"""Compressed depth of the node over DDS, paired by message_filters where that is installed."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: pip install -r requirements/ros-jazzy.txt")
pytest.importorskip("stfm_ros.msg", reason="needs the generated messages: pip install . where ROS 2 is")

from camera_process import image_message, info_message
from fake_matcher_node import FakeMatcher
from ros_bench import Observer, running
from sensor_msgs.msg import CompressedImage
from test_node import Camera, watch

from stfm_ros import messages
from stfm_ros.config import MatcherConfig
from stfm_ros.msg import RelativePose
from stfm_ros.nodes.conversion import to_ros

__all__ = ["watch"]  # the fixture


def depth_png() -> bytes:
    """Of the fake matcher's points, in millimetres."""
    keypoints = FakeMatcher(MatcherConfig())._keypoints0.round().astype(int)
    points = np.random.default_rng(0).uniform((-2.0, -1.5, 4.0), (2.0, 1.5, 8.0), (200, 3))
    millimetres = np.zeros((480, 640), np.uint16)
    millimetres[keypoints[:, 1], keypoints[:, 0]] = (1000 * points[:, 2]).round()
    return cv2.imencode(".png", millimetres)[1].tobytes()


@pytest.mark.parametrize(
    ("transport", "form", "before"),
    [("compressed", "16UC1; png compressed ", b""), ("compressedDepth", "16UC1; compressedDepth png", bytes(12))],
)
def test_compressed_depth_gives_metres(watch: Observer, transport: str, form: str, before: bytes) -> None:
    with running(
        "-p", "odometry.scale:=depth", "-p", f"node.depth_transport:={transport}", "-r", "depth:=/cam/aligned_depth"
    ):
        camera = Camera(watch)
        depths = watch.create_publisher(CompressedImage, f"/cam/aligned_depth/{transport}", 10)
        camera.connect()
        watch.until("subscriber", lambda: depths.get_subscription_count() == 1)

        def depth(data: bytes, late_ns: int = 0) -> CompressedImage:
            stamp_ns = camera.stamp_ns + late_ns
            return to_ros(CompressedImage, messages.compressed_image(stamp_ns, "camera", form, data))

        camera.good()
        camera.good()
        assert watch.poses[-1].status == RelativePose.OK, "an image waits for no depth"
        assert "no metric length: no depth image within 0.02 s" in watch.poses[-1].reason

        depths.publish(depth(b"no picture" + bytes(10)))
        watch.until("fault", lambda: watch.count("fault.scale") == 1)
        assert "cannot be decoded: expected a whole JPEG, PNG" in watch.values["last_error"]

        camera.stamp_ns += 100_000_000_000  # a reference is renewed by age
        camera.send(image_message(camera.stamp_ns), info_message(camera.stamp_ns))
        depths.publish(depth(before + depth_png(), late_ns=5_000_000))
        time.sleep(0.3)
        camera.good()
        pose = watch.poses[-1]
        assert pose.metric, pose.reason
        position = pose.pose.pose.position
        np.testing.assert_allclose([position.x, position.y, position.z], [-0.4, -0.1, 0], atol=0.01)
