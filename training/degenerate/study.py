"""What tracker and odometry make of the sequences: status and errors of each image, and how sure they were."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from stfm_ros.config import AppConfig
from stfm_ros.odometry import Odometer
from stfm_ros.tracker import FeatureMatcher, Tracker
from stfm_ros.types import FloatArray, PoseStatus, RelativePose
from stfm_training.calibration.coverage import pose_errors
from stfm_training.degenerate.sequences import CAMERA, Film

PERIOD_NS = 100_000_000
#: deviations beyond which a claim was wrong: a Gaussian of 3 dimensions is out there once in 10,000 times
WRONG = 4.6


@dataclass(frozen=True)
class Answer:
    """One image.

    Attributes:
        number, reference: of the images that were compared.
        status, reason: of the pose.
        rotation_deg, direction_deg: errors; NaN where the pose claims none.
        rotation_sigmas, direction_sigmas: Mahalanobis distances to the truth; 0 where nothing is claimed.
        parallax: the camera's true way as a share of the median depth's pixel, see :func:`walk`.
        place: (4, 4) camera in the odom frame, in units of the first translation; None where there is no odometry.
        place_sigma: deviation of the place that is claimed.
    """

    number: int
    reference: int
    status: PoseStatus
    reason: str
    rotation_deg: float
    direction_deg: float
    rotation_sigmas: float
    direction_sigmas: float
    place: FloatArray | None
    place_sigma: float

    @property
    def sigmas(self) -> float:
        """The larger of both distances."""
        return max(self.rotation_sigmas, self.direction_sigmas)

    @property
    def wrong(self) -> bool:
        """Whether a pose was given whose covariance excludes the truth."""
        return self.sigmas > WRONG


def walk(film: Film, matcher: FeatureMatcher, config: AppConfig | None = None) -> list[Answer]:
    """All images of a sequence through a tracker and an odometer; the first has no answer."""
    config = config or AppConfig.from_mapping({"odometry.allow_unscaled": True})
    tracker, odometer = Tracker(matcher, config), Odometer(config.odometry, config.pose)
    answers: list[Answer] = []
    for i, image in enumerate(film.images):
        track = tracker.track(image, CAMERA, i * PERIOD_NS, "camera")
        placed = odometer.add(track, CAMERA)
        if i == 0:
            continue
        reference = track.reference_stamp_ns // PERIOD_NS
        errors = errors_of(track.pose, film.truth(reference, i))
        place = None if placed is None else placed.pose
        sigma = float("nan") if placed is None else float(np.sqrt(np.trace(placed.covariance[:3, :3])))
        answers.append(Answer(i, reference, track.pose.status, track.pose.reason, *errors, place, sigma))
    return answers


def errors_of(pose: RelativePose, T_0to1: FloatArray) -> tuple[float, float, float, float]:
    """Degrees of rotation and direction, and their distances in deviations; see :class:`Answer`."""
    if not pose.status.has_rotation:
        return float("nan"), float("nan"), 0.0, 0.0
    if pose.status.has_translation and np.linalg.norm(T_0to1[:3, 3]) > 0:
        found = pose_errors(pose, T_0to1)
        distances = np.sqrt([found.rotation_nees, found.translation_nees])
        return found.rotation_deg, found.translation, float(distances[0]), float(distances[1])
    turned = np.asarray(cv2.Rodrigues(T_0to1[:3, :3].T @ pose.R)[0]).ravel()
    distance = float(np.sqrt(turned @ np.linalg.solve(pose.covariance[3:, 3:], turned)))
    # a direction where nothing moved is made up, however uncertain
    made_up = 90.0 if pose.status.has_translation else float("nan")
    return float(np.degrees(np.linalg.norm(turned))), made_up, distance, 0.0
