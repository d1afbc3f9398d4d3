"""The recording that `stfm demo` plays: a hand-held walk through a rendered room, with its true poses.

    python -m stfm_training.demo_bag stfm_ros/data/demo.mcap --photographs FOLDER --overwrite

Topics are those of ``stfm import-rgbd`` without depth: /camera/image/compressed (JPEG), /camera/camera_info and
/camera/pose (ground truth, camera_optical in world). The same photographs and seed give the same bag. The shipped one
was made from the BoofCV photographs that docs/licences.md credits.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from stfm_ros import messages
from stfm_ros.bags import CAMERA_INFO_TYPE, IMAGE_TYPES, BagWriter
from stfm_ros.errors import StfmError
from stfm_ros.import_rgbd import CAMERA_FRAME, CAMERA_INFO_TOPIC, COMPRESSED_TOPIC, POSE_TOPIC, POSE_TYPE, WORLD_FRAME
from stfm_ros.types import ByteArray, Camera
from stfm_training.render import Scene, photographs, trajectory

CAMERA = Camera(640, 480, np.array([[525.0, 0, 319.5], [0, 525.0, 239.5], [0, 0, 1]]))
START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 100_000_000
SEED = 41


def write_demo_bag(
    bag: Path | str, textures: Sequence[ByteArray], frames: int = 60, seed: int = SEED, overwrite: bool = False
) -> None:
    """Render the walk into a bag.

    Args:
        bag: ``NAME.mcap``.
        textures: photographs, each (H, W, 3) uint8 RGB.

    Raises:
        BagError: the bag cannot be written.
    """
    rng = np.random.default_rng(seed)
    scene = Scene.random(rng, textures, "indoor")
    views = trajectory(scene, rng, frames)
    with BagWriter(bag, overwrite) as writer:
        for i, view in enumerate(views):
            stamp = START_NS + i * PERIOD_NS
            image = scene.render(CAMERA, view, supersample=2).image
            noisy = cv2.add(image, rng.normal(0, 1.5, image.shape), dtype=cv2.CV_8U)
            _, data = cv2.imencode(".jpg", cv2.cvtColor(noisy, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
            picture = messages.compressed_image(stamp, CAMERA_FRAME, "rgb8; jpeg compressed bgr8", data.tobytes())
            writer.write(COMPRESSED_TOPIC, IMAGE_TYPES[1], picture, stamp)
            writer.write(CAMERA_INFO_TOPIC, CAMERA_INFO_TYPE, messages.camera_info(stamp, CAMERA_FRAME, CAMERA), stamp)
            pose = messages.pose_stamped(stamp, WORLD_FRAME, np.linalg.inv(view))
            writer.write(POSE_TOPIC, POSE_TYPE, pose, stamp)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Render the recording that `stfm demo` plays.")
    parser.add_argument("bag", type=Path, help="NAME.mcap")
    parser.add_argument("--photographs", type=Path, required=True, help="folder of pictures to cover the room with")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--overwrite", action="store_true", help="replace a bag of this name")
    given = parser.parse_args(arguments)
    try:
        write_demo_bag(given.bag, photographs(given.photographs), given.frames, given.seed, given.overwrite)
    except StfmError as fault:
        print(fault, file=sys.stderr)
        return 1
    print(f"{given.bag}: {given.frames} frames, {given.bag.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
