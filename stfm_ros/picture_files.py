"""Picture files: (H, W, 3) uint8 RGB on this side, JPEG, PNG and the like on the other."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from stfm_ros.errors import ImageError
from stfm_ros.types import ByteArray

#: what pictures are written as
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def read_picture(path: Path) -> ByteArray:
    """The picture in a file, turned upright by its EXIF; grey ones become RGB.

    Raises:
        ImageError: there is no such file, or it cannot be decoded.
    """
    if not path.is_file():
        raise ImageError(f"there is no picture {path}; name a JPEG, PNG or another file that OpenCV reads")
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) if path.stat().st_size else None
    if image is None:
        raise ImageError(f"{path} cannot be decoded as a picture: expected a JPEG, PNG or the like; fetch it again")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def check_picture_name(path: Path) -> None:
    """Refuse a name that cannot be written, before the work that would be lost.

    Raises:
        ImageError: the suffix is not one of :data:`SUFFIXES`.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ImageError(f"{path} is no name of a picture to write: expected one that ends in {', '.join(SUFFIXES)}")


def write_picture(path: Path, picture: ByteArray) -> None:
    """Write a picture; its folder is made where it is missing.

    Raises:
        ImageError: the suffix is not one of :data:`SUFFIXES`.
        OSError: the file cannot be written.
    """
    check_picture_name(path)
    done, data = cv2.imencode(path.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert done, "OpenCV encodes every suffix of SUFFIXES"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.tobytes())
