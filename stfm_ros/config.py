"""The one home of every default: frozen dataclasses whose fields carry unit, range and description.

ROS parameters, ``config/*.yaml`` and the options of ``stfm`` are all made from these classes.

    >>> AppConfig.from_mapping({"matcher": {"threshold": 0.3}}).matcher.threshold
    0.3
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args, get_type_hints

from stfm_ros.errors import ConfigError

C = TypeVar("C")
Scalar = bool | int | float | str


@dataclass(frozen=True)
class Option:
    """What is known of one setting, apart from its type and default."""

    description: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = False  #: whether a change takes effect while the node runs

    def fault(self, value: Scalar) -> str:
        """Why ``value`` is not allowed; empty if it is."""
        if self.choices and value not in self.choices:
            return f"{value!r} is not one of {', '.join(self.choices)}"
        if isinstance(value, (bool, str)):
            return ""
        if value != value:
            return "is not a number"
        if self.minimum is not None and value < self.minimum:
            return f"{value} is below the minimum {self.minimum:g}"
        if self.maximum is not None and value > self.maximum:
            return f"{value} is above the maximum {self.maximum:g}"
        return ""


def option(
    default: Any,
    description: str,
    *,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    live: bool = False,
) -> Any:
    """A dataclass field with its documentation."""
    about = Option(description, unit, minimum, maximum, choices, live)
    return field(default=default, metadata={"option": about})


@dataclass(frozen=True)
class MatcherConfig:
    """The network and what is kept of its output."""

    model: str = option("default", "Weights: a shipped name, or the path of an exported folder or .safetensors file.")
    runtime: str = option(
        "auto",
        "Inference runtime. auto says in the log what it chose and why; any other is used or is an error.",
        choices=(
            "auto",
            "tensorrt",
            "tensorrt_rtx",
            "onnxruntime_tensorrt",
            "onnxruntime_cuda",
            "openvino",
            "onnxruntime",
            "torch",
        ),
    )
    precision: str = option(
        "auto",
        "Arithmetic of the network; auto is the fastest that its runtime has without a notable loss of accuracy.",
        choices=("auto", "fp32", "bf16", "fp16", "int8"),
    )
    threads: int = option(0, "CPU threads of the runtime; 0 leaves the choice to it.", minimum=0, maximum=256)
    engines: str = option("", "Folder where TensorRT engines are kept; empty is stfm_ros/engines in the user's cache.")
    stale_engine: str = option(
        "build",
        "Where no engine fits this model, GPU and TensorRT: build one (minutes), or refuse to start.",
        choices=("build", "refuse"),
    )
    threshold: float = option(
        0.2, "Matches with a lower confidence are dropped (theta_c).", minimum=0.0, maximum=1.0, live=True
    )
    max_matches: int = option(
        2048,
        "At most this many matches, best first; of more than these, some of every part of the image are kept.",
        minimum=8,
        maximum=7680,
        live=True,
    )
    looks: int = option(
        1,
        "2 matches what both images show once more, enlarged: twice the time, for twice the matches and better poses "
        "(RGB models).",
        minimum=1,
        maximum=2,
    )


@dataclass(frozen=True)
class PoseConfig:
    """Two-view geometry."""

    inlier_px: float = option(
        1.5, "Largest epipolar (Sampson) error of an inlier.", unit="px", minimum=0.1, maximum=20.0, live=True
    )
    confidence: float = option(
        0.9999, "Confidence at which the robust estimator may stop.", minimum=0.5, maximum=1.0, live=True
    )
    max_iterations: int = option(
        2000, "Upper bound of the robust estimator's iterations.", minimum=10, maximum=100000, live=True
    )
    min_inliers: int = option(
        20,
        "Fewer inliers than this give no pose; for the translation of one camera each counts as its confidence.",
        minimum=6,
        maximum=3840,
        live=True,
    )
    min_parallax_deg: float = option(
        0.5,
        "Median parallax below which the translation is called weak.",
        unit="deg",
        minimum=0.0,
        maximum=45.0,
        live=True,
    )
    static_px: float = option(
        0.75,
        "Median displacement below which the camera is called static.",
        unit="px",
        minimum=0.0,
        maximum=20.0,
        live=True,
    )
    shared_error: float = option(
        0.3,
        "Share of a match's variance that matches of the same displacement have in common (docs/degenerate.md).",
        minimum=0.0,
        maximum=0.9,
        live=True,
    )


@dataclass(frozen=True)
class TrackerConfig:
    """What a new image is matched against."""

    reference: str = option(
        "keyframe",
        "Match against the previous frame or against the last keyframe.",
        choices=("previous", "keyframe"),
        live=True,
    )
    keyframe_inliers: int = option(
        200,
        "An image with fewer inliers has too little in common with the keyframe: the one before becomes the keyframe.",
        minimum=6,
        maximum=3840,
        live=True,
    )
    keyframe_share: float = option(
        0.3,
        "So has one with less than this share of the most inliers that any image had with the keyframe.",
        minimum=0.0,
        maximum=0.9,
        live=True,
    )
    keyframe_parallax_deg: float = option(
        8.0, "A new keyframe is taken above this median parallax.", unit="deg", minimum=0.1, maximum=90.0, live=True
    )
    keyframe_age_s: float = option(
        5.0, "A new keyframe is taken after this time.", unit="s", minimum=0.01, maximum=3600.0, live=True
    )
    lost_after: int = option(
        5, "Pairs in a row without a pose before the reference is replaced.", minimum=1, maximum=1000, live=True
    )


@dataclass(frozen=True)
class OdometryConfig:
    """Relative poses chained into odometry, and where its metres come from."""

    scale: str = option(
        "none",
        "Where the length of a motion comes from, which one camera cannot see: aligned depth images, a second camera "
        "(stereo), an odometry or a twist of another sensor, or nowhere: then there is no odometry, unless "
        "odometry.allow_unscaled is set.",
        choices=("none", "depth", "stereo", "odometry", "twist"),
    )
    scale_error: float = option(
        0.05,
        "Standard deviation of the length that an odometry or a twist gives, as a share of it.",
        minimum=0.0001,
        maximum=1.0,
        live=True,
    )
    scale_gap_s: float = option(
        0.1,
        "How far beyond the messages of an odometry or a twist an image may lie.",
        unit="s",
        minimum=0.0,
        maximum=10.0,
        live=True,
    )
    depth_slop_s: float = option(
        0.02,
        "Largest difference between the stamps of an image and of its depth, or of the second camera's image.",
        unit="s",
        minimum=0.0,
        maximum=1.0,
        live=True,
    )
    stereo_baseline: float = option(
        0.0,
        "How far the second camera is to the right of the first; 0 takes it from P of its camera_info. For rectified "
        "images alone.",
        unit="m",
        minimum=-10.0,
        maximum=10.0,
        live=True,
    )
    stereo_error_px: float = option(
        0.1,
        "Standard deviation of what the calibration adds to all disparities alike, which makes all lengths too long or "
        "too short together.",
        unit="px",
        minimum=0.0,
        maximum=10.0,
        live=True,
    )
    depth_noise_m: float = option(
        0.002,
        "Standard deviation of a depth z is depth_noise_m + depth_noise_share z + depth_noise_quadratic z^2: its part "
        "that is the same at any distance.",
        unit="m",
        minimum=0.0,
        maximum=1.0,
        live=True,
    )
    depth_noise_share: float = option(
        0.005,
        "See depth_noise_m: the part that grows with the depth, as that of a time-of-flight camera.",
        minimum=0.0,
        maximum=1.0,
        live=True,
    )
    depth_noise_quadratic: float = option(
        0.0,
        "See depth_noise_m: the part that grows with the square of the depth. Of a stereo camera it is the disparity's "
        "deviation over focal length times baseline (px / (px m)), of structured light as in the first Kinect 0.0015.",
        unit="1/m",
        minimum=0.0,
        maximum=1.0,
        live=True,
    )
    allow_unscaled: bool = option(
        False, "Publish odometry without metric scale too; its unit is the first translation.", live=True
    )
    odom_frame: str = option("odom", "Frame in which the odometry begins: x forward, y left, z up (REP-103, REP-105).")
    base_frame: str = option(
        "", "Child frame of the odometry, e.g. base_link; TF must join it to the camera. Empty is the camera itself."
    )
    path_length: int = option(1000, "Poses that are kept for the path.", minimum=2, maximum=100000)
    covariance_factor: float = option(
        7.0,
        "Factor on the covariance of each relative pose before it is chained: how much more than they claim poses of "
        "recordings err (docs/odometry.md).",
        minimum=0.01,
        maximum=1000.0,
        live=True,
    )
    gap_speed: float = option(
        1.0,
        "Speed that may have gone unseen: standard deviation by which the position's grows over a gap.",
        unit="m/s",
        minimum=0.0,
        maximum=1000.0,
        live=True,
    )
    gap_turn: float = option(
        1.0,
        "Turn rate that may have gone unseen: standard deviation by which the orientation's grows over a gap.",
        unit="rad/s",
        minimum=0.0,
        maximum=100.0,
        live=True,
    )


@dataclass(frozen=True)
class OutputsConfig:
    """What may be published. Each message is built only while somebody subscribes."""

    matches: bool = option(True, "Correspondences on matches.", live=True)
    relative_pose: bool = option(True, "Relative poses on relative_pose.", live=True)
    picture: bool = option(True, "Pictures of the matches on matches/image.", live=True)
    odometry: bool = option(True, "nav_msgs/Odometry on odometry.", live=True)
    pose: bool = option(True, "geometry_msgs/PoseWithCovarianceStamped on pose.", live=True)
    path: bool = option(True, "nav_msgs/Path on path.", live=True)
    points: bool = option(True, "Triangulated inliers as sensor_msgs/PointCloud2 on points.", live=True)
    tf: bool = option(False, "The transform from odometry.odom_frame to the child frame on /tf.")


@dataclass(frozen=True)
class NodeConfig:
    """The ROS side of the matcher node. Topics are relative names: remap them at launch."""

    autostart: bool = option(True, "Configure and activate at start; false waits for a lifecycle manager.")
    compressed: bool = option(False, "Subscribe to sensor_msgs/CompressedImage on image/compressed instead of image.")
    depth_transport: str = option(
        "raw",
        "How the depth comes: raw is sensor_msgs/Image on depth; the others are sensor_msgs/CompressedImage on "
        "depth/compressed (PNG of 16 bit) or depth/compressedDepth, as image_transport has them.",
        choices=("raw", "compressed", "compressedDepth"),
    )
    reliability: str = option(
        "best_effort",
        "Reliability of the image subscription; camera_info follows it.",
        choices=("best_effort", "reliable"),
    )
    scale_reliability: str = option(
        "best_effort",
        "Reliability of the subscription that odometry.scale asks for.",
        choices=("best_effort", "reliable"),
    )
    policy: str = option(
        "newest",
        "Images that come in while one is in work: only the newest is kept, or all of them up to node.queue.",
        choices=("newest", "keep_all"),
    )
    queue: int = option(100, "Images that wait at most under keep_all; then the oldest goes.", minimum=1, maximum=10000)
    when_lost: str = option(
        "silence",
        "Odometry of an image without a pose: none, or rtabmap's convention (null orientation, covariance 9999).",
        choices=("silence", "null"),
        live=True,
    )
    debug_image_width: int = option(
        1280, "Width of the picture on matches/image.", unit="px", minimum=64, maximum=8192, live=True
    )
    debug_image_period_s: float = option(
        0.2, "Shortest time between two pictures on matches/image.", unit="s", minimum=0.0, maximum=60.0, live=True
    )
    diagnostics_period_s: float = option(1.0, "Period of /diagnostics.", unit="s", minimum=0.1, maximum=60.0)
    input_timeout_s: float = option(
        5.0,
        "Silence of an input after which the log and /diagnostics name topic, QoS and likely causes.",
        unit="s",
        minimum=0.1,
        maximum=3600.0,
    )


@dataclass(frozen=True)
class AppConfig:
    """Everything a matcher on a robot can be told."""

    matcher: MatcherConfig = field(default_factory=MatcherConfig)
    pose: PoseConfig = field(default_factory=PoseConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    odometry: OdometryConfig = field(default_factory=OdometryConfig)
    outputs: OutputsConfig = field(default_factory=OutputsConfig)
    node: NodeConfig = field(default_factory=NodeConfig)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> AppConfig:
        """See :func:`from_mapping`."""
        return from_mapping(cls, values)


@dataclass(frozen=True)
class DepthOdometryConfig(OdometryConfig):
    """Odometry of a node that has the depth of every image."""

    scale: str = option(
        "depth", "Where the length of a motion comes from: the depth that the teacher takes.", choices=("depth",)
    )


@dataclass(frozen=True)
class TeacherConfig:
    """What only the teacher node has: the depth of every image."""

    depth_wait_s: float = option(
        0.2,
        "How long an image waits for its depth, from its receipt on; after that it is given up and counted as failed.",
        unit="s",
        minimum=0.0,
        maximum=10.0,
        live=True,
    )
    min_coverage: float = option(
        0.3,
        "Share of the pixels with depth below which /diagnostics warns, as the median of the last images.",
        minimum=0.0,
        maximum=1.0,
        live=True,
    )


@dataclass(frozen=True)
class ShadowConfig:
    """The student beside the teacher."""

    model: str = option(
        "", "Student that runs on the teacher's images, named as in matcher.model: default, small ... Empty runs none."
    )
    every: int = option(
        1,
        "The student sees each so many-th image. It runs after the teacher's results are published, and takes its time "
        "from the images that follow.",
        minimum=1,
        maximum=1000,
        live=True,
    )
    scale: str = option(
        "none",
        "What the student's pose is made of: its matches alone, as on a robot without depth, or with the depth of the "
        "reference too, as the matcher node does with odometry.scale depth.",
        choices=("none", "depth"),
        live=True,
    )
    limit_px: float = option(
        3.0,
        "A match of the student is right, and the same as the teacher's, up to this distance in the network's input "
        "(640 pixels wide); in the image it is as much more as that is larger.",
        unit="px",
        minimum=0.1,
        maximum=100.0,
        live=True,
    )
    min_inliers: int = option(
        100,
        "With fewer inliers than this the teacher is not taken for the truth, and nothing is said of the student.",
        minimum=6,
        maximum=3840,
        live=True,
    )
    window: int = option(100, "Pairs over which /diagnostics sums up.", minimum=10, maximum=10000)
    warn_right: float = option(
        0.9,
        "/diagnostics warns where the share of the student's matches that are right is less than this part of the "
        "teacher's.",
        minimum=0.0,
        maximum=1.0,
        live=True,
    )
    warn_covered: float = option(
        0.8,
        "/diagnostics warns where the student has right matches near fewer than this share of the teacher's.",
        minimum=0.0,
        maximum=1.0,
        live=True,
    )
    warn_poses: float = option(
        0.9,
        "/diagnostics warns where the student has a pose in fewer than this share of the pairs in which the teacher "
        "has one.",
        minimum=0.0,
        maximum=1.0,
        live=True,
    )


@dataclass(frozen=True)
class TeacherAppConfig(AppConfig):
    """Everything a teacher node can be told: what the matcher node can, and its depth."""

    matcher: MatcherConfig = field(default_factory=lambda: MatcherConfig(model="teacher"))
    odometry: OdometryConfig = field(default_factory=DepthOdometryConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    shadow: ShadowConfig = field(default_factory=ShadowConfig)


@dataclass(frozen=True)
class Setting:
    """One leaf of a config class."""

    name: str  #: dotted, e.g. ``matcher.threshold``
    type: type
    default: Scalar
    about: Option


def settings(cls: type, prefix: str = "") -> Iterator[Setting]:
    """The leaves of a config class, in order, with dotted names; lists of records are not among them.

    A default is that of the class itself: one that holds a section may give it other defaults than its own.
    """
    yield from _leaves(cls(), prefix)


def _leaves(values: Any, prefix: str) -> Iterator[Setting]:
    hints = get_type_hints(type(values))
    for item in dataclasses.fields(values):
        name, default = prefix + item.name, getattr(values, item.name)
        if dataclasses.is_dataclass(default):
            yield from _leaves(default, name + ".")
        elif _record(hints[item.name]) is None:
            yield Setting(name, hints[item.name], default, item.metadata["option"])


def from_mapping(cls: type[C], values: Mapping[str, Any]) -> C:
    """Build a config from nested or dotted keys.

    Args:
        cls: one of the config dataclasses.
        values: e.g. ``{"matcher": {"threshold": 0.3}}`` or ``{"matcher.threshold": 0.3}``. A field that is a
            tuple of dataclasses takes a list of mappings.

    Raises:
        ConfigError: lists every unknown name, wrong type and value out of range at once.
    """
    faults: list[str] = []
    built = _from_mapping(cls, values, "", faults)
    if faults:
        raise ConfigError("\n".join(["the configuration has faults:"] + [f"  {fault}" for fault in faults]))
    return built


def _from_mapping(cls: type[C], values: Mapping[str, Any], where: str, faults: list[str]) -> C:
    flat: dict[str, Any] = dict(_flatten(values))
    known = {setting.name: setting for setting in settings(cls)}
    accepted: dict[str, Any] = {}
    for field_name, hint in get_type_hints(cls).items():
        record = _record(hint)
        if record is not None and field_name in flat:
            accepted[field_name] = _records(record, flat.pop(field_name), where + field_name, faults)
    for name, value in flat.items():
        setting = known.get(name)
        if setting is None:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
            faults.append(f"{where}{name}: unknown setting; {hint}")
            continue
        if setting.type is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, (bool, int, float, str)) or type(value) is not setting.type:
            faults.append(f"{where}{name}: expected {setting.type.__name__}, got {type(value).__name__} {value!r}")
            continue
        fault = setting.about.fault(value)
        if fault:
            faults.append(f"{where}{name}: {fault}")
        accepted[name] = value
    return _build(cls(), accepted)


def _record(hint: Any) -> type | None:
    """C where the hint is ``tuple[C, ...]`` of a dataclass C."""
    item = next(iter(get_args(hint)), None)
    return item if isinstance(item, type) and dataclasses.is_dataclass(item) else None


def _records(cls: type[C], value: Any, where: str, faults: list[str]) -> tuple[C, ...]:
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        faults.append(f"{where}: expected a list of mappings, got {value!r}")
        return ()
    return tuple(_from_mapping(cls, item, f"{where}[{i}].", faults) for i, item in enumerate(value))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _build(default: C, flat: Mapping[str, Any], prefix: str = "") -> C:
    changes: dict[str, Any] = {}
    for item in dataclasses.fields(default):  # type: ignore[arg-type]
        name, value = prefix + item.name, getattr(default, item.name)
        if dataclasses.is_dataclass(value):
            changes[item.name] = _build(value, flat, name + ".")
        elif name in flat:
            changes[item.name] = flat[name]
    return dataclasses.replace(default, **changes)  # type: ignore[type-var]
