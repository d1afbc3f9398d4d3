"""Decoding of every encoding with padded rows and both byte orders, the fit, and wording of refusals."""

from __future__ import annotations

import os
import struct
import sys
from array import array
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from malformed import lying_jpeg, lying_png
from numpy.typing import NDArray

from stfm_ros.bridge import unusable
from stfm_ros.compressed import header_size
from stfm_ros.errors import CameraError, ImageError
from stfm_ros.images import (
    ENCODINGS,
    camera_from_info,
    decode_depth,
    decode_image,
    fit,
    input_of_shape,
    is_depth,
    to_rgb,
)

Pixels = NDArray[Any]

sizes = st.tuples(st.integers(1, 17), st.integers(1, 17))
even_sizes = sizes.map(lambda size: (2 * size[0], 2 * size[1]))
paddings = st.integers(0, 9)
seeds = st.integers(0, 2**32 - 1)


def image_msg(encoding: str, rows: Pixels, width: int, height: int, padding: int = 0, big: bool = False) -> Any:
    """A message whose rows (n, ...) get ``padding`` bytes of noise behind them."""
    dtype = rows.dtype.newbyteorder(">" if big else "<")
    lines = np.ascontiguousarray(rows.astype(dtype)).view(np.uint8).reshape(len(rows), -1)
    noise = np.random.default_rng(1).integers(0, 256, (len(rows), padding), np.uint8)
    return SimpleNamespace(
        encoding=encoding,
        width=width,
        height=height,
        step=lines.shape[1] + padding,
        is_bigendian=int(big),
        data=array("B", np.hstack([lines, noise]).tobytes()),
    )


def colour(seed: int, size: tuple[int, int]) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def raw(rgb: Pixels, encoding: str, **how: Any) -> Any:
    """``rgb`` in one of the encodings that lose nothing."""
    if encoding in ("mono8", "8UC1", "mono16"):
        pixels = rgb[..., 0]
    else:
        blue_first = encoding.startswith("bgr") or encoding in ("8UC3", "8UC4")
        pixels = rgb[..., ::-1] if blue_first else rgb
        if encoding.startswith(("rgba", "bgra")) or encoding == "8UC4":
            pixels = np.dstack([pixels, np.full(rgb.shape[:2], 77, np.uint8)])
    if encoding.endswith("16"):
        pixels = pixels.astype(np.uint16) * 257
    return image_msg(encoding, pixels, rgb.shape[1], rgb.shape[0], **how)


LOSSLESS = [
    "mono8", "8UC1", "mono16", "rgb8", "bgr8", "8UC3", "rgb16", "bgr16",
    "rgba8", "bgra8", "8UC4", "rgba16", "bgra16",
]  # fmt: skip


@pytest.mark.parametrize("encoding", LOSSLESS)
@given(seed=seeds, size=sizes, padding=paddings, big=st.booleans())
@settings(max_examples=20)
def test_lossless_encodings(encoding: str, seed: int, size: tuple[int, int], padding: int, big: bool) -> None:
    rgb = colour(seed, size)
    expected = np.repeat(rgb[..., :1], 3, axis=2) if encoding in ("mono8", "8UC1", "mono16") else rgb
    decoded = decode_image(raw(rgb, encoding, padding=padding, big=big))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, expected)


def yuv_planes(rgb: Pixels) -> tuple[Pixels, Pixels, Pixels]:
    """Luma (H, W) and chroma (H/2, W/2) of an image whose blocks of 2x2 have one colour."""
    height, width = rgb.shape[:2]
    planes = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420).ravel()
    quarter = height * width // 4
    u, v = planes[4 * quarter : 5 * quarter], planes[5 * quarter :]
    half = (height // 2, width // 2)
    return planes[: 4 * quarter].reshape(height, width), u.reshape(half), v.reshape(half)


@pytest.mark.parametrize("encoding", ["yuv422", "uyvy", "yuv422_yuy2", "yuyv", "nv12", "nv21"])
@given(seed=seeds, size=even_sizes, padding=paddings)
@settings(max_examples=20)
def test_yuv_encodings(encoding: str, seed: int, size: tuple[int, int], padding: int) -> None:
    rgb = np.kron(colour(seed, (size[0] // 2, size[1] // 2)), np.ones((2, 2, 1), np.uint8))
    height, width = size
    y, u, v = yuv_planes(rgb)
    if encoding.startswith("nv"):
        chroma = np.stack([u, v] if encoding == "nv12" else [v, u], axis=-1).reshape(height // 2, width)
        rows = np.vstack([y, chroma])
    else:
        uv = np.stack([u.repeat(2, 0), v.repeat(2, 0)], axis=-1).reshape(size)
        rows = np.stack([uv, y] if encoding in ("yuv422", "uyvy") else [y, uv], axis=-1)
    decoded = decode_image(image_msg(encoding, rows, width, height, padding))
    # studio range has fewer steps than 0..255
    assert np.abs(decoded.astype(int) - rgb).max() <= 4


@pytest.mark.parametrize("depth", ["8", "16"])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@given(seed=seeds, size=even_sizes.filter(lambda size: min(size) >= 4), padding=paddings, big=st.booleans())
@settings(max_examples=10)
def test_bayer(pattern: str, depth: str, seed: int, size: tuple[int, int], padding: int, big: bool) -> None:
    rgb = np.broadcast_to(colour(seed, (1, 1)), (*size, 3))
    channel = np.array(["rgb".index(letter) for letter in pattern]).reshape(2, 2)
    rows, columns = np.indices(size)
    mosaic = np.take_along_axis(rgb, channel[rows % 2, columns % 2][..., None], axis=2)[..., 0]
    if depth == "16":
        mosaic = mosaic.astype(np.uint16) * 257
    decoded = decode_image(image_msg(f"bayer_{pattern}{depth}", mosaic, size[1], size[0], padding, big))
    np.testing.assert_array_equal(decoded, rgb)


def test_every_encoding_is_tested() -> None:
    yuv = {"yuv422", "uyvy", "yuv422_yuy2", "yuyv", "nv12", "nv21"}
    bayer = {f"bayer_{pattern}{depth}" for pattern in ("rggb", "bggr", "gbrg", "grbg") for depth in (8, 16)}
    assert set(ENCODINGS) == {*LOSSLESS, *yuv, *bayer, "16UC1", "32FC1"}


@pytest.mark.parametrize("big", [False, True])
def test_images_without_a_white_are_stretched(big: bool) -> None:
    ramp = np.linspace(1000, 1400, 200).reshape(10, 20)
    for encoding, pixels in (("16UC1", ramp.astype(np.uint16)), ("32FC1", ramp.astype(np.float32))):
        pixels[0, 0] = 0
        if encoding == "32FC1":
            pixels[0, 1] = np.nan
        decoded = decode_image(image_msg(encoding, pixels, 20, 10, 3, big))[..., 0]
        assert decoded[0, 0] == 0
        assert decoded[-1, -1] == 255
        assert (np.diff(decoded.ravel()[2:].astype(int)) >= 0).all()
    flat = image_msg("16UC1", np.zeros((4, 4), np.uint16), 4, 4)
    assert not decode_image(flat).any()


@pytest.mark.parametrize("data", [bytes, np.array, memoryview])
def test_data_of_rclpy_and_of_rosbags(data: Any) -> None:
    rgb = colour(3, (4, 5))
    msg = raw(rgb, "rgb8")
    msg.data = data(msg.data.tobytes()) if data is not np.array else np.frombuffer(msg.data.tobytes(), np.uint8)
    np.testing.assert_array_equal(decode_image(msg), rgb)


def test_last_row_may_lack_its_padding() -> None:
    rgb = colour(4, (4, 5))
    msg = raw(rgb, "bgr8", padding=6)
    msg.data = msg.data[:-6]
    np.testing.assert_array_equal(decode_image(msg), rgb)


def compressed(form: str, pixels: Pixels, suffix: str = ".png") -> Any:
    return SimpleNamespace(format=form, data=array("B", cv2.imencode(suffix, pixels)[1].tobytes()))


def test_compressed_images() -> None:
    rgb = cv2.resize(colour(5, (4, 5)), (50, 40), interpolation=cv2.INTER_CUBIC)
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    np.testing.assert_array_equal(decode_image(compressed("rgb8; png compressed bgr8", bgr)), rgb)
    np.testing.assert_array_equal(decode_image(compressed("png", np.dstack([bgr, bgr[..., 0]]))), rgb)
    np.testing.assert_array_equal(decode_image(compressed("mono8; png compressed ", bgr[..., 0])), to_rgb(bgr[..., 0]))
    wide = bgr.astype(np.uint16) * 257
    np.testing.assert_array_equal(decode_image(compressed("bgr16; png compressed bgr16", wide)), rgb)
    np.testing.assert_array_equal(decode_image(compressed("mono16; png", wide[..., 0])), to_rgb(bgr[..., 0]))
    jpeg = decode_image(compressed("bgr8; jpeg compressed bgr8", bgr, ".jpg"))
    assert np.abs(jpeg.astype(int) - rgb).mean() < 10


def test_compressed_bayer_is_demosaiced() -> None:
    mosaic = np.zeros((8, 8), np.uint8)
    mosaic[::2, ::2] = 200
    assert (decode_image(compressed("bayer_rggb8; png compressed ", mosaic)) == (200, 0, 0)).all()


@given(seed=seeds, size=sizes, padding=paddings, big=st.booleans())
@settings(max_examples=20)
def test_depth_in_millimetres_and_metres(seed: int, size: tuple[int, int], padding: int, big: bool) -> None:
    rng = np.random.default_rng(seed)
    millimetres = rng.integers(0, 65536, size, np.uint16)
    for encoding in ("16UC1", "mono16"):
        depth = decode_depth(image_msg(encoding, millimetres, size[1], size[0], padding, big))
        assert depth.dtype == np.float32
        np.testing.assert_allclose(depth, millimetres / 1000, rtol=1e-6)
    metres = rng.uniform(0.1, 50, size).astype(np.float32)
    holes = rng.random(size) < 0.3
    metres[holes] = rng.choice([np.nan, np.inf, -np.inf, -1, 0], holes.sum())
    depth = decode_depth(image_msg("32FC1", metres, size[1], size[0], padding, big))
    np.testing.assert_array_equal(depth, np.where(holes, 0, metres))


def test_compressed_depth() -> None:
    millimetres = np.random.default_rng(0).integers(0, 65536, (6, 7), np.uint16)
    np.testing.assert_allclose(decode_depth(compressed("16UC1; png compressed ", millimetres)), millimetres / 1000)
    msg = compressed("16UC1; compressedDepth png", millimetres)
    msg.data = array("B", bytes(12) + msg.data.tobytes())
    np.testing.assert_allclose(decode_depth(msg), millimetres / 1000, rtol=1e-6)


def test_quantised_compressed_depth() -> None:
    """compressed_depth_image_transport: value = A / depth + B, A = q (q + 1), B = 1 - A / depth_max, 0 for none."""
    depth = np.linspace(0.3, 9.9, 200, dtype=np.float32).reshape(10, 20)
    depth[0, 0] = 0
    a = 100.0 * 101.0
    b = 1 - a / 10.0
    with np.errstate(divide="ignore"):
        values = np.where(depth > 0, a / depth + b, 0).round().astype(np.uint16)
    png = cv2.imencode(".png", values)[1].tobytes()
    msg = SimpleNamespace(format="32FC1; compressedDepth", data=array("B", struct.pack("<iff", 0, a, b) + png))
    decoded = decode_depth(msg)
    assert decoded.dtype == np.float32
    assert decoded[0, 0] == 0
    np.testing.assert_allclose(decoded, depth, rtol=1e-3)


def test_depth_is_told_from_colour() -> None:
    assert is_depth(SimpleNamespace(encoding="16UC1"))
    assert is_depth(SimpleNamespace(encoding="32FC1"))
    assert is_depth(SimpleNamespace(format="16UC1; compressedDepth png"))
    assert not is_depth(SimpleNamespace(encoding="mono16"))
    assert not is_depth(SimpleNamespace(format="jpeg"))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff"])
def test_the_size_is_read_off_the_header(suffix: str) -> None:
    file = compressed("", cv2.resize(colour(0, (4, 6)), (70, 50)), suffix).data.tobytes()
    assert header_size(file) == (70, 50)


def broken(**changes: Any) -> Any:
    msg = raw(colour(0, (4, 6)), "rgb8")
    vars(msg).update(changes)
    return msg


@pytest.mark.parametrize(
    ("msg", "wording"),
    [
        (broken(encoding="yuv9"), "image 6x4 of encoding 'yuv9': the encoding is not supported"),
        (broken(encoding="yuv9"), "expected one of mono8, 8UC1, mono16"),
        (broken(encoding="yuv9"), "set the driver to rgb8, or convert upstream with image_proc"),
        (broken(width=0), "image 0x4 of encoding 'rgb8' has no pixels: expected at least 1x1; check the driver"),
        (broken(height=0), "image 6x0 of encoding 'rgb8' has no pixels"),
        (broken(step=17), "step is 17 bytes, but a row takes 18; the driver must set step to the bytes of a row"),
        (broken(data=array("B", bytes(71))), "71 bytes of data, but 4 rows of step 18 take 72; the message is"),
        (broken(data=array("B")), "0 bytes of data"),
        (broken(encoding="nv12", width=5, height=4), "expected an even width and height"),
        (broken(encoding="yuv422", width=5, step=10), "image 5x4 of encoding 'yuv422': expected an even width"),
        (broken(encoding="bayer_rggb8", width=1, height=1), "image 1x1 of encoding 'bayer_rggb8': expected at least"),
        (SimpleNamespace(format="jpeg", data=array("B", b"no image")), "format 'jpeg', 8 bytes) cannot be decoded"),
        (SimpleNamespace(format="jpeg", data=array("B")), "0 bytes) cannot be decoded: expected a whole JPEG, PNG"),
        (SimpleNamespace(format="16UC1; compressedDepth", data=b"x"), "holds depth: expected a colour or grey image"),
        (SimpleNamespace(format="png", data=lying_png(2**31 - 1, 2**31 - 1, 16, 2)), "says that it is 2147483647x2147"),
        (
            SimpleNamespace(format="png", data=lying_png(9000, 9000, 16, 2)),
            "at most 64 megapixels; its header",
        ),
        (
            SimpleNamespace(format="png", data=lying_png(4000, 4000, 16, 2)),
            "4000x4000, which as many bytes",
        ),
        (SimpleNamespace(format="jpeg", data=lying_jpeg(65535, 65535)), "65535x65535: expected at most 64 megapixels"),
        (
            compressed("tiff", np.zeros((4, 5, 3), np.float64), ".tiff"),
            "of type float64 and shape (4, 5, 3)",
        ),
        (
            broken(encoding="x" * 999),
            f"of encoding '{'x' * 59}... (1001 characters)",
        ),
    ],
)
def test_refused_images(msg: Any, wording: str) -> None:
    with pytest.raises(ImageError) as fault:
        decode_image(msg)
    assert wording in str(fault.value)


# ---- cv_bridge: of every ROS, but not of PyPI


#: the calls of cv_bridge that are used; what it does with an image is decided by the test
CV_BRIDGE = """
import os
import numpy as np

class CvBridge:
    def imgmsg_to_cv2(self, msg, desired_encoding="passthrough"):
        {body}
        if msg.encoding in ("rgb8", "bgr8", "yuv9") and desired_encoding == "rgb8":
            return np.full((msg.height, msg.width, 3), (1, 2, 3), np.uint8)
        if msg.encoding == "16SC1" and desired_encoding == "passthrough":
            return np.frombuffer(msg.data, np.int16).reshape(msg.height, msg.width)
        raise RuntimeError(f"Unrecognized image encoding [{{msg.encoding}}]")
"""


@pytest.fixture
def cv_bridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Puts a stand-in where cv_bridge would be installed."""

    def install(body: str = "pass") -> None:
        (tmp_path / "cv_bridge.py").write_text(CV_BRIDGE.format(body=body))
        unusable.cache_clear()

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delitem(sys.modules, "cv_bridge", raising=False)
    yield install
    sys.modules.pop("cv_bridge", None)
    unusable.cache_clear()


def test_cv_bridge_takes_what_is_left_where_it_is_installed(cv_bridge: Callable[[str], None]) -> None:
    cv_bridge("pass")
    assert (decode_image(broken(encoding="yuv9")) == (1, 2, 3)).all()
    ramp = np.arange(-300, 300, dtype=np.int16).reshape(20, 30)
    shown = decode_image(image_msg("16SC1", ramp, 30, 20))
    assert shown.shape == (20, 30, 3) and shown[0, 0, 0] == 0 and shown[-1, -1, 0] == 255
    with pytest.raises(ImageError, match=r"not supported \(cv_bridge: 'RuntimeError: Unrecognized image encoding"):
        decode_image(broken(encoding="h264"))


def test_a_cv_bridge_that_ends_the_process_ends_another_one(cv_bridge: Callable[[str], None]) -> None:
    """As one does that was built for NumPy 1 and runs with NumPy 2."""
    cv_bridge("os.abort()")
    with pytest.raises(ImageError, match="does not work here, it may be built for another NumPy than"):
        decode_image(broken(encoding="yuv9"))


@pytest.mark.skipif(find_spec("cv_bridge") is None, reason="cv_bridge is not installed; docs/node.md has the last run")
def test_the_real_cv_bridge() -> None:
    from cv_bridge import CvBridge

    unusable.cache_clear()
    assert unusable() == ""
    rgb = cv2.resize(colour(0, (4, 6)), (40, 30))
    for encoding in ("mono8", "rgb8", "bgr8", "rgba8", "bgra8", "mono16", "rgb16", "bgr16"):
        msg = raw(rgb, encoding)
        np.testing.assert_array_equal(decode_image(msg), CvBridge().imgmsg_to_cv2(msg, "rgb8"), encoding)
    for pattern in ("rggb", "bggr", "gbrg", "grbg"):
        msg = image_msg(f"bayer_{pattern}8", rgb[..., 0], 40, 30)
        np.testing.assert_array_equal(decode_image(msg), CvBridge().imgmsg_to_cv2(msg, "rgb8"), pattern)
    ramp = np.linspace(-3, 3, 1200).reshape(30, 40)
    for encoding, pixels in (("8SC1", 40 * ramp), ("16SC1", 999 * ramp), ("32SC1", 9999 * ramp), ("64FC1", ramp)):
        kind = {"8SC1": "i1", "16SC1": "i2", "32SC1": "i4", "64FC1": "f8"}[encoding]
        shown = decode_image(image_msg(encoding, pixels.astype(kind), 40, 30))[..., 0].astype(int)
        assert shown[0, 0] == 0 and shown[-1, -1] == 255, encoding
    blue = np.zeros((30, 40, 3), np.float32)
    blue[..., 0] = ramp
    assert decode_image(image_msg("32FC3", blue, 40, 30))[-1, -1].tolist() == [0, 0, 255]
    assert (decode_image(image_msg("16UC3", rgb[..., ::-1].astype(np.uint16) * 257, 40, 30)) == rgb).all()
    with pytest.raises(ImageError, match="has 2 channels: expected 1, 3 or 4"):
        decode_image(image_msg("8UC2", rgb[..., :2], 40, 30))
    for encoding in ("h264", "nv24"):
        with pytest.raises(ImageError, match="not supported .cv_bridge: .CvBridgeError: Unrecognized image encoding"):
            decode_image(image_msg(encoding, rgb, 40, 30))


@pytest.mark.parametrize(
    ("msg", "wording"),
    [
        (broken(), "encoding 'rgb8' is no depth: expected 16UC1 or mono16 (millimetres) or 32FC1 (metres)"),
        (compressed("bgr8; png", np.zeros((4, 4, 3), np.uint8)), "holds uint8 of shape (4, 4, 3): expected depth"),
        (
            SimpleNamespace(format="16UC1; compressedDepth rvl", data=b"x" * 99),
            "RVL is not supported, expected PNG",
        ),
        (
            SimpleNamespace(format="16UC1; compressedDepth", data=b"x" * 12),
            "12 bytes) of depth: expected a header",
        ),
        (SimpleNamespace(format="16UC1; compressedDepth", data=b"x" * 99), "cannot be decoded"),
    ],
)
def test_refused_depth(msg: Any, wording: str) -> None:
    with pytest.raises(ImageError) as fault:
        decode_depth(msg)
    assert wording in str(fault.value)


@given(data=st.binary(max_size=300), form=st.sampled_from(["jpeg", "png", "16UC1; compressedDepth png", ""]))
def test_rubbish_is_always_an_image_error(data: bytes, form: str) -> None:
    msg = SimpleNamespace(format=form, data=array("B", data))
    for decode in (decode_image, decode_depth):
        with pytest.raises(ImageError):
            decode(msg)


@pytest.mark.parametrize(
    ("array_", "wording"),
    [
        (np.zeros((4, 4), np.float32), "image of type float32 and shape (4, 4): expected uint8 of shape (H, W)"),
        (np.zeros((4, 4, 2), np.uint8), "shape (4, 4, 2)"),
        (np.zeros((0, 4), np.uint8), "image of shape (0, 4) has no pixels"),
        (np.zeros(4, np.uint8), "shape (4,)"),
    ],
)
def test_refused_arrays(array_: Pixels, wording: str) -> None:
    with pytest.raises(ImageError) as fault:
        to_rgb(array_)
    assert wording in str(fault.value)


# ---- fit


image_sizes = st.tuples(st.integers(1, 300), st.integers(1, 300))
network_sizes = st.tuples(st.integers(8, 200), st.integers(8, 200))


@given(size=image_sizes, target=network_sizes, points=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1))
def test_fit_maps_points_both_ways(
    size: tuple[int, int], target: tuple[int, int], points: list[tuple[float, float]]
) -> None:
    height, width = size
    tensor, where = fit(np.zeros(size, np.uint8), *target)
    assert tensor.shape == (1, 3, *target)
    assert tensor.dtype == np.float32
    original = np.array(points) * (width, height) - 0.5
    fitted = where.to_fitted(original)
    assert where.inside(fitted).all()
    np.testing.assert_allclose(where.to_original(fitted), original, atol=1e-2)
    # the edges of the image lie on the edges of what is shown, exactly, on both axes
    corners = np.array([[-0.5, -0.5], [where.width - 0.5, where.height - 0.5]])
    np.testing.assert_allclose(where.to_original(corners), [[-0.5, -0.5], [width - 0.5, height - 0.5]], atol=1e-4)
    assert not where.inside([[where.width, 0], [0, where.height], [-1, 0]]).any()
    assert where.width == target[1] or where.height == target[0]


@pytest.mark.parametrize("size", [(480, 640), (960, 1280), (240, 320), (361, 540), (640, 480), (123, 777)])
def test_content_lies_where_the_fit_says(size: tuple[int, int]) -> None:
    """The centroid of a spot in the fitted image maps to the centroid in the original within a few hundredths."""
    height, width = size
    x0, y0 = 0.61 * width, 0.37 * height
    spread = min(width, height) / 16
    y, x = np.mgrid[:height, :width]
    spot = 255 * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * spread**2))
    tensor, where = fit(spot.round().astype(np.uint8), 240, 320)
    shown = tensor[0, 0, : where.height, : where.width].astype(np.float64)
    shown[shown < 0.02] = 0
    rows, columns = np.indices(shown.shape)
    centroid = np.array([[(columns * shown).sum(), (rows * shown).sum()]]) / shown.sum()
    np.testing.assert_allclose(where.to_original(centroid), [[x0, y0]], atol=0.03 * max(1.0, where.scale))


def test_fit_of_equal_size_is_the_image() -> None:
    rgb = colour(9, (24, 32))
    tensor, where = fit(rgb, 24, 32)
    np.testing.assert_array_equal(np.round(tensor[0].transpose(1, 2, 0) * 255), rgb)
    assert (where.scale_x, where.scale_y, where.scale) == (1, 1, 1)


def test_padding_has_the_mean_colour() -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    image[:, :10] = (250, 100, 30)
    tensor, where = fit(image, 20, 40)
    assert (where.width, where.height) == (20, 20)
    np.testing.assert_allclose(tensor[0, :, :, 20:] * 255, np.broadcast_to([[[125]], [[50]], [[15]]], (3, 20, 20)))


# ---- camera_info


def info(**changes: Any) -> Any:
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0, do_rectify=False)
    values: dict[str, Any] = {
        "width": 640, "height": 480, "distortion_model": "plumb_bob", "d": [0.1, -0.2, 0.001, 0.002, 0.0],
        "k": array("d", [500, 0, 320, 0, 510, 240, 0, 0, 1]), "binning_x": 0, "binning_y": 0, "roi": roi,
        "r": array("d", np.eye(3).ravel()), "p": array("d", [500, 0, 320, 0, 0, 510, 240, 0, 0, 0, 1, 0]),
    }  # fmt: skip
    return SimpleNamespace(**{**values, **changes})


def test_plain_camera() -> None:
    camera = camera_from_info(info())
    assert (camera.width, camera.height, camera.distortion_model) == (640, 480, "plumb_bob")
    np.testing.assert_array_equal(camera.K, [[500, 0, 320], [0, 510, 240], [0, 0, 1]])
    np.testing.assert_array_equal(camera.D, [0.1, -0.2, 0.001, 0.002, 0])


def test_upper_case_fields_of_ros_1() -> None:
    msg = info()
    msg.K, msg.D = msg.k, msg.d
    del msg.k, msg.d
    np.testing.assert_array_equal(camera_from_info(msg).K, camera_from_info(info()).K)


@given(
    binning=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    offset=st.tuples(st.integers(0, 100), st.integers(0, 100)),
    pixel=st.tuples(st.integers(0, 30), st.integers(0, 30)),
)
def test_roi_and_binning_keep_the_rays(
    binning: tuple[int, int], offset: tuple[int, int], pixel: tuple[int, int]
) -> None:
    roi = SimpleNamespace(x_offset=offset[0], y_offset=offset[1], width=240, height=120, do_rectify=False)
    full = camera_from_info(info())
    part = camera_from_info(info(binning_x=binning[0], binning_y=binning[1], roi=roi))
    assert (part.width, part.height) == (240 // binning[0], 120 // binning[1])
    # a binned pixel looks along the mean of the pixels that it is made of
    made_of = np.array(offset) + np.array(pixel) * binning + (np.array(binning) - 1) / 2
    ray = np.linalg.solve(part.K, [*pixel, 1])
    np.testing.assert_allclose(ray, np.linalg.solve(full.K, [*made_of, 1]), atol=1e-12)


@pytest.mark.parametrize("changes", [{"d": []}, {"d": [0.0] * 5}, {"distortion_model": "", "d": []}])
def test_no_distortion(changes: dict[str, Any]) -> None:
    camera = camera_from_info(info(**changes))
    assert camera.distortion_model == "none"
    assert camera.D.size == 0


def test_zeros_are_a_lens_for_equidistant() -> None:
    for name in ("equidistant", "fisheye"):
        assert camera_from_info(info(distortion_model=name, d=[0.0] * 4)).distortion_model == "equidistant"


@pytest.mark.parametrize(
    ("changes", "wording"),
    [
        ({"k": [0.0] * 9}, "an all-zero K means that the camera is not calibrated: run camera_calibration"),
        ({"k": [float("nan")] * 9}, "holds values that are not finite"),
        ({"distortion_model": "poly"}, "distortion model 'poly' is not one of"),
        ({"d": [0.1]}, "takes 4 or 5 coefficients, got 1"),
        ({"k": [1.0] * 8}, "K of camera_info has 8 values: expected 9, a matrix of 3x3; check the driver"),
        ({"binning_x": 1000}, "an image of 0x480 by its size, ROI and binning: expected at least 1x1"),
    ],
)
def test_refused_cameras(changes: dict[str, Any], wording: str) -> None:
    with pytest.raises(CameraError) as fault:
        camera_from_info(info(**changes))
    assert wording in str(fault.value)


@pytest.mark.parametrize(
    ("size", "expected"), [((480, 640), (480, 640)), ((370, 1226), (320, 1024)), ((720, 1280), (416, 736))]
)
def test_an_input_of_the_shape_of_pictures(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert input_of_shape(*size, 640 * 480) == expected
