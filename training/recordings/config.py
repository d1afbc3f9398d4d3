"""How a bag is read into a recording."""

from __future__ import annotations

from dataclasses import dataclass

from stfm_ros.config import option

#: values of :attr:`RecordingConfig.poses` that are no topic
ESTIMATE, TF = "estimate", "tf"


@dataclass(frozen=True)
class RecordingConfig:
    """How a bag is read."""

    image_topic: str = option("", "Topic of the colour image, raw or compressed; found where there is only one.")
    depth_topic: str = option(
        "", "Topic of the depth image, registered to the colour image; found where there is only one."
    )
    camera_info_topic: str = option("", "Topic of the colour camera's CameraInfo; found beside the image.")
    poses: str = option(
        "",
        "A topic of poses (PoseStamped, PoseWithCovarianceStamped, Odometry), tf, or estimate (from depth); empty "
        "takes the one topic of poses there is, else tf if the camera moves in it; where there is neither, or it tells "
        "the poses of less than half of the images, it estimates.",
    )
    fixed_frame: str = option("", "Of tf: the frame in which the camera moves; empty takes the topmost one.")
    pose_frame: str = option(
        "",
        "The frame whose poses the topic tells; empty takes an Odometry's own (child_frame_id), else the camera. tf "
        "must join it to the camera's.",
    )
    tolerance_s: float = option(
        0.02, "An image and a depth image belong together within this time.", unit="s", minimum=0.0, maximum=1.0
    )
    depth_factor: float = option(
        1.0,
        "What depth is multiplied with where a driver does not follow REP-118 (16UC1 in millimetres, 32FC1 in metres): "
        "0.2 for 5000 units a metre.",
        minimum=1e-6,
        maximum=1e6,
    )
    max_frames: int = option(1500, "At most so many frames, evenly spread over time.", minimum=2, maximum=10**6)
    max_pairs: int = option(
        600, "At most so many pairs are tried where motions are estimated.", minimum=1, maximum=10**6
    )
    held_out: float = option(
        0.2, "Share of the frames that is not trained on, in blocks of time.", minimum=0.0, maximum=0.5
    )
    seed: int = option(0, "The same seed makes the same pairs.", minimum=0, maximum=2**31)
