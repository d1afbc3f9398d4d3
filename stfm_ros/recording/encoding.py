"""Raw images to compressed ones, and what a selection looks at. Depth never loses a bit.

A compressed image is named as image_transport does: ``/camera/image`` becomes ``/camera/image/compressed``, a
sensor_msgs/CompressedImage of format ``rgb8; jpeg compressed bgr8``; depth becomes ``16UC1; png compressed``. Both are
what ``stfm_ros.images`` reads, and image_transport's republisher.
"""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np

from stfm_ros import messages
from stfm_ros.bag_types import to_message, typestore
from stfm_ros.bags import IMAGE_TYPES
from stfm_ros.errors import ImageError
from stfm_ros.images import decode_depth, decode_image, raw_pixels
from stfm_ros.recording.config import CompressionConfig
from stfm_ros.recording.selection import VIEW_WIDTH
from stfm_ros.types import ByteArray, Float32Array

IMAGE_TYPE, COMPRESSED_TYPE = IMAGE_TYPES
#: run lengths: on recorded depth and colour both quicker and smaller than what PNG does by default at this level
_PNG: Final = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)
#: depth is judged on every fourth pixel of every fourth row
_STRIDE: Final = 4


def recorded_as(topic: str, message: Any, is_depth: bool, config: CompressionConfig) -> tuple[str, str]:
    """Topic and type under which an image is written."""
    if hasattr(message, "format"):
        return topic, COMPRESSED_TYPE
    if is_depth:
        compressed = config.depth == "png" and message.encoding in ("16UC1", "mono16")
    else:
        compressed = config.colour != "raw"
    return (f"{topic}/compressed", COMPRESSED_TYPE) if compressed else (topic, IMAGE_TYPE)


def compress(message: Any, is_depth: bool, config: CompressionConfig) -> bytes:
    """The CDR bytes of the sensor_msgs/CompressedImage of a raw image.

    Raises:
        ImageError: it cannot be decoded.
    """
    if is_depth:
        form, data = "16UC1; png compressed ", _encoded(".png", raw_pixels(message), _PNG)
    else:
        pixels = decode_image(message)
        grey = message.encoding in ("mono8", "8UC1")
        pixels = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY if grey else cv2.COLOR_RGB2BGR))
        form = f"{'mono8' if grey else 'rgb8'}; {config.colour} compressed {'mono8' if grey else 'bgr8'}"
        settings: tuple[int, ...] = (cv2.IMWRITE_JPEG_QUALITY, config.jpeg_quality) if config.colour == "jpeg" else _PNG
        data = _encoded(f".{config.colour}", pixels, settings)
    fields = messages.compressed_image(messages.stamp_ns(message.header), message.header.frame_id, form, data)
    return bytes(typestore().serialize_cdr(to_message(fields, COMPRESSED_TYPE), COMPRESSED_TYPE))


def view_of_image(message: Any) -> ByteArray:
    """(h, VIEW_WIDTH) uint8: a colour image as the selection looks at it.

    Raises:
        ImageError: it cannot be decoded.
    """
    if hasattr(message, "format"):
        decoded = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_2)
        if decoded is None:
            raise ImageError(f"compressed image (format {message.format!r}) cannot be decoded: expected a whole JPEG")
        gray = np.asarray(decoded)
    else:
        gray = np.asarray(cv2.cvtColor(decode_image(message), cv2.COLOR_RGB2GRAY))
    height = max(1, round(gray.shape[0] * VIEW_WIDTH / gray.shape[1]))
    return np.asarray(cv2.resize(gray, (VIEW_WIDTH, height), interpolation=cv2.INTER_AREA), np.uint8)


def view_of_depth(message: Any) -> Float32Array:
    """Float32 metres, 0 where there is none: some of the pixels of a depth image, of all its parts.

    Raises:
        ImageError: it holds no depth, or cannot be decoded.
    """
    if hasattr(message, "format"):
        return decode_depth(message)[::_STRIDE, ::_STRIDE]
    pixels = raw_pixels(message)[::_STRIDE, ::_STRIDE]
    if message.encoding in ("16UC1", "mono16"):
        return np.asarray(pixels * np.float32(0.001), np.float32)
    if message.encoding != "32FC1":
        return decode_depth(message)  # which says what is wrong
    return np.where(np.isfinite(pixels) & (pixels > 0), pixels, np.float32(0))


def _encoded(suffix: str, pixels: Any, settings: tuple[int, ...]) -> bytes:
    done, data = cv2.imencode(suffix, pixels, settings)
    if not done:
        raise ImageError(f"an image of type {pixels.dtype} and shape {pixels.shape} cannot be stored as {suffix[1:]}")
    return data.tobytes()
