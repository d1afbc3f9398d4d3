"""Metres from a second camera: rectified and raw pairs of any lens, what does not serve, in a bag and over DDS."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from stereo_room import FlowMatcher, K, moved, raw_pair, rectified_pair, stereo_bag, view

from stfm_ros import messages
from stfm_ros.bag_types import to_message
from stfm_ros.bags import CAMERA_INFO_TYPE, IMAGE_TYPES, BagReader
from stfm_ros.config import AppConfig, OdometryConfig, PoseConfig
from stfm_ros.errors import BagError, CameraError
from stfm_ros.images import camera_from_info
from stfm_ros.offline import find_scale, find_stereo, find_topics, run_bag
from stfm_ros.scale import Pair
from stfm_ros.stereo import StereoDepth, StereoScale
from stfm_ros.tracker import Track, Tracker
from stfm_ros.types import ByteArray, Camera, Matches

FIRST, SECOND = rectified_pair()
STEP_NS = 100_000_000


def image(stamp_ns: int, picture: ByteArray) -> Any:
    return to_message(messages.image(stamp_ns, "right", picture), IMAGE_TYPES[0])


def info(camera: Camera) -> Any:
    return to_message(messages.camera_info(0, "right", camera), CAMERA_INFO_TYPE)


def run(scale: StereoScale, places: list[float], seconds: bool = True, first: Camera = FIRST) -> list[Track]:
    """The first camera at some places of the room; the second, 0.12 m to its right, at the same times."""
    tracker = Tracker(FlowMatcher(), AppConfig.from_mapping({"tracker.keyframe_parallax_deg": 90.0}), scale)
    found = []
    for i, x in enumerate(places):
        if seconds:
            scale.take(image(i * STEP_NS, view(SECOND, moved(x + 0.12))[0]))
        found.append(tracker.track(view(first, moved(x))[0], first, i * STEP_NS, "camera"))
    return found


@pytest.mark.parametrize("kind", ["rectified", "swapped", "plumb_bob", "equidistant"])
def test_depth_is_that_of_the_first_image_as_it_is_received(kind: str) -> None:
    if kind == "rectified":
        (first, second), T = rectified_pair(), moved(0.12)
    elif kind == "swapped":  # the second camera is to the left
        (second, first), T = rectified_pair(), moved(-0.12)
    else:
        (first, second), T = raw_pair(kind)
    picture, truth = view(first, np.eye(4))
    depth = StereoDepth(first, second)(picture, view(second, T)[0])
    assert depth.shape == truth.shape and depth.dtype == np.float32
    known = depth > 0
    assert known[40:200, 60:260].mean() > 0.9
    disparity_px = 300 * 0.12 * (1 / depth[known] - 1 / truth[known])
    assert abs(np.median(disparity_px)) < 0.05
    assert np.median(np.abs(disparity_px)) < 0.25 and np.mean(np.abs(disparity_px) > 1) < 0.02


def test_large_images_are_matched_at_a_smaller_size() -> None:
    grown = np.diag([4.0, 4.0, 1.0])
    grown[:2, 2] = 1.5  # pixel centres
    first = Camera(1280, 960, grown @ K)
    second = replace(first, P=np.hstack([grown @ K, [[-1200 * 0.12], [0], [0]]]))
    picture, truth = view(first, np.eye(4))
    stereo = StereoDepth(first, second)
    depth = stereo(picture, view(second, moved(0.12))[0])
    known = depth > 0
    assert known.mean() > 0.8
    error = np.abs(depth[known] / truth[known] - 1)
    assert np.median(error) < 0.005
    assert stereo.noise.quadratic == pytest.approx(0.3 / (750 * 0.12))


def test_a_motion_is_in_metres_and_its_length_as_sure_as_the_calibration() -> None:
    lengths = []
    for error_px in (0.0, 1.0):
        scale = StereoScale(OdometryConfig(stereo_error_px=error_px))
        scale.take(info(SECOND))
        pose = run(scale, [0.0, 0.2])[1].pose
        assert pose.metric, pose.reason
        position = pose.camera1_in_camera0[1]
        assert position == pytest.approx([0.2, 0, 0], abs=0.005)
        lengths.append(float(np.sqrt(pose.covariance[0, 0])))
    assert lengths[0] < 0.002
    assert lengths[1] == pytest.approx(0.2 * 2.4 / 36, rel=0.1)  # a pixel of the disparity of 2.4 m


def test_the_second_image_may_come_late_and_is_kept_for_its_keyframe() -> None:
    scale = StereoScale(OdometryConfig())
    scale.take(info(SECOND))
    tracker = Tracker(FlowMatcher(), AppConfig.from_mapping({"tracker.keyframe_parallax_deg": 90.0}), scale)
    picture = view(FIRST, moved(0.0))[0]
    tracker.track(picture, FIRST, STEP_NS, "camera")
    scale.take(image(STEP_NS - 15_000_000, picture))  # within the slop; what belongs to it is nearer
    scale.take(image(STEP_NS, view(SECOND, moved(0.12))[0]))
    black = np.zeros_like(picture)
    for k in range(1, 40):  # more than are kept
        scale.take(image(STEP_NS + k * 1_000_000_000, black))
        if k % 13 == 1:
            pose = tracker.track(view(FIRST, moved(0.2))[0], FIRST, STEP_NS + k, "camera").pose
            assert pose.metric, (k, pose.reason)
            assert pose.camera1_in_camera0[1][0] == pytest.approx(0.2, abs=0.01)


def test_what_does_not_serve_is_named() -> None:
    def reason(scale: StereoScale, **settings: Any) -> str:
        pose = run(scale, [0.0, 0.2], **settings)[1].pose
        assert not pose.metric and pose.status.has_translation
        assert "; no metric length: " in pose.reason
        return pose.reason

    config = OdometryConfig()
    assert "no camera_info of the second camera so far; check its topic (right/camera_info)" in reason(
        StereoScale(config)
    )
    scale = StereoScale(config)
    scale.take(info(SECOND))
    assert "no image of the second camera within 0.02 s of the reference's stamp" in reason(scale, seconds=False)
    scale = StereoScale(config)
    scale.take(info(FIRST))
    said = reason(scale)
    assert "P[0, 3] of the camera_infos is 0 and 0: expected -fx times the baseline" in said
    assert "set odometry.stereo_baseline" in said
    scale = StereoScale(config)
    scale.take(info(Camera(640, 480, K, P=SECOND.P)))
    assert "the second camera's image is 320x240, its camera_info is of 640x480" in reason(scale)
    scale = StereoScale(config)
    scale.take(info(SECOND))
    scale.take(image(0, view(FIRST, moved(-0.12))[0]))
    said = reason(scale, seconds=False)
    assert "agree on the depth of 2" in said and "of the pixels, expected 30% at least" in said and "swapped" in said


def test_a_baseline_that_is_set_goes_before_the_camera_infos() -> None:
    scale = StereoScale(OdometryConfig(stereo_baseline=0.24))
    scale.take(info(FIRST))
    assert run(scale, [0.0, 0.2])[1].pose.camera1_in_camera0[1][0] == pytest.approx(0.4, abs=0.01)


def test_camera_infos_of_no_pair_are_refused() -> None:
    askew = FIRST.R + np.array([[0, 0.3, 0], [0, 0, 0], [0, 0, 0]])
    above = np.hstack([K, [[0], [-300 * 0.1], [0]]])
    for second, words in (
        (
            replace(SECOND, R=askew),
            "R of the second camera's camera_info is .*: expected the rotation into the rectified",
        ),
        (
            replace(SECOND, P=SECOND.P * [[0], [1], [1]]),
            "P of the second camera's camera_info has the focal lengths 0 and",
        ),
        (replace(SECOND, P=above), "0.100 m below the first and 0.000 m to its right: expected a pair side by side"),
    ):
        with pytest.raises(CameraError, match=words):
            StereoDepth(FIRST, second)


def test_camera_info_tells_of_its_pair_under_binning_and_region() -> None:
    (_, second), _ = raw_pair()
    full = camera_from_info(info(second))
    np.testing.assert_allclose(full.P, second.P)
    np.testing.assert_allclose(full.R, second.R)
    roi = SimpleNamespace(x_offset=20, y_offset=10, width=200, height=160)
    part = SimpleNamespace(
        width=320, height=240, distortion_model="plumb_bob", d=second.D, k=second.K.ravel(), r=second.R.ravel(),
        p=second.P.ravel(), binning_x=2, binning_y=2, roi=roi,
    )  # fmt: skip
    found = camera_from_info(part)
    assert -found.P[0, 3] / found.P[0, 0] == pytest.approx(0.12)
    assert found.P[0, 2] == pytest.approx((second.P[0, 2] - 20 + 0.5) / 2 - 0.5)
    assert found.P[:, :3][0, 0] == pytest.approx(second.P[0, 0] / 2)
    alone = Camera(320, 240, K, R=np.zeros((3, 3)))  # as a single camera is often published
    np.testing.assert_array_equal(alone.R, np.eye(3))
    np.testing.assert_array_equal(alone.P[:, :3], K)


def test_a_bag_of_two_cameras_is_in_metres(tmp_path: Path) -> None:
    bag = stereo_bag(tmp_path / "pair.mcap")
    config = AppConfig.from_mapping({"odometry.scale": "stereo"})
    result = run_bag(bag, FlowMatcher(), config, trajectory=tmp_path / "run.txt")
    assert (result.image_topic, result.scale_topic) == ("/left/image", "/right/image")
    assert result.metric == 3 and not result.faults
    moved_m = [pose[0, 3] for pose in result.trajectory]
    assert moved_m == pytest.approx([0, 0.03, 0.06, 0.09], abs=0.004)
    with BagReader(bag) as reader:
        for given in (("", "/right/image"), ("/left/image", ""), ("left/image", "right/image"), ("", "")):
            assert find_stereo(reader, *given) == ("/left/image", "/right/image")
        assert find_stereo(reader, "/right/image") == ("/right/image", "/left/image")
        assert find_topics(reader, scale="stereo") == ("/left/image", "/left/camera_info")
        with pytest.raises(BagError, match="/left/image is named for both cameras"):
            find_stereo(reader, "/left/image", "/left/image")
        with pytest.raises(BagError, match="has no topic /middle/image"):
            find_scale(reader, "stereo", "/middle/image")


def test_cameras_that_cannot_be_told_apart_are_listed(tmp_path: Path) -> None:
    bag = stereo_bag(tmp_path / "pair.mcap", frames=1, baseline_m=0.0)
    with BagReader(bag) as reader, pytest.raises(BagError, match="choose one by its name: /left/image, /right/image"):
        find_stereo(reader)


def test_no_camera_info_of_the_first_is_no_pose() -> None:
    scale = StereoScale(OdometryConfig())
    scale.take(info(SECOND))
    matches = Matches.empty()
    pose = scale.estimate(Pair(matches, None, None, 0, 1, view(FIRST, moved(0))[0]), PoseConfig())
    assert not pose.metric and pose.status.name == "NO_CAMERA_INFO"


def test_the_node_takes_a_second_camera_over_dds() -> None:
    """A rectified pair, each camera on its own topics; the second one's camera_info is found beside its image."""
    pytest.importorskip("rclpy", reason="needs ROS 2: pip install -r requirements/ros-jazzy.txt")
    pytest.importorskip("stfm_ros.msg", reason="needs the generated messages: pip install . where ROS 2 is")
    from nav_msgs.msg import Odometry
    from ros_bench import observer, running
    from sensor_msgs.msg import CameraInfo, Image

    from stfm_ros.nodes.conversion import to_ros

    remapped = ("-r", "image:=/left/image_raw", "-r", "right/image:=/right/image_raw")
    settings = (
        "-p",
        "odometry.scale:=stereo",
        "-p",
        "node.scale_reliability:=reliable",
        "-p",
        "node.reliability:=reliable",
    )
    with running(*remapped, *settings, script="stereo_room.py"), observer() as watch:
        found: list[Odometry] = []
        watch.create_subscription(Odometry, "odometry", found.append, 10)
        publishers = {
            f"/{side}/{name}": watch.create_publisher(kind, f"/{side}/{name}", 10)
            for side in ("left", "right")
            for kind, name in ((Image, "image_raw"), (CameraInfo, "camera_info"))
        }
        watch.until("node", lambda: all(one.get_subscription_count() for one in publishers.values()))
        watch.until("report", lambda: watch.values)
        for i in range(3):
            stamp = 1_000_000_000_000 + i * STEP_NS
            for side, camera, x in (("right", SECOND, 0.12), ("left", FIRST, 0.0)):
                fields = messages.camera_info(stamp, side, camera)
                publishers[f"/{side}/camera_info"].publish(to_ros(CameraInfo, fields))
                picture = view(camera, moved(0.1 * i + x))[0]
                time.sleep(0.2)
                publishers[f"/{side}/image_raw"].publish(to_ros(Image, messages.image(stamp, side, picture)))
            watch.until("image", lambda i=i: watch.count("processed") > i)
        watch.until("odometry", lambda: len(found) == 2)
        assert watch.values["scale_topic"] == "/right/image_raw"
        assert watch.values["odometry"] == "metric by stereo"
        assert [one.pose.pose.position.y for one in found] == pytest.approx([-0.1, -0.2], abs=0.01)  # left is +
        assert found[-1].child_frame_id == "left"
