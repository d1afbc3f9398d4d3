"""A bag as a row of images with true poses, for ``stfm_ros.pairs`` and ``stfm_ros.evaluate``.

Poses are of the camera (optical frame) in a fixed frame, as ``stfm import-rgbd`` writes them. An image without a pose,
or a calibration that changes on the way, is left out or refused; nothing is interpolated.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stfm_ros import messages
from stfm_ros.bags import IMAGE_TYPES, BagReader
from stfm_ros.errors import BagError, CameraError
from stfm_ros.images import camera_from_info, decode_depth, decode_image, is_depth
from stfm_ros.offline import find_topics
from stfm_ros.rotation import quaternion_to_matrix
from stfm_ros.types import ByteArray, Camera, Float32Array, FloatArray

POSE_TYPES = (
    "geometry_msgs/msg/PoseStamped",
    "geometry_msgs/msg/PoseWithCovarianceStamped",
    "nav_msgs/msg/Odometry",
)
#: a pose or depth image within this time of an image belongs to it
TOLERANCE_NS = 10_000_000


class PosedBag:
    """A bag with images, calibration, true poses and perhaps depth, opened as a context manager.

    Args:
        path: the bag.
        image_topic, camera_info_topic, pose_topic, depth_topic: found where they are not given.

    Attributes:
        camera: of every image.
        stamps: (n,) float64 s; poses: (n, 4, 4) float64 camera to world, metres; of the images that have a pose.
        without_pose: images that were left out for want of a pose.

    Raises:
        BagError: the bag lacks images, calibration or poses; lists the candidates.
        CameraError: the calibration cannot be used.
    """

    def __init__(
        self,
        path: Path,
        image_topic: str = "",
        camera_info_topic: str = "",
        pose_topic: str = "",
        depth_topic: str = "",
    ) -> None:
        self._reader = BagReader(path)
        self._wanted = image_topic, camera_info_topic, pose_topic, depth_topic
        self._cached = lru_cache(maxsize=16)(self._image)

    def __enter__(self) -> PosedBag:
        reader = self._reader.__enter__()
        try:
            self._index(reader)
        except BaseException:
            reader.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.__exit__(kind, fault, trace)

    def __len__(self) -> int:
        return len(self.stamps)

    def image(self, index: int) -> ByteArray:
        """(H, W, 3) uint8 RGB."""
        return self._cached(index)

    def depth(self, index: int) -> Float32Array | None:
        """(H, W) float32 metres, 0 where unknown; None where none was recorded for this image."""
        receipt_ns = self._depth_receipts.get(index)
        if receipt_ns is None:
            return None
        return decode_depth(self._message(self._depth_topic, receipt_ns))

    def _image(self, index: int) -> ByteArray:
        image = decode_image(self._message(self._image_topic, self._receipts[index]))
        size = image.shape[1], image.shape[0]
        if size != (self.camera.width, self.camera.height):
            raise CameraError(
                f"camera_info of {self._reader.path} is of {self.camera.width}x{self.camera.height}, but image {index} "
                f"of {self._image_topic} has {size[0]}x{size[1]}: name the camera_info of this topic"
            )
        return image

    def _message(self, topic: str, receipt_ns: int) -> Any:
        return next(self._reader.messages([topic], receipt_ns, receipt_ns + 1))[1]

    def _index(self, reader: BagReader) -> None:
        """Read what is small, remember where the images are."""
        image_topic, info_topic, pose_topic, depth_topic = self._wanted
        self._image_topic, info_topic = find_topics(reader, image_topic, info_topic)
        if not info_topic:
            raise BagError(
                f"{reader.path} has no sensor_msgs/msg/CameraInfo, which the true geometry needs: record it, or "
                "evaluate a folder with intrinsics.yaml"
            )
        self.camera: Camera = camera_from_info(next(reader.messages([info_topic]))[1])
        pose_topic = reader.find_topic(POSE_TYPES, pose_topic)
        depths = [name for name, info in reader.topics.items() if info.type in IMAGE_TYPES and info.count]
        depths = [name for name in depths if is_depth(next(reader.messages([name]))[1])]
        self._depth_topic = depth_topic or (depths[0] if len(depths) == 1 else "")
        topics = {self._image_topic, pose_topic, self._depth_topic} - {""}
        found: dict[str, list[tuple[int, int]]] = {topic: [] for topic in topics}
        poses: list[FloatArray] = []
        for topic, message, receipt_ns in reader.messages(topics):
            found[topic].append((messages.stamp_ns(message.header), receipt_ns))
            if topic == pose_topic:
                poses.append(pose_matrix(message))
        images = np.array(found[self._image_topic], np.int64).reshape(-1, 2)
        pose_of = nearest(images[:, 0], np.array(found[pose_topic], np.int64).reshape(-1, 2)[:, 0])
        posed = np.flatnonzero(pose_of >= 0)
        if len(posed) == 0:
            raise BagError(
                f"{reader.path}: none of the {len(images)} images of {self._image_topic} has a pose on {pose_topic} "
                f"within {TOLERANCE_NS / 1e6:g} ms of its stamp: record poses with the stamps of the images"
            )
        order = posed[np.argsort(images[posed, 0], kind="stable")]
        self.without_pose = len(images) - len(posed)
        self.stamps: FloatArray = images[order, 0] / 1e9
        self._receipts = images[order, 1].tolist()
        self.poses: FloatArray = np.stack([poses[i] for i in pose_of[order]])
        self._depth_receipts: dict[int, int] = {}
        if self._depth_topic:
            depth_rows = np.array(found[self._depth_topic], np.int64).reshape(-1, 2)
            depth_of = nearest(images[order, 0], depth_rows[:, 0])
            self._depth_receipts = {i: int(depth_rows[j, 1]) for i, j in enumerate(depth_of.tolist()) if j >= 0}


def nearest(
    stamps: NDArray[np.int64], others: NDArray[np.int64], tolerance_ns: int = TOLERANCE_NS
) -> NDArray[np.int64]:
    """For each stamp the index of the nearest other one, -1 where it is further away than the tolerance."""
    if len(others) == 0:
        return np.full(len(stamps), -1, np.int64)
    order = np.argsort(others, kind="stable")
    after = np.clip(np.searchsorted(others[order], stamps), 0, len(others) - 1)
    before = np.maximum(after - 1, 0)
    closer = np.abs(others[order[before]] - stamps) < np.abs(others[order[after]] - stamps)
    index = order[np.where(closer, before, after)]
    return np.where(np.abs(others[index] - stamps) <= tolerance_ns, index, -1)


def pose_matrix(message: Any) -> FloatArray:
    """(4, 4) of a PoseStamped, PoseWithCovarianceStamped or Odometry."""
    pose = message.pose.pose if hasattr(message.pose, "pose") else message.pose
    return rigid(pose.position, pose.orientation)


def rigid(position: Any, orientation: Any) -> FloatArray:
    """(4, 4) of a geometry_msgs Point or Vector3 and a Quaternion; NaN where the sender left the quaternion at zero."""
    quaternion = np.array([orientation.x, orientation.y, orientation.z, orientation.w])
    matrix = np.eye(4)
    matrix[:3, :3] = quaternion_to_matrix(quaternion) if quaternion.any() else np.nan
    matrix[:3, 3] = position.x, position.y, position.z
    return matrix
