"""Cameras from files. Three layouts of YAML are read, told apart by their keys:

camera_matrix: {data: [...]}, distortion_model, distortion_coefficients: {data: [...]}, image_width, image_height
                                 what ROS's camera_calibration writes and camera_info_manager reads
k, d, distortion_model, width, height, ...
                                 a CameraInfo, as `ros2 topic echo --once .../camera_info` prints it
fx, fy, cx, cy, width, height    intrinsics.yaml of an RGB-D folder (``stfm_ros.rgbd``)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import yaml  # type: ignore[import-untyped, unused-ignore]

from stfm_ros.errors import CameraError, StfmError
from stfm_ros.images import camera_from_info
from stfm_ros.rgbd import read_intrinsics
from stfm_ros.types import Camera


def read_camera(path: Path) -> Camera:
    """The camera in a calibration file.

    Raises:
        CameraError: the file cannot be read, is of none of the layouts above, or holds no valid camera.
    """
    try:
        # `ros2 topic echo` ends a message with a line of ---
        values = next(yaml.safe_load_all(path.read_text(encoding="utf-8")), None)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as fault:
        raise CameraError(f"{path} cannot be read as YAML: {fault}") from None
    found = values if isinstance(values, Mapping) else {}
    try:
        if "camera_matrix" in found:
            return _from_camera_calibration(found)
        if "k" in found or "K" in found:
            return _from_camera_info(found)
        if "fx" in found:
            return read_intrinsics(path)[0]
    except (KeyError, TypeError, ValueError) as fault:
        what = f"lacks {fault}" if isinstance(fault, KeyError) else str(fault)
        raise CameraError(f"{path}: {what}; expected the whole file that the calibration wrote") from None
    except StfmError as fault:
        text = str(fault)
        raise CameraError(text if str(path) in text else f"{path}: {text}") from None
    raise CameraError(
        f"{path} is no calibration: expected camera_matrix (as written by camera_calibration), k (a CameraInfo) or "
        f"fx, fy, cx, cy; it has {', '.join(map(str, found)) or 'nothing'}"
    )


def pinhole(numbers: Sequence[float], size: tuple[int, int]) -> Camera:
    """A camera without distortion from fx, fy, cx, cy and the image's (width, height), all in pixels."""
    fx, fy, cx, cy = numbers
    return Camera(*size, np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64))


def check_size(camera: Camera, size: tuple[int, int], image: object) -> None:
    """Refuse a calibration of another resolution than the image's (width, height).

    Raises:
        CameraError: names both sizes.
    """
    if (camera.width, camera.height) != size:
        raise CameraError(
            f"the calibration is of {camera.width}x{camera.height}, but {image} has {size[0]}x{size[1]}: give the "
            "calibration of this resolution, or an image that was not resized"
        )


def _from_camera_calibration(values: Mapping[str, Any]) -> Camera:
    model = values.get("distortion_model", "plumb_bob")
    D = values.get("distortion_coefficients", {"data": []})["data"]
    size = {"width": values["image_width"], "height": values["image_height"]}
    R, P = (values.get(name, {"data": []})["data"] for name in ("rectification_matrix", "projection_matrix"))
    K = values["camera_matrix"]["data"]
    return _from_camera_info({"k": K, "d": D, "r": R, "p": P, "distortion_model": model, **size})


def _from_camera_info(values: Mapping[str, Any]) -> Camera:
    lower = {str(key).lower(): value for key, value in values.items()}
    roi = {"x_offset": 0, "y_offset": 0, "width": 0, "height": 0} | dict(lower.get("roi") or {})
    fields = {name: lower[name] for name in ("width", "height", "k")}
    fields |= {name: lower.get(name) or 0 for name in ("binning_x", "binning_y")}
    fields |= {"d": lower.get("d") or [], "distortion_model": lower.get("distortion_model") or ""}
    fields |= {"r": lower.get("r") or [0.0] * 9, "p": lower.get("p") or [0.0] * 12}
    fields["roi"] = SimpleNamespace(**roi)
    return camera_from_info(SimpleNamespace(**fields))
