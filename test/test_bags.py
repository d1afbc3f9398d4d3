"""Real bags, written and read back: every storage, this package's messages, damage, and wording of refusals."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_typestore

from stfm_ros.bag_types import CORRESPONDENCES_TYPE, RELATIVE_POSE_TYPE, to_message, typestore
from stfm_ros.bags import CAMERA_INFO_TYPE, IMAGE_TYPES, BagReader, BagWriter
from stfm_ros.errors import BagError
from stfm_ros.images import camera_from_info, decode_image, is_depth

IMAGE, COMPRESSED = IMAGE_TYPES


def image(value: int, encoding: str = "mono8") -> dict[str, Any]:
    size = 2 if encoding == "16UC1" else 1
    return {
        "header": {"stamp": {"sec": value, "nanosec": 5}, "frame_id": "camera"},
        "height": 2,
        "width": 3,
        "encoding": encoding,
        "step": 3 * size,
        "data": np.full(6 * size, value, np.uint8),
    }


def write_images(path: Path, count: int = 3, **how: Any) -> Path:
    with BagWriter(path, **how) as bag:
        for i in range(count):
            bag.write("/camera/image", IMAGE, image(i), 10 * i)
            bag.write("/camera/depth", IMAGE, image(i, "16UC1"), 10 * i + 1)
    return path


def read_all(path: Path) -> list[tuple[str, Any, int]]:
    with BagReader(path) as bag:
        return list(bag.messages())


@pytest.mark.parametrize("name", ["camera.mcap", "camera", "deeper/camera.mcap", "with.dots"])
def test_round_trip(tmp_path: Path, name: str) -> None:
    path = write_images(tmp_path / name)
    assert path.is_file() == name.endswith(".mcap")
    with BagReader(path) as bag:
        assert {topic: (info.type, info.count) for topic, info in bag.topics.items()} == {
            "/camera/image": (IMAGE, 3),
            "/camera/depth": (IMAGE, 3),
        }
        found = list(bag.messages(["camera/image"]))
    assert [receipt_ns for _, _, receipt_ns in found] == [0, 10, 20]
    topic, message, _ = found[2]
    assert (topic, message.header.stamp.sec, message.header.frame_id, message.is_bigendian) == (
        "/camera/image", 2, "camera", 0,
    )  # fmt: skip
    np.testing.assert_array_equal(message.data, [2] * 6)
    assert [p.name for p in path.parent.iterdir()] == [path.name], "temporary files are left"


def test_files_of_a_folder_bag_carry_its_name(tmp_path: Path) -> None:
    path = write_images(tmp_path / "camera")
    assert sorted(p.name for p in path.iterdir()) == ["camera.mcap", "metadata.yaml"]
    assert "- camera.mcap" in (path / "metadata.yaml").read_text()
    assert len(read_all(path / "camera.mcap")) == 6


def test_messages_come_in_the_order_of_receipt(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "b.mcap") as bag:
        for stamp in (30, 10, 20):
            bag.write("/camera/image", IMAGE, image(stamp), stamp)
    assert [receipt_ns for _, _, receipt_ns in read_all(tmp_path / "b.mcap")] == [10, 20, 30]


def test_messages_of_this_package(tmp_path: Path) -> None:
    matches = {
        "header": {"stamp": {"sec": 7}, "frame_id": "camera"},
        "width0": 640,
        "keypoints0": np.array([[1.5, 2.5], [3, 4]], np.float32),
        "confidence": [0.5, 1.0],
        "inliers": np.array([True, False]),
        "model_name": "small",
    }
    inner = {"pose": {"orientation": {"w": np.float64(1)}}, "covariance": np.eye(6)}
    pose = {"pose": inner, "status": 5, "metric": True}
    with BagWriter(tmp_path / "out.mcap") as bag:
        bag.write("/matches", CORRESPONDENCES_TYPE, matches, 1)
        bag.write("/pose", RELATIVE_POSE_TYPE, pose, 2)
    (_, first, _), (_, second, _) = read_all(tmp_path / "out.mcap")
    assert first.keypoints0.dtype == np.float32
    assert first.keypoints0.tolist() == [1.5, 2.5, 3, 4]
    assert first.inliers.tolist() == [True, False]
    assert first.model_name == "small"
    assert first.width0 == 640
    assert first.sigma.size == 0
    assert first.weights_hash == ""
    assert second.metric is True
    assert second.status == second.LOW_PARALLAX
    assert second.pose.covariance.tolist() == np.eye(6).ravel().tolist()


def test_lists_of_messages_and_of_strings(tmp_path: Path) -> None:
    status = {"level": b"\x02", "name": "matcher", "values": [{"key": "a", "value": "1"}, {"key": "b", "value": "2"}]}
    with BagWriter(tmp_path / "b.mcap") as bag:
        bag.write("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", {"status": [status]}, 0)
        bag.write("/joints", "sensor_msgs/msg/JointState", {"name": ["left", "right"], "position": (1, 2.5)}, 1)
    (_, array, _), (_, joints, _) = read_all(tmp_path / "b.mcap")
    assert (array.status[0].level, [pair.key for pair in array.status[0].values]) == (2, ["a", "b"])
    assert (joints.name, joints.position.tolist()) == (["left", "right"], [1, 2.5])


def test_message_objects_are_written_too(tmp_path: Path) -> None:
    [(_, message, _)] = read_all(write_images(tmp_path / "a.mcap", 1))[:1]
    stamp = SimpleNamespace(sec=3, nanosec=4)
    header = SimpleNamespace(stamp=stamp, frame_id="x")
    foreign = SimpleNamespace(**{**vars(message), "header": header, "data": b"123456"})
    with BagWriter(tmp_path / "b.mcap") as bag:
        bag.write("/same", IMAGE, message, 0)
        bag.write("/foreign", IMAGE, foreign, 1)
    (_, same, _), (_, other, _) = read_all(tmp_path / "b.mcap")
    assert (same.header.stamp.nanosec, same.header.frame_id, same.width) == (5, "camera", 3)
    assert same.data.tolist() == message.data.tolist()
    assert other.header.stamp.nanosec == 4
    assert bytes(other.data) == b"123456"


def test_messages_of_rclpy(tmp_path: Path) -> None:
    """What a node receives can be decoded and recorded like what a bag holds, and ROS reads what was recorded."""
    ros = pytest.importorskip("sensor_msgs.msg", reason="ROS's messages are not installed")
    serialization = pytest.importorskip("rclpy.serialization", reason="rclpy is not installed")
    live = ros.Image(height=2, width=3, encoding="rgb8", step=20, is_bigendian=0)
    live.header.stamp.sec, live.header.frame_id = 7, "camera"
    live.data.frombytes(bytes(range(40)))
    info = ros.CameraInfo(width=640, height=480, distortion_model="plumb_bob", d=[0.1, 0.0, 0.0, 0.0, 0.0])
    info.k[:] = [500.0, 0.0, 320.0, 0.0, 500.0, 240.0, 0.0, 0.0, 1.0]
    with BagWriter(tmp_path / "b.mcap") as bag:
        bag.write("/image", IMAGE, live, 1)
        bag.write("/camera_info", CAMERA_INFO_TYPE, info, 2)
    (_, recorded, _), (_, recorded_info, _) = read_all(tmp_path / "b.mcap")
    np.testing.assert_array_equal(decode_image(recorded), decode_image(live))
    assert decode_image(live)[1].ravel().tolist() == list(range(20, 29))
    np.testing.assert_array_equal(camera_from_info(recorded_info).K, camera_from_info(info).K)
    for message, kind in ((live, IMAGE), (info, CAMERA_INFO_TYPE)):
        ours = bytes(typestore().serialize_cdr(to_message(message, kind), kind))
        assert serialization.deserialize_message(ours, type(message)) == message


# ---- other storages


def test_sqlite3_folder_and_single_file_without_definitions(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    with Writer2(folder, version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connection = writer.add_connection("/camera/image", IMAGE, typestore=typestore())
        writer.write(connection, 5, typestore().serialize_cdr(to_message(image(9), IMAGE), IMAGE))
    assert read_all(folder)[0][1].data[0] == 9
    # bags of ROS 2 Humble carry no definitions of their messages
    with sqlite3.connect(folder / "old.db3") as database:
        database.execute("DROP TABLE message_definitions")
        database.execute("UPDATE schema SET schema_version = 3")
    database.close()
    [(topic, message, receipt_ns)] = read_all(folder / "old.db3")
    assert (topic, message.data[0], receipt_ns) == ("/camera/image", 9, 5)


def test_ros_1(tmp_path: Path) -> None:
    store = get_typestore(Stores.ROS1_NOETIC)
    types = store.types
    header = types["std_msgs/msg/Header"](seq=1, stamp=types["builtin_interfaces/msg/Time"](3, 4), frame_id="cam")
    message = types[COMPRESSED](header=header, format="jpeg", data=np.arange(5, dtype=np.uint8))
    with Writer1(tmp_path / "one.bag") as writer:
        connection = writer.add_connection("/image/compressed", COMPRESSED, typestore=store)
        writer.write(connection, 77, store.serialize_ros1(message, COMPRESSED))
    [(topic, read, receipt_ns)] = read_all(tmp_path / "one.bag")
    assert (topic, receipt_ns, read.header.stamp.sec) == ("/image/compressed", 77, 3)
    assert read.data.tolist() == [0, 1, 2, 3, 4]


# ---- topics


def test_find_topic(tmp_path: Path) -> None:
    with BagReader(write_images(tmp_path / "b.mcap")) as bag:
        assert bag.find_topic(IMAGE_TYPES, "/camera/depth") == "/camera/depth"
        assert bag.find_topic(IMAGE, "camera/depth") == "/camera/depth"
        assert bag.find_topic(IMAGE_TYPES, accept=lambda message: not is_depth(message)) == "/camera/image"
        assert bag.find_topic(IMAGE_TYPES, accept=is_depth) == "/camera/depth"


def test_find_topic_lists_the_candidates(tmp_path: Path) -> None:
    path = write_images(tmp_path / "b.mcap")
    with BagReader(path) as bag:
        with pytest.raises(BagError) as fault:
            bag.find_topic(IMAGE_TYPES)
        assert str(fault.value) == (
            f"{path} has more than one topic of type sensor_msgs/msg/Image or sensor_msgs/msg/CompressedImage with "
            "messages: choose one by its name: /camera/depth, /camera/image\n"
            "topics in the bag:\n"
            "  /camera/depth  sensor_msgs/msg/Image  3 messages\n"
            "  /camera/image  sensor_msgs/msg/Image  3 messages"
        )
        with pytest.raises(BagError, match="no topic of type sensor_msgs/msg/CameraInfo with messages: record"):
            bag.find_topic(CAMERA_INFO_TYPE)
        with pytest.raises(BagError, match=r"no topic /camera/imgae; did you mean /camera/image\?\ntopics in the"):
            bag.find_topic(IMAGE, "/camera/imgae")
        with pytest.raises(BagError, match=r"/camera/image .* is of type sensor_msgs/msg/Image: expected sens"):
            bag.find_topic(CAMERA_INFO_TYPE, "/camera/image")
        with pytest.raises(BagError, match="has no topic /elsewhere\ntopics in the bag"):
            bag.messages(["/elsewhere"])


def test_empty_bag(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "empty.mcap"):
        pass
    with BagReader(tmp_path / "empty.mcap") as bag:
        assert bag.topics == {}
        assert list(bag.messages()) == []
        with pytest.raises(BagError, match="the bag has no topics"):
            bag.find_topic(IMAGE)


# ---- writing


@pytest.mark.parametrize("name", ["b.mcap", "b"])
def test_an_error_leaves_nothing_behind(tmp_path: Path, name: str) -> None:
    def stop_midway() -> None:
        with BagWriter(tmp_path / name) as bag:
            bag.write("/camera/image", IMAGE, image(1), 1)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop_midway()
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_without_being_told(tmp_path: Path) -> None:
    for name in ("b.mcap", "b"):
        path = write_images(tmp_path / name, 1)
        with pytest.raises(BagError, match=f"{name} exists already and is not overwritten: delete it first or choose"):
            write_images(path, 2)
        assert len(read_all(path)) == 2
        # a failed replacement leaves the old bag
        with pytest.raises(RuntimeError), BagWriter(path, overwrite=True):
            raise RuntimeError
        assert len(read_all(path)) == 2
        assert len(read_all(write_images(path, 3, overwrite=True))) == 6


def test_what_is_no_bag_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").touch()
    with pytest.raises(BagError, match="work is in the way and no rosbag2 folder, so it is not replaced"):
        write_images(tmp_path / "work", overwrite=True)
    (tmp_path / "folder.mcap").mkdir()
    with pytest.raises(BagError, match=r"folder\.mcap is in the way and no file"):
        write_images(tmp_path / "folder.mcap", overwrite=True)
    assert (tmp_path / "work" / "thesis.txt").exists()


def test_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BagError, match=r"cannot be written .*; choose a folder you may write to"):
        write_images(tmp_path / "file" / "b.mcap")


@pytest.mark.parametrize(
    ("topic_type", "message", "stamp_ns", "wording"),
    [
        ("sensor_msgs/msg/Imagee", {}, 0, "message type 'sensor_msgs/msg/Imagee' is not known"),
        (IMAGE, {"widht": 1}, 0, "sensor_msgs/msg/Image has no field widht: expected header, height, width"),
        (IMAGE, {"width": -1}, 0, "sensor_msgs/msg/Image.width is -1: expected uint32, 0 to 4294967295"),
        (IMAGE, {"width": "wide"}, 0, "sensor_msgs/msg/Image.width is 'wide': expected uint32"),
        (IMAGE, {"data": ["a"]}, 0, "sensor_msgs/msg/Image.data: expected values of uint8"),
        (CAMERA_INFO_TYPE, {"k": np.eye(4)}, 0, "sensor_msgs/msg/CameraInfo.k holds 16 values: expected 9"),
        (IMAGE, {}, -1, "/t: time of receipt -1 ns: expected 0 or more"),
        (COMPRESSED, {}, 0, None),
    ],
)
def test_refused_messages(tmp_path: Path, topic_type: str, message: Any, stamp_ns: int, wording: str | None) -> None:
    with BagWriter(tmp_path / "b.mcap") as bag:
        if wording is None:
            bag.write("/t", topic_type, message, stamp_ns)
            with pytest.raises(BagError, match=f"/t holds {COMPRESSED}: expected the same type, got {IMAGE}"):
                bag.write("/t", IMAGE, {}, 0)
            return
        with pytest.raises(BagError) as fault:
            bag.write("/t", topic_type, message, stamp_ns)
        assert wording in str(fault.value)


# ---- damage


def test_what_is_no_bag(tmp_path: Path) -> None:
    with pytest.raises(BagError, match=r"none\.mcap does not exist: expected a rosbag2 folder, or an \.mcap, \.db3"):
        read_all(tmp_path / "none.mcap")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(BagError, match=r"notes\.txt is no bag by its name: expected a rosbag2 folder"):
        read_all(tmp_path / "notes.txt")
    with pytest.raises(BagError, match=r"has no metadata\.yaml: it is no bag; name the folder that `ros2 bag"):
        read_all(tmp_path)
    write_images(tmp_path / "b.mcap")
    with pytest.raises(BagError, match=r"its recording was interrupted or still runs; .* run `stfm recover .*`"):
        read_all(tmp_path)


@pytest.mark.parametrize("suffix", [".mcap", ".db3", ".bag"])
@pytest.mark.parametrize("content", [b"", b"rubbish" * 100])
def test_rubbish(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"b{suffix}"
    path.write_bytes(content)
    with pytest.raises(BagError, match=r"cannot be opened .* truncated or damaged: try `stfm recover` \(mcap\) or"):
        read_all(path)


@given(share=st.floats(0, 0.999))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_truncated_bags(tmp_path: Path, share: float) -> None:
    source = tmp_path / "whole.mcap"
    if not source.exists():
        write_images(source)
    content = source.read_bytes()
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(content[: int(share * len(content))])
    with pytest.raises(BagError, match="it is truncated or damaged"):
        read_all(cut)


@given(share=st.floats(0, 0.999), value=st.integers(0, 255))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_byte_is_a_bag_error_or_harmless(tmp_path: Path, share: float, value: int) -> None:
    source = tmp_path / "whole.mcap"
    if not source.exists():
        write_images(source)
    content = bytearray(source.read_bytes())
    content[int(share * len(content))] = value
    damaged = tmp_path / "damaged.mcap"
    damaged.write_bytes(content)
    with suppress(BagError):
        read_all(damaged)


def test_damage_further_on_says_how_far_it_was_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with BagWriter(tmp_path / "b.mcap") as bag:
        for i in range(6):
            noise = {"format": "jpeg", "data": rng.integers(0, 16, 1_200_000, np.uint8)}
            bag.write("/image/compressed", COMPRESSED, noise, i)
    content = bytearray((tmp_path / "b.mcap").read_bytes())
    content[-800_000:-700_000] = bytes(100_000)
    (tmp_path / "b.mcap").write_bytes(content)
    seen: list[str] = []
    with BagReader(tmp_path / "b.mcap") as bag, pytest.raises(BagError) as fault:
        seen.extend(topic for topic, _, _ in bag.messages())
    assert 0 < len(seen) < 6
    assert f"is damaged after {len(seen)} messages" in str(fault.value)
