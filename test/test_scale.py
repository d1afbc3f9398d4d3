"""Metres from other sensors: of messages that come late, that are missing, and of a depth camera."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from test_tracker import CAMERA, STEP_NS, Standin, image

from stfm_ros import messages
from stfm_ros.config import AppConfig, OdometryConfig, TrackerConfig
from stfm_ros.errors import ImageError
from stfm_ros.odometry import OPTICAL_IN_BODY
from stfm_ros.scale import DepthScale, OdometryScale, ScaleSource, TwistScale
from stfm_ros.tracker import Track, Tracker
from stfm_ros.types import FloatArray, PoseStatus

CONFIG = OdometryConfig(scale_error=0.1)


def record(fields: Any) -> Any:
    """A nested dict as an object."""
    return SimpleNamespace(**{k: record(v) for k, v in fields.items()}) if isinstance(fields, dict) else fields


def odometry(stamp_ns: int, position: tuple[float, float, float], yaw: float = 0.0) -> Any:
    half = yaw / 2
    pose = {
        "position": dict(zip("xyz", position)),
        "orientation": {"x": 0, "y": 0, "z": np.sin(half), "w": np.cos(half)},
    }
    return record({"header": messages.header(stamp_ns, "wheels"), "pose": {"pose": pose}})


def twist(stamp_ns: int, forward: float, turn: float = 0.0) -> Any:
    linear, angular = {"x": forward, "y": 0.0, "z": 0.0}, {"x": 0.0, "y": 0.0, "z": turn}
    fields = {"linear": linear, "angular": angular}
    return record({"header": messages.header(stamp_ns, "base_link"), "twist": fields})


def depth(stamp_ns: int, metres: FloatArray) -> Any:
    return record(messages.depth_image(stamp_ns, "camera", metres.astype(np.float32)))


def compressed_depth(stamp_ns: int, metres: FloatArray, form: str) -> Any:
    png = cv2.imencode(".png", (1000 * metres).round().astype(np.uint16))[1].tobytes()
    header = bytes(12) if "compressedDepth" in form else b""
    return record(messages.compressed_image(stamp_ns, "camera", form, header + png))


def run(scale: ScaleSource, numbers: list[int], matcher: Standin | None = None) -> list[Track]:
    tracker = Tracker(matcher or Standin(), AppConfig(), scale)
    return [tracker.track(image(n), CAMERA, i * STEP_NS, "camera") for i, n in enumerate(numbers)]


def test_an_odometry_is_interpolated_between_its_messages() -> None:
    scale = OdometryScale(CONFIG)
    for k in range(-1, 5):  # 2 m/s, at other stamps than the images
        scale.take(odometry(k * STEP_NS + 30_000_000, (0.2 * k + 0.06, 1.0, 0.0)))
    _, track = run(scale, [0, 5])
    assert track.pose.metric and track.pose.reason.endswith("; 0.200 m by odometry")
    position = track.pose.camera1_in_camera0[1]
    assert position == pytest.approx([0.2, 0, 0], abs=1e-3)
    assert np.sqrt(track.pose.covariance[0, 0]) == pytest.approx(0.02, rel=0.05)  # 10 % of the length
    assert np.sqrt(track.pose.covariance[1, 1]) < 0.019  # the direction is the camera's own, at its claim of a pixel


def test_where_the_camera_is_mounted_counts_in_a_bend() -> None:
    """Turning on the spot, the base does not move; a camera a metre ahead of it does."""
    mounted = OPTICAL_IN_BODY.copy()
    mounted[0, 3] = 1.0
    for camera_in_base, expected in ((None, 0.0), (mounted, 2 * np.sin(0.05))):
        scale = OdometryScale(CONFIG, camera_in_base)
        for k in range(3):
            scale.take(odometry(k * STEP_NS, (0, 0, 0), yaw=0.1 * k))
        _, track = run(scale, [0, 5])
        assert np.linalg.norm(track.pose.t) == pytest.approx(expected, abs=1e-9)


def test_a_twist_is_integrated() -> None:
    scale = TwistScale(CONFIG)
    for k in range(-5, 12):
        scale.take(twist(k * STEP_NS // 10, 1.0, turn=2.0))
    _, track = run(scale, [0, 5])
    assert np.linalg.norm(track.pose.t) == pytest.approx(np.sin(0.1), abs=1e-3)  # the chord of 0.1 m of a circle


def test_messages_that_are_missing_or_late_are_named() -> None:
    scale = OdometryScale(CONFIG)
    assert "no metric length: 0 messages of odometry so far" in run(scale, [0, 5])[1].pose.reason
    scale.take(odometry(-400_000_000, (0, 0, 0)))
    scale.take(odometry(-300_000_000, (0.1, 0, 0)))
    pose = run(scale, [0, 5])[1].pose
    assert not pose.metric and pose.status is PoseStatus.OK
    assert "the image is 0.300 s beyond the messages of odometry, expected 0.1 s at most" in pose.reason
    scale.take(odometry(50_000_000, (0.45, 0, 0)))  # 50 ms before the second image: within odometry.scale_gap_s
    pose = run(scale, [0, 5])[1].pose
    assert pose.metric and np.linalg.norm(pose.t) == pytest.approx(0.1, abs=1e-6)


def test_a_lost_odometry_is_refused_and_a_bag_that_starts_again_is_taken() -> None:
    scale = OdometryScale(CONFIG)
    lost = odometry(0, (0, 0, 0))
    lost.pose.pose.orientation.w = 0.0
    with pytest.raises(ImageError, match="expected metres within 1e\\+09 and a unit quaternion; it is lost"):
        scale.take(lost)
    for k in (50, 51, 0, 1, 2):
        scale.take(odometry(k * STEP_NS, (k, 0, 0)))
    assert np.linalg.norm(run(scale, [0, 5])[1].pose.t) == pytest.approx(1.0)
    broken = twist(0, float("nan"))
    with pytest.raises(ImageError, match="expected m/s and rad/s within"):
        TwistScale(CONFIG).take(broken)


def scene(matcher: Standin, number: int) -> FloatArray:
    """Depth of the stand-in's points in metres, a patch for each; 0 elsewhere."""
    picture = np.zeros((480, 640))
    for point in matcher.points - [number * matcher.step, 0, 0]:
        x, y = (CAMERA.K @ (point / point[2]))[:2]
        cv2.circle(picture, (round(x), round(y)), 3, float(point[2]), -1)
    return picture


def test_depth_gives_metres_whenever_it_comes() -> None:
    matcher = Standin(points=150)
    scale = DepthScale(CONFIG)
    keeps = TrackerConfig(keyframe_inliers=20, keyframe_parallax_deg=45.0)  # its reference, all along
    tracker = Tracker(matcher, AppConfig(tracker=keeps), scale)
    tracker.track(image(0), CAMERA, 0, "camera")
    scale.take(depth(5_000_000, scene(matcher, 0)))  # 5 ms off, after its image
    for k in range(1, 60):  # more than are kept
        found = tracker.track(image(10), CAMERA, k * 10_000_000, "camera")
        scale.take(depth(k * 10_000_000 + 1, np.zeros((480, 640))))
        assert found.pose.metric, (k, found.pose.reason)
        assert found.pose.camera1_in_camera0[1] == pytest.approx([0.2, 0, 0], abs=0.01)
        sigma = np.sqrt(found.pose.covariance[0, 0])
        assert 0.0001 < sigma < 0.01
        assert abs(found.pose.camera1_in_camera0[1][0] - 0.2) < 4 * sigma


def test_depth_that_does_not_serve_is_named() -> None:
    matcher = Standin()
    broken = compressed_depth(0, scene(matcher, 0), "16UC1; compressedDepth png")
    broken.data = broken.data[:-100]
    cases = {
        "no depth image within 0.02 s": depth(40_000_000, scene(matcher, 0)),
        "the depth is 320x240, image 0 is 640x480": depth(0, np.ones((240, 320))),
        "cannot be decoded: expected a whole JPEG, PNG": broken,
    }
    for words, message in cases.items():
        scale = DepthScale(CONFIG)
        scale.take(message)
        pose = run(scale, [0, 5], matcher)[1].pose
        assert not pose.metric and words in pose.reason and pose.status is PoseStatus.OK


def test_depth_that_is_no_depth_is_refused_when_it_comes() -> None:
    late = depth(0, np.ones((480, 640)))
    late.header.stamp.nanosec = 2_000_000_000
    short = depth(0, np.ones((480, 640)))
    short.data = short.data[:1000]
    file = compressed_depth(0, np.ones((480, 640)), "16UC1; compressedDepth png")
    cases = {
        "'rgb8' is no depth": record(messages.image(0, "camera", image(0))),
        "1000 bytes of data, but 480 rows": short,
        "the stamp has 2000000000 nanoseconds beside its 0 s: expected 0 to 999999999": late,
        "RVL is not supported, expected PNG": SimpleNamespace(**{**vars(file), "format": "16UC1; compressedDepth rvl"}),
        "expected a header of 12 bytes and a PNG": SimpleNamespace(**{**vars(file), "data": file.data[:12]}),
        "cannot be decoded": SimpleNamespace(**{**vars(file), "data": file.data[:20]}),
    }
    for words, message in cases.items():
        with pytest.raises(ImageError) as fault:
            DepthScale(CONFIG).take(message)
        assert words in str(fault.value)


@pytest.mark.parametrize("form", ["16UC1; compressedDepth png", "16UC1; png compressed "])
def test_compressed_depth_gives_metres(form: str) -> None:
    matcher = Standin(points=150)
    scale = DepthScale(CONFIG)
    scale.take(compressed_depth(0, scene(matcher, 0), form))
    pose = run(scale, [0, 10], matcher)[1].pose
    assert pose.metric, pose.reason
    assert pose.camera1_in_camera0[1] == pytest.approx([0.2, 0, 0], abs=0.01)


def test_what_a_depth_camera_is_worth_can_be_said() -> None:
    matcher, sigmas = Standin(points=150), []
    for share in (0.005, 0.05):
        scale = DepthScale(OdometryConfig(depth_noise_share=share))
        scale.take(depth(0, scene(matcher, 0)))
        sigmas.append(float(np.sqrt(run(scale, [0, 10], matcher)[1].pose.covariance[0, 0])))
    assert sigmas[1] > 1.2 * sigmas[0]


def test_a_still_camera_needs_no_length() -> None:
    pose = run(OdometryScale(CONFIG), [3, 3])[1].pose
    assert pose.status is PoseStatus.STATIC and not pose.metric and "length" not in pose.reason


def test_a_keyframe_that_is_asked_for_is_the_next_image_with_a_pose() -> None:
    tracker = Tracker(Standin(), AppConfig())
    found = []
    for i, number in enumerate([0, 1, 255, 2, 3]):
        if i == 2:
            tracker.renew()
        found.append(tracker.track(image(number), CAMERA, i * STEP_NS, "camera").new_keyframe)
    assert found == [True, False, False, True, False], "a black image does not become it"
