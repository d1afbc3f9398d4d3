"""The frames of a recording as files: images as they were recorded where that is JPEG or PNG, depth as 16-bit PNG."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stfm_ros.bags import BagReader
from stfm_ros.errors import DatasetError, ImageError
from stfm_ros.images import decode_depth, decode_image
from stfm_ros.types import ByteArray, Camera, Float32Array
from stfm_training.recordings.config import RecordingConfig
from stfm_training.recordings.index import Index

Progress = Callable[[str, int, int], None]
"""Called with the stage, what is done of it and its length."""

#: metres: a median depth outside is a wrong unit
PLAUSIBLE_M = (0.1, 100.0)
#: least share of an image with depth
LEAST_DEPTH = 0.01
_COLOUR = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


class Frames:
    """Images and depth in a folder, read when they are asked for.

    Args:
        path: holds rgb/ and depth/.
        names: of the images; depth has the same stems.
        camera: of every image.
    """

    def __init__(self, path: Path, names: list[str], camera: Camera) -> None:
        self.path, self.names, self.camera = path, names, camera

    def __len__(self) -> int:
        return len(self.names)

    def image(self, i: int) -> ByteArray:
        """The i-th image: (H, W, 3) uint8 RGB."""
        return np.asarray(cv2.cvtColor(self._read("rgb", self.names[i], _COLOUR), cv2.COLOR_BGR2RGB))

    def depth(self, i: int) -> Float32Array:
        """The i-th depth image: (H, W) float32 metres, 0 where there is none; of the image's size."""
        raw = self._read("depth", f"{Path(self.names[i]).stem}.png", cv2.IMREAD_UNCHANGED)
        return to_size(np.asarray(raw * np.float32(0.001), np.float32), self.camera.width, self.camera.height)

    def _read(self, part: str, name: str, flag: int) -> Any:
        image = cv2.imread(str(self.path / part / name), flag)
        if image is None:
            raise DatasetError(
                f"{self.path / part / name} is missing or damaged: delete the folder and prepare the bag again"
            )
        return image


def to_size(depth: Float32Array, width: int, height: int) -> Float32Array:
    """Depth of the same field of view as an image, at the image's size.

    Each pixel takes the depth nearest to its centre, for a mean of two depths is the depth of neither.
    """
    if depth.shape == (height, width):
        return depth
    return np.asarray(cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), np.float32)


def write_frames(
    reader: BagReader, index: Index, part: Path, config: RecordingConfig, progress: Progress
) -> tuple[Frames, NDArray[np.int64], Counter[str]]:
    """Write what the index wants.

    Returns:
        The frames, the rows of the index they come from, and how many were rejected for which reason.

    Raises:
        DatasetError: depth is not registered, of another unit or nowhere; or next to nothing is left.
    """
    for name in ("rgb", "depth"):
        (part / name).mkdir()
    image_topic, depth_topic = index.topics["image"], index.topics["depth"]
    frame_of = {
        image_topic: {int(number): [row] for row, number in enumerate(index.images)},
        depth_topic: {int(number): np.flatnonzero(index.depths == number).tolist() for number in set(index.depths)},
    }
    seen: Counter[str] = Counter()
    names: dict[int, str] = {}
    medians: dict[int, float] = {}
    rejected: Counter[str] = Counter()
    done = 0
    for topic, message, _ in reader.messages([image_topic, depth_topic]):
        rows = frame_of[topic].get(seen[topic], [])
        seen[topic] += 1
        for row in rows:
            try:
                if topic == image_topic:
                    suffix, data = _image_file(message, index.camera, image_topic)
                    (part / "rgb" / f"{row:06}{suffix}").write_bytes(data)
                    names[row] = f"{row:06}{suffix}"
                else:
                    depth = decode_depth(message) * np.float32(config.depth_factor)
                    _check_shape(depth, index.camera, depth_topic)
                    if np.count_nonzero(depth) < LEAST_DEPTH * depth.size:
                        rejected[f"depth of less than {LEAST_DEPTH:.0%} of the image"] += 1
                        continue
                    (part / "depth" / f"{row:06}.png").write_bytes(_depth_file(depth))
                    medians[row] = float(np.median(depth[depth > 0]))
            except ImageError:
                rejected[f"{'image' if topic == image_topic else 'depth'} that cannot be decoded"] += 1
            done += 1
            progress("frames", done, 2 * len(index.images))
    kept = sorted(names.keys() & medians.keys())
    _check_depth(list(medians.values()), rejected, index, config)
    if len(kept) < 2:
        raise DatasetError(f"{index.path}: {len(kept)} frames are left of {len(index.images)} ({_words(rejected)})")
    for row in names.keys() ^ medians.keys():
        (part / "rgb" / names[row] if row in names else part / "depth" / f"{row:06}.png").unlink()
    frames = Frames(part, [names[row] for row in kept], index.camera)
    return frames, np.array(kept, np.int64), rejected


def _image_file(message: Any, camera: Camera, topic: str) -> tuple[str, bytes]:
    """The suffix and the bytes of an image: as they were recorded where that is a plain JPEG or PNG."""
    image = decode_image(message)
    if image.shape[:2] != (camera.height, camera.width):
        raise DatasetError(
            f"images of {topic} are {image.shape[1]}x{image.shape[0]}, but their camera_info is of "
            f"{camera.width}x{camera.height}: name the camera_info of this topic"
        )
    if hasattr(message, "format"):
        data = bytes(message.data)
        suffix = {b"\xff\xd8": ".jpg", b"\x89P": ".png"}.get(data[:2])
        if suffix and np.array_equal(np.asarray(cv2.imdecode(message.data, _COLOUR)), image[..., ::-1]):
            return suffix, data
    return ".png", _png(np.ascontiguousarray(image[..., ::-1]))


def _depth_file(depth: Float32Array) -> bytes:
    millimetres = np.round(depth.astype(np.float64) * 1000)
    return _png(np.where(millimetres <= 65535, millimetres, 0).astype(np.uint16))


def _png(pixels: NDArray[Any]) -> bytes:
    return cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 2])[1].tobytes()


def _check_shape(depth: Float32Array, camera: Camera, topic: str) -> None:
    height, width = depth.shape
    if abs(width * camera.height / (height * camera.width) - 1) > 0.01:
        raise DatasetError(
            f"depth of {topic} is {width}x{height}, but the image {camera.width}x{camera.height}: registered depth has "
            "the image's field of view, and so its aspect ratio; record the aligned depth (e.g. "
            "aligned_depth_to_color, or depth_image_proc/register)"
        )


def _check_depth(medians: list[float], rejected: Counter[str], index: Index, config: RecordingConfig) -> None:
    topic = index.topics["depth"]
    if not medians:
        raise DatasetError(
            f"{index.path}: none of the {len(index.depths)} depth images of {topic} can be used ({_words(rejected)}): "
            "check that the sensor was on, or name another depth_topic"
        )
    median, (low, high) = float(np.median(medians)), PLAUSIBLE_M
    if not low <= median <= high:
        raise DatasetError(
            f"{index.path}: the median depth on {topic} is {median:.3g} m, read by REP-118 (16UC1 in millimetres, "
            f"32FC1 in metres) times depth_factor {config.depth_factor:g}: expected {low:g} to {high:g} m; "
            f"set depth_factor, e.g. to {config.depth_factor * (0.001 if median > high else 1000):g}"
        )


def _words(rejected: Counter[str]) -> str:
    return ", ".join(f"{count} x {reason}" for reason, count in rejected.items()) or "none was rejected"
