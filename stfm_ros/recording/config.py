"""The settings of a recording, each with its default, unit and range; see ``stfm_ros.config`` for how they are made."""

from __future__ import annotations

from dataclasses import dataclass, field

from stfm_ros.config import option


@dataclass(frozen=True)
class SelectionConfig:
    """Which frames are kept. A frame is an image with the depth and the other messages of its stamp."""

    keep: str = option("chosen", "Keep the frames that the settings below choose, or all.", choices=("chosen", "all"))
    min_change: float = option(
        0.04,
        "Least change of view since the last kept frame: how far the picture moved, as a share of its width.",
        minimum=0.0,
        maximum=1.0,
    )
    min_interval_s: float = option(0.1, "Shortest time between two kept frames.", unit="s", minimum=0.0, maximum=3600.0)
    min_sharpness: float = option(
        0.6,
        "Least sharpness, as a share of the median of the last 30 frames that were looked at.",
        minimum=0.0,
        maximum=1.0,
    )
    min_depth: float = option(
        0.3, "Least share of pixels with depth, where a depth topic is recorded.", minimum=0.0, maximum=1.0
    )
    min_disagreement: float = option(
        0.0,
        "From this disagreement of student and teacher on, a frame is kept however little the view changed; 0 does "
        "not ask.",
        minimum=0.0,
    )
    disagreement_s: float = option(
        2.0,
        "How long a disagreement holds for the frames after it, unless another is told before: so a teacher that is "
        "slower than wait_s is of use too.",
        unit="s",
        minimum=0.0,
        maximum=60.0,
    )
    wait_s: float = option(
        0.2,
        "How long a frame waits for its depth, and for its disagreement where that is asked for. A kill loses as much.",
        unit="s",
        minimum=0.0,
        maximum=10.0,
    )
    slop_s: float = option(
        0.02,
        "Largest difference between the stamps of an image and of what belongs to it.",
        unit="s",
        minimum=0.0,
        maximum=1.0,
    )


@dataclass(frozen=True)
class CompressionConfig:
    """How images are stored. What is compressed already stays as it is."""

    colour: str = option("jpeg", "Raw colour images become JPEG or PNG, or stay raw.", choices=("jpeg", "png", "raw"))
    jpeg_quality: int = option(95, "Quality of the JPEG images.", minimum=50, maximum=100)
    depth: str = option(
        "png", "Raw 16UC1 depth becomes PNG without loss, or stays raw; 32FC1 stays raw.", choices=("png", "raw")
    )
    chunks: str = option("zstd", "Compression of all that is written.", choices=("zstd", "lz4", "none"))
    threads: int = option(2, "Threads that compress images.", minimum=1, maximum=64)


@dataclass(frozen=True)
class StorageConfig:
    """Files, limits of the disk, and what a kill may cost."""

    split_mb: int = option(1024, "A new file is begun from this size on; 0 does not ask.", unit="MB", minimum=0)
    split_s: float = option(0.0, "A new file is begun after this time; 0 does not ask.", unit="s", minimum=0.0)
    max_mb: int = option(0, "Recording ends when the bag has this size; 0 does not ask.", unit="MB", minimum=0)
    keep_free_mb: int = option(2048, "Recording ends when the disk has less room than this.", unit="MB", minimum=16)
    flush_s: float = option(
        0.5,
        "What was taken is on the disk after at most this time. A kill loses as much.",
        unit="s",
        minimum=0.05,
        maximum=60.0,
    )
    queue_mb: int = option(
        256, "Memory for messages that wait to be written; what has no room is left out.", unit="MB", minimum=1
    )
    silence_s: float = option(
        5.0, "From this time on, the silence of a topic is noted in the manifest.", unit="s", minimum=0.1
    )


@dataclass(frozen=True)
class RecordingConfig:
    """Everything a recorder can be told."""

    selection: SelectionConfig = field(default_factory=SelectionConfig)
    compression: CompressionConfig = field(default_factory=CompressionConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)


@dataclass(frozen=True)
class TopicsConfig:
    """What a recorder node subscribes to. Names are relative, so they may be remapped too."""

    image: str = option("image", "Topic of the images.")
    compressed: bool = option(
        False, "The images come as sensor_msgs/CompressedImage on IMAGE/compressed instead of IMAGE."
    )
    camera_info: str = option(
        "camera_info", "Topic of the calibration; left alone: camera_info beside the topic of the images."
    )
    depth: str = option("depth", "Topic of the depth, aligned to the images; empty records without depth.")
    depth_transport: str = option(
        "raw",
        "How the depth comes: raw is sensor_msgs/Image; the others are sensor_msgs/CompressedImage on DEPTH/compressed "
        "(PNG of 16 bit) or DEPTH/compressedDepth, as image_transport has them.",
        choices=("raw", "compressed", "compressedDepth"),
    )
    relative_pose: str = option(
        "",
        "Topic of a teacher's stfm_ros/RelativePose: recorded, and of use to judge the change of view; empty: none.",
    )
    student_check: str = option(
        "",
        "Topic of a teacher's stfm_ros/StudentCheck: recorded, and what selection.min_disagreement is about; empty: "
        "none.",
    )
    matches: str = option("", "Topic of a teacher's stfm_ros/Correspondences, recorded with kept frames; empty: none.")
    extra: str = option(
        "",
        "Further topics, with commas between them, of any standard type: odometry, /tf, /tf_static, an IMU. All their "
        "messages are recorded.",
    )


@dataclass(frozen=True)
class BagConfig:
    """Where a recorder node leaves its bags."""

    folder: str = option("recordings", "Folder of the bags; it is made. ~ is the home folder.")
    prefix: str = option("bag", "A bag is named by this, the date and the time.")
    note: str = option("", "What the manifest of each bag shall say: the robot, the place, what was done.")
    recover: bool = option(True, "When configured, finish the bags in the folder whose recording was interrupted.")


@dataclass(frozen=True)
class RecorderNodeConfig:
    """The ROS side of the recorder node."""

    autostart: bool = option(True, "Configure and activate at start; false waits for a lifecycle manager.")
    diagnostics_period_s: float = option(1.0, "Period of /diagnostics.", unit="s", minimum=0.1, maximum=60.0)


@dataclass(frozen=True)
class RecorderAppConfig(RecordingConfig):
    """Everything a recorder on a robot can be told; a teacher's disagreement counts where it is subscribed to."""

    selection: SelectionConfig = field(default_factory=lambda: SelectionConfig(min_disagreement=0.2))
    topics: TopicsConfig = field(default_factory=TopicsConfig)
    bag: BagConfig = field(default_factory=BagConfig)
    node: RecorderNodeConfig = field(default_factory=RecorderNodeConfig)
