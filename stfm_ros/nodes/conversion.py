"""Fills rclpy messages from the dicts of ``stfm_ros.messages``, every field converted to the type the message has.

rclpy (Jazzy) does not check types by default: ``float64 = 1`` stores 5e-324, ``bool = np.bool_(True)`` stores False,
an array of a wrong size reads past its buffer. So nothing assigns to a message but this module.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping
from importlib import import_module
from typing import Any, TypeVar

import numpy as np

M = TypeVar("M")

#: ROS type -> type code of array.array, which is what sequences of numbers are in a message
_CODES = {
    "float": "f", "double": "d", "uint8": "B", "int8": "b", "uint16": "H", "int16": "h", "uint32": "I", "int32": "i",
    "uint64": "Q", "int64": "q",
}  # fmt: skip
_SEQUENCE = re.compile(r"sequence<(?P<item>[^,>]+)(, \d+)?>$")
_FIXED = re.compile(r"(?P<item>[^\[]+)\[(?P<size>\d+)\]$")


def to_ros(message_class: type[M], fields: Mapping[str, Any]) -> M:
    """A message of a class, its fields set from a nested dict; fields that are not named keep their default.

    Raises:
        KeyError: the message has no field of a name.
        ValueError: an array of fixed size has another size.
    """
    types: Mapping[str, str] = message_class.get_fields_and_field_types()  # type: ignore[attr-defined]
    message = message_class()
    for name, value in fields.items():
        if name not in types:
            raise KeyError(f"{message_class.__name__} has no field {name!r}: expected one of {', '.join(types)}")
        setattr(message, name, _convert(types[name], value, f"{message_class.__name__}.{name}"))
    return message


def _convert(ros_type: str, value: Any, where: str) -> Any:
    if match := _SEQUENCE.match(ros_type):
        return _sequence(match["item"], value, where)
    if match := _FIXED.match(ros_type):
        values = np.asarray(value).ravel()
        if values.size != int(match["size"]):
            raise ValueError(f"{where} has {values.size} values: expected {match['size']}")
        return values.astype(np.dtype(_CODES[match["item"]]))
    if "/" in ros_type:
        return to_ros(_message_class(ros_type), value)
    if ros_type in ("float", "double"):
        return float(value)
    if ros_type == "boolean":
        return bool(value)
    if ros_type == "octet":
        return bytes([int(value)])
    if ros_type.startswith("string"):
        return str(value)
    return int(value)


def _sequence(item: str, value: Any, where: str) -> Any:
    if item == "boolean":
        return np.asarray(value, bool).ravel().tolist()
    if item not in _CODES:
        return [_convert(item, one, where) for one in value]
    code = _CODES[item]
    flat = np.ascontiguousarray(value, dtype=np.dtype(code)).ravel()
    filled = array(code)
    if flat.size:  # a memoryview of nothing cannot be cast
        filled.frombytes(memoryview(flat.data).cast("B"))  # one copy, and no Python number for any element
    return filled


def _message_class(ros_type: str) -> type[Any]:
    package, _, name = ros_type.partition("/")
    found: type[Any] = getattr(import_module(f"{package}.msg"), name)
    return found
