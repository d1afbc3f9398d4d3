"""Malformed messages for the fuzzer: hypothesis strategies of nested dicts with ROS field names.

Most begin as a right message of which a few fields are changed, so that they come further than the first check.
"""

from __future__ import annotations

import struct
import zlib
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from hypothesis import strategies as st

from stfm_ros.images import ENCODINGS

Fields = dict[str, Any]
SIZE = (640, 480)
K = [500.0, 0.0, 319.5, 0.0, 500.0, 239.5, 0.0, 0.0, 1.0]

LIMITS = (0, 1, 2, 3, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
uint32 = st.sampled_from(LIMITS) | st.integers(0, 90) | st.integers(0, 2**32 - 1)
floats = st.sampled_from(
    (0.0, 1.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e300, -1e300, 1e-300)
) | st.floats(-1e3, 1e3)
words = st.sampled_from(("", "camera", "x" * 2000, "a\0b", "\u202e\ufffd\U0001f4a9", "no such thing")) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=12
)
stamps = st.fixed_dictionaries(
    {
        "sec": st.sampled_from((0, 1, -1, 1_000_000_000, 2**31 - 1, -(2**31))) | st.integers(-(2**31), 2**31 - 1),
        "nanosec": st.sampled_from((0, 1, 999_999_999, 1_000_000_000, 2**32 - 1)) | st.integers(0, 999_999_999),
    }
)
headers = st.fixed_dictionaries({"stamp": stamps, "frame_id": words})
formats = st.sampled_from(
    (
        "jpeg", "png", "rgb8; jpeg compressed bgr8", "16UC1; png compressed ", "16UC1; compressedDepth png",
        "32FC1; compressedDepth png", "16UC1; compressedDepth rvl", "bayer_rggb8; png", ";;;", "compressedDepth",
    )
) | words  # fmt: skip


def record(fields: Any) -> Any:
    """A nested dict as an object: a message for those who need no ROS."""
    return SimpleNamespace(**{k: record(v) for k, v in fields.items()}) if isinstance(fields, dict) else fields


def changed(right: st.SearchStrategy[Fields], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Fields]:
    """A right message with up to two of its fields changed."""
    names = st.lists(st.sampled_from(sorted(fields)), max_size=2, unique=True)
    changes = names.flatmap(lambda chosen: st.fixed_dictionaries({name: fields[name] for name in chosen}))
    return st.builds(lambda message, new: {**message, **new}, right, changes)


@st.composite
def raw_images(draw: st.DrawFn, encodings: tuple[str, ...] = ENCODINGS) -> Fields:
    """sensor_msgs/Image of noise, which as 32FC1 holds every float there is."""
    width, height = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    step = draw(st.sampled_from((1, 2, 3, 4, 6, 8))) * width + draw(st.integers(0, 3))
    noise = np.random.default_rng(draw(st.integers(0, 99)))
    return {
        "header": draw(headers),
        "width": width,
        "height": height,
        "encoding": draw(st.sampled_from(encodings)),
        "is_bigendian": draw(st.integers(0, 255)),
        "step": step,
        "data": noise.integers(0, 256, step * height * 3 // 2 + 2, np.uint8),
    }


def images(encodings: tuple[str, ...] = ENCODINGS) -> st.SearchStrategy[Fields]:
    """sensor_msgs/Image."""
    lengths = st.sampled_from((0, 1, 7, 100, 1000)).map(lambda n: np.zeros(n, np.uint8))
    others = words | st.sampled_from(("16SC1", "64FC1", "8UC2", "8UC999", "nv24", "rgb8 ", "RGB8"))
    return changed(raw_images(encodings), width=uint32, height=uint32, step=uint32, encoding=others, data=lengths)


def _files() -> list[bytes]:
    """Right files of every kind that is decoded, and of some that are not."""
    noise = np.random.default_rng(0)
    colour = cv2.resize(noise.integers(0, 256, (4, 5, 3), np.uint8), (20, 16))
    found = [cv2.imencode(suffix, colour)[1] for suffix in (".jpg", ".png", ".webp", ".tiff", ".bmp", ".ppm")]
    for kind, channels in (("u1", 1), ("u1", 4), ("u2", 1), ("u2", 3), ("u2", 4)):
        found.append(cv2.imencode(".png", noise.integers(0, 256, (16, 20, channels)).astype(kind))[1])
    for kind in ("i1", "u2", "i2", "i4", "f4", "f8"):
        for channels in (1, 3, 4):
            found.append(cv2.imencode(".tiff", noise.integers(0, 100, (6, 5, channels)).astype(kind))[1])
    return [file.tobytes() for file in found]


FILES = _files()


def lying_png(width: int, height: int, bits: int, colour: int) -> bytes:
    """A PNG of a few bytes whose header, of a right checksum, says what it likes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def lying_jpeg(width: int, height: int) -> bytes:
    """A JPEG with another size in its header."""
    at = FILES[0].index(b"\xff\xc0")
    return FILES[0][: at + 5] + struct.pack(">HH", height & 0xFFFF, width & 0xFFFF) + FILES[0][at + 9 :]


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A compressed picture: whole, cut off, with bytes changed, with a header that lies; or rubbish."""
    how = draw(st.sampled_from(("whole", "cut", "changed", "changed", "png", "jpeg", "rubbish")))
    if how == "rubbish":
        return draw(st.binary(max_size=60))
    if how == "png":
        return lying_png(
            draw(uint32),
            draw(uint32),
            draw(st.sampled_from((1, 8, 16, 255))),
            draw(st.sampled_from((0, 2, 3, 4, 6, 9))),
        )
    if how == "jpeg":
        return lying_jpeg(draw(uint32), draw(uint32))
    file = draw(st.sampled_from(FILES))
    if how == "cut":
        return file[: draw(st.integers(0, len(file)))]
    if how == "changed":
        damaged = bytearray(file)
        head = min(len(file), 64) - 1
        for at, value in draw(
            st.lists(st.tuples(st.integers(0, head) | st.integers(0, len(file) - 1), st.integers(0, 255)), max_size=4)
        ):
            damaged[at] = value
        return bytes(damaged)
    return file


@st.composite
def compressed_images(draw: st.DrawFn) -> Fields:
    """sensor_msgs/CompressedImage; of compressedDepth, with its header of floats."""
    form, data = draw(formats), draw(files())
    if "compressedDepth" in form and draw(st.booleans()):
        data = struct.pack("<iff", 0, *(draw(st.floats(width=32)) for _ in range(2))) + data
    return {"header": draw(headers), "format": form, "data": np.frombuffer(data, np.uint8)}


def camera_infos() -> st.SearchStrategy[Fields]:
    """sensor_msgs/CameraInfo."""
    right = st.fixed_dictionaries(
        {
            "header": headers,
            "width": st.just(SIZE[0]),
            "height": st.just(SIZE[1]),
            "distortion_model": st.sampled_from(("plumb_bob", "rational_polynomial", "equidistant", "fisheye", "")),
            "d": st.sampled_from(([], [0.0] * 5, [0.1] * 5, [0.1] * 8, [-0.3] * 4, [0.0] * 14)),
            "k": st.just(K),
            "r": st.just([1.0, 0, 0, 0, 1, 0, 0, 0, 1]),
            "p": st.just([500.0, 0.0, 319.5, 0.0, 0.0, 500.0, 239.5, 0.0, 0.0, 0.0, 1.0, 0.0]),
            "binning_x": st.just(0),
            "binning_y": st.just(0),
            "roi": st.just({"x_offset": 0, "y_offset": 0, "width": 0, "height": 0}),
        }
    )
    one = st.tuples(st.integers(0, 8), floats).map(
        lambda at: [
            at[1] if i == at[0] else v for i, v in enumerate([500.0, 0.0, 319.5, 0.0, 500.0, 239.5, 0.0, 0.0, 1.0])
        ]
    )
    return changed(
        right,
        width=uint32,
        height=uint32,
        distortion_model=words | st.sampled_from(("plumb_bob", "rational_polynomial", "equidistant", "fov")),
        d=st.lists(floats, max_size=15),
        k=one | one | st.lists(floats, min_size=9, max_size=9),
        r=st.lists(floats, min_size=9, max_size=9),
        p=st.lists(floats, min_size=12, max_size=12),
        binning_x=uint32,
        roi=st.fixed_dictionaries(dict.fromkeys(("x_offset", "y_offset", "width", "height"), uint32)),
    )


def _vector(names: str, values: st.SearchStrategy[float] = floats) -> st.SearchStrategy[Fields]:
    return st.fixed_dictionaries(dict.fromkeys(names, values))


def odometries() -> st.SearchStrategy[Fields]:
    """nav_msgs/Odometry."""
    upright = st.just({"x": 0.0, "y": 0.0, "z": 0.0, "w": 1.0})
    pose = st.fixed_dictionaries({"position": _vector("xyz"), "orientation": upright | _vector("xyzw")})
    return st.fixed_dictionaries({"header": headers, "pose": st.fixed_dictionaries({"pose": pose})})


def twists() -> st.SearchStrategy[Fields]:
    """geometry_msgs/TwistStamped."""
    twist = st.fixed_dictionaries({"linear": _vector("xyz"), "angular": _vector("xyz")})
    return st.fixed_dictionaries({"header": headers, "twist": twist})
