"""The messages that this package reads and writes without ROS, and how a nested dict becomes one of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from stfm_ros.errors import BagError
from stfm_ros.share import share_file

CORRESPONDENCES_TYPE = "stfm_ros/msg/Correspondences"
RELATIVE_POSE_TYPE = "stfm_ros/msg/RelativePose"
STUDENT_CHECK_TYPE = "stfm_ros/msg/StudentCheck"


@cache
def typestore() -> Typestore:
    """The messages of ROS 2 Jazzy and those of this package."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for name in (CORRESPONDENCES_TYPE, RELATIVE_POSE_TYPE, STUDENT_CHECK_TYPE):
        text = share_file(f"msg/{name.rpartition('/')[2]}.msg").read_text(encoding="utf-8")
        store.register(get_types_from_msg(text, name))
    return store


def to_message(value: Any, type_name: str) -> Any:
    """A rosbags message from a nested dict, or from any object with the fields of the type (as of rclpy).

    Raises:
        BagError: a field is unknown, or a value does not fit its type.
    """
    store = typestore()
    fields = dict(store.fielddefs[type_name][1])
    if isinstance(value, Mapping):
        unknown = [name for name in value if name not in fields]
        if unknown:
            raise BagError(f"{type_name} has no field {', '.join(unknown)}: expected {', '.join(fields)}")
        given = value
    else:
        given = {name: getattr(value, name) for name in fields if hasattr(value, name)}
    built = {name: _field(given.get(name), kind, f"{type_name}.{name}") for name, kind in fields.items()}
    return store.types[type_name](**built)


def _field(value: Any, kind: Any, where: str) -> Any:
    """One field; None gives ROS's default, zero or empty."""
    node, about = kind
    if node == Nodetype.NAME:
        return to_message({} if value is None else value, about)
    if node == Nodetype.BASE:
        return _scalar(value, about[0], where)
    (item_node, item_about), length = about
    fixed = length if node == Nodetype.ARRAY else None
    if item_node == Nodetype.BASE and item_about[0] != "string":
        dtype = _dtype(item_about[0])
        items = np.zeros(fixed or 0, dtype) if value is None else _array(value, dtype, where)
    else:
        given = [None] * (fixed or 0) if value is None else value
        items = [_field(item, (item_node, item_about), where) for item in given]
    if fixed is not None and len(items) != fixed:
        raise BagError(f"{where} holds {len(items)} values: expected {fixed}")
    return items


def _scalar(value: Any, name: str, where: str) -> Any:
    if name in ("string", "wstring"):
        return "" if value is None else str(value)
    if name == "bool":
        return bool(value)
    try:
        if name.startswith("float"):
            return float(value or 0)
        # rclpy holds a byte as bytes of length 1
        number = int.from_bytes(value, "little") if isinstance(value, bytes) else int(value or 0)
    except (TypeError, ValueError) as fault:
        raise BagError(f"{where} is {value!r}: expected {name} ({fault})") from None
    limits = np.iinfo(_dtype(name))
    if not limits.min <= number <= limits.max:
        raise BagError(f"{where} is {number}: expected {name}, {limits.min} to {limits.max}")
    return number


def _array(value: Any, dtype: np.dtype[Any], where: str) -> Any:
    try:
        if isinstance(value, (bytes, bytearray, memoryview)):
            return np.frombuffer(value, dtype)
        return np.ascontiguousarray(value, dtype).ravel()
    except (TypeError, ValueError, OverflowError) as fault:
        raise BagError(f"{where}: expected values of {dtype} ({fault})") from None


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype({"byte": "uint8", "char": "uint8", "octet": "uint8"}.get(name, name))
