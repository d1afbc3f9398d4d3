"""Bags become frames and pairs whose motion is right, and what is wrong with a bag is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_typestore

from stfm_ros import messages
from stfm_ros.bag_types import to_message, typestore
from stfm_ros.bags import CAMERA_INFO_TYPE, IMAGE_TYPES, BagReader, BagWriter
from stfm_ros.baselines import orb
from stfm_ros.errors import BagError, DatasetError
from stfm_ros.evaluate import evaluate_pairs
from stfm_ros.pairs import Sampling, rotation_angle_deg
from stfm_ros.rotation import matrix_to_quaternion
from stfm_ros.types import ByteArray, Camera, Float32Array, FloatArray, Matches
from stfm_training.recordings import Recording, RecordingConfig, prepare
from stfm_training.recordings.frames import to_size
from stfm_training.recordings.index import Index
from stfm_training.recordings.pairs import Trials, held_out_frames
from stfm_training.recordings.poses import Track, Transforms
from stfm_training.render import Scene, look_at
from stfm_training.sources.recorded import Recorded
from stfm_training.supervision import MATCHED, grid

IMAGE, COMPRESSED = IMAGE_TYPES
CAMERA = Camera(160, 120, np.array([[150.0, 0, 79.5], [0, 150.0, 59.5], [0, 0, 1]]))
FRAMES, START_NS, PERIOD_NS = 20, 5_000_000_000, 100_000_000
POSE, ODOMETRY, TF = "geometry_msgs/msg/PoseStamped", "nav_msgs/msg/Odometry", "tf2_msgs/msg/TFMessage"
FRAME = "camera_optical"


class Walk:
    """A walk through a rendered room: images, exact depth, poses camera to world."""

    def __init__(self) -> None:
        scene = Scene.random(np.random.default_rng(4), [], "indoor")
        centre = (scene.lower + scene.upper) / 2
        target = scene.targets[np.argmax(np.linalg.norm(scene.targets - centre, axis=1))]
        side = np.cross(target - centre, [0, 0, 1.0])
        self.course = centre, target, side / np.linalg.norm(side)
        self.poses = np.stack([self.pose(i) for i in range(FRAMES)])
        views = np.linalg.inv(self.poses)
        rendered = [scene.render(CAMERA, view, supersample=2) for view in views]
        self.images = [frame.image for frame in rendered]
        self.depths = [scene.depth(CAMERA, view) for view in views]
        self.stamps = [START_NS + i * PERIOD_NS for i in range(FRAMES)]

    def pose(self, i: float) -> FloatArray:
        """Camera to world at the time of frame i, or between two."""
        centre, target, side = self.course
        s = 2 * i / (FRAMES - 1) - 1
        return np.asarray(np.linalg.inv(look_at(centre + 0.6 * s * side, target + 1.3 * s * side, 0.05 * s)))

    def motion(self, i: int, j: int) -> FloatArray:
        return np.asarray(np.linalg.inv(self.poses[j]) @ self.poses[i])


@pytest.fixture(scope="module")
def walk() -> Walk:
    return Walk()


Rows = list[tuple[str, str, dict[str, Any], int]]


def rows_of(
    walk: Walk,
    depth: Callable[[int, Float32Array, int], dict[str, Any]] | None = None,
    pose: Callable[[int, FloatArray, int], tuple[str, str, dict[str, Any]] | None] | None = None,
    frames: int = FRAMES,
    camera: Camera = CAMERA,
) -> Rows:
    """Topic, type, message and time of receipt: PNG images, depth, calibration and poses, unless told otherwise."""
    rows: Rows = []
    for i, stamp in enumerate(walk.stamps[:frames]):
        png = cv2.imencode(".png", walk.images[i][..., ::-1])[1].tobytes()
        picture = messages.compressed_image(stamp, FRAME, "rgb8; png compressed bgr8", png)
        rows.append(("/camera/image/compressed", COMPRESSED, picture, stamp))
        told = depth(i, walk.depths[i], stamp) if depth else messages.depth_image(stamp, FRAME, walk.depths[i])
        rows.append(("/camera/depth", COMPRESSED if "format" in told else IMAGE, told, stamp + 1))
        rows.append(("/camera/camera_info", CAMERA_INFO_TYPE, messages.camera_info(stamp, FRAME, camera), stamp + 2))
        made = pose(i, walk.poses[i], stamp) if pose else posed(i, walk.poses[i], stamp)
        rows += [(*made, stamp + 3)] if made else []
    return rows


def posed(i: int, pose: FloatArray, stamp: int) -> tuple[str, str, dict[str, Any]]:
    return "/camera/pose", POSE, messages.pose_stamped(stamp, "world", pose)


def unposed(i: int, pose: FloatArray, stamp: int) -> None:
    return None


def metres(stamp: int, depth: Float32Array) -> dict[str, Any]:
    """32FC1."""
    height, width = depth.shape
    head = {"header": messages.header(stamp, FRAME), "height": height, "width": width, "step": 4 * width}
    return {**head, "encoding": "32FC1", "data": depth.astype("<f4").view(np.uint8).ravel()}


def write(bag: Path, rows: Rows) -> Path:
    with BagWriter(bag) as writer:
        for topic, kind, message, receipt_ns in sorted(rows, key=lambda row: row[3]):
            writer.write(topic, kind, message, receipt_ns)
    return bag


def assert_true(recording: Recording, walk: Walk, turn_deg: float = 0.01, shift_m: float = 1e-4) -> None:
    """Every pair's motion is that of the rendered walk."""
    assert len(recording.train) > 20
    for pairs in (recording.train, recording.held_out):
        for i, j, T in zip(pairs.index0, pairs.index1, pairs.T_0to1):
            error = T @ np.linalg.inv(walk.motion(int(i), int(j)))
            assert rotation_angle_deg(error[:3, :3]) < turn_deg
            assert np.linalg.norm(error[:3, 3]) < shift_m
        assert ((pairs.overlap > 0.2) & (pairs.overlap < 0.97)).all()


# ---- frames


def test_frames_are_kept_as_they_were_recorded_and_a_second_run_reuses_them(walk: Walk, tmp_path: Path) -> None:
    bag = write(tmp_path / "in.mcap", rows_of(walk))
    recording = prepare(bag, tmp_path / "prepared")
    assert len(recording) == FRAMES
    np.testing.assert_array_equal(recording.image(3), walk.images[3])
    np.testing.assert_allclose(recording.depth(3), walk.depths[3], atol=5.1e-4)
    assert_true(recording, walk)
    assert recording.stamps[1] - recording.stamps[0] == pytest.approx(0.1)
    about = json.loads(json.dumps(recording.about()))
    assert about["bag"] == "in.mcap" and len(about["sha256"]) == 64
    assert about["poses_from"] == "/camera/pose, taken as poses of the camera"
    assert about["counts"]["images"] == about["counts"]["frames"] == FRAMES
    made = (tmp_path / "prepared" / "recording.json").stat().st_mtime_ns
    again = prepare(bag, tmp_path / "prepared")
    assert (tmp_path / "prepared" / "recording.json").stat().st_mtime_ns == made
    np.testing.assert_array_equal(again.train.T_0to1, recording.train.T_0to1)
    other = prepare(bag, tmp_path / "prepared", RecordingConfig(max_frames=12))
    assert len(other) == 12 and other.counts["thinned_out"] == FRAMES - 12
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mcap", "prepared"]


def test_jpeg_stays_jpeg_and_raw_becomes_png(walk: Walk, tmp_path: Path) -> None:
    rows = rows_of(walk)
    jpeg = cv2.imencode(".jpg", walk.images[0][..., ::-1])[1].tobytes()
    rows = [
        (topic, kind, {**message, "data": np.frombuffer(jpeg, np.uint8)} if kind == COMPRESSED else message, receipt)
        for topic, kind, message, receipt in rows
    ]
    recording = prepare(write(tmp_path / "jpeg.mcap", rows), tmp_path / "jpeg")
    assert (recording.path / "rgb" / "000004.jpg").read_bytes() == jpeg
    raw = [
        ("/camera/image", IMAGE, messages.image(walk.stamps[i], FRAME, walk.images[i]), walk.stamps[i])
        for i in range(FRAMES)
    ] + [row for row in rows if row[1] != COMPRESSED]
    recording = prepare(write(tmp_path / "raw.mcap", raw), tmp_path / "raw")
    np.testing.assert_array_equal(recording.image(7), walk.images[7])


def test_depth_in_metres_or_compressed_or_smaller_is_the_same_depth(walk: Walk, tmp_path: Path) -> None:
    def compressed(i: int, depth: Float32Array, stamp: int) -> dict[str, Any]:
        png = cv2.imencode(".png", np.round(depth * 1000).astype(np.uint16))[1].tobytes()
        return messages.compressed_image(stamp, FRAME, "16UC1; compressedDepth png", bytes(12) + png)

    def small(i: int, depth: Float32Array, stamp: int) -> dict[str, Any]:
        # pixel (x, y) of the small image covers (2x, 2y) to (2x + 1, 2y + 1), its centre lies between them
        return metres(stamp, np.ascontiguousarray(depth.reshape(60, 2, 80, 2).mean((1, 3))))

    for name, how in (("m", lambda i, depth, stamp: metres(stamp, depth)), ("png", compressed), ("small", small)):
        recording = prepare(write(tmp_path / f"{name}.mcap", rows_of(walk, how)), tmp_path / name)
        assert_true(recording, walk)
        error = np.abs(recording.depth(5) - walk.depths[5])
        assert np.median(error) < (0.02 if name == "small" else 6e-4)


def test_smaller_depth_is_scaled_about_the_centres_of_pixels() -> None:
    small = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
    for factor in (2, 3, 5):
        large = to_size(small, 4 * factor, 3 * factor)
        np.testing.assert_array_equal(large, small.repeat(factor, 0).repeat(factor, 1))


# ---- other storages


def test_sqlite3_and_ros_1_give_the_same_recording(walk: Walk, tmp_path: Path) -> None:
    rows = rows_of(walk, frames=12)
    with Writer2(tmp_path / "two", version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connections = {
            topic: writer.add_connection(topic, kind, typestore=typestore())
            for topic, kind in {(topic, kind) for topic, kind, *_ in rows}
        }
        for topic, kind, message, receipt in rows:
            writer.write(connections[topic], receipt, typestore().serialize_cdr(to_message(message, kind), kind))
    store = get_typestore(Stores.ROS1_NOETIC)
    with Writer1(tmp_path / "one.bag") as writer1:
        joined = {
            topic: writer1.add_connection(topic, kind, typestore=store)
            for topic, kind in {(topic, kind) for topic, kind, *_ in rows}
        }
        for topic, kind, message, receipt in rows:
            old = as_ros_1(store, to_message(message, kind))
            writer1.write(joined[topic], receipt, store.serialize_ros1(old, kind))
    two = prepare(tmp_path / "two", tmp_path / "prepared2")
    one = prepare(tmp_path / "one.bag", tmp_path / "prepared1")
    np.testing.assert_array_equal(two.train.T_0to1, one.train.T_0to1)
    np.testing.assert_array_equal(two.depth(3), one.depth(3))
    assert len(two) == 12 and len(two.train) > 10


def as_ros_1(store: Any, message: Any) -> Any:
    """The same message of ROS 1: headers with a number, calibrations in capitals."""
    if not hasattr(message, "__msgtype__"):
        return [as_ros_1(store, item) for item in message] if isinstance(message, list) else message
    kind = message.__msgtype__
    fields = {name: as_ros_1(store, getattr(message, name)) for name in message.__dataclass_fields__ if name[0] != "_"}
    wanted = [name for name, _ in store.fielddefs[kind][1]]
    fields |= {name: fields.pop(name.lower()) for name in wanted if name.lower() in fields}
    return store.types[kind](**{name: fields.get(name, 0) for name in wanted})


# ---- poses


def moved_by(T: FloatArray) -> dict[str, Any]:
    return {
        "translation": dict(zip("xyz", T[:3, 3].tolist())),
        "rotation": dict(zip("xyzw", matrix_to_quaternion(T[:3, :3]).tolist())),
    }


def transform(stamp: int, parent: str, child: str, T: FloatArray) -> dict[str, Any]:
    stamped = {"header": messages.header(stamp, parent), "child_frame_id": child, "transform": moved_by(T)}
    return {"transforms": [stamped]}


def body() -> FloatArray:
    """The camera in a body whose x axis points forward, 20 cm ahead of its middle."""
    T = np.eye(4)
    T[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    T[0, 3] = 0.2
    return T


def static() -> tuple[str, str, dict[str, Any], int]:
    return "/tf_static", TF, transform(0, "base_link", FRAME, body()), START_NS - 1


def test_poses_of_a_body_reach_the_camera_through_tf(walk: Walk, tmp_path: Path) -> None:
    def odometry(i: int, pose: FloatArray, stamp: int) -> tuple[str, str, dict[str, Any]]:
        of_body = messages.pose_stamped(stamp, "odom", pose @ np.linalg.inv(body()))
        return "/odom", ODOMETRY, {**of_body, "pose": {"pose": of_body["pose"]}, "child_frame_id": "base_link"}

    recording = prepare(write(tmp_path / "in.mcap", [*rows_of(walk, pose=odometry), static()]), tmp_path / "out")
    assert recording.record["poses_from"] == "/odom of base_link, and tf to camera_optical"
    assert_true(recording, walk)
    with pytest.raises(DatasetError, match=r"poses \(/odom, .* contradict the depth.*optical frame"):
        prepare(write(tmp_path / "bare.mcap", rows_of(walk, pose=odometry)), tmp_path / "bare")
    assert not (tmp_path / "bare").exists()


def test_tf_alone_tells_the_poses_between_its_samples(walk: Walk, tmp_path: Path) -> None:
    def between(i: int, pose: FloatArray, stamp: int) -> tuple[str, str, dict[str, Any]]:
        at = walk.pose(i - 0.5) @ np.linalg.inv(body())  # halfway between the images
        return "/tf", TF, transform(stamp - PERIOD_NS // 2, "map", "base_link", at)

    rows = [*rows_of(walk, pose=between), static()]
    recording = prepare(write(tmp_path / "in.mcap", rows), tmp_path / "out")
    assert recording.record["poses_from"] == "tf: camera_optical in map"
    assert (len(recording), recording.counts["without_pose"]) == (FRAMES - 1, 1)  # none after the last image
    assert_true(recording, walk, turn_deg=0.05, shift_m=2e-3)
    with pytest.raises(BagError, match="tf does not join camera_optical to world: it knows base_link, camera_optical"):
        prepare(tmp_path / "in.mcap", tmp_path / "other", RecordingConfig(poses="tf", fixed_frame="world"))


def test_a_pose_between_two_samples_turns_and_moves_evenly_and_gaps_have_none() -> None:
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[1, :3, :3] = cv2.Rodrigues(np.array([0, 0, 1.0]))[0]
    poses[1, :3, 3] = [1.0, 2.0, 0.0]
    track = Track(np.array([0, 100_000_000, 2_000_000_000]), poses)
    wanted = np.array([25_000_000, 100_000_000, 1_000_000_000, 2_000_000_000, 2_009_000_000, 2_011_000_000])
    found = track.at(wanted)
    np.testing.assert_allclose(cv2.Rodrigues(found[0, :3, :3])[0].ravel(), [0, 0, 0.25], atol=1e-12)
    np.testing.assert_allclose(found[0, :3, 3], [0.25, 0.5, 0.0])
    np.testing.assert_allclose(found[1], poses[1])
    assert np.isfinite(found).all(axis=(1, 2)).tolist() == [True, True, False, True, True, False]
    assert np.isnan(Track.of([]).at(wanted)).all()


def test_tf_joins_frames_over_a_common_one_and_never_runs_in_circles() -> None:
    tree, turn = Transforms(), np.eye(4)
    turn[:3, :3] = cv2.Rodrigues(np.array([0.3, 0, 0]))[0]
    shift = np.eye(4)
    shift[0, 3] = 2.0
    for parent, child, T in (("base", "left", turn), ("base", "right", shift), ("a", "b", turn), ("b", "a", turn)):
        [told] = transform(0, "/" + parent, child, T)["transforms"]
        tree.add(to_message({"transforms": [told]}, TF), static=True)
    np.testing.assert_allclose(tree.lookup("left", "/right", np.zeros(1, np.int64))[0], np.linalg.inv(turn) @ shift)
    assert "left" in tree and "/right" in tree and "front" not in tree and not tree.moves("left")
    assert tree.root("right") == "base" and tree.root("a") in ("a", "b")
    with pytest.raises(BagError, match="does not join right to a"):
        tree.lookup("a", "right", np.zeros(1, np.int64))


# ---- without poses


class Sees:
    """A matcher that knows the rendered walk: grid points of one image where they lie in the other, and some errors."""

    def __init__(self, walk: Walk, noise_px: float = 0.4, wrong: float = 0.2) -> None:
        self.walk, self.noise_px, self.wrong = walk, noise_px, wrong
        self.asked: list[tuple[int, int]] = []

    def __call__(self, image0: ByteArray, image1: ByteArray) -> Matches:
        i, j = (
            next(k for k, known in enumerate(self.walk.images) if (known == image).all()) for image in (image0, image1)
        )
        self.asked.append((i, j))
        rng = np.random.default_rng([i, j])
        y, x = (axis.ravel() for axis in np.mgrid[4:120:6, 4:160:6])
        depth, T = self.walk.depths[i][y, x], self.walk.motion(i, j)
        points = (np.column_stack([x, y, np.ones(len(x))]) @ np.linalg.inv(CAMERA.K).T) * depth[:, None]
        there = (points @ T[:3, :3].T + T[:3, 3]) @ CAMERA.K.T
        there = there[:, :2] / there[:, 2:]
        there += rng.normal(0, self.noise_px, there.shape)
        lost = rng.random(len(x)) < self.wrong
        there[lost] = rng.uniform(0, [160, 120], (lost.sum(), 2))
        seen = (depth > 0) & ((there >= 0) & (there < [160, 120])).all(axis=1)
        ones = np.ones(int(seen.sum()), np.float32)
        return Matches(np.column_stack([x, y])[seen].astype(np.float32), there[seen].astype(np.float32), ones, ones)


def test_without_poses_motions_are_estimated_from_matches_and_depth(walk: Walk, tmp_path: Path) -> None:
    bag = write(tmp_path / "in.mcap", rows_of(walk, pose=unposed))
    match, steps = Sees(walk), []
    recording = prepare(
        bag, tmp_path / "out", RecordingConfig(max_pairs=70), match, "truth", lambda *step: steps.append(step)
    )
    assert recording.record["poses_from"] == "matches of truth"
    assert np.isnan(recording.poses).all()
    assert_true(recording, walk, turn_deg=0.5, shift_m=0.04)
    left_out = recording.counts["pairs_left_out"]
    assert len(recording.train) + len(recording.held_out) + sum(left_out.values()) == len(match.asked) <= 70
    assert steps[-1] == ("pairs", len(match.asked), 70) and ("frames", FRAMES, 2 * FRAMES) in steps
    # the recorded poses are not needed, nor used, where that is asked for
    bag = write(tmp_path / "posed.mcap", rows_of(walk))
    again = prepare(bag, tmp_path / "again", RecordingConfig(max_pairs=70, poses="estimate"), Sees(walk), "truth")
    np.testing.assert_array_equal(again.train.T_0to1, recording.train.T_0to1)


def test_poses_of_few_images_are_not_used_unless_they_are_asked_for(walk: Walk, tmp_path: Path) -> None:
    def slow(i: int, pose: FloatArray, stamp: int) -> tuple[str, str, dict[str, Any]] | None:
        return posed(i, pose, stamp) if i % 3 == 0 else None

    # a teacher that has a pose for every third image, and no two within half a second
    rows = [(topic, kind, about, 3 * stamp) for topic, kind, about, stamp in rows_of(walk, pose=slow)]
    for _, _, about, _ in rows:
        seconds = about["header"]["stamp"]
        stamp = 6 * (seconds["sec"] * 10**9 + seconds["nanosec"])
        about["header"]["stamp"] = {"sec": stamp // 10**9, "nanosec": stamp % 10**9}
    bag = write(tmp_path / "in.mcap", rows)
    with BagReader(bag) as reader:
        left, asked = Index(reader, RecordingConfig()), Index(reader, RecordingConfig(poses="/camera/pose"))
    assert left.poses is None and len(left.stamps_ns) == FRAMES
    assert left.poses_from == "estimate: /camera/pose tells those of 35% of the images alone"
    assert asked.poses is not None and len(asked.stamps_ns) == 7


def test_a_pair_without_enough_that_agrees_is_rejected_with_its_reason(walk: Walk, tmp_path: Path) -> None:
    bag = write(tmp_path / "in.mcap", rows_of(walk, pose=unposed))

    class Guesses(Sees):
        """Right for neighbours alone."""

        def __call__(self, image0: ByteArray, image1: ByteArray) -> Matches:
            matches = super().__call__(image0, image1)
            i, j = self.asked[-1]
            if j - i == 2:
                return matches.take(np.arange(20))
            if j - i > 2:
                points = np.random.default_rng(i).uniform(0, [160, 120], matches.keypoints1.shape)
                return replace(matches, keypoints1=points.astype(np.float32))
            return matches

    config = RecordingConfig(max_pairs=60, held_out=0.0)
    recording = prepare(bag, tmp_path / "out", config, Guesses(walk))
    assert (recording.train.index1 - recording.train.index0 == 1).all()
    assert set(recording.counts["pairs_left_out"]) <= {
        "too few matches with depth",
        "too few matches agree on a motion",
        "overlap outside 0.2-0.97",
    }
    with pytest.raises(DatasetError, match=r"no pairs of 20 frames to train on: .* x too few matches with depth"):
        prepare(bag, tmp_path / "none", config, lambda image0, image1: Matches.empty())


def test_matches_that_agree_on_a_wrong_motion_are_found_out_by_depth(walk: Walk, tmp_path: Path) -> None:
    """As if each second image had been taken with the head turned by 12 degrees: PnP alone is content with that."""
    bag = write(tmp_path / "in.mcap", rows_of(walk, pose=unposed))
    wrong = np.eye(4)
    wrong[:3, :3] = cv2.Rodrigues(np.array([0, np.radians(12), 0]))[0]
    liar = Sees(walk)
    liar.walk = SimpleNamespace(images=walk.images, depths=walk.depths, motion=lambda i, j: wrong @ walk.motion(i, j))
    with pytest.raises(DatasetError, match="depth contradicts the motion|different motions"):
        prepare(bag, tmp_path / "out", RecordingConfig(max_pairs=30), liar)


def test_gaps_that_give_nothing_are_given_up() -> None:
    trials = Trials(np.zeros(200, np.bool_), 400, np.random.default_rng(0))
    gaps = []
    for i, j in trials:
        gaps.append(j - i)
        if j - i in (2, 3):
            trials.worked()
    assert trials.tried == len(gaps) == 400 or gaps.count(2) == 198
    assert gaps.count(1) == gaps.count(5) == gaps.count(144 - 55) == 8
    assert len(set(zip(gaps, range(len(gaps))))) == len(gaps)


# ---- held out


def test_no_training_pair_touches_a_held_out_frame(walk: Walk, tmp_path: Path) -> None:
    recording = prepare(write(tmp_path / "in.mcap", rows_of(walk)), tmp_path / "out")
    outside = recording.held_out_frames
    assert outside.sum() == 4 and outside[-4:].all()
    assert not outside[recording.train.index0].any() and not outside[recording.train.index1].any()
    assert outside[recording.held_out.index0].all() and outside[recording.held_out.index1].all()


@pytest.mark.parametrize("count", [5, 37, 100, 333])
@pytest.mark.parametrize("share", [0.1, 0.2, 0.25, 0.5])
def test_a_share_of_the_frames_is_held_out_in_blocks(count: int, share: float) -> None:
    outside = held_out_frames(count, share)
    assert abs(outside.mean() - share) <= 1 / min(count, 10)
    assert np.count_nonzero(np.diff(outside.astype(int))) <= 3  # two blocks at most, the last one at the end
    assert not held_out_frames(count, 0.0).any()


def test_held_out_pairs_can_be_evaluated_with_and_without_poses(walk: Walk, tmp_path: Path) -> None:
    sampling = Sampling(count=3, min_baseline=0.005)
    posed_pairs = prepare(
        write(tmp_path / "a.mcap", rows_of(walk)), tmp_path / "a", RecordingConfig(held_out=0.5)
    ).pairs_to_measure(sampling)
    estimated = prepare(
        write(tmp_path / "b.mcap", rows_of(walk, pose=unposed)),
        tmp_path / "b",
        RecordingConfig(held_out=0.5),
        Sees(walk),
    ).pairs_to_measure(sampling)
    for pairs in (posed_pairs, estimated):
        assert len(pairs) == 3
        score = evaluate_pairs({"truth": Sees(walk, noise_px=0.1), "orb": orb}, pairs)["truth"]
        assert score.median_rotation_deg < 0.6
        np.testing.assert_allclose(pairs[0].T_0to1, walk.motion(pairs[0].index0, pairs[0].index1), atol=0.03)


# ---- pairs as the training takes them


@pytest.mark.parametrize("lens", ["none", "plumb_bob"])
def test_a_training_pair_shows_the_same_at_matched_points(walk: Walk, tmp_path: Path, lens: str) -> None:
    """With a lens the frames are bent first, as it would bend them; the pair must still hold to the pixel."""
    seen, camera = walk, CAMERA
    if lens != "none":
        camera = replace(CAMERA, distortion_model="plumb_bob", D=np.array([-0.25, 0.06, 0.0, 0.0, 0.0]))
        seen = bent(walk, camera)
    recording = prepare(write(tmp_path / "in.mcap", rows_of(seen, camera=camera)), tmp_path / "out")
    source = Recorded(recording)
    errors, depths = [], []
    for seed in range(12):
        pair = source.pair(np.random.default_rng(seed), 0.6, 96, 128)
        assert pair.image0.shape == (96, 128, 3) and pair.depth0.shape == (96, 128)
        at = pair.warp01.points
        where = (pair.warp01.state == MATCHED) & ((at >= 1) & (at < [126, 94])).all(axis=1)
        x0, y0 = grid(96, 128)[where].astype(int).T
        there = cv2.remap(pair.image1, *at[where].T.copy(), cv2.INTER_LINEAR).reshape(-1, 3)
        errors.append(np.abs(there.astype(float) - pair.image0[y0, x0]).mean(1))
        depths.append(pair.depth0[y0, x0])
        again = source.pair(np.random.default_rng(seed), 0.6, 96, 128)
        np.testing.assert_array_equal(pair.image1, again.image1)
        np.testing.assert_array_equal(pair.warp10.points, again.warp10.points)
    assert np.median(np.concatenate(errors)) < 8.0
    assert (np.concatenate(depths) > 0).all()


def bent(walk: Walk, camera: Camera) -> Any:
    """The walk through a lens: each pixel of the bent image shows what its ray meets."""
    from stfm_ros.geometry import normalise_points

    y, x = np.mgrid[:120, :160].astype(np.float64)
    rays = normalise_points(np.column_stack([x.ravel(), y.ravel()]), camera)
    at = (rays @ CAMERA.K[:2, :2].T + CAMERA.K[:2, 2]).astype(np.float32).reshape(120, 160, 2)
    images = [cv2.remap(image, at, None, cv2.INTER_LINEAR) for image in walk.images]
    depths = [cv2.remap(depth, at, None, cv2.INTER_NEAREST) for depth in walk.depths]
    return SimpleNamespace(images=images, depths=depths, poses=walk.poses, stamps=walk.stamps)


def test_difficulty_lowers_the_overlap_and_few_easy_pairs_are_no_dead_end(walk: Walk, tmp_path: Path) -> None:
    source = Recorded(prepare(write(tmp_path / "in.mcap", rows_of(walk)), tmp_path / "out"))
    assert (np.diff(source.pairs.overlap) <= 0).all()

    def drawn(difficulty: float) -> list[float]:
        """Mean share of the grid that is matched."""
        pairs = [source.pair(np.random.default_rng(seed), difficulty, 96, 128) for seed in range(20)]
        return [float((pair.warp01.state == MATCHED).mean()) for pair in pairs]

    assert np.mean(drawn(0.0)) > np.mean(drawn(1.0)) + 0.05
    source.pairs = replace(source.pairs, overlap=source.pairs.overlap / 2)
    assert np.mean(drawn(0.0)) > 0.3


# ---- bad input


@pytest.mark.parametrize(
    ("depth", "words"),
    [
        (lambda i, depth, stamp: metres(stamp, depth * 1000), r"depth on /camera/depth is [\de+.]+ m.*e.g. to 0.001"),
        (lambda i, depth, stamp: metres(stamp, depth / 1000), r"median depth .* is 0.00\d+ m.*e.g. to 1000"),
        (lambda i, depth, stamp: metres(stamp, depth * np.nan), r"none of the 20 depth images .*20 x depth of less"),
        (lambda i, depth, stamp: metres(stamp, depth[:90]), r"/camera/depth is 160x90, but the image 160x120: reg"),
        (lambda i, depth, stamp: metres(stamp + 47_000_000, depth), r"within 20 ms; the nearest is 47.0 ms away"),
    ],
)  # fmt: skip
def test_depth_that_cannot_be_used_is_refused(walk: Walk, tmp_path: Path, depth: Any, words: str) -> None:
    with pytest.raises((DatasetError, BagError), match=words):
        prepare(write(tmp_path / "in.mcap", rows_of(walk, depth)), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in.mcap"]


def test_depth_in_another_unit_is_read_with_a_factor(walk: Walk, tmp_path: Path) -> None:
    bag = write(tmp_path / "in.mcap", rows_of(walk, lambda i, depth, stamp: metres(stamp, depth * 5000)))
    recording = prepare(bag, tmp_path / "out", RecordingConfig(depth_factor=1 / 5000))
    np.testing.assert_allclose(recording.depth(2), walk.depths[2], atol=6e-4)


def test_depth_of_another_camera_is_refused_by_its_calibration(walk: Walk, tmp_path: Path) -> None:
    rows = [(topic.replace("/camera/depth", "/depth/image"), *rest) for topic, *rest in rows_of(walk)]
    other = replace(CAMERA, K=CAMERA.K * [[0.8], [0.8], [1]])
    rows.append(("/depth/camera_info", CAMERA_INFO_TYPE, messages.camera_info(START_NS, "depth", other), START_NS))
    config = RecordingConfig(camera_info_topic="/camera/camera_info")
    with pytest.raises(DatasetError, match=r"/depth/image is not registered to the image: .* fx 120.0, cx 63.6"):
        prepare(write(tmp_path / "in.mcap", rows), tmp_path / "out", config)


def test_topics_that_are_missing_or_misnamed_are_named(walk: Walk, tmp_path: Path) -> None:
    rows = rows_of(walk, frames=2)
    bag = write(tmp_path / "in.mcap", rows)
    for config, words in (
        (RecordingConfig(image_topic="/camera/image/compresed"), "did you mean /camera/image/compressed"),
        (RecordingConfig(depth_topic="/depth"), r"depth registered to /camera/image/compressed .* has no topic /depth"),
        (RecordingConfig(poses="/camera/camera_info"), "is of type sensor_msgs/msg/CameraInfo: expected geometry_msgs"),
    ):
        with pytest.raises(BagError, match=words):
            prepare(bag, tmp_path / "out", config)
    for left_out, words in (
        ("/camera/depth", "depth registered to .* no topic"),
        ("/camera/camera_info", "no sensor_msgs/msg/Cam"),
    ):
        part = write(tmp_path / f"{left_out[8:]}.mcap", [row for row in rows if row[0] != left_out])
        with pytest.raises(BagError, match=words):
            prepare(part, tmp_path / "out")


def test_a_camera_that_stands_still_gives_no_pairs(walk: Walk, tmp_path: Path) -> None:
    still = SimpleNamespace(
        images=[walk.images[0]] * FRAMES,
        depths=[walk.depths[0]] * FRAMES,
        poses=walk.poses[[0] * FRAMES],
        stamps=walk.stamps,
    )
    with pytest.raises(DatasetError, match=r"no pairs of 20 frames to train on: .* seen are 1.00 to 1.00"):
        prepare(write(tmp_path / "in.mcap", rows_of(still)), tmp_path / "out")


def test_poses_that_contradict_the_depth_are_refused(walk: Walk, tmp_path: Path) -> None:
    def backwards(i: int, pose: FloatArray, stamp: int) -> tuple[str, str, dict[str, Any]]:
        return posed(i, np.asarray(np.linalg.inv(pose)), stamp)  # world to camera, a common mistake

    with pytest.raises(DatasetError, match=r"contradict the depth: of \d+ pairs .*choose poses: estimate"):
        prepare(write(tmp_path / "in.mcap", rows_of(walk, pose=backwards)), tmp_path / "out")


def test_single_wrong_poses_are_left_out_and_counted(walk: Walk, tmp_path: Path) -> None:
    def jump(i: int, pose: FloatArray, stamp: int) -> tuple[str, str, dict[str, Any]]:
        wrong = pose.copy()
        wrong[:3, 3] += [0.6, 0, 0.4] if i == 5 else 0
        return posed(i, wrong, stamp)

    recording = prepare(write(tmp_path / "in.mcap", rows_of(walk, pose=jump)), tmp_path / "out")
    assert recording.counts["pairs_left_out"]["depth contradicts the motion"] >= 5
    assert 5 not in recording.train.index0 and 5 not in recording.train.index1


def test_damaged_images_and_frames_without_a_pose_are_left_out_and_counted(walk: Walk, tmp_path: Path) -> None:
    rows = []
    for topic, kind, message, receipt in rows_of(walk):
        i = (receipt - START_NS) // PERIOD_NS
        if topic == "/camera/image/compressed" and i == 3:
            message = {**message, "data": message["data"][:40]}
        if topic == "/camera/depth" and i == 6:
            message = metres(walk.stamps[i], walk.depths[i] * 0)
        if not (topic == "/camera/pose" and i >= 18):
            rows.append((topic, kind, message, receipt))
    recording = prepare(write(tmp_path / "in.mcap", rows), tmp_path / "out")
    assert recording.counts["rejected"] == {
        "image that cannot be decoded": 1, "depth of less than 1% of the image": 1,
    }  # fmt: skip
    assert recording.counts["without_pose"] == 2
    assert len(recording) == FRAMES - 4
    assert sorted(p.stem for p in (tmp_path / "out" / "rgb").iterdir()) == sorted(
        p.stem for p in (tmp_path / "out" / "depth").iterdir()
    )
    np.testing.assert_array_equal(recording.image(3), walk.images[4])


def test_a_truncated_bag_and_a_changing_calibration_are_refused(walk: Walk, tmp_path: Path) -> None:
    rows = rows_of(walk, frames=4)
    bag = write(tmp_path / "in.mcap", rows)
    short = tmp_path / "short.mcap"
    short.write_bytes(bag.read_bytes()[: bag.stat().st_size // 2])
    with pytest.raises(BagError, match="short.mcap .*truncated or damaged"):
        prepare(short, tmp_path / "out")
    wide = messages.camera_info(walk.stamps[3], FRAME, replace(CAMERA, K=CAMERA.K * [[0.9], [0.9], [1]]))
    changed = [row for row in rows if row[1] != CAMERA_INFO_TYPE or row[3] < walk.stamps[3]]
    zoomed = write(tmp_path / "zoom.mcap", [*changed, ("/camera/camera_info", CAMERA_INFO_TYPE, wide, walk.stamps[3])])
    with pytest.raises(DatasetError, match="changes on the way, from fx 150.00 .* fx 135.00"):
        prepare(zoomed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_nothing_behind_and_the_old_recording_whole(
    walk: Walk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = write(tmp_path / "in.mcap", rows_of(walk))
    before = prepare(bag, tmp_path / "out")
    written = []

    def full(path: Path, data: bytes, original: Any = Path.write_bytes) -> int:
        written.append(path)
        if len(written) > 9:
            raise OSError(28, "No space left on device")
        return int(original(path, data))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DatasetError, match=r"out cannot be written .*No space left on device.*free some space"):
        prepare(bag, tmp_path / "out", RecordingConfig(max_frames=15))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mcap", "out"]
    assert len(Recording(tmp_path / "out")) == len(before) == FRAMES


def test_a_folder_of_something_else_is_not_replaced(walk: Walk, tmp_path: Path) -> None:
    bag = write(tmp_path / "in.mcap", rows_of(walk, frames=8))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(DatasetError, match="photos is in the way and no prepared recording"):
        prepare(bag, tmp_path / "photos")
    with pytest.raises(DatasetError, match="photos is no prepared recording"):
        Recording(tmp_path / "photos")
    recording = prepare(bag, tmp_path / "out", RecordingConfig(held_out=0.0))
    (recording.path / "rgb" / "000002.png").unlink()
    with pytest.raises(DatasetError, match=r"000002.png is missing or damaged: delete the folder"):
        recording.image(2)
