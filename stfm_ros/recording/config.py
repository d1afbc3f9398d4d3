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
    wait_s: float = option(
        0.2,
        "How long a frame waits for its depth, and for the disagreement where it is asked for. A kill loses as much.",
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
