"""Bags with one thing wrong, made of good ones: what the inspection is measured on (``study``) and tested with.

A fault takes all messages of a bag and gives those of the faulty one. Topics are found by their types, so a bag must
have one colour image, one depth image and one topic of poses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from stfm_ros import messages
from stfm_ros.bags import CAMERA_INFO_TYPE, IMAGE_TYPES, BagReader, BagWriter
from stfm_ros.images import decode_depth, decode_image, is_depth
from stfm_ros.posed_bag import POSE_TYPES, pose_matrix
from stfm_ros.types import ByteArray, Float32Array


class Row(NamedTuple):
    """A message of a bag: a nested dict, or an object with the fields of its type."""

    topic: str
    type: str
    message: Any
    receipt_ns: int


Fault = Callable[[list[Row]], list[Row]]


class Made(NamedTuple):
    """A fault, and the checks of which one must report it; none for what is no fault."""

    make: Fault
    checks: tuple[str, ...]


def corrupt(bag: Path, out: Path, fault: Fault) -> None:
    """Write a faulty copy of a bag; one of that name is replaced."""
    with BagReader(bag) as reader:
        rows = [
            Row(topic, reader.topics[topic].type, message, receipt) for topic, message, receipt in reader.messages()
        ]
        with BagWriter(out, overwrite=True) as writer:
            for row in sorted(fault(rows), key=lambda one: one.receipt_ns):
                writer.write(*row)


def of_depth(row: Row) -> bool:
    """Whether the message is a depth image."""
    return row.type in IMAGE_TYPES and is_depth(row.message)


def of_image(row: Row) -> bool:
    """Whether the message is a colour image."""
    return row.type in IMAGE_TYPES and not is_depth(row.message)


def depths(change: Callable[[Float32Array], Float32Array], metres: bool = False) -> Fault:
    """Every depth image changed; written as 32FC1 in ``metres``, else as 16UC1."""

    def make(row: Row) -> Row:
        header = row.message.header
        stamp, depth = messages.stamp_ns(header), change(decode_depth(row.message))
        fields = messages.depth_image(stamp, header.frame_id, depth)
        if metres:
            data = depth.astype("<f4").view(np.uint8).ravel()
            fields |= {"encoding": "32FC1", "step": 4 * depth.shape[1], "data": data}
        return row._replace(type=IMAGE_TYPES[0], message=fields)

    return lambda rows: [make(row) if of_depth(row) else row for row in rows]


def pictures(change: Callable[[ByteArray], ByteArray]) -> Fault:
    """Every colour image changed; written as a raw one."""

    def make(row: Row) -> Row:
        header = row.message.header
        fields = messages.image(messages.stamp_ns(header), header.frame_id, change(decode_image(row.message)))
        return Row(row.topic.removesuffix("/compressed"), IMAGE_TYPES[0], fields, row.receipt_ns)

    return lambda rows: [make(row) if of_image(row) else row for row in rows]


def shifted(x: int, y: int) -> Callable[[Float32Array], Float32Array]:
    """Depth moved by so many pixels, without depth where it came from."""

    def change(depth: Float32Array) -> Float32Array:
        moved = np.array([[1, 0, x], [0, 1, y]], np.float64)
        return np.asarray(cv2.warpAffine(depth, moved, depth.shape[1::-1], flags=cv2.INTER_NEAREST), np.float32)

    return change


def later(seconds: float, kind: Callable[[Row], bool], receipt: bool) -> Fault:
    """The stamps of some topics later, and their receipt too where asked for."""
    ns = round(seconds * 1e9)

    def make(row: Row) -> Row:
        stamp = row.message.header.stamp
        fields = {name: getattr(row.message, name) for name in _fields(row.message)}
        fields["header"] = messages.header(stamp.sec * 1_000_000_000 + stamp.nanosec + ns, row.message.header.frame_id)
        return row._replace(message=fields, receipt_ns=row.receipt_ns + (ns if receipt else 0))

    return lambda rows: [make(row) if kind(row) else row for row in rows]


def exchanged(partner: Callable[[int, int], int]) -> Fault:
    """Each depth image holds the pixels of another one: that of number ``partner(number, count)``."""

    def change(rows: list[Row]) -> list[Row]:
        found = [row for row in rows if of_depth(row)]
        numbers = iter(range(len(found)))

        def make(row: Row) -> Row:
            other = found[partner(next(numbers), len(found))].message
            fields = {name: getattr(other, name) for name in _fields(other)}
            return row._replace(message={**fields, "header": row.message.header})

        return [make(row) if of_depth(row) else row for row in rows]

    return change


def colour_as_depth(rows: list[Row]) -> list[Row]:
    """The depth topic holds a picture of the depth, as a viewer shows it."""

    def make(row: Row) -> Row:
        header = row.message.header
        fields = messages.image(messages.stamp_ns(header), header.frame_id, decode_image(row.message))
        return row._replace(type=IMAGE_TYPES[0], message=fields)

    return [make(row) if of_depth(row) else row for row in rows]


def names_swapped(rows: list[Row]) -> list[Row]:
    """The colour image under the depth's name, and the other way round."""
    image, depth = (next(row.topic for row in rows if kind(row)) for kind in (of_image, of_depth))
    swap = {image: depth, depth: image}
    return [row._replace(topic=swap.get(row.topic, row.topic)) for row in rows]


def half_without_depth(rows: list[Row]) -> list[Row]:
    """Every other depth image is missing."""
    kept: Iterator[bool] = iter([number % 2 == 0 for number in range(len(rows))])
    return [row for row in rows if not of_depth(row) or next(kept)]


def poses(length: float = 1.0, turned: bool = False) -> Fault:
    """Poses in another unit, or of a body whose x axis is the camera's view (REP-103) instead of the camera."""
    optical = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])

    def make(row: Row) -> Row:
        pose = pose_matrix(row.message)
        pose[:3, 3] *= length
        pose = pose @ np.linalg.inv(optical) if turned else pose
        header = row.message.header
        fields = messages.pose_stamped(messages.stamp_ns(header), header.frame_id, pose)
        return row._replace(type="geometry_msgs/msg/PoseStamped", message=fields)

    return lambda rows: [make(row) if row.type in POSE_TYPES else row for row in rows]


def half_calibration(rows: list[Row]) -> list[Row]:
    """camera_info of the same camera at half the size."""

    def make(row: Row) -> Row:
        fields = {name: getattr(row.message, name) for name in _fields(row.message)}
        size = {"width": row.message.width // 2, "height": row.message.height // 2}
        K = np.asarray(row.message.k).reshape(3, 3) * np.array([[0.5], [0.5], [1.0]])
        return row._replace(message={**fields, **size, "k": K.ravel()})

    return [make(row) if row.type == CAMERA_INFO_TYPE else row for row in rows]


def _fields(message: Any) -> list[str]:
    return [name for name in message.__dataclass_fields__ if not name.startswith("__")]


FAULTS: dict[str, Made] = {
    "none": Made(lambda rows: rows, ()),
    "depth 12 px to the right": Made(depths(shifted(12, 0)), ("alignment",)),
    "depth 12 px up": Made(depths(shifted(0, -12)), ("alignment",)),
    "depth 6 px to the right": Made(depths(shifted(6, 0)), ("alignment",)),
    "depth mirrored": Made(depths(lambda depth: np.ascontiguousarray(depth[:, ::-1])), ("alignment",)),
    "depth of another place": Made(exchanged(lambda i, n: (i + n // 2) % n), ("alignment",)),
    "depth of the next frame": Made(exchanged(lambda i, n: min(i + 1, n - 1)), ("lag",)),
    "depth x 1000 (32FC1)": Made(depths(lambda depth: depth * np.float32(1000), metres=True), ("unit",)),
    "depth / 1000 (32FC1)": Made(depths(lambda depth: depth / np.float32(1000), metres=True), ("unit",)),
    "depth x 5 (TUM's factor)": Made(depths(lambda depth: depth * np.float32(5)), ("unit",)),
    "a picture as depth": Made(colour_as_depth, ("topics", "depth")),
    "names of image and depth swapped": Made(names_swapped, ("topics",)),
    "depth stamped 0.1 s late": Made(later(0.1, of_depth, receipt=False), ("sync", "clock", "lag")),
    "depth stamped and received 0.1 s late": Made(later(0.1, of_depth, receipt=True), ("sync", "lag")),
    "half of the depth missing": Made(half_without_depth, ("sync",)),
    "blurred (sigma 4 px)": Made(pictures(lambda image: np.asarray(cv2.GaussianBlur(image, (0, 0), 4.0))), ("blur",)),
    "dark (a tenth of the light)": Made(pictures(lambda image: image // 10), ("exposure",)),
    "poses in millimetres": Made(poses(length=1000.0), ("unit", "poses")),
    "poses of the body, not the camera": Made(poses(turned=True), ("poses",)),
    "poses 0.2 s late": Made(later(0.2, lambda row: row.type in POSE_TYPES, receipt=True), ("poses",)),
    "camera_info of half the size": Made(half_calibration, ("calibration",)),
}
