"""A camera that moves along a wall, given to a recorder; as a process of its own, until it is killed.

    python test/recorded_camera.py FOLDER [SECONDS]

prints the number of frames that were given after each.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from stfm_ros import messages
from stfm_ros.bag_types import to_message, typestore
from stfm_ros.bags import CAMERA_INFO_TYPE, IMAGE_TYPES
from stfm_ros.recording.config import RecordingConfig, SelectionConfig, StorageConfig
from stfm_ros.recording.pairing import Role
from stfm_ros.recording.qos import make_qos
from stfm_ros.recording.recorder import Recorder, Topic
from stfm_ros.types import ByteArray, Camera

WIDTH, HEIGHT = 320, 240
START_NS = 1_700_000_000_000_000_000
IMAGE = IMAGE_TYPES[0]
POSE = "geometry_msgs/msg/PoseStamped"
TOPICS = (
    Topic("/camera/image", IMAGE, Role.IMAGE, make_qos(reliable=False, depth=5)),
    Topic("/camera/depth", IMAGE, Role.DEPTH, make_qos(reliable=False, depth=5)),
    Topic("/camera/camera_info", CAMERA_INFO_TYPE, Role.WITH_FRAME),
    Topic("/camera/pose", POSE, Role.ALWAYS, make_qos(transient_local=True, depth=1)),
)
CAMERA = Camera(WIDTH, HEIGHT, np.array([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]]))


def wall() -> ByteArray:
    """(HEIGHT, 6 * WIDTH, 3) uint8 with structure at several scales."""
    rng = np.random.default_rng(3)
    picture = np.zeros((HEIGHT, 6 * WIDTH, 3), np.float32)
    for cells in (20, 60, 180):
        noise = rng.random((cells, 6 * cells, 3), np.float32)
        picture += cv2.resize(noise, (6 * WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return (picture / 3 * 255).clip(0, 255).astype(np.uint8)


WALL = wall()


def picture_at(x: int) -> ByteArray:
    """(HEIGHT, WIDTH, 3) uint8: the camera sees the wall from column x on."""
    return np.ascontiguousarray(WALL[:, x : x + WIDTH])


def serialised(fields: dict[str, Any], type_name: str) -> bytes:
    """CDR, as a raw subscription gives it."""
    return bytes(typestore().serialize_cdr(to_message(fields, type_name), type_name))


def image(stamp_ns: int, picture: ByteArray) -> bytes:
    return serialised(messages.image(stamp_ns, "camera", picture), IMAGE)


def depth(stamp_ns: int, metres: float = 2.0) -> bytes:
    """Smooth, but of many values, as real depth is."""
    values = np.full((HEIGHT, WIDTH), metres, np.float32) + (np.arange(WIDTH, dtype=np.float32) / 1000 if metres else 0)
    return serialised(messages.depth_image(stamp_ns, "camera", np.asarray(values, np.float32)), IMAGE)


def info(stamp_ns: int) -> bytes:
    return serialised(messages.camera_info(stamp_ns, "camera", CAMERA), CAMERA_INFO_TYPE)


def pose(stamp_ns: int) -> bytes:
    return serialised(messages.pose_stamped(stamp_ns, "world", np.eye(4)), POSE)


def give(
    recorder: Recorder,
    number: int,
    x: int | None = None,
    receipt_ns: int | None = None,
    left_out: Sequence[str] = (),
    metres: float = 2.0,
) -> None:
    """Frame ``number`` at 30 Hz, by its stamp, with everything that belongs to it."""
    stamp_ns = START_NS + number * 33_333_333
    column = (20 * number if x is None else x) % (5 * WIDTH)
    of_frame = (image(stamp_ns, picture_at(column)), depth(stamp_ns, metres), info(stamp_ns), pose(stamp_ns))
    for topic, message in zip(TOPICS, of_frame):
        if topic.name not in left_out:
            recorder.take(topic.name, message, stamp_ns if receipt_ns is None else receipt_ns)


def settle(recorder: Recorder) -> None:
    """Wait until nothing waits."""
    deadline = time.monotonic() + 20
    while recorder.status().bytes_waiting and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not recorder.status().bytes_waiting


if __name__ == "__main__":
    keep_all = RecordingConfig(SelectionConfig(keep="all"), storage=StorageConfig(keep_free_mb=16))
    camera = Recorder(Path(sys.argv[1]), TOPICS, keep_all)
    began, count = time.monotonic(), 0
    while len(sys.argv) < 3 or time.monotonic() - began < float(sys.argv[2]):
        give(camera, count)
        count += 1
        print(count, flush=True)
        time.sleep(max(0.0, began + count / 30 - time.monotonic()))
    camera.close()
