"""A folder of images, depth and poses (``stfm_ros.rgbd``) to a bag that plays like a camera.

| topic | type | |
|---|---|---|
| /camera/image/compressed | sensor_msgs/CompressedImage | the files as they are, JPEG or PNG (the default) |
| /camera/image | sensor_msgs/Image | rgb8, instead, where asked for |
| /camera/depth | sensor_msgs/Image | 16UC1, millimetres, pixel-aligned with the image; where there is depth |
| /camera/camera_info | sensor_msgs/CameraInfo | of the image and of the depth |
| /camera/pose | geometry_msgs/PoseStamped | of camera_optical in world: the ground truth |

The files go in as they are by default: raw images hold no more and make the bag several times as large. All messages
of a frame carry its stamp, which is also their time of receipt.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stfm_ros import messages
from stfm_ros.bags import CAMERA_INFO_TYPE, IMAGE_TYPES, BagWriter
from stfm_ros.rgbd import RgbdFolder

IMAGE_TOPIC = "/camera/image"
COMPRESSED_TOPIC = "/camera/image/compressed"
DEPTH_TOPIC = "/camera/depth"
CAMERA_INFO_TOPIC = "/camera/camera_info"
POSE_TOPIC = "/camera/pose"
POSE_TYPE = "geometry_msgs/msg/PoseStamped"
CAMERA_FRAME = "camera_optical"
WORLD_FRAME = "world"


def import_rgbd(
    folder: Path | str,
    bag: Path | str,
    compressed: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
    overwrite: bool = False,
    images: str = "rgb",
    with_depth: bool = True,
) -> int:
    """Write a folder into a new bag.

    Args:
        folder: in the layout of :mod:`stfm_ros.rgbd`.
        bag: ``NAME.mcap`` for a single file, any other name for a rosbag2 folder.
        compressed: keep the image files as they are on /camera/image/compressed; else raw on /camera/image.
        progress: called with the frames that are done and all frames.
        overwrite: whether a bag of this name is replaced.
        images, with_depth: see :class:`stfm_ros.rgbd.RgbdFolder`; without depth there is no /camera/depth.

    Returns:
        The number of frames.

    Raises:
        DatasetError: the folder is not laid out as documented; no bag is left behind.
        BagError: the bag cannot be written.
    """
    source = RgbdFolder(folder, images, with_depth)
    image_type, compressed_type = IMAGE_TYPES
    with BagWriter(bag, overwrite) as writer:
        for i, (pose, stamp) in enumerate(zip(source.poses, source.stamps_ns.tolist(), strict=True)):
            rgb = source.image(i)  # decoded in either case, so that a damaged file is found here
            if compressed:
                file = source.image_file(i)
                codec = "png" if file.suffix.lower() == ".png" else "jpeg"
                form = f"rgb8; {codec} compressed bgr8"
                image = messages.compressed_image(stamp, CAMERA_FRAME, form, file.read_bytes())
                writer.write(COMPRESSED_TOPIC, compressed_type, image, stamp)
            else:
                writer.write(IMAGE_TOPIC, image_type, messages.image(stamp, CAMERA_FRAME, rgb), stamp)
            if with_depth:
                depth = messages.depth_image(stamp, CAMERA_FRAME, source.depth(i))
                writer.write(DEPTH_TOPIC, image_type, depth, stamp)
            info = messages.camera_info(stamp, CAMERA_FRAME, source.camera)
            writer.write(CAMERA_INFO_TOPIC, CAMERA_INFO_TYPE, info, stamp)
            writer.write(POSE_TOPIC, POSE_TYPE, messages.pose_stamped(stamp, WORLD_FRAME, pose), stamp)
            progress(i + 1, len(source))
    return len(source)
