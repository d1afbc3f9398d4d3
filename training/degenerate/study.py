"""What tracker and odometry make of the sequences: status and errors of each image, and how sure they were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from stfm_ros.config import AppConfig
from stfm_ros.odometry import Odometer
from stfm_ros.tracker import FeatureMatcher, Tracker
from stfm_ros.types import ByteArray, FloatArray, PoseStatus, RelativePose
from stfm_training.calibration.coverage import pose_errors
from stfm_training.degenerate.sequences import CAMERA, Film, render

PERIOD_NS = 100_000_000
#: deviations beyond which a claim was wrong: a Gaussian of 3 dimensions is out there once in 10,000 times
WRONG = 4.6

_MOVING = {PoseStatus.OK, PoseStatus.PLANAR, PoseStatus.LOW_PARALLAX}
_NOTHING = {PoseStatus.FEW_MATCHES, PoseStatus.LOST}
#: statuses that are right; where a second motion is shown, to name it is
RIGHT: dict[str, set[PoseStatus]] = {
    "walk": _MOVING,
    "still": {PoseStatus.STATIC},
    "creep": {PoseStatus.STATIC, PoseStatus.LOW_PARALLAX},
    "pan": {PoseStatus.ROTATION_ONLY},
    "roll": {PoseStatus.ROTATION_ONLY},
    "weak": {PoseStatus.ROTATION_ONLY, PoseStatus.LOW_PARALLAX},
    "forward": _MOVING,
    "plane": {PoseStatus.PLANAR},
    "wallpaper": _NOTHING,
    "black": _MOVING,
    "blink": _MOVING,
    "blur": _MOVING | _NOTHING,
    "glare": _MOVING | _NOTHING,
}


@dataclass(frozen=True)
class Answer:
    """One image.

    Attributes:
        number, reference: of the images that were compared.
        status, reason: of the pose.
        right: whether that is what the motion is called.
        rotation_deg, direction_deg: errors; NaN where the pose claims none.
        rotation_sigmas, direction_sigmas: Mahalanobis distances to the truth; 0 where nothing is claimed.
        place: (4, 4) body in the odom frame, in units of the first translation; None where there is no odometry.
    """

    number: int
    reference: int
    status: PoseStatus
    reason: str
    right: bool
    rotation_deg: float
    direction_deg: float
    rotation_sigmas: float
    direction_sigmas: float
    place: FloatArray | None

    @property
    def wrong(self) -> bool:
        """Whether a pose was given whose covariance excludes the truth."""
        return max(self.rotation_sigmas, self.direction_sigmas) > WRONG

    @property
    def warned(self) -> bool:
        """Whether it was said that there are two motions, of which the pose holds one."""
        return "second motion" in self.reason


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
        right = is_right(film, i, track.pose)
        place = None if placed is None else placed.pose
        answers.append(Answer(i, reference, track.pose.status, track.pose.reason, right, *errors, place))
    return answers


def is_right(film: Film, number: int, pose: RelativePose) -> bool:
    """Whether the status is what the motion is called."""
    if film.rivals is not None:
        return "second motion" in pose.reason or not pose.status.has_rotation
    hidden = bool(film.dark) and film.dark[number]
    return pose.status in (_NOTHING if hidden else RIGHT[film.kind])


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
    # a direction where nothing moved is made up: far off, unless it is said to be unknown
    invented = float(np.sqrt(1 / np.trace(pose.covariance[:3, :3]))) if pose.status.has_translation else 0.0
    made_up = 90.0 if pose.status.has_translation else float("nan")
    return float(np.degrees(np.linalg.norm(turned))), made_up, distance, invented


@dataclass
class Row:
    """All answers to films of one kind.

    Attributes:
        still_moved: greatest length of the odometry where the camera stood still.
        recovered: images from the first that is not dark to the first pose, one number a film.
    """

    kind: str
    answers: list[Answer] = field(default_factory=list)
    still_moved: float = 0.0
    recovered: list[int] = field(default_factory=list)

    def add(self, film: Film, answers: Sequence[Answer]) -> None:
        """One film."""
        self.answers += answers
        if film.kind == "still":
            ways = [float(np.linalg.norm(one.place[:3, 3])) for one in answers if one.place is not None]
            self.still_moved = max([self.still_moved, *ways])
        if any(film.dark):
            after = [one for one in answers if one.number > max(np.flatnonzero(film.dark))]
            posed = [i for i, one in enumerate(after, start=1) if one.status.has_rotation]
            self.recovered.append(posed[0] if posed else len(after) + 1)

    def record(self) -> dict[str, Any]:
        """For JSON."""
        claims = [one for one in self.answers if one.status.has_rotation]
        wrong = [one for one in claims if one.wrong]
        return {
            "images": len(self.answers),
            "status": dict(Counter(one.status.name for one in self.answers).most_common()),
            "right": float(np.mean([one.right for one in self.answers])),
            "poses": len(claims),
            "wrong": len(wrong),
            "wrong_and_unwarned": sum(not one.warned for one in wrong),
            "rotation_deg": _median([one.rotation_deg for one in claims]),
            "direction_deg": _median([one.direction_deg for one in claims]),
            "still_moved": self.still_moved,
            "recovered_after": max(self.recovered, default=None),
        }


def run(
    kinds: Sequence[str],
    seeds: Sequence[int],
    matcher: FeatureMatcher,
    textures: Sequence[ByteArray] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Row]:
    """Every kind with every seed; every second film is covered with the photographs ``textures``."""
    rows = []
    for number, kind in enumerate(kinds):
        row = Row(kind)
        for k, seed in enumerate(seeds):
            film = render(kind, seed, textures=textures if seed % 2 else ())
            row.add(film, walk(film, matcher))
            progress(number * len(seeds) + k + 1, len(kinds) * len(seeds))
        rows.append(row)
    return rows


def _median(values: Sequence[float]) -> float | None:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.median(finite)) if finite else None
