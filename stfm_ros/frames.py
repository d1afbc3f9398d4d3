"""The walk of one camera frame, from the message to the track; faults are named and the next frame goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from stfm_ros.errors import CameraError, ImageError, StfmError
from stfm_ros.images import camera_from_info, decode_depth, decode_image
from stfm_ros.messages import valid_stamp_ns
from stfm_ros.scale import ANEW_NS
from stfm_ros.types import Camera, Float32Array, PoseStatus

if TYPE_CHECKING:
    from stfm_ros.tracker import Track, Tracker


#: so many late images in a row are another run too, however small the step was
LATE_ROW = 5


@dataclass(frozen=True)
class Frame:
    """An image message as it came in, with the newest camera_info of that moment; times of time.monotonic().

    Attributes:
        depth: the message of its depth, for an RGB-D model, and for no other.
    """

    image: Any
    info: Any | None
    received_s: float
    depth: Any | None = None


class TimeLine:
    """Lets images through in the order of their stamps.

    What follows an image on one time line has to come after it: filters, TF and a twist divide by the time between.
    So an image that repeats a stamp or comes late is left out. One that is late by more than
    :data:`stfm_ros.scale.ANEW_NS`, or the :data:`LATE_ROW`-th late one in a row, is the first of another run of a
    recording, with which the tracker starts anew.

    Args:
        fault: told the kind (stamp, or image where it is no stamp at all) and the reason.
    """

    def __init__(self, fault: Callable[[str, str], None]) -> None:
        self._fault = fault
        self._last_ns: int | None = None
        self._late = 0  # in a row

    def leaves_out(self, image: Any) -> bool:
        """Whether an image message does not go on; it is told as a fault."""
        try:
            stamp = valid_stamp_ns(image.header)
        except ImageError as fault:
            self._fault("image", str(fault))
            return True
        if self._goes_on(stamp):
            self._last_ns, self._late = stamp, 0
            return False
        return True

    def _goes_on(self, stamp: int) -> bool:
        last = self._last_ns
        if last is None or stamp > last:
            return True
        if stamp == last:
            unset = "; the driver does not fill it in" if stamp == 0 else ""
            self._fault(
                "stamp",
                f"two images carry the stamp {stamp} ns{unset}: expected one for each; the second is left out: check "
                "the driver, and that only one publishes the topic",
            )
            return False
        back_s = (last - stamp) / 1e9
        self._late += 1
        if last - stamp <= ANEW_NS and self._late < LATE_ROW:
            self._fault(
                "stamp",
                f"the image is out of order, its stamp {stamp} ns lies {back_s:.3f} s before the last one's: it is "
                "left out; check the driver, and that only one publishes the topic",
            )
            return False
        self._fault(  # the tracker starts anew by itself
            "stamp",
            f"the stamp jumped back by {back_s:.3f} s to {stamp} ns: a bag that started again, or a clock that was "
            "set; this image is the new reference",
        )
        return True


class _DepthFault(ImageError):
    """The depth of an image cannot be used."""


class FrameWalk:
    """Decodes a frame and gives it to the tracker.

    Args:
        fault: told the kind (image, depth, camera_info, tracker, internal) and the reason of everything that is wrong.
    """

    def __init__(self, tracker: Tracker, fault: Callable[[str, str], None]) -> None:
        self._tracker = tracker
        self._fault = fault

    def __call__(self, frame: Frame) -> Track | None:
        """The track of a frame with the time spent in each stage; None if the image gives nothing."""
        try:
            return self._walk(frame)
        except _DepthFault as fault:
            self._fault("depth", str(fault))
        except ImageError as fault:
            self._fault("image", str(fault))
        except StfmError as fault:
            self._fault("tracker", str(fault))
        except Exception as fault:  # the node must outlive whatever one frame does
            self._fault("internal", f"{type(fault).__name__}: {fault}; please report this with the frame")
        return None

    def _walk(self, frame: Frame) -> Track:
        started = time.monotonic()
        image = decode_image(frame.image)
        size = image.shape[1], image.shape[0]
        depth = None if frame.depth is None else _decode_depth(frame.depth, size)
        decoded = time.monotonic()
        stamp = valid_stamp_ns(frame.image.header)
        camera, trouble = self._camera(frame.info, size)
        track = self._tracker.track(image, camera, stamp, frame.image.header.frame_id, depth)
        if trouble and track.pose.status is PoseStatus.NO_CAMERA_INFO:
            track = replace(track, pose=replace(track.pose, reason=trouble))
        before = {"wait": 1e3 * (started - frame.received_s), "decode": 1e3 * (decoded - started)}
        return replace(track, timings_ms=before | dict(track.timings_ms))

    def _camera(self, info: Any | None, size: tuple[int, int]) -> tuple[Camera | None, str]:
        """The camera of an image of a size, or None and why."""
        if info is None:
            return None, ""
        try:
            camera = camera_from_info(info)
            if (camera.width, camera.height) != size:
                raise CameraError(
                    f"camera_info is of an image of {camera.width}x{camera.height}, but the image is of "
                    f"{size[0]}x{size[1]}; publish the calibration of this resolution, with its binning and ROI"
                )
        except CameraError as fault:
            self._fault("camera_info", str(fault))
            return None, f"camera_info: {fault}"
        return camera, ""


def _decode_depth(message: Any, size: tuple[int, int]) -> Float32Array:
    """(H, W) float32 metres, of an image of this size.

    Raises:
        _DepthFault: it cannot be decoded, or is of another size.
    """
    try:
        depth = decode_depth(message)
    except ImageError as fault:
        raise _DepthFault(f"{fault}; its image is left out") from None
    height, width = depth.shape
    if (width, height) != size:
        raise _DepthFault(
            f"the depth is {width}x{height}, its image is {size[0]}x{size[1]}: expected depth registered to the colour "
            "image, of its size (aligned_depth_to_color); its image is left out"
        )
    return depth
