"""A recording through the matcher: a bag in, a bag of Correspondences and RelativePose and a trajectory out.

Every image is given to the tracker in the order of recording, none is dropped, by the same steps as in the node. Each
is accounted for: read = matched + the sum of unmatched, whose keys say why:

    no_reference   the first image, or the first one after the reference was dropped: it became the reference
    few_matches, lost                  too few matches agree; see msg/RelativePose.msg
    stamp                              the image repeats a stamp, or comes late (see stfm_ros.frames)
    image, depth, tracker, internal    the image or its depth could not be decoded or used

Written are ``/matches`` and ``/relative_pose``, at the time of receipt and with the stamp of their image; and
``/odometry`` of the camera where ``odometry.scale`` or ``odometry.allow_unscaled`` asks for it.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from stfm_ros import messages
from stfm_ros.bag_types import CORRESPONDENCES_TYPE, RELATIVE_POSE_TYPE
from stfm_ros.bags import CAMERA_INFO_TYPE, IMAGE_TYPES, BagReader, BagWriter
from stfm_ros.errors import BagError, ConfigError, StfmError
from stfm_ros.frames import Frame, FrameWalk, TimeLine
from stfm_ros.images import camera_from_info, is_depth
from stfm_ros.motion import inverse
from stfm_ros.odometry import OPTICAL_IN_BODY, Odometer
from stfm_ros.scale import SOURCES, DepthScale, ScaleSource
from stfm_ros.stereo import StereoScale
from stfm_ros.tracker import FeatureMatcher, Tracker
from stfm_ros.trajectory import Trajectory, write_tum
from stfm_ros.types import FloatArray, PoseStatus

if TYPE_CHECKING:
    from stfm_ros.config import AppConfig
    from stfm_ros.odometry import Estimate
    from stfm_ros.tracker import Track

MATCHES_TOPIC = "/matches"
POSE_TOPIC = "/relative_pose"
ODOMETRY_TOPIC = "/odometry"
ODOMETRY_TYPE = "nav_msgs/msg/Odometry"
#: what gives the scale is read so far ahead of the images: as a live node, which is later than its images, has it
_AHEAD_NS = 200_000_000
_UNMATCHED = (PoseStatus.NO_REFERENCE, PoseStatus.FEW_MATCHES, PoseStatus.LOST)


class NamedMatcher(FeatureMatcher, Protocol):
    """What a run needs of a matcher: of :class:`stfm_ros.matcher.Matcher`, or :mod:`stfm_ros.baselines`."""

    @property
    def model_name(self) -> str: ...

    @property
    def weights_hash(self) -> str: ...


@dataclass
class RunResult:
    """What became of the images of a recording.

    Attributes:
        image_topic, camera_info_topic: that were read; the latter empty where there is none.
        read: images.
        matched: images with correspondences to their reference.
        unmatched: images without, by reason; see the module.
        poses: images whose relative pose has at least a rotation.
        statuses: images by the status of their relative pose.
        faults: how often something was wrong with the input, by kind.
        first_faults: the first message of each kind.
        keyframes: images that became the reference.
        scale_topic: that gave the metres; empty where there is none.
        breaks: how often the trajectory was interrupted.
        metric: images whose relative pose is in metres.
        stamps_ns, trajectory: of the images that could be placed, camera (optical) to the first reference camera.
        timings_ms: of each image, by stage.
    """

    image_topic: str
    camera_info_topic: str
    read: int = 0
    matched: int = 0
    unmatched: Counter[str] = field(default_factory=Counter)
    poses: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    first_faults: dict[str, str] = field(default_factory=dict)
    keyframes: int = 0
    scale_topic: str = ""
    breaks: int = 0
    metric: int = 0
    stamps_ns: list[int] = field(default_factory=list)
    trajectory: list[FloatArray] = field(default_factory=list)
    timings_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def placed(self) -> Trajectory:
        """The trajectory with its stamps."""
        return Trajectory(np.array(self.stamps_ns, np.int64), np.array(self.trajectory).reshape(-1, 4, 4))

    def fault(self, kind: str, reason: str) -> None:
        """Count something that is wrong with the input."""
        self.faults[kind] += 1
        self.first_faults.setdefault(kind, reason)


def run_bag(
    bag: Path,
    matcher: NamedMatcher,
    config: AppConfig,
    *,
    out: Path | None = None,
    trajectory: Path | None = None,
    image_topic: str = "",
    camera_info_topic: str = "",
    scale_topic: str = "",
    overwrite: bool = False,
    watch: Callable[[Track | None, int, int], None] = lambda track, done, total: None,
) -> RunResult:
    """Match every image of a recording.

    Args:
        bag: the recording.
        out: the bag to write, in mcap.
        trajectory: the file to write in TUM layout; in metres where there is a scale, of those images alone that have
            one. Otherwise see :mod:`stfm_ros.chain` for what its scale is worth.
        image_topic, camera_info_topic, scale_topic: found where they are not given.
        overwrite: whether a bag of that name is replaced.
        watch: called after every image with its track (None without one), the images that are done, and all images.

    Raises:
        BagError: the recording cannot be read or lacks the topics (lists the candidates), or the bag cannot be written;
            nothing is left behind.
        ConfigError: an RGB-D model without depth.
    """
    with ExitStack() as stack:
        reader = stack.enter_context(BagReader(bag))
        wanted = config.odometry
        images, infos = find_topics(reader, image_topic, camera_info_topic, wanted.scale, scale_topic)
        writer = stack.enter_context(BagWriter(out, overwrite)) if out else None
        result = RunResult(images, infos, scale_topic=find_scale(reader, wanted.scale, scale_topic, images))
        scale = SOURCES[wanted.scale][0](wanted, None) if result.scale_topic else None
        feed = _Feed(reader, result, scale)
        depths = _depths(matcher, scale)
        line = TimeLine(result.fault)
        walk = FrameWalk(Tracker(matcher, config, scale), result.fault)
        unscaled = wanted.allow_unscaled or scale is None  # then the trajectory is of one unknown scale
        odometer = Odometer(replace(wanted, allow_unscaled=unscaled, base_frame=""), config.pose)
        for image, info, receipt_ns in paired_with_info(reader, images, infos):
            feed.until(receipt_ns + _AHEAD_NS)
            before = result.faults.copy()
            depth = depths and depths.find(_stamp(image))
            track = None if line.leaves_out(image) else walk(Frame(image, info, time.monotonic(), depth))
            result.read += 1
            if track is None:
                result.unmatched[_why(result.faults - before)] += 1
            else:
                _count(result, track)
                odometry = _place(result, track, odometer)
                if writer:
                    about = messages.correspondences(track, matcher.model_name, matcher.weights_hash)
                    writer.write(MATCHES_TOPIC, CORRESPONDENCES_TYPE, about, receipt_ns)
                    writer.write(POSE_TOPIC, RELATIVE_POSE_TYPE, messages.relative_pose(track), receipt_ns)
                    if odometry and (wanted.allow_unscaled or scale is not None):
                        fields = messages.odometry(odometry, wanted.odom_frame)
                        writer.write(ODOMETRY_TOPIC, ODOMETRY_TYPE, fields, receipt_ns)
            watch(track, result.read, reader.topics[images].count)
    result.breaks = odometer.gaps + odometer.restarts
    if trajectory:
        trajectory.parent.mkdir(parents=True, exist_ok=True)
        write_tum(trajectory, result.stamps_ns, result.placed.poses)
    return result


def find_topics(
    reader: BagReader, image_topic: str = "", camera_info_topic: str = "", scale: str = "none", scale_topic: str = ""
) -> tuple[str, str]:
    """The images, depth left out, and their calibration, "" for none, where they are not given.

    Args:
        scale, scale_topic: the setting ``odometry.scale`` and its topic, which tell the two cameras of a pair apart.

    Raises:
        BagError: a topic is not there, or there are several; lists the candidates.
    """
    if scale == "stereo":
        image_topic, _ = find_stereo(reader, image_topic, scale_topic)
    images = reader.find_topic(IMAGE_TYPES, image_topic, lambda message: not is_depth(message))
    return images, find_camera_info(reader, images, camera_info_topic)


def find_camera_info(reader: BagReader, image_topic: str, wanted: str = "") -> str:
    """The calibration of an image topic: the one that is wanted, the one beside it, the only one, or "" for none.

    Raises:
        BagError: the one that is wanted is not there, or there are several; lists the candidates.
    """
    beside = messages.camera_info_topic(image_topic)
    there = [name for name, info in reader.topics.items() if info.type == CAMERA_INFO_TYPE and info.count]
    if wanted or there:
        return reader.find_topic(CAMERA_INFO_TYPE, wanted or (beside if beside in there else ""))
    return ""


def find_scale(reader: BagReader, kind: str, wanted: str = "", image_topic: str = "") -> str:
    """The topic that gives the metres, by the setting ``odometry.scale``; "" where it is none.

    Args:
        image_topic: of the images, beside which a second camera's are looked for.

    Raises:
        BagError: it is not there, or there are several; lists the candidates.
    """
    if kind == "none":
        return ""
    if kind == "depth":
        return reader.find_topic(IMAGE_TYPES, wanted, is_depth)
    if kind == "stereo":
        return find_stereo(reader, image_topic, wanted)[1]
    return reader.find_topic(SOURCES[kind][1], wanted)


def find_stereo(reader: BagReader, first: str = "", second: str = "") -> tuple[str, str]:
    """The images of the first and of the second camera of a pair, where they are not given.

    The second one's camera_info says how far it is from the first: ``P[0, 3]`` is not 0.

    Raises:
        BagError: one is not there, or they cannot be told apart; lists the candidates.
    """

    def is_image(message: Any) -> bool:
        return not is_depth(message)

    first, second = (name and reader.find_topic(IMAGE_TYPES, name) for name in (first, second))
    there = [name for name, info in reader.topics.items() if info.type in IMAGE_TYPES and info.count]
    there = [name for name in there if is_image(next(reader.messages([name]))[1])]
    if len(there) == 2 and not (first and second):
        seconds = [name for name in there if _is_second(reader, name)] if not (first or second) else []
        if len(seconds) == 1:
            second = seconds[0]
        others = [name for name in there if name != (first or second)]
        if len(others) == 1:
            first, second = (first, others[0]) if first else (others[0], second)
    first, second = (reader.find_topic(IMAGE_TYPES, name, is_image) for name in (first, second))
    if first == second:
        raise BagError(f"{first} is named for both cameras: expected two topics; name the second camera's")
    return first, second


def _is_second(reader: BagReader, image_topic: str) -> bool:
    infos = find_camera_info(reader, image_topic)
    return bool(infos and camera_from_info(next(reader.messages([infos]))[1]).P[0, 3])


def paired_with_info(reader: BagReader, image_topic: str, info_topic: str) -> Iterator[tuple[Any, Any | None, int]]:
    """Each image, its calibration, and its time of receipt.

    That is the CameraInfo of the same stamp if it comes before the next image, else the newest one, else the first.
    """
    topics = [image_topic, info_topic] if info_topic else [image_topic]
    info = next(reader.messages([info_topic]), ("", None, 0))[1] if info_topic else None
    waiting: tuple[Any, Any | None, int] | None = None
    for topic, message, receipt_ns in reader.messages(topics):
        if topic == info_topic:
            info = message
            if waiting is not None and _stamp(info) == _stamp(waiting[0]):
                waiting = (waiting[0], info, waiting[2])
        else:
            if waiting is not None:
                yield waiting
            waiting = (message, info, receipt_ns)
    if waiting is not None:
        yield waiting


def _stamp(message: Any) -> int:
    return messages.stamp_ns(message.header)


def _depths(matcher: NamedMatcher, scale: ScaleSource | None) -> DepthScale | None:
    """What gives each image its depth, for an RGB-D model."""
    if not getattr(matcher, "takes_depth", False):
        return None
    if not isinstance(scale, DepthScale):
        raise ConfigError(
            f"model {matcher.model_name} takes colour and depth (RGB-D): set odometry.scale to depth, which gives each "
            "image its depth, or name an RGB model"
        )
    return scale


def _why(faults: Counter[str]) -> str:
    """Of the faults of an image without a track, the one that took it."""
    return next((kind for kind in ("image", "depth", "tracker", "internal", "stamp") if faults[kind]), "internal")


def _count(result: RunResult, track: Track) -> None:
    status = track.pose.status
    result.statuses[status.name] += 1
    result.poses += status.has_rotation
    result.keyframes += track.new_keyframe + track.moved_on
    result.metric += track.pose.metric
    if status in _UNMATCHED or len(track.matches) == 0:
        result.unmatched[status.name.lower() if status in _UNMATCHED else "few_matches"] += 1
    else:
        result.matched += 1
    for stage, ms in track.timings_ms.items():
        if stage != "wait":  # nothing waits here
            result.timings_ms[stage].append(ms)


def _place(result: RunResult, track: Track, odometer: Odometer) -> Estimate | None:
    """Odometry of an image; its pose goes to the trajectory."""
    estimate = odometer.add(track, track.camera)
    if estimate is None:
        return None
    if not result.stamps_ns:  # the reference of the first pose is the origin
        result.stamps_ns.append(track.reference_stamp_ns)
        result.trajectory.append(np.eye(4))
    result.stamps_ns.append(track.stamp_ns)
    result.trajectory.append(inverse(OPTICAL_IN_BODY) @ estimate.camera)
    return estimate


class _Feed:
    """Gives a source of metres its messages as far as the images have come."""

    def __init__(self, reader: BagReader, result: RunResult, scale: ScaleSource | None) -> None:
        topics = [result.scale_topic]
        if isinstance(scale, StereoScale):
            topics += filter(None, [find_camera_info(reader, result.scale_topic)])
        self._messages = reader.messages(topics) if scale is not None else iter(())
        self._scale = scale
        self._result = result
        self._next: tuple[Any, int] | None = None

    def until(self, receipt_ns: int) -> None:
        """Everything that was received before this time."""
        while self._scale is not None:
            if self._next is None:
                _, message, received = next(self._messages, ("", None, 0))
                if message is None:
                    return
                self._next = message, received
            if self._next[1] >= receipt_ns:
                return
            try:
                self._scale.take(self._next[0])
            except StfmError as fault:
                self._result.fault("scale", str(fault))
            self._next = None
