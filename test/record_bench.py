"""What recording 640x480 RGB-D at 30 Hz costs: share of a core, frames dropped, bytes.

    python test/record_bench.py office.mcap --seconds 20

The frames of a bag are given to the recorder as serialised raw images, as a node's raw subscription would give them,
back and forth through the bag. CPU is of the whole process less the thread that gives.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from stfm_ros import messages
from stfm_ros.bag_types import to_message, typestore
from stfm_ros.bags import CAMERA_INFO_TYPE, IMAGE_TYPES
from stfm_ros.posed_bag import PosedBag
from stfm_ros.recording.config import CompressionConfig, RecordingConfig, SelectionConfig
from stfm_ros.recording.pairing import Role
from stfm_ros.recording.recorder import Recorder, Topic

RATE = 30.0
IMAGE = IMAGE_TYPES[0]
TOPICS = (
    Topic("/camera/image", IMAGE, Role.IMAGE),
    Topic("/camera/depth", IMAGE, Role.DEPTH),
    Topic("/camera/camera_info", CAMERA_INFO_TYPE, Role.WITH_FRAME),
)
CASES = {
    "chosen, JPEG, 16UC1 as PNG": (SelectionConfig(), CompressionConfig(), "16UC1"),
    "all, JPEG, 16UC1 as PNG": (SelectionConfig(keep="all"), CompressionConfig(), "16UC1"),
    "all, PNG, 16UC1 as PNG": (SelectionConfig(keep="all"), CompressionConfig(colour="png"), "16UC1"),
    "all, JPEG, 32FC1 in zstd": (SelectionConfig(keep="all"), CompressionConfig(), "32FC1"),
    "all, JPEG, 32FC1 in lz4": (SelectionConfig(keep="all"), CompressionConfig(chunks="lz4"), "32FC1"),
}


def frames(bag: Path, most: int, depth_as: str) -> list[list[bytearray]]:
    """Serialised image, depth and calibration of each frame, 640x480."""
    found = []
    with PosedBag(bag) as posed:
        camera = replace(posed.camera, width=640, height=480)
        for i in range(min(most, len(posed))):
            image = np.asarray(cv2.resize(posed.image(i), (640, 480)), np.uint8)
            depth = posed.depth(i)
            assert depth is not None
            depth = np.asarray(cv2.resize(depth, (640, 480), interpolation=cv2.INTER_NEAREST), np.float32)
            fields = messages.depth_image(0, "camera", depth)
            if depth_as == "32FC1":
                fields = {**fields, "encoding": "32FC1", "step": 2560, "data": depth.view(np.uint8).ravel()}
            info = messages.camera_info(0, "camera", camera)
            of_frame = [(messages.image(0, "camera", image), IMAGE), (fields, IMAGE), (info, CAMERA_INFO_TYPE)]
            found.append([bytearray(typestore().serialize_cdr(to_message(f, t), t)) for f, t in of_frame])
    return found


def stamped(data: bytearray, now_ns: int) -> bytes:
    """The message with another stamp: the first field of its header."""
    data[4:12] = np.array(divmod(now_ns, 1_000_000_000), "<u4").tobytes()
    return bytes(data)


def measure(given: list[list[bytearray]], selection: SelectionConfig, how: CompressionConfig, seconds: float) -> Any:
    folder = Path(tempfile.mkdtemp()) / "bag"
    back_and_forth = given + given[-2:0:-1]
    slowest = 0.0
    with Recorder(folder, TOPICS, RecordingConfig(selection, how)) as recorder:
        began, cpu, own = time.monotonic(), time.process_time(), time.thread_time()
        count = int(seconds * RATE)
        for i in range(count):
            time.sleep(max(0.0, began + i / RATE - time.monotonic()))
            now_ns = time.time_ns()
            for topic, data in zip(TOPICS, back_and_forth[i % len(back_and_forth)]):
                message = stamped(data, now_ns)
                before = time.monotonic()
                recorder.take(topic.name, message, now_ns)
                slowest = max(slowest, time.monotonic() - before)
        given_s = time.monotonic() - began
        waiting = recorder.status().bytes_waiting
        closing = time.monotonic()
    share = (time.process_time() - cpu - time.thread_time() + own) / given_s  # with what was left for the end
    status = recorder.status()
    image = status.topics[TOPICS[0].name]
    shutil.rmtree(folder.parent)
    return {
        "frames": image.taken,
        "kept": image.written,
        "left_out": dict(image.left_out),
        "core_share": round(share, 3),
        "mb_a_second": round(status.bytes_written / 1e6 / seconds, 2),
        "slowest_take_ms": round(slowest * 1e3, 2),
        "slowest_sync_ms": round(status.slowest_sync_s * 1e3, 1),
        "mb_waiting_at_the_end": round(waiting / 1e6, 1),
        "close_s": round(time.monotonic() - closing, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bag", type=Path)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    for name, (selection, how, depth_as) in CASES.items():
        given = frames(options.bag, 60, depth_as)
        print(json.dumps({"case": name, **measure(given, selection, how, options.seconds)}), flush=True)


if __name__ == "__main__":
    main()
