"""The one decoder of image messages, live or recorded, and the fit of an image to the network.

Colour images leave this module as (H, W, 3) uint8 RGB, depth as (H, W) float32 metres with 0 where there is none
(REP-118). Pixels follow ``stfm_ros.types``: the centre of the top-left pixel is (0, 0). A message is any object with
the fields of sensor_msgs' Image, CompressedImage or CameraInfo, of rclpy or of rosbags.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from stfm_ros.bridge import BridgeError, by_cv_bridge
from stfm_ros.compressed import check_header, decompress
from stfm_ros.errors import CameraError, ImageError, brief
from stfm_ros.types import BoolArray, ByteArray, Camera, Float32Array, FloatArray

#: channels and type of the encodings that are plain interleaved rows (sensor_msgs/image_encodings.hpp)
_PLAIN: dict[str, tuple[int, str]] = {
    "mono8": (1, "u1"), "8UC1": (1, "u1"), "mono16": (1, "u2"), "16UC1": (1, "u2"), "32FC1": (1, "f4"),
    "rgb8": (3, "u1"), "bgr8": (3, "u1"), "8UC3": (3, "u1"), "rgb16": (3, "u2"), "bgr16": (3, "u2"),
    "rgba8": (4, "u1"), "bgra8": (4, "u1"), "8UC4": (4, "u1"), "rgba16": (4, "u2"), "bgra16": (4, "u2"),
    **{f"bayer_{pattern}8": (1, "u1") for pattern in ("rggb", "bggr", "gbrg", "grbg")},
    **{f"bayer_{pattern}16": (1, "u2") for pattern in ("rggb", "bggr", "gbrg", "grbg")},
    "yuv422": (2, "u1"), "uyvy": (2, "u1"), "yuv422_yuy2": (2, "u1"), "yuyv": (2, "u1"),
}  # fmt: skip
#: a plane of luma, then rows of chroma at half the size
_HALF_CHROMA = ("nv12", "nv21")
#: conversion to RGB; generic 8UC3 and 8UC4 are blue first, as OpenCV has them
_TO_RGB: dict[str, int] = {
    "bgr8": cv2.COLOR_BGR2RGB, "8UC3": cv2.COLOR_BGR2RGB, "bgr16": cv2.COLOR_BGR2RGB,
    "rgba8": cv2.COLOR_RGBA2RGB, "rgba16": cv2.COLOR_RGBA2RGB,
    "bgra8": cv2.COLOR_BGRA2RGB, "8UC4": cv2.COLOR_BGRA2RGB, "bgra16": cv2.COLOR_BGRA2RGB,
    "yuv422": cv2.COLOR_YUV2RGB_UYVY, "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2, "yuyv": cv2.COLOR_YUV2RGB_YUY2,
    "nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21,
    # OpenCV names a pattern by the second pixel of its second row
    "bayer_rggb": cv2.COLOR_BayerBG2RGB, "bayer_bggr": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg": cv2.COLOR_BayerGR2RGB, "bayer_grbg": cv2.COLOR_BayerGB2RGB,
}  # fmt: skip
_YUV422 = ("yuv422", "uyvy", "yuv422_yuy2", "yuyv")
#: encodings without a defined white: shown by the spread of their own values
_STRETCHED = ("16UC1", "32FC1")
_BAYER = tuple(name for name in _PLAIN if name.startswith("bayer_"))
_DEPTH = ("16UC1", "mono16", "32FC1")
ENCODINGS = (*_PLAIN, *_HALF_CHROMA)


def decode_image(msg: Any) -> ByteArray:
    """Decode an Image or CompressedImage.

    mono16 and other 16-bit colours are scaled by 1/257; 16UC1 and 32FC1, which have no defined white, by the 1 % and
    99 % percentiles of their values that are finite and not zero.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImageError: the encoding is unknown, the image has no size, or its data are short or cannot be decoded.
    """
    if hasattr(msg, "format"):
        encoding, pixels = _decompress(msg)
    elif msg.encoding in _PLAIN:
        encoding, pixels = msg.encoding, _plain(msg)
    elif msg.encoding in _HALF_CHROMA:
        encoding, pixels = msg.encoding, _half_chroma(msg)
    else:
        return _beyond(msg)
    return _pixels_to_rgb(encoding, pixels)


def decode_depth(msg: Any) -> Float32Array:
    """Decode a depth image: 16UC1 or mono16 in millimetres, 32FC1 in metres (REP-118), raw or compressed.

    Compressed are PNG of 16 bit, TIFF, and the compressedDepth transport (PNG; 32FC1 as quantised inverse depth).

    Returns:
        (H, W) float32 metres, 0 where there is none.

    Raises:
        ImageError: the message holds no depth, or its data are short or cannot be decoded.
    """
    if not hasattr(msg, "format"):
        _depth_rows(msg)
        return _metres(_plain(msg))
    if "compressedDepth" in msg.format:
        return _compressed_depth(msg)
    _, pixels = _decompress(msg)
    if pixels.ndim != 2 or pixels.dtype not in (np.uint16, np.float32):
        raise ImageError(
            f"{_compressed_name(msg)} holds {pixels.dtype} of shape {pixels.shape}: expected depth, "
            "one channel of 16 bit (millimetres) or float32 (metres); name the topic of the depth image"
        )
    return _metres(pixels)


def check_depth(msg: Any) -> None:
    """Find what is wrong with a depth image as far as that is seen without decoding it.

    Raises:
        ImageError: :func:`decode_depth` would refuse it.
    """
    if not hasattr(msg, "format"):
        _depth_rows(msg)
    elif "compressedDepth" in msg.format:
        check_header(_depth_file(msg), _compressed_name(msg))
    else:
        check_header(np.frombuffer(msg.data, np.uint8), _compressed_name(msg))


def raw_pixels(msg: Any) -> NDArray[Any]:
    """The values of an Image as they were sent, in native byte order.

    Returns:
        (H, W), or (H, W, channels) of an encoding with several.

    Raises:
        ImageError: the encoding is not of interleaved rows, or the data are short.
    """
    if msg.encoding not in _PLAIN:
        raise ImageError(f"{_name(msg)}: expected an encoding of interleaved rows: {', '.join(_PLAIN)}")
    return _plain(msg)


def is_depth(msg: Any) -> bool:
    """Whether an Image or CompressedImage is marked as depth (16UC1 or 32FC1)."""
    mark: str = msg.format.partition(";")[0] if hasattr(msg, "format") else msg.encoding
    return mark.strip() in ("16UC1", "32FC1")


def to_rgb(array: NDArray[Any]) -> ByteArray:
    """(H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA uint8 to (H, W, 3) uint8 RGB.

    Raises:
        ImageError: another type or shape, or no pixels.
    """
    array = np.asarray(array)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(
            f"image of type {array.dtype} and shape {array.shape}: expected uint8 of shape (H, W), (H, W, 3) in RGB "
            "order or (H, W, 4); scale other types to 0..255 first"
        )
    if array.size == 0:
        raise ImageError(f"image of shape {array.shape} has no pixels: expected at least 1x1")
    if array.ndim == 2 or array.shape[2] == 1:
        return np.asarray(cv2.cvtColor(array, cv2.COLOR_GRAY2RGB))
    return np.ascontiguousarray(array[..., :3])


def camera_from_info(msg: Any) -> Camera:
    """The camera of the image that a CameraInfo accompanies: K and P moved by ROI and binning (REP-104).

    K of the message belongs to the full, unbinned image. A binned pixel is centred between the pixels it is made of,
    so ``c' = (c - offset + 0.5) / binning - 0.5``. ROS 1's upper-case field names are taken too.

    Raises:
        CameraError: the camera is not calibrated, or its distortion model is not known.
    """
    K, R, P = _matrix(msg, "K", 3), _matrix(msg, "R", 3), _matrix(msg, "P", 4)
    D = np.array(_either(msg, "d", "D"), np.float64).ravel()
    binning = np.array([max(1, int(msg.binning_x)), max(1, int(msg.binning_y))])
    offset = np.array([int(msg.roi.x_offset), int(msg.roi.y_offset)])
    size = np.array([int(msg.roi.width) or int(msg.width), int(msg.roi.height) or int(msg.height)])
    received = np.eye(3)  # pixels of the full image to those of the received one
    received[[0, 1], [0, 1]], received[:2, 2] = 1 / binning, (0.5 - offset) / binning - 0.5
    model = {"": "none", "fisheye": "equidistant"}.get(msg.distortion_model, msg.distortion_model)
    # an undistorted camera is published as no coefficients or as zeros; zeros mean a true lens for equidistant alone
    if D.size == 0 or (model != "equidistant" and not D.any()):
        model, D = "none", np.zeros(0)
    width, height = (int(side) for side in size // binning)
    if min(width, height) < 1:
        raise CameraError(
            f"camera_info is of an image of {width}x{height} by its size, ROI and binning: expected at least 1x1; "
            "check the driver"
        )
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is told by the camera
        return Camera(width, height, received @ K, model, D, R, received @ P)


@dataclass(frozen=True)
class Fit:
    """Where an image lies in the network's input: at the top left, scaled, padded at the right and at the bottom.

    Attributes:
        width, height: of the part of the input that shows the image, in pixels of the input.
        scale_x, scale_y: pixels of the original for one pixel of the input, exactly; nearly equal.
    """

    width: int
    height: int
    scale_x: float
    scale_y: float

    @property
    def scale(self) -> float:
        """Pixels of the original for one pixel of the input (geometric mean of the two axes)."""
        return float(np.sqrt(self.scale_x * self.scale_y))

    def to_original(self, points: ArrayLike) -> Float32Array:
        """(n, 2) pixels of the input to (n, 2) float32 pixels of the original."""
        return ((np.asarray(points, np.float64) + 0.5) * self._scales - 0.5).astype(np.float32)

    def to_fitted(self, points: ArrayLike) -> Float32Array:
        """(n, 2) pixels of the original to (n, 2) float32 pixels of the input."""
        return ((np.asarray(points, np.float64) + 0.5) / self._scales - 0.5).astype(np.float32)

    def inside(self, points: ArrayLike) -> BoolArray:
        """(n,) whether (n, 2) pixels of the input lie on the image and not on the padding."""
        xy = np.asarray(points)
        on_image: BoolArray = np.all((xy >= -0.5) & (xy <= np.array([self.width, self.height]) - 0.5), axis=-1)
        return on_image

    @property
    def _scales(self) -> NDArray[np.float64]:
        return np.array([self.scale_x, self.scale_y])


def fit(image: NDArray[Any], height: int, width: int) -> tuple[Float32Array, Fit]:
    """Fit an image into the network's input, aspect ratio kept, padded with its mean colour.

    Args:
        image: uint8, see :func:`to_rgb`.
        height, width: of the input in pixels.

    Returns:
        (1, 3, height, width) float32 in [0, 1], and where the image lies in it.
    """
    image = to_rgb(image)
    rows, columns = image.shape[:2]
    scale = min(height / rows, width / columns)
    shown_h = min(height, max(1, round(rows * scale)))
    shown_w = min(width, max(1, round(columns * scale)))
    if (shown_h, shown_w) != (rows, columns):
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        image = np.asarray(cv2.resize(image, (shown_w, shown_h), interpolation=method))
    canvas = np.empty((height, width, 3), np.uint8)
    if (shown_h, shown_w) != (height, width):
        canvas[:] = np.round(cv2.mean(image)[:3])
    canvas[:shown_h, :shown_w] = image
    tensor = canvas.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
    return tensor, Fit(shown_w, shown_h, columns / shown_w, rows / shown_h)


def input_of_shape(height: int, width: int, pixels: int, multiple: int = 32) -> tuple[int, int]:
    """Height and width of an input of about so many ``pixels``, multiples of 32, that pictures of a size fill."""
    side = np.sqrt(pixels * np.array([height / width, width / height]))
    rows, columns = np.maximum(np.rint(side / multiple), 1) * multiple
    return int(rows), int(columns)


def fit_depth(depth: NDArray[Any], how: Fit, height: int, width: int) -> Float32Array:
    """Fit the depth of an image into the network's fourth channel, where :func:`fit` put the image.

    Nearest sampling, for a mean of two depths is the depth of neither; the padding has no depth.

    Args:
        depth: (H, W) float metres, of the size of the image; 0, negative or not finite where there is none.
        how: the fit of the image.
        height, width: of the input in pixels.

    Returns:
        (1, 1, height, width) float32 in units of 10 m, 0 where there is none.

    Raises:
        ImageError: the depth is not in metres or not of the image's size.
    """
    depth = np.asarray(depth)
    rows, columns = round(how.height * how.scale_y), round(how.width * how.scale_x)
    if not np.issubdtype(depth.dtype, np.floating) or depth.shape != (rows, columns):
        raise ImageError(
            f"depth of type {depth.dtype} and shape {depth.shape}: expected float32 metres of the image's shape "
            f"({rows}, {columns}); decode it with stfm_ros.images.decode_depth and register it to the colour image"
        )
    y = np.floor((np.arange(how.height) + 0.5) * how.scale_y).astype(int)
    x = np.floor((np.arange(how.width) + 0.5) * how.scale_x).astype(int)
    shown = depth[y[:, None], x].astype(np.float32)
    fitted = np.zeros((1, 1, height, width), np.float32)
    fitted[0, 0, : how.height, : how.width] = np.where(np.isfinite(shown) & (shown > 0), shown / np.float32(10), 0)
    return fitted


def _plain(msg: Any) -> NDArray[Any]:
    """The pixels of a message with interleaved rows: (H, W) or (H, W, channels), in native byte order."""
    channels, kind = _PLAIN[msg.encoding]
    dtype = np.dtype(kind).newbyteorder(">" if msg.is_bigendian else "<")
    pixels: NDArray[Any] = np.ascontiguousarray(_plain_rows(msg)).view(dtype).astype(kind)
    return pixels if channels == 1 else pixels.reshape(int(msg.height), int(msg.width), channels)


def _plain_rows(msg: Any) -> ByteArray:
    channels, kind = _PLAIN[msg.encoding]
    return _rows(msg, int(msg.height), int(msg.width) * channels * np.dtype(kind).itemsize)


def _half_chroma(msg: Any) -> ByteArray:
    """The pixels of nv12 and nv21 as OpenCV takes them: (H * 3 / 2, W), chroma below the luma."""
    height, width = int(msg.height), int(msg.width)
    if height % 2 or width % 2:
        raise ImageError(f"{_name(msg)}: expected an even width and height; crop it upstream")
    return np.ascontiguousarray(_rows(msg, height + height // 2, width))


def _rows(msg: Any, rows: int, row_bytes: int) -> ByteArray:
    """The first ``row_bytes`` of each row, (rows, row_bytes) uint8; padding at the end of the rows is left out."""
    width, height, step = int(msg.width), int(msg.height), int(msg.step)
    data = np.frombuffer(msg.data, np.uint8)
    if width < 1 or height < 1:
        raise _no_pixels(msg)
    if step < row_bytes:
        raise ImageError(
            f"{_name(msg)}: step is {step} bytes, but a row takes {row_bytes}; the driver must set step to the bytes "
            "of a row, padding included"
        )
    needed = step * (rows - 1) + row_bytes  # the last row may come without its padding
    if data.size < needed:
        raise ImageError(
            f"{_name(msg)}: {data.size} bytes of data, but {rows} rows of step {step} take {needed}; the message is "
            "truncated: check the driver or the recording"
        )
    pixels: ByteArray = np.ndarray((rows, row_bytes), np.uint8, data, strides=(step, 1))
    return pixels


def _pixels_to_rgb(encoding: str, pixels: NDArray[Any]) -> ByteArray:
    if encoding in _STRETCHED:
        pixels = _stretch(pixels)
    elif pixels.dtype == np.uint16:
        pixels = np.asarray(cv2.convertScaleAbs(pixels, alpha=1 / 257))
    elif pixels.dtype != np.uint8:  # of a TIFF
        raise ImageError(
            f"compressed image of type {pixels.dtype} and shape {pixels.shape}: expected 8 or 16 bit without sign; "
            "convert it upstream"
        )
    height, width = pixels.shape[:2]
    if encoding.startswith("bayer_"):
        if min(height, width) < 3:
            raise ImageError(f"image {width}x{height} of encoding {encoding!r}: expected at least 3x3 for its pattern")
        encoding = encoding.rstrip("0123456789")
    if encoding in _YUV422 and width % 2:
        raise ImageError(f"image {width}x{height} of encoding {encoding!r}: expected an even width; crop it upstream")
    if encoding in _TO_RGB:
        return np.asarray(cv2.cvtColor(pixels, _TO_RGB[encoding]))
    return to_rgb(pixels)


def _stretch(pixels: NDArray[Any]) -> ByteArray:
    if pixels.dtype.kind == "f":
        pixels = np.clip(pixels, -1e30, 1e30)  # so that the difference of two is a number
    valid = np.isfinite(pixels) & (pixels != 0)
    skip = 1 + min(pixels.shape[:2]) // 200  # percentiles of a part of a large image are as good and far quicker
    sample = pixels[::skip, ::skip][valid[::skip, ::skip]]
    if sample.size == 0:
        return np.zeros(pixels.shape, np.uint8)
    low, high = np.percentile(sample, (1, 99))
    spread = np.float32(max(high - low, 1e-6))
    scaled = (np.where(valid, pixels, low).astype(np.float32) - np.float32(low)) * (255 / spread)
    return np.asarray(np.clip(np.round(scaled), 0, 255), np.uint8)


def _decompress(msg: Any) -> tuple[str, NDArray[Any]]:
    """The encoding to read the pixels by, and the pixels, of a CompressedImage."""
    source = msg.format.partition(";")[0].strip()
    if "compressedDepth" in msg.format:
        raise ImageError(
            f"{_compressed_name(msg)} holds depth: expected a colour or grey image; name the topic of the image"
        )
    pixels = decompress(np.frombuffer(msg.data, np.uint8), _compressed_name(msg))
    if pixels.ndim == 2:
        return source if source in (*_STRETCHED, *_BAYER) else "mono8", pixels
    # cv2 gives blue first, whatever the format string says of the camera's own encoding
    return "bgra8" if pixels.shape[2] == 4 else "bgr8", pixels


def _depth_rows(msg: Any) -> ByteArray:
    """See :func:`_rows`, of an Image that has to be depth."""
    if msg.encoding not in _DEPTH:
        raise ImageError(
            f"encoding {brief(msg.encoding)} is no depth: expected 16UC1 or mono16 (millimetres) or 32FC1 (metres); "
            "name the topic of the depth image"
        )
    return _plain_rows(msg)


def _depth_file(msg: Any) -> ByteArray:
    """compressed_depth_image_transport: 12 bytes (format, quantisation A and B), then a PNG of 16 bit: this."""
    data = np.frombuffer(msg.data, np.uint8)
    if "rvl" in msg.format.lower():
        raise ImageError(
            f"{_compressed_name(msg)} of depth: RVL is not supported, expected PNG; set the publisher's "
            "compressedDepth format to png, or use the raw depth topic"
        )
    if data.size <= 12:
        raise ImageError(
            f"{_compressed_name(msg)} of depth: expected a header of 12 bytes and a PNG; the message is truncated"
        )
    return data[12:]


def _compressed_depth(msg: Any) -> Float32Array:
    pixels = decompress(_depth_file(msg), _compressed_name(msg))
    if pixels.ndim != 2 or pixels.dtype != np.uint16:
        raise ImageError(
            f"{_compressed_name(msg)} holds {pixels.dtype} of shape {pixels.shape}: expected one channel of 16 bit; "
            "check the publisher"
        )
    if not msg.format.startswith("32FC1"):
        return _metres(pixels)
    a, b = struct.unpack("<ff", np.frombuffer(msg.data, np.uint8)[4:12].tobytes())
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return _metres(np.where(pixels > 0, np.float32(a) / (pixels.astype(np.float32) - np.float32(b)), 0))


def _metres(pixels: NDArray[Any]) -> Float32Array:
    if pixels.dtype == np.uint16:
        return np.asarray(pixels * np.float32(0.001), np.float32)
    metres = pixels.astype(np.float32)
    return np.asarray(np.where(np.isfinite(metres) & (metres > 0), metres, 0), np.float32)


def _beyond(msg: Any) -> ByteArray:
    """What is left, by cv_bridge where it can be used."""
    if int(msg.width) < 1 or int(msg.height) < 1:
        raise _no_pixels(msg)
    try:
        is_rgb, pixels = by_cv_bridge(msg)
    except BridgeError as fault:
        raise ImageError(
            f"{_name(msg)}: the encoding is not supported (cv_bridge: {brief(str(fault), 200)}); expected one of "
            f"{', '.join(ENCODINGS)}; set the driver to rgb8, or convert upstream with image_proc"
        ) from None
    if is_rgb:
        return to_rgb(pixels)
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels not in (1, 3, 4):
        raise ImageError(f"{_name(msg)} has {channels} channels: expected 1, 3 or 4; choose another encoding upstream")
    pixels = pixels.reshape(pixels.shape[:2]) if channels == 1 else pixels[..., 2::-1]  # generic ones are blue first
    if channels > 1 and pixels.dtype == np.uint16:
        pixels = (pixels / 257).round().astype(np.uint8)
    return to_rgb(pixels if pixels.dtype == np.uint8 else _stretch(pixels))


def _no_pixels(msg: Any) -> ImageError:
    return ImageError(f"{_name(msg)} has no pixels: expected at least 1x1; check the driver")


def _name(msg: Any) -> str:
    return f"image {int(msg.width)}x{int(msg.height)} of encoding {brief(msg.encoding)}"


def _compressed_name(msg: Any) -> str:
    return f"compressed image (format {brief(msg.format)}, {len(msg.data)} bytes)"


def _matrix(msg: Any, name: str, columns: int) -> FloatArray:
    """(3, columns) of a CameraInfo."""
    values = np.array(_either(msg, name.lower(), name), np.float64)
    if values.size != 3 * columns:
        raise CameraError(
            f"{name} of camera_info has {values.size} values: expected {3 * columns}, a matrix of 3x{columns}; check "
            "the driver"
        )
    return values.reshape(3, columns)


def _either(msg: Any, *names: str) -> Any:
    return next(getattr(msg, name) for name in names if hasattr(msg, name))
