"""Odometry of the node over DDS: metres of another sensor, what is said when lost, services, switches, keep-all."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: pip install -r requirements/ros-jazzy.txt")
pytest.importorskip("stfm_ros.msg", reason="needs the generated messages: pip install . where ROS 2 is")

from camera_process import image_message, info_message
from fake_matcher_node import FakeMatcher
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry, Path
from rclpy.qos import ReliabilityPolicy
from ros_bench import NodeProcess, Observer, running
from sensor_msgs.msg import Image, PointCloud2
from std_srvs.srv import Trigger
from test_node import Camera, set_parameter, watch

from stfm_ros import messages
from stfm_ros.config import MatcherConfig
from stfm_ros.msg import RelativePose
from stfm_ros.nodes.conversion import to_ros

__all__ = ["watch"]  # the fixture

STEP = float(np.hypot(0.4, 0.1))  # what the fake matcher's points move by, in metres
#: a camera half a metre ahead of the base, looking ahead, as TF would say
TF2 = """
from geometry_msgs.msg import TransformStamped

class TransformException(Exception):
    pass

class Buffer:
    asked = 0

    def lookup_transform(self, target, source, time):
        self.asked += 1
        if self.asked <= 2:
            raise TransformException("not heard of yet")
        assert (target, source) == ("base_link", "camera_optical_frame")
        found = TransformStamped()
        found.transform.translation.x = 0.5
        turned = found.transform.rotation
        turned.x, turned.y, turned.z, turned.w = -0.5, 0.5, -0.5, 0.5
        return found

class TransformListener:
    def __init__(self, buffer, node):
        pass

    def unregister(self):
        pass
"""


class Sinks:
    """Keeps what comes on the topics of the odometry."""

    def __init__(self, watch: Observer) -> None:
        self.odometry: deque[Odometry] = deque(maxlen=50)
        self.poses: deque[PoseWithCovarianceStamped] = deque(maxlen=50)
        self.paths: deque[Path] = deque(maxlen=50)
        self.points: deque[PointCloud2] = deque(maxlen=50)
        for kind, topic, sink in (
            (Odometry, "odometry", self.odometry),
            (PoseWithCovarianceStamped, "pose", self.poses),
            (Path, "path", self.paths),
            (PointCloud2, "points", self.points),
        ):
            watch.create_subscription(kind, topic, lambda msg, sink=sink: sink.append(msg), 10)


def trigger(watch: Observer, name: str) -> Any:
    return watch.call(Trigger, f"/matcher/{name}", Trigger.Request())


def test_odometry_from_wheels_to_services(watch: Observer, tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tf2_ros.py").write_text(TF2)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    settings = {
        "odometry.scale": "odometry",
        "odometry.base_frame": "base_link",
        "tracker.reference": "previous",
        "node.when_lost": "null",
        "node.scale_reliability": "reliable",
    }
    with running(*(word for name, value in settings.items() for word in ("-p", f"{name}:={value}"))):
        sinks, camera = Sinks(watch), Camera(watch)
        wheels = watch.create_publisher(Odometry, "scale/odometry", 10)
        camera.connect()
        watch.until("subscriber", lambda: wheels.get_subscription_count() == 1)

        def go(value: int = 128) -> Any:
            """One image, and the wheels that moved as far; to the left, and up with the camera."""
            stamp_ns = camera.stamp_ns + 100_000_000
            moved = STEP * stamp_ns / 1e8
            pose = {"position": {"x": moved}, "orientation": {"w": 1.0}}
            wheels.publish(to_ros(Odometry, {"header": messages.header(stamp_ns, "w"), "pose": {"pose": pose}}))
            time.sleep(0.1)
            return camera.good(value=value)

        go()
        go()  # TF has not heard of the camera yet
        assert watch.poses[-1].metric, watch.poses[-1].reason
        assert not sinks.odometry
        last = [go() for _ in range(3)][-1]
        watch.until("all topics", lambda: len(sinks.odometry) == 3 and sinks.poses and sinks.paths and sinks.points)
        found = sinks.odometry[-1]
        assert (found.header.frame_id, found.child_frame_id) == ("odom", "base_link")
        assert found.header.stamp == last.header.stamp
        # the points move right and down in the image by (0.4, 0.1), so the camera moves left and up: +y and +z of ROS
        position = found.pose.pose.position
        np.testing.assert_allclose([position.x, position.y, position.z], [0, 3 * 0.4, 3 * 0.1], atol=0.1)
        velocity = found.twist.twist.linear
        np.testing.assert_allclose([velocity.x, velocity.y, velocity.z], [0, 4, 1], atol=0.3)
        first, third = (np.reshape(one.pose.covariance, (6, 6)) for one in (sinks.odometry[0], found))
        assert (np.diag(third) > np.diag(first)).all() and np.linalg.eigvalsh(first).min() > 0
        assert 0.02 * STEP < np.sqrt(first[1, 1]) < 0.2 * STEP, "5 % of the length, and the direction"
        watch.until("pose", lambda: sinks.poses[-1].header == found.header)
        assert sinks.poses[-1].pose == found.pose
        watch.until("path", lambda: len(sinks.paths[-1].poses) == 3)
        assert sinks.paths[-1].poses[-1].pose == found.pose.pose

        cloud = sinks.points[-1]
        assert cloud.header.frame_id == "camera_optical_frame" and cloud.header.stamp != found.header.stamp
        rows = np.frombuffer(cloud.data, np.float32).reshape(cloud.width, 6)
        assert [field.name for field in cloud.fields] == ["x", "y", "z", "rgb", "confidence", "sigma"]
        assert cloud.width > 150 and 3.8 < rows[:, 2].min() < rows[:, 2].max() < 8.3, "the depth of the points, metres"

        go(value=0)
        watch.until("a word when lost", lambda: len(sinks.odometry) == 4)
        lost = sinks.odometry[-1]
        turned = lost.pose.pose.orientation
        assert (turned.x, turned.y, turned.z, turned.w) == (0, 0, 0, 0)
        assert set(np.diag(np.reshape(lost.pose.covariance, (6, 6)))) == {9999.0} == {lost.twist.covariance[0]}
        assert watch.count("odometry_placed") == 3 and watch.values["odometry"] == "metric by odometry"

        assert set_parameter(watch, "node.when_lost", "silence").successful
        assert not set_parameter(watch, "odometry.scale", "none").successful
        go(value=0)
        go()
        watch.until("recovery", lambda: len(sinks.odometry) == 5)
        assert sinks.odometry[-1].pose.pose.orientation.w > 0.99

        assert "first reference" in trigger(watch, "reset").message
        go()
        assert "asked for by the service reset" in watch.poses[-1].reason
        go()
        watch.until("the origin again", lambda: len(sinks.odometry) == 6 and len(sinks.paths[-1].poses) == 1)
        assert sinks.odometry[-1].pose.pose.position.y == pytest.approx(0.4, abs=0.05)
        watch.until("restart", lambda: watch.count("odometry_restarts") == 1)


def test_depth_gives_metres_and_without_metres_there_is_no_odometry(watch: Observer) -> None:
    keypoints = FakeMatcher(MatcherConfig())._keypoints0.round().astype(int)
    points = np.random.default_rng(0).uniform((-2.0, -1.5, 4.0), (2.0, 1.5, 8.0), (200, 3))
    metres = np.zeros((480, 640), np.float32)
    metres[keypoints[:, 1], keypoints[:, 0]] = points[:, 2]
    with running("-p", "odometry.scale:=depth"):
        sinks, camera = Sinks(watch), Camera(watch)
        depths = watch.create_publisher(Image, "depth", 10)
        camera.connect()
        watch.until("subscriber", lambda: depths.get_subscription_count() == 1)
        camera.good()
        camera.good()
        assert watch.poses[-1].status == RelativePose.OK and not watch.poses[-1].metric
        assert "no metric length: no depth image within 0.02 s" in watch.poses[-1].reason
        assert not sinks.odometry and watch.count("odometry_placed") == 0
        assert trigger(watch, "set_keyframe").success
        camera.good()
        depth = messages.depth_image(camera.stamp_ns, "camera_optical_frame", metres)
        depths.publish(to_ros(Image, depth))  # after its image, which is the keyframe
        time.sleep(0.3)
        camera.good()
        pose = watch.poses[-1]
        assert pose.metric, pose.reason
        position = pose.pose.pose.position
        np.testing.assert_allclose([position.x, position.y, position.z], [-0.4, -0.1, 0], atol=0.01)
        watch.until("odometry", lambda: sinks.odometry)
        assert sinks.odometry[-1].child_frame_id == "camera_optical_frame"

        assert set_parameter(watch, "outputs.odometry", False).successful
        camera.good()
        watch.until("pose", lambda: len(sinks.poses) == 2)
        assert len(sinks.odometry) == 1
        assert trigger(watch, "pause").success
        before = watch.count("processed"), watch.count("dropped")
        for _ in range(2):
            camera.stamp_ns += 100_000_000
            camera.send(info=info_message(camera.stamp_ns))
            camera.images.publish(image_message(camera.stamp_ns))
        watch.until("drop", lambda: watch.count("dropped") == before[1] + 2)
        assert watch.count("processed") == before[0] and watch.summary == "paused"
        assert trigger(watch, "resume").success
        camera.good()


def test_keep_all_keeps_the_order_and_counts_what_it_cannot(watch: Observer) -> None:
    watch.most_in_flight = 6  # one in work, four that wait, one that makes another go
    with running("-p", "node.policy:=keep_all", "-p", "node.queue:=4", "-p", "node.reliability:=reliable", pair_ms=300):
        camera = Camera(watch, ReliabilityPolicy.RELIABLE)
        camera.connect()
        camera.good()
        stamps = []
        for _ in range(12):
            camera.stamp_ns += 100_000_000
            stamps.append(camera.stamp_ns)
            camera.images.publish(image_message(camera.stamp_ns))
            time.sleep(0.02)
        watch.until("end", lambda: watch.count("received") == 13 and watch.count("in_flight") == 0)
        watch.until("poses", lambda: len(watch.poses) == watch.count("processed"))
        assert watch.count("dropped") >= 6
        found = [messages.stamp_ns(pose.header) for pose in watch.poses][1:]
        assert found == sorted(found) and found[-4:] == stamps[-4:]
        assert watch.values["odometry"].startswith("no odometry: one camera sees no length")
        refused = set_parameter(watch, "node.policy", "newest")
        assert not refused.successful and "node.policy: read when" in refused.reason


def test_without_tf_its_settings_are_refused_with_the_remedy() -> None:
    for module, argument, words in (
        ("tf2_ros", "odometry.base_frame:=base_link", "tf2_ros cannot be imported: install ros-<distro>-tf2-ros-py"),
        ("tf2_msgs", "outputs.tf:=true", "tf2_msgs cannot be imported: install ros-<distro>-tf2-msgs"),
    ):
        try:
            __import__(module)
        except ModuleNotFoundError:
            code, said = NodeProcess("-p", argument).wait()
            assert code == 1 and words in said and "Traceback" not in said
