"""A camera in a process of its own: 640x480 bgr8 images and their camera_info at a rate.

    python test/camera_process.py RATE COUNT

Prints how many images it sent. Waits for a subscriber first, and leaves the last image time to arrive.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image

SIZE = (640, 480)
QOS = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)


def image_message(stamp_ns: int, size: tuple[int, int] = SIZE, value: int = 128) -> Image:
    """A grey image as bgr8."""
    width, height = size
    msg = Image(height=height, width=width, encoding="bgr8", step=3 * width)
    msg.data.frombytes(np.full(height * width * 3, value, np.uint8).data)
    _stamp(msg, stamp_ns)
    return msg


def info_message(stamp_ns: int, size: tuple[int, int] = SIZE) -> CameraInfo:
    """The calibration that ``fake_matcher_node`` projects with."""
    width, height = size
    msg = CameraInfo(width=width, height=height, distortion_model="plumb_bob", d=[0.0] * 5)
    f, cx, cy = 500.0 * width / 640, 320.0 * width / 640 - 0.5, 240.0 * width / 640 - 0.5
    msg.k = np.array([f, 0.0, cx, 0.0, f, cy, 0.0, 0.0, 1.0])
    _stamp(msg, stamp_ns)
    return msg


def _stamp(msg: Image | CameraInfo, stamp_ns: int) -> None:
    msg.header.stamp.sec, msg.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    msg.header.frame_id = "camera_optical_frame"


def main(rate: float, count: int) -> None:
    rclpy.init()
    node = Node("camera")
    images = node.create_publisher(Image, "image", QOS)
    infos = node.create_publisher(CameraInfo, "camera_info", QOS)
    while not (images.get_subscription_count() and infos.get_subscription_count()):
        time.sleep(0.05)
    infos.publish(info_message(node.get_clock().now().nanoseconds))
    time.sleep(0.2)
    start = time.monotonic()
    for index in range(count):
        time.sleep(max(0.0, start + index / rate - time.monotonic()))
        now = node.get_clock().now().nanoseconds
        infos.publish(info_message(now))
        images.publish(image_message(now))
    time.sleep(1.0)
    print(count)
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
