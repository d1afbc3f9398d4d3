"""Which frames are worth training on: they show something new, sharply, with enough depth.

The change of view since the last kept frame is how far the picture moved, as a share of its width: by the poses of
both frames where they are known, else by optical flow. It is 1 where the frames have too little in common to tell.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from stfm_ros.motion import inverse
from stfm_ros.recording.config import SelectionConfig
from stfm_ros.types import ByteArray, Float32Array, FloatArray

#: the width at which frames are judged, pixels
VIEW_WIDTH: Final = 320
_CORNERS = 150
#: below this share of corners that are found again, the view is new
_COMMON = 0.5
#: sharpness is judged from so many frames on
_ENOUGH = 5


@dataclass(frozen=True)
class View:
    """What is looked at of a frame.

    Attributes:
        stamp_ns: of its image.
        gray: (h, w) uint8, :data:`VIEW_WIDTH` wide.
        depth: float32 metres, 0 where there is none, perhaps of a part of the pixels; None without a depth image.
        pose: (4, 4) camera to a fixed frame, metres; None if it is not known.
        focal: focal length as a share of the image's width.
    """

    stamp_ns: int
    gray: ByteArray
    depth: Float32Array | None = None
    pose: FloatArray | None = None
    focal: float = 1.0


class Selector:
    """Decides on each frame in turn.

    Args:
        config: the limits.
        wants_depth: whether a frame without depth is left out.
    """

    def __init__(self, config: SelectionConfig, wants_depth: bool) -> None:
        self._config = config
        self._wants_depth = wants_depth
        self._kept: View | None = None
        self._corners: Float32Array = np.empty((0, 1, 2), np.float32)
        self._sharpness: deque[float] = deque(maxlen=30)
        self._told = 0.0
        self._told_ns: int | None = None  # stamp of the first frame that it holds for

    def tell(self, disagreement: float) -> None:
        """That of the frame that is looked at next, or of one before it: it holds for the frames to come."""
        self._told, self._told_ns = disagreement, None

    def is_too_soon(self, stamp_ns: int) -> bool:
        """Whether a frame follows the last kept one too closely to be looked at: most do, at the rate of a camera."""
        # where the clock jumped back, the time since then is not known
        since_ns = -1 if self._kept is None else stamp_ns - self._kept.stamp_ns
        return 0 <= since_ns < self._config.min_interval_s * 1e9

    def __call__(self, view: View) -> str:
        """Why a frame is left out: no_depth, little_depth, blurred or little_change; "" keeps it."""
        reason = self._fault(view)
        if not reason:
            self._kept = view
            corners = cv2.goodFeaturesToTrack(view.gray, _CORNERS, 0.01, 7)
            self._corners = np.empty((0, 1, 2), np.float32) if corners is None else np.asarray(corners)
        return reason

    def _fault(self, view: View) -> str:
        blurred = self._is_blurred(view.gray)  # of every frame that is looked at, so that the median is of all
        if self._wants_depth and view.depth is None:
            return "no_depth"
        if view.depth is not None and np.count_nonzero(view.depth) < self._config.min_depth * view.depth.size:
            return "little_depth"
        if blurred:
            return "blurred"
        if self._kept is None:
            return ""
        if self._config.min_disagreement and self._disagreement(view.stamp_ns) >= self._config.min_disagreement:
            return ""
        return "" if self._change(view, self._kept) >= self._config.min_change else "little_change"

    def _disagreement(self, stamp_ns: int) -> float:
        """The one that was told last, while it holds."""
        if self._told_ns is None:
            self._told_ns = stamp_ns
        return self._told if abs(stamp_ns - self._told_ns) <= self._config.disagreement_s * 1e9 else 0.0

    def _is_blurred(self, gray: ByteArray) -> bool:
        known = np.median(self._sharpness) if len(self._sharpness) >= _ENOUGH else 0.0
        self._sharpness.append(sharpness(gray))
        return bool(self._sharpness[-1] < self._config.min_sharpness * known)

    def _change(self, view: View, kept: View) -> float:
        if view.pose is not None and kept.pose is not None and kept.depth is not None and kept.depth.any():
            return change_by_pose(view.pose, kept.pose, float(np.median(kept.depth[kept.depth > 0])), view.focal)
        return change_by_flow(kept.gray, view.gray, self._corners)


def sharpness(gray: ByteArray) -> float:
    """Mean square of the Laplacian over that of the gradient: high frequencies, whatever the contrast; 0 if flat."""
    lap = cv2.Laplacian(gray, cv2.CV_32F)
    x, y = cv2.Sobel(gray, cv2.CV_32F, 1, 0), cv2.Sobel(gray, cv2.CV_32F, 0, 1)
    slope = cv2.norm(x, cv2.NORM_L2SQR) + cv2.norm(y, cv2.NORM_L2SQR)
    return float(cv2.norm(lap, cv2.NORM_L2SQR) / slope) if slope else 0.0


def change_by_pose(pose: FloatArray, kept: FloatArray, depth_m: float, focal: float) -> float:
    """How far the picture moved, as a share of its width, between two poses before a scene of that median depth."""
    moved = inverse(kept) @ pose
    angle = np.arccos(np.clip((np.trace(moved[:3, :3]) - 1) / 2, -1, 1))
    return float(focal * (angle + np.linalg.norm(moved[:3, 3]) / depth_m))


def change_by_flow(kept: ByteArray, gray: ByteArray, corners: Float32Array) -> float:
    """How far the corners of the kept picture moved in the median, as a share of its width."""
    if kept.shape != gray.shape:
        return 1.0
    if len(corners) < 8:  # nothing to follow: by how much the pixels changed
        return float(cv2.norm(kept, gray, cv2.NORM_L1) / (255 * gray.size))
    nothing: Float32Array = np.empty(0, np.float32)
    moved, found, _ = cv2.calcOpticalFlowPyrLK(kept, gray, corners, nothing, winSize=(15, 15), maxLevel=3)
    seen = np.asarray(found).ravel() == 1
    if seen.mean() < _COMMON:
        return 1.0
    steps = np.linalg.norm((np.asarray(moved) - corners)[seen].reshape(-1, 2), axis=1)
    return float(np.median(steps) / gray.shape[1])
