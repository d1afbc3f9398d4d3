"""A bag through the matcher: every image is accounted for, and what is written can be read back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from sequences import OrbMatcher, bag_of_images, rgbd_folder, slice_of_demo

from stfm_ros import messages
from stfm_ros.bags import BagReader, BagWriter
from stfm_ros.config import AppConfig
from stfm_ros.errors import BagError
from stfm_ros.import_rgbd import import_rgbd
from stfm_ros.offline import RunResult, find_camera_info, paired_with_info, run_bag
from stfm_ros.posed_bag import PosedBag
from stfm_ros.trajectory import read_tum
from stfm_ros.types import Camera, PoseStatus

IMAGES = "/camera/image/compressed"
INFOS = "/camera/camera_info"
CAMERA = Camera(640, 480, np.array([[525.0, 0, 319.5], [0, 525.0, 239.5], [0, 0, 1]]))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(before)


def run(bag: Path, **options: Any) -> RunResult:
    return run_bag(bag, OrbMatcher(), AppConfig(), **options)  # type: ignore[arg-type]


def account(result: RunResult) -> None:
    assert result.read == result.matched + sum(result.unmatched.values())


def test_a_recording_in_messages_and_trajectory_out(tmp_path: Path) -> None:
    bag = slice_of_demo(tmp_path / "in.mcap", range(10, 26, 2))
    calls: list[tuple[int, int]] = []
    result = run(
        bag,
        out=tmp_path / "out.mcap",
        trajectory=tmp_path / "new" / "t.txt",
        watch=lambda track, done, total: calls.append((done, total)),
    )
    account(result)
    assert (result.read, result.matched, dict(result.unmatched)) == (8, 7, {"no_reference": 1})
    assert result.poses == 7
    assert result.faults == {}
    assert (result.image_topic, result.camera_info_topic) == (IMAGES, INFOS)
    assert calls == [(i, 8) for i in range(1, 9)]
    assert {stage: len(times) for stage, times in result.timings_ms.items()} == dict.fromkeys(
        ("decode", "features", "pair", "pose"), 8
    )
    with BagReader(bag) as source, BagReader(tmp_path / "out.mcap") as reader:
        stamps = [messages.stamp_ns(message.header) for _, message, _ in source.messages([IMAGES])]
        receipts = [receipt for _, _, receipt in source.messages([IMAGES])]
        found = list(reader.messages())
        poses = [message for topic, message, _ in found if topic == "/relative_pose"]
        matches = [message for topic, message, _ in found if topic == "/matches"]
    assert [messages.stamp_ns(message.header) for message in poses] == stamps
    assert [messages.stamp_ns(message.header) for message in matches] == stamps
    assert sorted(receipt for _, _, receipt in found) == sorted(2 * receipts)
    assert poses[0].status == PoseStatus.NO_REFERENCE
    for pose, match in zip(poses[1:], matches[1:], strict=True):
        assert pose.matches == len(match.confidence) == len(match.keypoints0) / 2
        assert pose.inliers == np.count_nonzero(match.inliers) > 50
        assert match.model_name == "orb"
    # up to its one scale and its own world, the trajectory is the true one
    trajectory = read_tum(tmp_path / "new" / "t.txt")
    assert trajectory.stamps_ns.tolist() == stamps
    with PosedBag(bag) as truth:
        true = np.linalg.inv(truth.poses[0]) @ truth.poses
    angles = np.linalg.inv(true[:, :3, :3]) @ trajectory.poses[:, :3, :3]
    assert np.degrees(np.arccos(np.clip((np.trace(angles, axis1=1, axis2=2) - 1) / 2, -1, 1))).max() < 2.0
    estimated, expected = trajectory.poses[:, :3, 3], true[:, :3, 3]
    scale = np.sum(estimated * expected) / np.sum(estimated**2)
    assert np.linalg.norm(scale * estimated - expected, axis=1).max() < 0.15 * np.ptp(expected, axis=0).max()


def test_an_odometry_in_the_bag_gives_metres(tmp_path: Path) -> None:
    slice_of_demo(tmp_path / "poses.mcap", range(10, 26, 2))
    with BagReader(tmp_path / "poses.mcap") as reader, BagWriter(tmp_path / "in.mcap") as writer:
        for topic, message, receipt_ns in reader.messages():
            if topic == "/camera/pose":  # the wheels are heard a little after the image
                pose = {"header": message.header, "pose": {"pose": message.pose}}
                writer.write("/wheels", "nav_msgs/msg/Odometry", pose, receipt_ns + 50_000_000)
            writer.write(topic, reader.topics[topic].type, message, receipt_ns)
    config = AppConfig.from_mapping({"odometry.scale": "odometry"})
    result = run_bag(
        tmp_path / "in.mcap",
        OrbMatcher(),  # type: ignore[arg-type]
        config,
        out=tmp_path / "out.mcap",
        trajectory=tmp_path / "t.txt",
    )
    account(result)
    assert (result.scale_topic, result.metric, result.poses, result.faults) == ("/wheels", 7, 7, {})
    with PosedBag(tmp_path / "poses.mcap") as truth:
        true = np.linalg.inv(truth.poses[0]) @ truth.poses
    found = read_tum(tmp_path / "t.txt").poses
    assert np.linalg.norm(found[:, :3, 3] - true[:, :3, 3], axis=1).max() < 0.1 * np.ptp(true[:, :3, 3], axis=0).max()
    with BagReader(tmp_path / "out.mcap") as reader:
        odometry = [message for topic, message, _ in reader.messages() if topic == "/odometry"]
        images = [message for topic, message, _ in reader.messages() if topic == "/relative_pose"]
    assert [one.header.stamp for one in odometry] == [one.header.stamp for one in images[1:]]
    assert all(one.metric for one in images[1:])
    last = odometry[-1]
    assert (last.header.frame_id, last.child_frame_id) == ("odom", images[0].header.frame_id)
    at = last.pose.pose.position
    np.testing.assert_allclose([-at.y, -at.z, at.x], found[-1, :3, 3], atol=1e-6)  # z ahead is x of ROS
    assert np.linalg.eigvalsh(np.reshape(last.pose.covariance, (6, 6))).min() > 0

    with pytest.raises(BagError, match="no topic of type geometry_msgs/msg/TwistStamped"):
        run_bag(tmp_path / "in.mcap", OrbMatcher(), AppConfig.from_mapping({"odometry.scale": "twist"}))  # type: ignore[arg-type]


def test_depth_in_the_bag_gives_metres(tmp_path: Path) -> None:
    """A wall two metres ahead, and steps of 0.2 m to the right; 320x240 and plain, so to a few centimetres."""
    import_rgbd(rgbd_folder(tmp_path / "wall"), tmp_path / "wall.mcap")
    config = AppConfig.from_mapping({"odometry.scale": "depth"})
    result = run_bag(tmp_path / "wall.mcap", OrbMatcher(), config, out=tmp_path / "out.mcap")  # type: ignore[arg-type]
    account(result)
    assert result.metric == result.poses == 3 and "depth" in result.scale_topic
    steps = np.array(result.trajectory)[:, :3, 3]
    np.testing.assert_allclose(steps, np.outer(range(4), [0.2, 0, 0]), atol=0.03)


def test_images_that_are_damaged_black_or_of_another_size_are_accounted_for(tmp_path: Path) -> None:
    def change(i: int, topic: str, message: Any) -> Any:
        if topic == IMAGES and i in (2, 4):
            black = cv2.imencode(".jpg", np.zeros((480, 640, 3), np.uint8))[1].tobytes()
            data = bytes(message.data[:900]) if i == 2 else black
            stamp = messages.stamp_ns(message.header)
            return messages.compressed_image(stamp, message.header.frame_id, message.format, data)
        return message

    bag = slice_of_demo(tmp_path / "in.mcap", range(10, 17), change)
    result = run(bag, out=tmp_path / "out.mcap")
    account(result)
    assert result.read == 7
    assert result.unmatched == {"no_reference": 1, "image": 1, "few_matches": 1}
    assert result.faults == {"image": 1}
    assert "truncated" in result.first_faults["image"] or "decode" in result.first_faults["image"]
    with BagReader(tmp_path / "out.mcap") as reader:
        assert reader.topics["/relative_pose"].count == 6  # the damaged image gives none


def test_without_a_calibration_there_are_matches_and_no_poses(tmp_path: Path) -> None:
    bag = slice_of_demo(tmp_path / "in.mcap", range(10, 13), left_out=(INFOS,))
    result = run(bag, trajectory=tmp_path / "t.txt")
    account(result)
    assert (result.camera_info_topic, result.matched, result.poses) == ("", 2, 0)
    assert result.statuses == {"NO_REFERENCE": 1, "NO_CAMERA_INFO": 2}
    assert len(read_tum(tmp_path / "t.txt")) == 0


def test_a_calibration_of_another_size_is_a_fault_that_names_both(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
    result = run(bag_of_images(tmp_path / "in.mcap", [image, image], CAMERA))
    account(result)
    assert result.faults["camera_info"] == 2
    assert "640x480" in result.first_faults["camera_info"]
    assert "320x240" in result.first_faults["camera_info"]


def test_each_image_gets_the_calibration_of_its_own_stamp(tmp_path: Path) -> None:
    """As imported bags have it, the calibration follows the image; in others it comes before."""

    def zoom(i: int, topic: str, message: Any) -> Any:
        if topic == INFOS:
            camera = Camera(640, 480, np.array([[500.0 + i, 0, 319.5], [0, 500.0 + i, 239.5], [0, 0, 1]]))
            return messages.camera_info(messages.stamp_ns(message.header), "camera", camera)
        return message

    bag = slice_of_demo(tmp_path / "in.mcap", range(4), zoom)
    with BagReader(bag) as reader:
        frames = list(paired_with_info(reader, IMAGES, INFOS))
        assert [float(info.k[0]) for _, info, _ in frames] == [500.0, 501.0, 502.0, 503.0]
        assert [info for _, info, _ in paired_with_info(reader, IMAGES, "")] == [None] * 4

    def once(i: int, topic: str, message: Any) -> Any:
        return None if topic == INFOS and i != 2 else zoom(i, topic, message)

    with BagReader(slice_of_demo(tmp_path / "once.mcap", range(4), once)) as reader:
        frames = list(paired_with_info(reader, IMAGES, INFOS))
        assert [float(info.k[0]) for _, info, _ in frames] == [502.0] * 4


def test_the_calibration_beside_the_images_is_preferred(tmp_path: Path) -> None:
    bag = slice_of_demo(tmp_path / "in.mcap", range(2))
    with BagReader(bag) as reader:
        assert find_camera_info(reader, IMAGES) == INFOS
        assert find_camera_info(reader, "/left/image") == INFOS  # the only one there is
        with pytest.raises(BagError, match="no topic /left/camera_info"):
            find_camera_info(reader, IMAGES, "/left/camera_info")


def test_a_bag_without_images_lists_what_it_has_and_nothing_is_left_behind(tmp_path: Path) -> None:
    bag = slice_of_demo(tmp_path / "in.mcap", range(2), left_out=(IMAGES,))
    with pytest.raises(BagError, match="no topic of type sensor_msgs/msg/Image") as fault:
        run(bag, out=tmp_path / "out.mcap", trajectory=tmp_path / "t.txt")
    assert "/camera/pose  geometry_msgs/msg/PoseStamped  2 messages" in str(fault.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mcap"]


def test_a_posed_bag_reads_images_and_poses_by_number(tmp_path: Path) -> None:
    def drop(i: int, topic: str, message: Any) -> Any:
        return None if topic == "/camera/pose" and i == 1 else message

    with PosedBag(slice_of_demo(tmp_path / "in.mcap", range(3), drop)) as bag:
        assert (len(bag), bag.without_pose) == (2, 1)
        assert np.diff(bag.stamps) == pytest.approx(0.2)
        assert bag.poses.shape == (2, 4, 4)
        assert bag.image(1).shape == (480, 640, 3)
        assert bag.depth(1) is None
        assert bag.camera.K[0, 0] == 525.0


def test_a_posed_bag_needs_calibration_and_poses(tmp_path: Path) -> None:
    with pytest.raises(BagError, match="no sensor_msgs/msg/CameraInfo"):
        PosedBag(slice_of_demo(tmp_path / "a.mcap", range(2), left_out=(INFOS,))).__enter__()
    with pytest.raises(BagError, match="no topic of type geometry_msgs/msg/PoseStamped or"):
        PosedBag(slice_of_demo(tmp_path / "b.mcap", range(2), left_out=("/camera/pose",))).__enter__()

    def late(i: int, topic: str, message: Any) -> Any:
        if topic == "/camera/pose":
            return messages.pose_stamped(messages.stamp_ns(message.header) + 40_000_000, "world", np.eye(4))
        return message

    with pytest.raises(BagError, match="none of the 2 images .* within 10 ms"):
        PosedBag(slice_of_demo(tmp_path / "c.mcap", range(2), late)).__enter__()
