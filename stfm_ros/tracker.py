"""A stream of images to a stream of relative poses: what each image is matched against, and when that changes.

The reference is the previous image or a keyframe. It is encoded once. Where an image has too little in common with the
keyframe, the last image that had enough becomes the keyframe, and the image is matched against that one: an image that
is barely joined to the others must not carry all that follow. A camera that stands still keeps its keyframe, whatever
its age: a slow motion adds up against it, where a chain of still pairs would swallow it.

A pair without a pose leaves the reference as it is (a black frame must not become one) until ``lost_after`` pairs in a
row have none. From then on each image is matched against the one before it and against the last one that had a pose:
whichever is joined first goes on, in a new place or, as if nothing had been, in the old one.
"""
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from stfm_ros.config import AppConfig
from stfm_ros.geometry import estimate_relative_pose, no_pose
from stfm_ros.scale import Pair, ScaleSource
from stfm_ros.types import ByteArray, Camera, Float32Array, Matches, PoseStatus, RelativePose


class FeatureMatcher(Protocol):
    """What the tracker needs of :class:`stfm_ros.matcher.Matcher`."""

    @property
    def features(self) -> Callable[..., Any]:
        """Encodes ``(image)``, or ``(image, depth)`` where the model is an RGB-D one."""

    def match_features(self, features0: Any, features1: Any) -> Matches: ...


@dataclass(frozen=True)
class Track:
    """One image and its reference.

    Attributes:
        stamp_ns, frame_id: of the current image (image 1).
        reference_stamp_ns, reference_frame_id: of the reference (image 0); the current image's own where
            the status is ``NO_REFERENCE``.
        size0, size1: (width, height) of both images in pixels.
        matches: in pixels of the received images.
        pose: T_0to1 with its status and reason; delivered even where there is none.
        new_keyframe: whether the current image is the reference from now on.
        moved_on: whether the reference is one since this image: the last image that had enough in common with the one
            before.
        timings_ms: of the stages ``features``, ``pair`` and ``pose``.
        image0, image1: the images themselves, (H, W, 3) uint8 RGB.
        depth0, depth1: their depth, (H, W) float32 metres, 0 where there is none; None where it was not given.
        camera, camera0: calibration of the current image and of the reference, if there is one.
    """

    stamp_ns: int
    frame_id: str
    reference_stamp_ns: int
    reference_frame_id: str
    size0: tuple[int, int]
    size1: tuple[int, int]
    matches: Matches
    pose: RelativePose
    new_keyframe: bool
    timings_ms: dict[str, float]
    image0: ByteArray
    image1: ByteArray
    camera: Camera | None = None
    moved_on: bool = False
    depth0: Float32Array | None = None
    depth1: Float32Array | None = None
    camera0: Camera | None = None


@dataclass(frozen=True)
class _Frame:
    image: ByteArray
    depth: Float32Array | None
    features: Any
    camera: Camera | None
    stamp_ns: int
    frame_id: str

    @property
    def size(self) -> tuple[int, int]:
        return self.image.shape[1], self.image.shape[0]


class Tracker:
    """Matches each image against its reference.

    Args:
        scale: estimates poses in metres, where it can.

    Attributes:
        config: may be replaced between two images.
    """

    def __init__(self, matcher: FeatureMatcher, config: AppConfig, scale: ScaleSource | None = None) -> None:
        self.matcher = matcher
        self.config = config
        self.scale = scale
        self.reset()

    def reset(self, reason: str = "first image") -> None:
        """Forget the reference; the next image becomes it, and its pose gives ``reason``."""
        self._reference: _Frame | None = None
        self._last_good: _Frame | None = None  # the newest image with a pose
        self._before_lost: _Frame | None = None  # while nothing is joined to a new reference
        self._why_none = reason
        self._strongest = 0  # the most inliers that any image had with the reference
        self._last_stamp_ns: int | None = None
        self._failures = 0
        self._renewal_asked = False

    def renew(self) -> None:
        """Make the next image that has a pose the reference."""
        self._renewal_asked = True

    def track(
        self,
        image_rgb: ByteArray,
        camera: Camera | None,
        stamp_ns: int,
        frame_id: str,
        depth: Float32Array | None = None,
    ) -> Track:
        """Match an image against the reference.

        Args:
            image_rgb: (H, W, 3) uint8 RGB.
            camera: its calibration; without one matches are delivered, and no pose.
            stamp_ns: of the image; one that lies before the last image's starts anew.
            frame_id: of the camera; another one starts anew.
            depth: (H, W) float32 metres, 0 where there is none; for an RGB-D model, and for no other.

        Raises:
            ImageError: the image or its depth cannot be used; the tracker stays as it was.
        """
        clock = _Clock()
        given = (image_rgb,) if depth is None else (image_rgb, depth)
        frame = _Frame(image_rgb, depth, self.matcher.features(*given), camera, stamp_ns, frame_id)
        clock.lap("features")
        self._reset_if_discontinuous(frame)
        self._last_stamp_ns = stamp_ns
        if self._reference is None:
            return self._begin(frame, clock)

        reference = self._reference
        matches, pose = self._match(reference, frame, clock)
        self._strongest = max(self._strongest, _strength(pose, matches))
        other = self._last_good or self._before_lost
        moved_on = False
        if other is not None and self._is_weak(pose, matches):
            again, pose_again = self._match(other, frame, clock)
            moved_on = _strength(pose_again, again) > _strength(pose, matches)
            if moved_on:
                reference, matches, pose = other, again, pose_again
                self._take_reference(other)
                self._strongest = _strength(pose, matches)

        pose = self._count_failures(pose, matches)
        renew = self._wants_new_reference(pose, matches, reference, frame)
        if renew:
            if self._failures:
                self._before_lost = self._before_lost or self._last_good or reference
            else:
                self._renewal_asked = False
            self._take_reference(frame)
        elif not self._failures:
            self._last_good = frame
        if not self._failures:
            self._before_lost = None
        return _track(reference, frame, matches, pose, renew, clock, moved_on)

    # -- the steps -----------------------------------------------------------------------------------

    def _reset_if_discontinuous(self, frame: _Frame) -> None:
        if self._reference is None or self._last_stamp_ns is None:
            return
        if frame.stamp_ns < self._last_stamp_ns:
            back_s = (self._last_stamp_ns - frame.stamp_ns) / 1e9
            self.reset(f"the stamp jumped back by {back_s:.3f} s: a new reference is taken")
        elif frame.size != self._reference.size:
            old, new = _text(self._reference.size), _text(frame.size)
            self.reset(f"the image size changed from {old} to {new}: a new reference is taken")
        elif frame.frame_id != self._reference.frame_id:
            old, new = self._reference.frame_id, frame.frame_id
            self.reset(f"the frame changed from {old!r} to {new!r}: a new reference is taken")

    def _take_reference(self, frame: _Frame) -> None:
        self._reference = frame
        self._strongest = 0
        self._last_good = None  # nearer than the reference there is none
        if self.scale is not None:
            self.scale.remember(frame.stamp_ns)

    def _begin(self, frame: _Frame, clock: _Clock) -> Track:
        self._renewal_asked = False
        self._take_reference(frame)
        pose = no_pose(0, PoseStatus.NO_REFERENCE, self._why_none)
        return _track(frame, frame, Matches.empty(), pose, True, clock)

    def _match(self, reference: _Frame, frame: _Frame, clock: _Clock) -> tuple[Matches, RelativePose]:
        matches = self.matcher.match_features(reference.features, frame.features)
        clock.lap("pair")
        pose = self._pose(matches, reference, frame)
        clock.lap("pose")
        return matches, pose

    def _is_weak(self, pose: RelativePose, matches: Matches) -> bool:
        """Whether the image has too little in common with its reference; one that shows the same has enough."""
        wanted = self.config.tracker
        few = _strength(pose, matches) < max(wanted.keyframe_inliers, wanted.keyframe_share * self._strongest)
        return few and pose.status is not PoseStatus.STATIC

    def _pose(self, matches: Matches, reference: _Frame, frame: _Frame) -> RelativePose:
        camera1 = frame.camera
        camera0 = reference.camera or camera1  # one camera whose calibration came after its first image
        for camera in (camera0, camera1):
            if camera is not None and (camera.width, camera.height) != frame.size:
                given, received = _text((camera.width, camera.height)), _text(frame.size)
                reason = f"camera_info is of {given}, the image is {received}: publish the one of this image"
                return no_pose(len(matches), PoseStatus.NO_CAMERA_INFO, reason)
        if self.scale is None:
            return estimate_relative_pose(matches, camera0, camera1, self.config.pose)
        stamps = reference.stamp_ns, frame.stamp_ns
        pair = Pair(matches, camera0, camera1, *stamps, reference.image, reference.depth)
        return self.scale.estimate(pair, self.config.pose)

    def _count_failures(self, pose: RelativePose, matches: Matches) -> RelativePose:
        """The pose; after ``lost_after`` failures in a row it says LOST. Without a camera only matches count."""
        uncalibrated = pose.status is PoseStatus.NO_CAMERA_INFO
        enough = len(matches) >= self.config.pose.min_inliers
        failed = not enough if uncalibrated else not pose.status.has_rotation
        self._failures = self._failures + 1 if failed else 0
        if self._failures < self.config.tracker.lost_after or uncalibrated:
            return pose
        reason = f"{self._failures} pairs in a row without a pose ({pose.reason}): the reference is replaced"
        return no_pose(len(matches), PoseStatus.LOST, reason)

    def _wants_new_reference(
        self, pose: RelativePose, matches: Matches, reference: _Frame, frame: _Frame
    ) -> bool:
        wanted = self.config.tracker
        if self._failures:
            return self._failures >= wanted.lost_after
        if pose.status is PoseStatus.STATIC:
            return self._renewal_asked
        return (
            self._renewal_asked
            or wanted.reference == "previous"
            or self._is_weak(pose, matches)
            or pose.parallax_deg > wanted.keyframe_parallax_deg
            or frame.stamp_ns - reference.stamp_ns > wanted.keyframe_age_s * 1e9
        )


def _strength(pose: RelativePose, matches: Matches) -> int:
    """How many matches join two images: those that agree on a pose; all where no calibration tells."""
    return len(matches) if pose.status is PoseStatus.NO_CAMERA_INFO else int(pose.inliers.sum())


def _track(
    reference: _Frame,
    frame: _Frame,
    matches: Matches,
    pose: RelativePose,
    renew: bool,
    clock: _Clock,
    moved_on: bool = False,
) -> Track:
    return Track(
        stamp_ns=frame.stamp_ns,
        frame_id=frame.frame_id,
        reference_stamp_ns=reference.stamp_ns,
        reference_frame_id=reference.frame_id,
        size0=reference.size,
        size1=frame.size,
        matches=matches,
        pose=pose,
        new_keyframe=renew,
        timings_ms=clock.laps_ms,
        image0=reference.image,
        image1=frame.image,
        camera=frame.camera,
        moved_on=moved_on,
        depth0=reference.depth,
        depth1=frame.depth,
        camera0=reference.camera or frame.camera,
    )


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


class _Clock:
    """Milliseconds by stage; a stage that did not run took 0."""

    def __init__(self) -> None:
        self.laps_ms = {"features": 0.0, "pair": 0.0, "pose": 0.0}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.laps_ms[stage] += 1e3 * (now - self._last)
        self._last = now
