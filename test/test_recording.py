"""The recorder: what is kept, why the rest is not, and whether others read what it writes."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import recorded_camera as rc
import yaml
from mcap.reader import make_reader
from mcap.stream_reader import StreamReader
from rosbags.interfaces import QosDurability, QosReliability
from rosbags.rosbag2 import Reader

from stfm_ros.bags import BagReader
from stfm_ros.config import from_mapping
from stfm_ros.errors import BagError, ConfigError
from stfm_ros.images import decode_depth, decode_image, is_depth
from stfm_ros.posed_bag import PosedBag
from stfm_ros.recording import recorder as recorder_module
from stfm_ros.recording.config import RecordingConfig, SelectionConfig, StorageConfig
from stfm_ros.recording.pairing import Hint, Item, Pairing, Role
from stfm_ros.recording.qos import make_qos, qos_of
from stfm_ros.recording.recorder import Recorder, Topic
from stfm_ros.recording.selection import Selector, View, change_by_pose

ALL = RecordingConfig(SelectionConfig(keep="all", wait_s=0.05), storage=StorageConfig(keep_free_mb=16, flush_s=0.05))
CHOSEN = replace(ALL, selection=SelectionConfig(min_interval_s=0.0, wait_s=0.05))


def with_storage(config: RecordingConfig, **changes: Any) -> RecordingConfig:
    return replace(config, storage=replace(config.storage, **changes))


def manifest(bag: Path) -> Any:
    return json.loads((bag / "manifest.json").read_text())


def accounted(bag: Path) -> Any:
    """The manifest, once its sums are right and the files hold what it says."""
    about = manifest(bag)
    with BagReader(bag) as reader:
        counts = {name: info.count for name, info in reader.topics.items()}
    for topic in about["topics"].values():
        assert topic["taken"] == topic["written"] + sum(topic["left_out"].values())
        assert topic["written"] == counts.get(topic["recorded_as"], 0)
    for file in about["files"]:
        data = (bag / file["name"]).read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    return about


def test_what_is_written_is_what_came(tmp_path: Path) -> None:
    bag = tmp_path / "office"
    with Recorder(bag, rc.TOPICS, ALL, {"robot": "cart"}) as recorder:
        for i in range(6):
            rc.give(recorder, i)
    about = accounted(bag)
    assert about["ended_because"] == "finished"
    assert about["about"] == {"robot": "cart"}
    assert about["frames"] == {"taken": 6, "kept": 6, "left_out": {}}
    assert about["settings"]["selection"]["keep"] == "all"
    assert sorted(path.name for path in bag.iterdir()) == [
        "ledger.jsonl", "manifest.json", "metadata.yaml", "office_0.mcap",
    ]  # fmt: skip
    with BagReader(bag) as reader:
        for topic, message, receipt_ns in reader.messages():
            number = round((receipt_ns - rc.START_NS) / 33_333_333)
            if topic == "/camera/depth/compressed":
                assert is_depth(message)
                sent = rc.typestore().deserialize_cdr(rc.depth(receipt_ns), rc.IMAGE)
                np.testing.assert_array_equal(decode_depth(message), decode_depth(sent))
            elif topic == "/camera/image/compressed":
                grey = cv2.cvtColor(decode_image(message), cv2.COLOR_RGB2GRAY)
                sent = cv2.cvtColor(rc.picture_at(20 * number), cv2.COLOR_RGB2GRAY)
                assert 0 < cv2.absdiff(grey, sent).mean() < 2  # JPEG
    with PosedBag(bag) as posed:  # what training reads
        assert len(posed) == 6 and posed.depth(5) is not None
        assert posed.camera.width == rc.WIDTH


def test_others_read_it(tmp_path: Path) -> None:
    bag = tmp_path / "office"
    with Recorder(bag, rc.TOPICS, with_storage(ALL, split_s=0.15)) as recorder:
        for i in range(8):
            rc.give(recorder, i)
            time.sleep(0.05)
    files = accounted(bag)["files"]
    assert len(files) > 1
    # rosbags
    with Reader(bag) as reader:
        assert reader.message_count == sum(1 for _ in reader.messages()) == 32
        offered = {c.topic: c.ext.offered_qos_profiles[0] for c in reader.connections}
        assert all(c.msgdef.data and c.digest.startswith("RIHS01_") for c in reader.connections)
    assert offered["/camera/image/compressed"].reliability is QosReliability.BEST_EFFORT
    assert offered["/camera/image/compressed"].depth == 5
    assert offered["/camera/pose"].durability is QosDurability.TRANSIENT_LOCAL
    # mcap: the one with the index, and the one that reads from the beginning
    for file in files:
        path = bag / file["name"]
        with path.open("rb") as stream:
            found = make_reader(stream, validate_crcs=True)
            assert found.get_header().profile == "ros2"
            assert sum(1 for _ in found.iter_messages()) == file["messages"]
            summary = found.get_summary()
        assert summary is not None
        assert {schema.encoding for schema in summary.schemas.values()} == {"ros2msg"}
        assert all(schema.data for schema in summary.schemas.values())
        with path.open("rb") as stream:
            records = list(StreamReader(stream, validate_crcs=True).records)
        assert sum(type(record).__name__ == "Message" for record in records) == file["messages"]
        with path.open("rb") as stream:
            chunks = [
                record for record in StreamReader(stream, emit_chunks=True).records if type(record).__name__ == "Chunk"
            ]
        assert chunks and all(chunk.uncompressed_crc for chunk in chunks)
    # the rules of rosbag2_storage's metadata, version 8
    about = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert list(about) == [
        "version", "storage_identifier", "duration", "starting_time", "message_count", "topics_with_message_count",
        "compression_format", "compression_mode", "relative_file_paths", "files", "custom_data", "ros_distro",
    ]  # fmt: skip
    assert about["version"] == 8 and about["storage_identifier"] == "mcap"
    assert about["relative_file_paths"] == [file["name"] for file in files]
    assert sum(file["message_count"] for file in about["files"]) == about["message_count"] == 32
    for topic in about["topics_with_message_count"]:
        profile = yaml.safe_load(topic["topic_metadata"]["offered_qos_profiles"])[0]
        assert list(profile) == sorted(profile) and len(profile) == 9
        assert isinstance(profile["history"], int) and profile["deadline"] == {"nsec": 854775807, "sec": 9223372036}


def test_objects_are_taken_like_bytes(tmp_path: Path) -> None:
    grey = {**rc.messages.image(rc.START_NS, "camera", rc.picture_at(0)), "encoding": "mono8", "step": rc.WIDTH}
    message = rc.to_message({**grey, "data": rc.picture_at(0)[..., 0]}, rc.IMAGE)
    with Recorder(tmp_path / "b", rc.TOPICS[:1], ALL) as recorder:
        assert recorder.take("/camera/image", SimpleNamespace(**vars(message)), rc.START_NS)
    with BagReader(tmp_path / "b") as reader:
        written = next(reader.messages())[1]
    assert written.format == "mono8; jpeg compressed mono8"
    assert cv2.imdecode(written.data, cv2.IMREAD_UNCHANGED).ndim == 2


def test_depth_in_metres_keeps_every_bit(tmp_path: Path) -> None:
    metres = np.random.default_rng(0).random((rc.HEIGHT, rc.WIDTH), np.float32)
    metres[0, 0] = np.nan
    fields = {**rc.messages.depth_image(rc.START_NS, "camera", metres), "encoding": "32FC1", "step": 4 * rc.WIDTH}
    fields["data"] = metres.view(np.uint8).ravel()
    with Recorder(tmp_path / "b", rc.TOPICS, ALL) as recorder:
        recorder.take("/camera/image", rc.image(rc.START_NS, rc.picture_at(0)), rc.START_NS)
        recorder.take("/camera/depth", rc.serialised(fields, rc.IMAGE), rc.START_NS)
    with BagReader(tmp_path / "b") as reader:
        _, message, _ = next(reader.messages(["/camera/depth"]))
    assert message.encoding == "32FC1" and message.data.tobytes() == metres.tobytes()


def test_frames_worth_keeping(tmp_path: Path) -> None:
    bag = tmp_path / "b"
    with Recorder(bag, rc.TOPICS, CHOSEN) as recorder:
        for i in range(8):  # moves by 20 px, 6 % of the width
            rc.give(recorder, i)
        for i in range(8, 11):  # stands still
            rc.give(recorder, i, x=140)
        rc.give(recorder, 11, x=300, metres=0.0)
        rc.give(recorder, 12, x=320, left_out=["/camera/depth"])
        stamp = rc.START_NS + 13 * 33_333_333
        recorder.take("/camera/image", rc.image(stamp, cv2.GaussianBlur(rc.picture_at(340), (0, 0), 4)), stamp)
        recorder.take("/camera/depth", rc.depth(stamp), stamp)
        recorder.take("/camera/image", b"\0\1\0\0rubbish", stamp)
        recorder.take("/camera/depth", rc.depth(stamp + 10**9), stamp)
        rc.settle(recorder)
    about = accounted(bag)
    reasons = {"little_change": 3, "little_depth": 1, "no_depth": 1, "blurred": 1, "unreadable": 1}
    assert about["frames"] == {"taken": 15, "kept": 8, "left_out": reasons}
    assert about["topics"]["/camera/depth"]["left_out"] == {"with_frame": 5, "no_frame": 1}
    assert about["topics"]["/camera/camera_info"]["left_out"] == {"with_frame": 5}
    assert about["topics"]["/camera/pose"]["written"] == 13  # poses are kept whatever becomes of the frames
    assert "/camera/image" in about["faults"]["unreadable"]


def view(x: int, **about: Any) -> View:
    return View(0, cv2.cvtColor(rc.picture_at(x), cv2.COLOR_RGB2GRAY), **about)


def test_selection_by_what_others_know() -> None:
    config = SelectionConfig(min_interval_s=0.0, min_disagreement=2.0, disagreement_s=1.0)
    still = Selector(config, wants_depth=False)
    reasons = []
    # a disagreement holds until the next one, and no longer than a second
    for tenths, told in enumerate((None, None, 1.9, 2.0, None, 0.5, None, 2.0, *[None] * 12)):
        if told is not None:
            still.tell(told)
        reasons.append(still(replace(view(0), stamp_ns=tenths * 10**8)))
    kept = [tenths for tenths, reason in enumerate(reasons) if not reason]
    assert kept == [0, 3, 4, *range(7, 18)] and set(reasons) == {"", "little_change"}
    often = Selector(SelectionConfig(min_interval_s=0.1), wants_depth=False)
    assert not often.is_too_soon(0) and often(view(0)) == ""
    assert [often.is_too_soon(ns) for ns in (-(10**9), 0, 99_000_000, 100_000_000)] == [False, True, True, False]
    turned = np.eye(4)
    turned[:2, :2] = [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]
    assert change_by_pose(turned, np.eye(4), 2.0, focal=0.9) == pytest.approx(0.09)
    moved = np.eye(4)
    moved[0, 3] = 0.1
    assert change_by_pose(moved, np.eye(4), 2.0, focal=0.9) == pytest.approx(0.045)
    # poses are believed before pictures are compared
    depth = np.full((4, 4), 2, np.float32)
    posed = Selector(config, wants_depth=True)
    assert posed(view(0, depth=depth, pose=np.eye(4))) == ""
    assert posed(view(100, depth=depth, pose=np.eye(4))) == "little_change"
    assert posed(view(0, depth=depth, pose=moved)) == ""


def test_disagreement_keeps_a_frame(tmp_path: Path) -> None:
    bag = tmp_path / "b"
    with Recorder(
        bag, rc.TOPICS, replace(CHOSEN, selection=replace(CHOSEN.selection, min_disagreement=2.0))
    ) as recorder:
        for i in range(4):
            rc.give(recorder, i, x=0)
            recorder.hint(rc.START_NS + i * 33_333_333, disagreement=3.0 if i == 2 else 0.5)
    assert accounted(bag)["frames"] == {"taken": 4, "kept": 2, "left_out": {"little_change": 2}}
    with BagReader(bag) as reader:
        kept = [receipt_ns for _, _, receipt_ns in reader.messages(["/camera/image/compressed"])]
    assert kept == [rc.START_NS, rc.START_NS + 2 * 33_333_333]


def test_a_slow_teacher_is_of_use(tmp_path: Path) -> None:
    """What it says of a frame that is decided already holds for those that follow; a pose alone ends no wait."""
    bag = tmp_path / "b"
    asked = replace(CHOSEN, selection=replace(CHOSEN.selection, min_disagreement=2.0, wait_s=0.02, disagreement_s=0.1))
    with Recorder(bag, rc.TOPICS, asked) as recorder:
        for i in range(8):
            recorder.hint(rc.START_NS + i * 33_333_333, pose=np.eye(4))
            rc.give(recorder, i, x=0)
            rc.settle(recorder)
            if i == 2:
                recorder.hint(rc.START_NS, disagreement=3.0)
    with BagReader(bag) as reader:
        kept = [receipt_ns for _, _, receipt_ns in reader.messages(["/camera/image/compressed"])]
    assert [round((ns - rc.START_NS) / 33_333_333) for ns in kept] == [0, 3, 4, 5, 6]


def test_a_pause_is_counted(tmp_path: Path) -> None:
    bag = tmp_path / "b"
    with Recorder(bag, rc.TOPICS, ALL) as recorder:
        for i in range(6):
            rc.settle(recorder)
            recorder.paused = i in (2, 3)
            rc.give(recorder, i)
        recorder.miss("/camera/image", 5)
    about = accounted(bag)
    assert about["frames"] == {"taken": 6, "kept": 4, "left_out": {"paused": 2}}
    assert about["topics"]["/camera/image"]["missed"] == 5
    assert {topic["written"] for topic in about["topics"].values()} == {4}


def test_a_frame_waits_for_what_it_lacks() -> None:
    def item(topic: str, stamp_ns: int, taken_s: float) -> Item:
        return Item(topic, b"", 0, taken_s, 1, None, stamp_ns)

    pairing = Pairing(slop_s=0.02, wait_s=0.2, wants_depth=True, wants_disagreement=True)
    pairing.image(item("image", 10**9, 0.0))
    assert pairing.part(item("depth", 10**9 + 15_000_000, 0.01), Role.DEPTH) is None
    assert list(pairing.ready(0.1)) == []
    assert pairing.hint(10**9, Hint(disagreement=3.0))
    (frame,) = pairing.ready(0.1)
    assert frame.depth is not None and frame.hint.disagreement == 3.0
    pairing.decide(frame, kept=True)
    assert pairing.part(item("info", 10**9, 0.15), Role.WITH_FRAME) is True  # late, and kept like its frame
    assert not pairing.hint(10**9, Hint(disagreement=3.0))
    pairing.image(item("image", 2 * 10**9, 1.0))
    (frame,) = pairing.ready(1.21)  # it has waited long enough
    assert frame.depth is None
    pairing.part(item("depth", 3 * 10**9, 2.0), Role.DEPTH)
    assert pairing.orphans(2.1) == [] and len(pairing.orphans(2.3)) == 1


def test_callbacks_never_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(message: Any, is_depth: bool, config: Any) -> bytes:
        time.sleep(0.3)
        return real(message, is_depth, config)

    real = recorder_module.compress
    monkeypatch.setattr(recorder_module, "compress", slow)
    bag = tmp_path / "b"
    with Recorder(bag, rc.TOPICS[:1], with_storage(ALL, queue_mb=1)) as recorder:
        data = rc.image(rc.START_NS, rc.picture_at(0))
        began = time.monotonic()
        taken = [recorder.take("/camera/image", data, rc.START_NS + i) for i in range(8)]
        assert time.monotonic() - began < 0.2
    assert taken == [True] * 4 + [False] * 4  # 230 kB each
    assert accounted(bag)["frames"] == {"taken": 8, "kept": 4, "left_out": {"queue_full": 4}}


def test_splits_and_size_limit(tmp_path: Path) -> None:
    bag = tmp_path / "b"
    config = with_storage(ALL, split_mb=1, max_mb=2)
    with Recorder(bag, rc.TOPICS, replace(config, compression=replace(config.compression, colour="raw"))) as recorder:
        for i in range(60):
            rc.give(recorder, i)
            time.sleep(0.02)
            if not recorder.status().recording:
                break
        assert "storage.max_mb" in recorder.status().reason
        assert not recorder.take("/camera/pose", rc.pose(rc.START_NS), rc.START_NS)
    about = accounted(bag)
    assert "size limit: the bag has reached storage.max_mb, 2 MB" in about["ended_because"]
    assert about["topics"]["/camera/pose"]["left_out"]["stopped"] >= 1
    assert len(about["files"]) >= 2
    assert all(file["bytes"] > 1e6 for file in about["files"][:-1])
    assert sum(file["bytes"] for file in about["files"]) < 4e6


def test_the_disk_is_never_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [recorder_module.shutil.disk_usage(tmp_path).free]
    monkeypatch.setattr(recorder_module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free[0]))
    with Recorder(tmp_path / "b", rc.TOPICS, ALL) as recorder:
        rc.give(recorder, 0)
        rc.settle(recorder)
        free[0] = 15_000_000
        deadline = time.monotonic() + 10
        while recorder.status().recording and time.monotonic() < deadline:
            time.sleep(0.02)
    assert accounted(tmp_path / "b")["ended_because"].startswith("disk limit: 15 MB are free and storage.keep_free_mb")
    with pytest.raises(BagError, match=r"has 15 MB free and storage\.keep_free_mb is 16: make room, lower the limit"):
        Recorder(tmp_path / "c", rc.TOPICS, ALL)
    assert not (tmp_path / "c").exists()


def test_clock_that_jumps_and_topic_that_stops(tmp_path: Path) -> None:
    bag = tmp_path / "b"
    config = with_storage(ALL, silence_s=0.3)
    hour = 3_600_000_000_000
    with Recorder(bag, (*rc.TOPICS, Topic("/odom", "nav_msgs/msg/Odometry")), config) as recorder:
        for i, offset in enumerate((0, 0, hour, hour, -hour, -hour)):
            rc.give(recorder, i, receipt_ns=time.time_ns() + offset, left_out=["/camera/pose"] if i > 1 else [])
            time.sleep(0.1)
        recorder.take("/camera/pose", rc.pose(0), -1)
        time.sleep(0.02)
        assert recorder.status().silent == ["/camera/pose", "/odom"]
    about = accounted(bag)
    assert about["frames"]["kept"] == 6
    assert [round(jump["seconds"]) for jump in about["clock_jumps"]] == [3600, -7200]
    assert about["topics"]["/camera/pose"]["left_out"] == {"bad_stamp": 1}
    silences = {silence["topic"]: silence for silence in about["silences"]}
    assert silences["/odom"]["begin_ns"] == 0
    assert silences["/camera/pose"]["begin_ns"] > 0 and not silences["/camera/pose"]["ended"]
    assert silences["/camera/pose"]["seconds"] > 0.3
    with Reader(bag) as reader:  # in the order of receipt, over two hours
        times = [receipt_ns for _, receipt_ns, _ in reader.messages()]
        assert times == sorted(times) and reader.duration > 1.99 * hour


def test_refusals(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(BagError, match="there exists already: choose another name"):
        Recorder(tmp_path / "there", rc.TOPICS, ALL)
    image = rc.TOPICS[0]
    for topics, words in (
        ((Topic("/a", "my_msgs/msg/Thing"),), r"/a: message type 'my_msgs/msg/Thing' is not known: expected e\.g\."),
        ((image, replace(image, name="/b")), "/b and /camera/image are both to be the image: choose one"),
        ((replace(image, type=rc.POSE),), "/camera/image is of type geometry_msgs/msg/PoseStamped: expected sensor"),
        (
            (image, Topic("/camera/image/compressed", "sensor_msgs/msg/CompressedImage")),
            "would be one topic in the bag: record one of them",
        ),
    ):
        with pytest.raises(BagError, match=words):
            Recorder(tmp_path / "new", topics, ALL)
        assert not (tmp_path / "new").exists()
    with pytest.raises(ConfigError, match=r"storage\.flush_s: 0\.0 is below the minimum 0\.05"):
        from_mapping(RecordingConfig, {"storage.flush_s": 0.0})


def test_qos_of_rclpy() -> None:
    qos = pytest.importorskip("rclpy.qos", reason="needs ROS 2")
    profile = qos.QoSProfile(depth=10)
    assert qos_of(profile) == replace_times(make_qos(), profile)
    assert qos_of(qos.qos_profile_sensor_data).reliability is QosReliability.BEST_EFFORT


def replace_times(expected: Any, profile: Any) -> Any:
    """rclpy's default profile leaves the times at zero, which ROS takes for infinite too."""
    found = qos_of(profile)
    return expected._replace(
        deadline=found.deadline,
        lifespan=found.lifespan,
        liveliness=found.liveliness,
        liveliness_lease_duration=found.liveliness_lease_duration,
    )
