"""Plays a recording like a camera into a running matcher and writes down what comes back: a process of `stfm demo`.

    python -m stfm_ros.nodes.player BAG OUT --rate 10 --matcher /demo/matcher --ros-args -r __ns:=/demo

Images get the time of the moment as their stamp, as from a camera; ``sent`` joins it with the stamp in the bag. OUT is
a folder; ``recording.json`` and ``matches.npz`` in it are read by ``stfm_ros.demo_result``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import CameraInfo, CompressedImage

from stfm_ros import messages
from stfm_ros.bags import CAMERA_INFO_TYPE, IMAGE_TYPES, BagReader
from stfm_ros.errors import BagError, StfmError
from stfm_ros.nodes.collector import Collector
from stfm_ros.nodes.conversion import to_ros

READY_S, IDLE_S = 180.0, 30.0
_QOS = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)


class Player(Node):
    """Publishes ``image/compressed`` and ``camera_info``."""

    def __init__(self, bag: Path) -> None:
        super().__init__("player")
        self._frames = load(bag)
        self._image = self.create_publisher(CompressedImage, "image/compressed", _QOS)
        self._info = self.create_publisher(CameraInfo, "camera_info", _QOS)
        self.sent: list[dict[str, int]] = []

    def __len__(self) -> int:
        return len(self._frames)

    def is_heard(self) -> bool:
        """Whether somebody subscribes to the images and publishes poses."""
        heard = self._image.get_subscription_count() and self._info.get_subscription_count()
        return bool(heard and self.count_publishers("relative_pose") and self.count_publishers("matches"))

    def introduce(self) -> None:
        """Publish the first calibration alone, so that no image comes before it."""
        if self._frames:
            self._info.publish(self._frames[0][2])

    def play(self, index: int) -> None:
        """Publish a frame, with its calibration before it."""
        source_ns, image, info = self._frames[index]
        now_ns = time.time_ns()
        for msg, publisher in ((info, self._info), (image, self._image)):
            msg.header.stamp.sec, msg.header.stamp.nanosec = divmod(now_ns, 1_000_000_000)
            publisher.publish(msg)
        self.sent.append({"stamp_ns": now_ns, "source_ns": source_ns})


def load(bag: Path) -> list[tuple[int, CompressedImage, CameraInfo]]:
    """Stamp, image and the newest calibration of every frame.

    Raises:
        BagError: the bag has not exactly one topic of each type, or no calibration before or at an image.
    """
    with BagReader(bag) as reader:
        image_topic, info_topic = reader.find_topic(IMAGE_TYPES[1]), reader.find_topic(CAMERA_INFO_TYPE)
        infos: dict[int, CameraInfo] = {}
        images: list[tuple[int, CompressedImage]] = []
        for topic, msg, _ in reader.messages([image_topic, info_topic]):
            if topic == info_topic:
                infos[messages.stamp_ns(msg.header)] = to_ros(CameraInfo, fields(msg))
            else:
                images.append((messages.stamp_ns(msg.header), to_ros(CompressedImage, fields(msg))))
    if not infos:
        raise BagError(f"{bag} has no messages on {info_topic}: expected the calibration of {image_topic}")
    newest = sorted(infos)
    return [
        (stamp, image, infos[newest[max(0, int(np.searchsorted(newest, stamp, "right")) - 1)]])
        for stamp, image in images
    ]


def fields(msg: Any) -> Any:
    """A recorded message as nested dicts of ROS field names."""
    if not hasattr(msg, "__msgtype__"):
        return msg
    return {name: fields(value) for name, value in vars(msg).items() if not name.startswith("_")}


def play(player: Player, collector: Collector, rate: float) -> None:
    """Wait for the matcher, play every frame at ``rate`` per second, and wait until it has done its work.

    Raises:
        TimeoutError: no matcher in :data:`READY_S` seconds.
    """
    executor = SingleThreadedExecutor()
    executor.add_node(player)

    def wait(until_s: float, done: Any = lambda: False) -> None:
        while (left := until_s - time.monotonic()) > 0 and not done():
            executor.spin_once(timeout_sec=min(left, 0.1))

    wait(time.monotonic() + READY_S, player.is_heard)
    if not player.is_heard():
        raise TimeoutError(f"no matcher subscribed to {player.get_namespace()}/image/compressed in {READY_S:.0f} s")
    wait(time.monotonic() + 0.5)  # discovery is not symmetric: the matcher may not see us yet
    player.introduce()
    wait(time.monotonic() + 0.5)
    started = time.monotonic()
    for index in range(len(player)):
        wait(started + index / rate)
        player.play(index)
        print(f"{index + 1}/{len(player)}", flush=True)
    last = time.monotonic() + 0.2  # what was sent last has been received by then
    wait(last + IDLE_S, lambda: collector.is_idle(last))


def main(args: Sequence[str] | None = None) -> int:
    """Play and write; 0, or 1 with a reason on stderr."""
    given = sys.argv if args is None else [sys.argv[0], *args]
    parser = argparse.ArgumentParser(description="Play a recording into a running matcher.")
    parser.add_argument("bag", type=Path)
    parser.add_argument("out", type=Path, help="folder for recording.json and matches.npz")
    parser.add_argument("--rate", type=float, default=10.0, help="frames per second")
    parser.add_argument("--matcher", default="/matcher", help="fully qualified name of the node")
    options = parser.parse_args(remove_ros_args(given)[1:])
    rclpy.init(args=given)
    try:
        player = Player(options.bag)
        collector = Collector(player, options.matcher)
        play(player, collector, options.rate)
        write(options.out, player, collector)
    except (StfmError, TimeoutError) as fault:
        print(fault, file=sys.stderr)
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        return 130
    finally:
        rclpy.try_shutdown()
    return 0


def write(out: Path, player: Player, collector: Collector) -> None:
    """``recording.json`` and ``matches.npz`` (one array for each stamp)."""
    record = {"sent": player.sent, "poses": collector.poses, "diagnostics": collector.diagnostics}
    (out / "recording.json").write_text(json.dumps(record), encoding="utf-8")
    arrays: dict[str, Any] = {str(stamp): rows for stamp, rows in collector.correspondences.items()}
    np.savez(out / "matches.npz", **arrays)


if __name__ == "__main__":
    sys.exit(main())
