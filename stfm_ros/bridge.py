"""Encodings beyond ``stfm_ros.images``, by cv_bridge where it can be used (every ROS has it, PyPI has not).

What it can make RGB of, it does. Of the rest it gives the numbers alone (8SC1, 16SC1, 32SC1, 64FC1, 16UC3, 32FC3 ...),
which :func:`stfm_ros.images.decode_image` shows like other images without a defined white.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stfm_ros.errors import StfmError
from stfm_ros.fresh_process import run_fresh


class BridgeError(Exception):
    """Why cv_bridge gives no image."""


def by_cv_bridge(msg: Any) -> tuple[bool, NDArray[Any]]:
    """Decode an Image.

    Returns:
        Whether the pixels are RGB, and the pixels: (H, W) or (H, W, channels), of any type.

    Raises:
        BridgeError: cv_bridge is not there, does not work here, or does not know the encoding.
    """
    why_not = unusable()
    if why_not:
        raise BridgeError(why_not)
    from cv_bridge import CvBridge

    bridge = CvBridge()
    try:
        return True, np.asarray(bridge.imgmsg_to_cv2(msg, "rgb8"))
    except Exception:  # not a colour: then its numbers as they are
        try:
            return False, np.asarray(bridge.imgmsg_to_cv2(msg, "passthrough"))
        except Exception as fault:  # its own errors, and NumPy's where data and size do not agree
            raise BridgeError(f"{type(fault).__name__}: {fault}") from None


@cache
def unusable() -> str:
    """Why cv_bridge cannot be used; "" where it can.

    Tried once, in a process of its own: built for another NumPy it raises nothing, it ends the process.
    """
    from importlib.util import find_spec

    try:
        if find_spec("cv_bridge") is None:
            return "it is not installed"
        run_fresh(_try)
    except (StfmError, ValueError) as fault:
        return f"it does not work here, it may be built for another NumPy than {np.__version__}: {fault}"
    return ""


def _try() -> None:
    """Both ways, on a pixel."""
    from types import SimpleNamespace

    from cv_bridge import CvBridge

    for encoding in ("rgb8", "bgr8"):
        msg = SimpleNamespace(encoding=encoding, width=1, height=1, step=3, is_bigendian=0, data=bytes(3))
        CvBridge().imgmsg_to_cv2(msg, "rgb8")
