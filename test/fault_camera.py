"""A camera with faults, in a process of its own: it sends what the lines on its standard input ask for.

    python test/fault_camera.py

Each line is a JSON object of :class:`Stretch`'s fields; the answer, a line too, says what was sent. Images and
calibrations are reliable, so that every one can be counted, and come with the odometry of wheels. Stamps go on at the
rate of the images from the time of the start. Clocks: stamps are the camera's own, times of sending CLOCK_MONOTONIC,
which all processes share.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from camera_process import image_message, info_message
from nav_msgs.msg import Odometry
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image

from stfm_ros.bags import BagReader
from stfm_ros.demo import DEMO_BAG
from stfm_ros.images import decode_image

#: bytes of a pixel
ENCODINGS = {"bgr8": 3, "mono8": 1, "yuv422_yuy2": 2, "rgba8": 4, "h264": 1}
QOS = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
#: what is wrong with a calibration, by name; the projection of ``fake_matcher_node`` is right
INFOS: dict[str, dict[str, Any]] = {
    "good": {},
    "nan": {"k": np.full(9, np.nan)},
    "zero": {"k": np.zeros(9)},
    "unknown_model": {"distortion_model": "fov", "d": [0.9]},
    "other_size": {"width": 1280, "height": 960},
    "zoomed": {},
}


@dataclass(frozen=True)
class Stretch:
    """Images in a row.

    Attributes:
        count, rate: how many, and how many a second.
        jump_s: what the stamps, and the clock, jump by before the first.
        size, encoding, value, truncated: of the images.
        frame_id: of images and calibrations.
        info: one of :data:`INFOS`, or "none" for no calibration at all.
        info_delay_s: how much later than its image a calibration is sent.
        drop_every, twice_every, swap_every: of so many images one is not sent, sent twice, or sent after the next.
        stamp_ns: of every image, where it is not negative.
        clock: whether /clock tells the stamps.
        subscribers: wait for so many first.
    """

    count: int = 10
    rate: float = 20.0
    jump_s: float = 0.0
    size: tuple[int, int] = (160, 120)
    encoding: str = "bgr8"
    value: int = 128
    truncated: bool = False
    frame_id: str = "camera_optical_frame"
    info: str = "good"
    info_delay_s: float = 0.0
    drop_every: int = 0
    twice_every: int = 0
    swap_every: int = 0
    stamp_ns: int = -1
    clock: bool = False
    subscribers: int = 1


class CameraProcess:
    """The other end: starts the process, and gives it its lines."""

    def __init__(self, environment: dict[str, str], demo: bool = False, namespace: str = "") -> None:
        moved = ["--ros-args", "-r", f"__ns:={namespace}"] if namespace else []
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), *(["--demo"] if demo else []), *moved],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def begin(self, **fields: Any) -> None:
        """Ask for a stretch, and return at once."""
        assert self.process.stdin is not None
        print(json.dumps(dataclasses.asdict(Stretch(**fields))), file=self.process.stdin, flush=True)

    def answer(self) -> dict[str, Any]:
        """What was sent: ``sent`` images, ``stamps_ns`` of those, and ``at_s`` when, in the order of sending."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the camera has ended"
        found: dict[str, Any] = json.loads(line)
        return found

    def send(self, **fields: Any) -> dict[str, Any]:
        """Ask for a stretch, and wait for its end."""
        self.begin(**fields)
        return self.answer()

    def kill(self) -> None:
        """End it without a word, as a driver that crashes."""
        self.process.kill()
        self.process.communicate()


class FaultCamera:
    """This end."""

    def __init__(self, demo: bool) -> None:
        self.node = rclpy.create_node("fault_camera")
        self.images = self.node.create_publisher(Image, "image", QOS)
        self.infos = self.node.create_publisher(CameraInfo, "camera_info", QOS)
        self.wheels = self.node.create_publisher(Odometry, "scale/odometry", QOS)
        self.clock = self.node.create_publisher(Clock, "/clock", 1)
        self.stamp_ns = time.time_ns()
        self.pictures = _demo_pictures() if demo else []
        self.number = 0

    def send(self, wanted: Stretch) -> dict[str, Any]:
        """Send a stretch."""
        while self.images.get_subscription_count() < wanted.subscribers:
            time.sleep(0.01)
        self.stamp_ns += int(1e9 * wanted.jump_s)
        stamps: list[int] = []
        at: list[float] = []
        held: Image | None = None
        start = time.monotonic()
        for index in range(wanted.count):
            self.stamp_ns += int(1e9 / wanted.rate)
            time.sleep(max(0.0, start + index / wanted.rate - time.monotonic()))
            stamp = self.stamp_ns if wanted.stamp_ns < 0 else wanted.stamp_ns
            if wanted.clock:
                clock = Clock()
                clock.clock.sec, clock.clock.nanosec = divmod(stamp, 1_000_000_000)
                self.clock.publish(clock)
            if wanted.drop_every and index % wanted.drop_every == 0:
                continue
            self.move(stamp)
            image = self.picture(wanted, stamp)
            if not wanted.info_delay_s:
                self.calibrate(wanted, stamp)
            batch = [image]
            if wanted.swap_every and index % wanted.swap_every == 0 and index + 1 < wanted.count:
                batch, held = [], image
            elif held is not None:
                batch, held = [image, held], None
            elif wanted.twice_every and index % wanted.twice_every == 0:
                batch = [image, image]
            for one in batch:
                at.append(time.monotonic())
                self.images.publish(one)
                stamps.append(one.header.stamp.sec * 1_000_000_000 + one.header.stamp.nanosec)
            if wanted.info_delay_s:
                time.sleep(wanted.info_delay_s)
                self.calibrate(wanted, stamp)
        return {"sent": len(stamps), "stamps_ns": stamps, "at_s": at}

    def picture(self, wanted: Stretch, stamp: int) -> Image:
        """The next image."""
        if wanted.encoding == "bgr8":
            image = image_message(stamp, wanted.size, wanted.value)
        else:
            width, height = wanted.size
            image = Image(height=height, width=width, encoding=wanted.encoding, step=width * ENCODINGS[wanted.encoding])
            image.data.frombytes(np.full(height * image.step, wanted.value, np.uint8).data)
            image.header = info_message(stamp).header
        if self.pictures and wanted.encoding == "bgr8" and wanted.value:
            pixels = self.pictures[abs(self.number % (2 * len(self.pictures) - 2) - len(self.pictures) + 1)]
            self.number += 1
            image.height, image.width, image.step = pixels.shape[0], pixels.shape[1], 3 * pixels.shape[1]
            del image.data[:]
            image.data.frombytes(memoryview(np.ascontiguousarray(pixels[..., ::-1])).cast("B"))
        if wanted.truncated:
            del image.data[len(image.data) // 2 :]
        image.header.frame_id = wanted.frame_id
        return image

    def calibrate(self, wanted: Stretch, stamp: int) -> None:
        """The calibration of an image, with its faults."""
        if wanted.info == "none":
            return
        info = info_message(stamp, (640, 480) if self.pictures else wanted.size)
        info.header.frame_id = wanted.frame_id
        if self.pictures:
            info.k = np.array([525.0, 0, 319.5, 0, 525.0, 239.5, 0, 0, 1])
        if wanted.info == "zoomed":
            info.k = info.k * [1.5, 1, 1, 1, 1.5, 1, 1, 1, 1]
        for name, value in INFOS[wanted.info].items():
            setattr(info, name, value)
        self.infos.publish(info)

    def move(self, stamp: int) -> None:
        """Wheels that go one metre a second."""
        odometry = Odometry()
        odometry.header = info_message(stamp).header
        odometry.pose.pose.position.x = stamp % 10**15 / 1e9
        odometry.pose.pose.orientation.w = 1.0
        self.wheels.publish(odometry)


def _demo_pictures() -> list[np.ndarray]:
    with BagReader(DEMO_BAG) as reader:
        return [decode_image(message) for _, message, _ in reader.messages(["/camera/image/compressed"])]


def main() -> None:
    rclpy.init()
    camera = FaultCamera("--demo" in sys.argv)
    for line in sys.stdin:
        print(json.dumps(camera.send(Stretch(**json.loads(line)))), flush=True)
    camera.node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
