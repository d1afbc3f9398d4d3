"""Decodes compressed pictures, whose size is read off their header first: a header of a few bytes that lies about its
size must not take the memory for it.

Taken are the formats of compressed_image_transport (JPEG, PNG, TIFF) and WebP, told by their first bytes and not by the
``format`` of the message, which says what a driver likes.
"""

from __future__ import annotations

import re
import struct
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stfm_ros.errors import ImageError
from stfm_ros.types import ByteArray

#: pixels of the largest picture that is decoded
MAX_PIXELS = 1 << 26

#: pixels that a byte of a file can hold: those of 1 bit, deflated at its best (zlib's documentation); but for WebP
DENSEST = 8 * 1032

#: markers of JPEG that begin a frame and so carry its size; C4, C8 and CC begin something else (ITU T.81, table B.1)
_FRAME = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
#: markers of JPEG without a length; 00 is no marker
_BARE = {0x00, 0x01, *range(0xD0, 0xDA)}
_MARKER = re.compile(rb"\xff+([^\xff])", re.DOTALL)
#: tags of TIFF: width and height of the picture, then of a tile (TIFF 6.0)
_SIZE, _TILE = (256, 257), (322, 323)


def decompress(data: ByteArray, name: str) -> NDArray[Any]:
    """The pixels as cv2 gives them: (H, W) or (H, W, channels), blue first, of the file's own type.

    Args:
        data: (n,) the file.
        name: of the message, for errors.

    Raises:
        ImageError: it is cut off, damaged, larger than :data:`MAX_PIXELS`, or of another format.
    """
    check_header(data, name)
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except (cv2.error, MemoryError):
        pixels = None
    if pixels is None:
        raise _undecodable(name)
    return np.asarray(pixels)


def check_header(data: ByteArray, name: str) -> None:
    """Refuse what need not be decoded to be refused; arguments and errors as of :func:`decompress`."""
    file = data.tobytes()
    try:
        size = header_size(file)
    except (struct.error, IndexError):  # the header itself is cut off
        size = None
    if size is None:
        raise _undecodable(name)
    if size[0] * size[1] > MAX_PIXELS:
        raise ImageError(
            f"{name} says that it is {size[0]}x{size[1]}: expected at most {MAX_PIXELS >> 20} megapixels; its header "
            "is damaged, or it has to be scaled down upstream"
        )
    if size[0] * size[1] > DENSEST * data.size and not file.startswith(b"RIFF"):
        raise ImageError(
            f"{name} says that it is {size[0]}x{size[1]}, which as many bytes cannot hold; the message is truncated or "
            "its header is damaged"
        )


def header_size(data: bytes) -> tuple[int, int] | None:
    """The (width, height) by the header of a JPEG, PNG, TIFF or WebP; None where there is none.

    Raises:
        struct.error, IndexError: the header is cut off.
    """
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return struct.unpack_from(">II", data, 16)
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data)
    if data.startswith((b"II*\0", b"MM\0*")):
        return _tiff(data)
    return None


def _jpeg(data: bytes) -> tuple[int, int] | None:
    at = 2
    while found := _MARKER.search(data, at):
        marker, at = found[1][0], found.end()
        if marker in _FRAME:
            height, width = struct.unpack_from(">HH", data, at + 3)
            return width, height
        if marker not in _BARE:
            at += struct.unpack_from(">H", data, at)[0]
    return None


def _webp(data: bytes) -> tuple[int, int] | None:
    """RFC 9649, sections 2.5 to 2.7."""
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    return None


def _tiff(data: bytes) -> tuple[int, int] | None:
    order = "<" if data.startswith(b"I") else ">"
    (at,) = struct.unpack_from(order + "I", data, 4)
    (entries,) = struct.unpack_from(order + "H", data, at)
    found: dict[int, int] = {}
    for entry in range(at + 2, at + 2 + 12 * entries, 12):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag in (*_SIZE, *_TILE):
            (found[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, entry + 8)
    if not all(tag in found for tag in _SIZE):
        return None
    width, height = (max(found[side], found.get(tile, 0)) for side, tile in zip(_SIZE, _TILE))
    return width, height


def _undecodable(name: str) -> ImageError:
    return ImageError(
        f"{name} cannot be decoded: expected a whole JPEG, PNG, WebP or TIFF; the message is truncated or of a video "
        "codec: republish it as jpeg"
    )
