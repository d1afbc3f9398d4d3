"""Folders of RGB, depth and poses, and their import into a bag: round trips and wording of refusals."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from stfm_ros.bags import BagReader
from stfm_ros.errors import DatasetError
from stfm_ros.images import camera_from_info, decode_depth, decode_image
from stfm_ros.import_rgbd import CAMERA_FRAME, WORLD_FRAME, import_rgbd
from stfm_ros.rgbd import RgbdFolder
from stfm_ros.rotation import quaternion_to_matrix
from stfm_ros.trajectory import write_tum

INTRINSICS = """\
width: 16
height: 12
fx: 20.5
fy: 21.0
cx: 7.5
cy: 5.5
distortion: [0.0, 0.0, 0.0, 0.0, 0.0]
depth_scale: 5000.0
"""
STAMPS = [1_000_000_000, 1_033_333_333, 1_066_666_667]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "scene"
    rng = np.random.default_rng(0)
    for part in ("rgb", "depth"):
        (path / part).mkdir(parents=True)
    for i in range(3):
        cv2.imwrite(str(path / "rgb" / f"{i:06}.png"), rng.integers(0, 256, (12, 16, 3), np.uint8))
        cv2.imwrite(str(path / "depth" / f"{i:06}.png"), rng.integers(0, 65536, (12, 16), np.uint16))
    (path / "intrinsics.yaml").write_text(INTRINSICS)
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, :3, :3] = quaternion_to_matrix(rng.normal(size=(3, 4)))
    poses[:, :3, 3] = rng.normal(size=(3, 3))
    write_tum(path / "poses.txt", STAMPS, poses)
    (path / "frames.txt").write_text("# stem timestamp\n000000 1.0\n000001 1.033333\n000002 1.066667\n")
    return path


def test_folder(folder: Path) -> None:
    source = RgbdFolder(folder)
    assert len(source) == 3
    assert source.names == ["000000", "000001", "000002"]
    assert source.stamps_ns.tolist() == STAMPS
    assert source.stamps.tolist() == [1.0, 1.033333333, 1.066666667]
    assert (source.camera.width, source.camera.height, source.camera.distortion_model) == (16, 12, "none")
    np.testing.assert_array_equal(source.camera.K, [[20.5, 0, 7.5], [0, 21, 5.5], [0, 0, 1]])
    bgr = cv2.imread(str(folder / "rgb" / "000001.png"))
    raw = cv2.imread(str(folder / "depth" / "000001.png"), cv2.IMREAD_UNCHANGED)
    assert bgr is not None
    assert raw is not None
    np.testing.assert_array_equal(source.image(1), bgr[..., ::-1])
    assert source.depth(1).dtype == np.float32
    np.testing.assert_allclose(source.depth(1), raw / 5000, rtol=1e-6)
    assert source.poses.shape == (3, 4, 4)


def test_distortion_and_default_scale(folder: Path) -> None:
    text = INTRINSICS.replace("[0.0, 0.0, 0.0, 0.0, 0.0]", "[0.1, -0.2, 0.0, 0.0, 0.3]")
    (folder / "intrinsics.yaml").write_text(text.replace("depth_scale: 5000.0\n", ""))
    (folder / "frames.txt").unlink()
    source = RgbdFolder(folder)
    assert source.camera.distortion_model == "plumb_bob"
    assert source.camera.D.tolist() == [0.1, -0.2, 0, 0, 0.3]
    assert source.depth_scale == 1000


@pytest.mark.parametrize("part", ["intrinsics.yaml", "poses.txt", "rgb", "depth"])
def test_missing_parts_are_named(folder: Path, part: str) -> None:
    (folder / part).rename(folder / "elsewhere")
    with pytest.raises(DatasetError) as fault:
        RgbdFolder(folder)
    assert f"scene lacks {part}: expected a folder with intrinsics.yaml, poses.txt" in str(fault.value)


@pytest.mark.parametrize(
    ("old", "new", "wording"),
    [
        ("fx: 20.5\n", "", "intrinsics.yaml lacks fx: expected width, height, fx, fy, cx, cy in pixels"),
        ("fx: 20.5", "fx: wide", "could not convert string to float: 'wide'; expected numbers"),
        ("fx: 20.5", "fx: 0", "intrinsics.yaml: focal lengths fx=0.0, fy=21.0 must be positive"),
        ("fx: 20.5", "fx: .nan", "holds values that are not finite"),
        ("5000.0", "0", "depth_scale 0.0 must be positive: metres = value / depth_scale"),
        (INTRINSICS, "- 1\n", "holds a list: expected width, height, fx, fy, cx, cy in pixels"),
        (INTRINSICS, "a: [", "intrinsics.yaml cannot be read as YAML"),
    ],
)
def test_refused_intrinsics(folder: Path, old: str, new: str, wording: str) -> None:
    (folder / "intrinsics.yaml").write_text(INTRINSICS.replace(old, new))
    with pytest.raises(DatasetError) as fault:
        RgbdFolder(folder)
    assert wording in str(fault.value)


def test_counts_and_names_must_agree(folder: Path) -> None:
    (folder / "frames.txt").unlink()
    (folder / "depth" / "000001.png").rename(folder / "depth" / "000009.png")
    with pytest.raises(DatasetError, match=r"rgb/000001\.png stands beside depth/000002\.png: expected the same stems"):
        RgbdFolder(folder)
    (folder / "depth" / "000009.png").unlink()
    with pytest.raises(DatasetError, match=r"holds 3 images in rgb/, 2 in depth/ and 3 lines in poses\.txt: exp"):
        RgbdFolder(folder)


@pytest.mark.parametrize(
    ("text", "wording"),
    [
        ("000000 1.0\n", "lists 1 frames, but rgb/ holds 3: expected a line each"),
        ("000000 1.0\n000007 1.033333\n000002 1.066667\n", "line 2: '000007 1.033333': expected '000001 timestamp'"),
        ("000000 1.0\n000001 1.5\n000002 1.066667\n", "timestamp 1.5, but poses.txt has 1.033333 for this frame"),
    ],
)
def test_frames_must_agree(folder: Path, text: str, wording: str) -> None:
    (folder / "frames.txt").write_text(text)
    with pytest.raises(DatasetError) as fault:
        RgbdFolder(folder)
    assert wording in str(fault.value)


def test_refused_images(folder: Path) -> None:
    source = RgbdFolder(folder)
    (folder / "rgb" / "000000.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"000000\.png cannot be decoded as an image"):
        source.image(0)
    cv2.imwrite(str(folder / "rgb" / "000001.png"), np.zeros((6, 8, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"000001\.png is 8x6, but intrinsics\.yaml says 16x12"):
        source.image(1)
    cv2.imwrite(str(folder / "depth" / "000002.png"), np.zeros((12, 16), np.uint8))
    with pytest.raises(DatasetError, match=r"holds uint8 of shape \(12, 16\): expected one channel of 16 bit"):
        source.depth(2)


# ---- import


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("name", ["scene.mcap", "scene_bag"])
def test_import(folder: Path, tmp_path: Path, compressed: bool, name: str) -> None:
    steps: list[tuple[int, int]] = []
    count = import_rgbd(folder, tmp_path / name, compressed, lambda done, total: steps.append((done, total)))
    assert count == 3
    assert steps == [(1, 3), (2, 3), (3, 3)]
    source = RgbdFolder(folder)
    topic = "/camera/image/compressed" if compressed else "/camera/image"
    with BagReader(tmp_path / name) as bag:
        assert {name: info.count for name, info in bag.topics.items()} == {
            topic: 3, "/camera/depth": 3, "/camera/camera_info": 3, "/camera/pose": 3,
        }  # fmt: skip
        for i, (_, msg, receipt_ns) in enumerate(bag.messages([topic])):
            np.testing.assert_array_equal(decode_image(msg), source.image(i))
            assert receipt_ns == msg.header.stamp.sec * 10**9 + msg.header.stamp.nanosec == STAMPS[i]
            assert msg.header.frame_id == CAMERA_FRAME
        for i, (_, msg, _) in enumerate(bag.messages(["/camera/depth"])):
            # millimetres: coarser than the 5000 values a metre of the folder
            np.testing.assert_allclose(decode_depth(msg), source.depth(i), atol=0.000501)
        for _, msg, _ in bag.messages(["/camera/camera_info"]):
            camera = camera_from_info(msg)
            np.testing.assert_array_equal(camera.K, source.camera.K)
            assert (camera.width, camera.height) == (16, 12)
        for i, (_, msg, _) in enumerate(bag.messages(["/camera/pose"])):
            position, orientation = msg.pose.position, msg.pose.orientation
            assert msg.header.frame_id == WORLD_FRAME
            np.testing.assert_allclose([position.x, position.y, position.z], source.poses[i, :3, 3])
            R = quaternion_to_matrix(np.array([orientation.x, orientation.y, orientation.z, orientation.w]))
            np.testing.assert_allclose(R, source.poses[i, :3, :3], atol=1e-12)


def test_depth_beyond_16_bit_is_no_depth(folder: Path, tmp_path: Path) -> None:
    (folder / "intrinsics.yaml").write_text(INTRINSICS.replace("5000.0", "500.0"))
    import_rgbd(folder, tmp_path / "b.mcap")
    far = RgbdFolder(folder).depth(0) > 65.5355
    assert far.any()
    with BagReader(tmp_path / "b.mcap") as bag:
        depth = decode_depth(next(bag.messages(["/camera/depth"]))[1])
    assert (depth[far] == 0).all()
    assert (depth[~far] > 0).all()


def test_a_damaged_image_leaves_no_bag(folder: Path, tmp_path: Path) -> None:
    (folder / "rgb" / "000002.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"000002\.png cannot be decoded"):
        import_rgbd(folder, tmp_path / "b.mcap")
    assert [path.name for path in tmp_path.iterdir()] == ["scene"]


def test_grey_images_of_another_folder_without_depth(folder: Path, tmp_path: Path) -> None:
    (folder / "rgb").rename(folder / "image_left")
    for i in range(3):
        grey = np.full((12, 16), 40 * i, np.uint8)
        cv2.imwrite(str(folder / "image_left" / f"{i:06}.png"), grey)
    with pytest.raises(DatasetError, match=r"scene lacks rgb: expected .* rgb/ and depth/$"):
        import_rgbd(folder, tmp_path / "none.mcap")
    assert import_rgbd(folder, tmp_path / "grey.mcap", images="image_left", with_depth=False) == 3
    with BagReader(tmp_path / "grey.mcap") as bag:
        assert sorted(bag.topics) == ["/camera/camera_info", "/camera/image/compressed", "/camera/pose"]
        images = [decode_image(message) for _, message, _ in bag.messages(["/camera/image/compressed"])]
    assert [image[0, 0].tolist() for image in images] == [[0] * 3, [40] * 3, [80] * 3]
    (folder / "image_left" / "000002.png").unlink()
    with pytest.raises(DatasetError, match=r"holds 2 images in image_left/ and 3 lines in poses\.txt: expected the"):
        import_rgbd(folder, tmp_path / "none.mcap", images="image_left", with_depth=False)
