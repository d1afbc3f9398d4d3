"""Small recordings made on the fly, and a matcher that needs no weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from stfm_ros import messages
from stfm_ros.bags import CAMERA_INFO_TYPE, IMAGE_TYPES, BagReader, BagWriter
from stfm_ros.baselines import orb
from stfm_ros.demo import DEMO_BAG
from stfm_ros.trajectory import write_tum
from stfm_ros.types import ByteArray, Camera, Matches

Change = Callable[[int, str, Any], Any]


class OrbMatcher:
    """The shape of ``stfm_ros.matcher.Matcher``, on ORB."""

    model_name = "orb"
    weights_hash = "0" * 12
    runtime_name = "opencv"
    reason = "asked for by the test"
    height, width = 480, 640

    def features(self, image: ByteArray) -> Any:
        return image

    def match_features(self, features0: Any, features1: Any) -> Matches:
        return orb(features0, features1)


def slice_of_demo(
    bag: Path, frames: range, change: Change = lambda i, topic, message: message, left_out: tuple[str, ...] = ()
) -> Path:
    """Some frames of the demo's rendered room, as a bag.

    Args:
        change: given the number of the frame in the slice, topic and message; what it returns is written, None is not.
        left_out: topics that are not written.
    """
    with BagReader(DEMO_BAG) as reader, BagWriter(bag) as writer:
        seen: dict[str, int] = {}
        for topic, message, receipt_ns in reader.messages():
            number = seen.get(topic, 0)
            seen[topic] = number + 1
            if number in frames and topic not in left_out:
                message = change(frames.index(number), topic, message)
                if message is not None:
                    writer.write(topic, reader.topics[topic].type, message, receipt_ns)
    return bag


def bag_of_images(bag: Path, images: list[ByteArray], camera: Camera, topic: str = "/camera/image") -> Path:
    """Raw images at 10 Hz, each followed by its calibration."""
    with BagWriter(bag) as writer:
        for i, image in enumerate(images):
            stamp = 1_000_000_000 + i * 100_000_000
            writer.write(topic, IMAGE_TYPES[0], messages.image(stamp, "camera", image), stamp)
            info = messages.camera_info(stamp, "camera", camera)
            writer.write("/camera/camera_info", CAMERA_INFO_TYPE, info, stamp)
    return bag


def rgbd_folder(path: Path, frames: int = 4) -> Path:
    """A textured wall two metres in front of a camera that moves along it, with exact depth and poses; 320x240."""
    rng = np.random.default_rng(5)
    texture = np.zeros((480, 960, 3), np.uint8)
    for cells in (12, 48, 160):
        noise = rng.integers(0, 80, (cells // 2, cells, 3), np.uint8)
        texture += cv2.resize(noise, (960, 480), interpolation=cv2.INTER_CUBIC)
    for part in ("rgb", "depth"):
        (path / part).mkdir(parents=True)
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, 0, 3] = 0.2 * np.arange(frames)
    for i in range(frames):
        shift = 30 * i  # 0.2 m at 2 m and 300 px
        cv2.imwrite(str(path / "rgb" / f"{i:06}.png"), texture[100:340, 100 + shift : 420 + shift])
        cv2.imwrite(str(path / "depth" / f"{i:06}.png"), np.full((240, 320), 2000, np.uint16))
    (path / "intrinsics.yaml").write_text("width: 320\nheight: 240\nfx: 300\nfy: 300\ncx: 159.5\ncy: 119.5\n")
    write_tum(path / "poses.txt", [1_000_000_000 + i * 100_000_000 for i in range(frames)], poses)
    return path


def oxford_folder(path: Path) -> Path:
    """A picture and two warped ones, in Oxford's layout."""
    path.mkdir(parents=True)
    image = cv2.imread(str(rgbd_folder(path / "wall", 1) / "rgb" / "000000.png"))
    assert image is not None
    cv2.imwrite(str(path / "1.png"), image)
    for k, angle in ((2, 5.0), (3, 12.0)):
        H = np.vstack([cv2.getRotationMatrix2D((160, 120), angle, 1.0), [0, 0, 1]])
        cv2.imwrite(str(path / f"{k}.png"), cv2.warpPerspective(image, H, (320, 240)))
        np.savetxt(path / f"H_1_{k}", H)
    return path
