"""The student beside the teacher: how far apart they are on the same two images, and where the student is wrong.

The teacher's pose in metres and the depth of the reference say where any point of it is seen in the current image. So
every match of the student whose start has depth is judged by itself, whether the teacher has one there or not:

* It is *right* where its end lies within ``limit_px`` of that place.
* It is not judged where the place is not seen: outside the image, or where depth of the current image, which is there
  or is not known, differs from that of the point (it is occluded, moved, or the pose is wrong).
* It is not judged where the place is not known well enough: its standard deviation by the depth's noise and the
  pose's covariance is more than half of ``limit_px``.

Depth, calibration and pose err too, so the teacher's matches are judged in the same way: what counts is how often the
student is right beside how often the teacher is.

The teacher is no truth where it has no pose, few inliers or two motions, or where its own points have another depth in
the current image: then there is no verdict, and the reason says why. What it errs in common with the student, which
looks at the same pixels, is not seen.

    >>> check = Shadow(student, config).check(track)
    >>> check.disagreement, check.right
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from stfm_ros.config import ShadowConfig
from stfm_ros.errors import ConfigError
from stfm_ros.geometry import DepthNoise, estimate_metric_pose, estimate_relative_pose, normalise_points, project_points
from stfm_ros.geometry.metric import EDGE, NOISE, depth_at
from stfm_ros.types import BoolArray, Camera, Float32Array, FloatArray, Matches, PoseStatus, RelativePose

if TYPE_CHECKING:
    from stfm_ros.config import AppConfig
    from stfm_ros.matcher import Matcher
    from stfm_ros.tracker import Track

BINS = 10  #: of the confidence
CELL_PX = 8.0  #: of the network's input
NEAR_PX = 3 * CELL_PX  #: likewise: what is so near a match of the student is in its view
#: standard deviations by which two depths of one point may differ, and which a translation needs for a direction
SIGMAS = 3.0
#: the teacher's pose is not believed where less than this share of its own points keep their depth in image 1
AGREEING = 0.5
_NAN = float("nan")


class Verdict(IntEnum):
    """Whether the teacher can be taken for the truth; equals the constants of ``msg/StudentCheck.msg``."""

    JUDGED = 0
    NO_REFERENCE = 1
    NO_TEACHER_POSE = 2
    FEW_INLIERS = 3
    TWO_MOTIONS = 4
    DEPTH_DISAGREES = 5


@dataclass(frozen=True)
class Truth:
    """What the teacher knows of two images.

    Attributes:
        matches, pose: of the teacher.
        camera0, camera1: calibrations; None where there is none, and then no pose.
        depth0, depth1: (H, W) float32 metres along the optical axis, pixel-aligned with the image as received, 0 where
            there is none; None where there is no depth of an image at all.
        noise: of the depth.
    """

    matches: Matches
    pose: RelativePose
    camera0: Camera | None
    camera1: Camera | None
    depth0: Float32Array | None
    depth1: Float32Array | None
    noise: DepthNoise = NOISE


class Confidences(NamedTuple):
    """Of judged matches by confidence, in :data:`BINS` equal bins from 0 to 1.

    Attributes:
        judged, right: (10,) int64 numbers.
        total: (10,) float64 sums of the confidence.
    """

    judged: NDArray[np.int64]
    right: NDArray[np.int64]
    total: FloatArray

    @staticmethod
    def of(confidence: Float32Array, right: BoolArray) -> Confidences:
        """Counts of matches (n,)."""
        index = np.clip((confidence * BINS).astype(np.int64), 0, BINS - 1)
        judged, correct = (np.bincount(of, minlength=BINS) for of in (index, index[right]))
        return Confidences(judged, correct, np.asarray(np.bincount(index, confidence, BINS), np.float64))

    @staticmethod
    def none() -> Confidences:
        """No matches at all."""
        return Confidences.of(np.zeros(0, np.float32), np.zeros(0, np.bool_))


@dataclass(frozen=True)
class PoseDifference:
    """Of the student's pose from the teacher's; NaN where it is not known. See ``msg/StudentCheck.msg``.

    Attributes:
        rotation_deg, direction_deg: angles between rotations and between directions of translation.
        length_m: by how much the student's translation is longer.
        rotation_nees, translation_nees: squared, in units of both covariances together.
    """

    rotation_deg: float = _NAN
    direction_deg: float = _NAN
    length_m: float = _NAN
    rotation_nees: float = _NAN
    translation_nees: float = _NAN


@dataclass(frozen=True)
class StudentCheck:
    """A student's matches and pose beside the teacher's, of one pair of images.

    Fields are those of ``msg/StudentCheck.msg``, which says what each is. NaN is what is not known.
    """

    verdict: Verdict
    reason: str
    disagreement: float
    teacher_matches: int
    teacher_inliers: int
    student_matches: int
    student_inliers: int
    limit_px: float
    teacher_status: PoseStatus
    student_status: PoseStatus
    common: float = _NAN
    common_px: float = _NAN
    judged: int = 0
    right: float = _NAN
    error_px: float = _NAN
    teacher_right: float = _NAN
    teacher_error_px: float = _NAN
    covered: float = _NAN
    within_1_sigma: float = _NAN
    within_2_sigma: float = _NAN
    confidences: Confidences = field(default_factory=Confidences.none)
    pose: PoseDifference = PoseDifference()
    timings_ms: dict[str, float] = field(default_factory=dict)

    @property
    def as_right(self) -> float:
        """How often the student is right, as a share of how often the teacher is, 1 at most."""
        return _as_right(self.right, self.teacher_right)


def check_student(
    truth: Truth, matches: Matches, pose: RelativePose, config: ShadowConfig, scale: float = 1.0
) -> StudentCheck:
    """Judge a student's matches and pose of the two images of ``truth``.

    Args:
        matches, pose: of the student.
        scale: pixels of image 1 for one pixel of the student's input: limits are in pixels of the input.
    """
    limit_px = config.limit_px * scale
    of_teacher, of_student = (_places(truth, found) for found in (truth.matches, matches))
    verdict, reason = _verdict(truth, of_teacher, config)
    counts: dict[str, Any] = {
        "teacher_matches": len(truth.matches),
        "teacher_inliers": int(truth.pose.inliers.sum()),
        "student_matches": len(matches),
        "student_inliers": int(pose.inliers.sum()),
        "limit_px": limit_px,
        "teacher_status": truth.pose.status,
        "student_status": pose.status,
    }
    if verdict is not Verdict.JUDGED:
        return StudentCheck(verdict, reason, _NAN, **counts)
    common, common_px = _common(truth, matches, limit_px, CELL_PX / 2 * scale)
    judged = _judge(of_student, matches, limit_px)
    teacher = _judge(of_teacher, truth.matches, limit_px)
    covered = _covered(teacher, judged, NEAR_PX * scale)
    if not pose.status.has_rotation:
        disagreement, reason = 1.0, f"the student has no pose: {pose.reason}"
    else:
        found = common if np.isnan(covered) else covered
        disagreement = 1 - float(np.nanmin([found, _as_right(judged.right, teacher.right)]))
        reason = judged.why_none
    return StudentCheck(
        verdict,
        reason,
        disagreement,
        **counts,
        common=common,
        common_px=common_px,
        judged=len(judged.errors_px),
        right=judged.right,
        error_px=_median(judged.errors_px),
        teacher_right=teacher.right,
        teacher_error_px=_median(teacher.errors_px),
        covered=covered,
        within_1_sigma=judged.within(1),
        within_2_sigma=judged.within(2),
        confidences=Confidences.of(judged.confidence, judged.is_right),
        pose=compare_poses(truth.pose, pose),
    )


def compare_poses(teacher: RelativePose, student: RelativePose) -> PoseDifference:
    """How far the student's pose is from the teacher's; both errors are taken to be independent."""
    if not (teacher.status.has_rotation and student.status.has_rotation):
        return PoseDifference()
    turned = cv2.Rodrigues(student.R.T @ teacher.R)[0].ravel()  # of camera 1 in camera 0, about its fixed axes
    rotation = float(np.degrees(np.linalg.norm(turned)))
    rotation_nees = _nees(turned, teacher.covariance[3:, 3:] + student.covariance[3:, 3:])
    direction = length = translation_nees = _NAN
    positions = [pose.camera1_in_camera0[1] for pose in (teacher, student)]
    lengths = [float(np.linalg.norm(position)) for position in positions]
    if _has_direction(teacher) and student.status.has_translation and lengths[1] > 0:
        units = [position / size for position, size in zip(positions, lengths)]
        covariance = sum(pose.covariance[:3, :3] / size**2 for pose, size in zip((teacher, student), lengths))
        tangent = np.linalg.svd(units[0][None])[2][1:]
        sideways = tangent @ units[1]
        sine = float(np.linalg.norm(sideways))
        angle = float(np.arctan2(sine, units[0] @ units[1]))
        direction = float(np.degrees(angle))
        towards = sideways / sine if sine > 1e-12 else np.array([1.0, 0.0])  # the same, or the opposite
        translation_nees = _nees(angle * towards, tangent @ covariance @ tangent.T)
    if teacher.metric and student.metric:
        length = lengths[1] - lengths[0]
        moved = positions[1] - positions[0]
        translation_nees = _nees(moved, teacher.covariance[:3, :3] + student.covariance[:3, :3])
    return PoseDifference(rotation, direction, length, rotation_nees, translation_nees)


def check_is_student(student: Matcher) -> None:
    """Refuse a model that takes depth: a student works without.

    Raises:
        ConfigError: it does.
    """
    if getattr(student, "takes_depth", False):
        raise ConfigError(
            f"shadow.model names {student.model_name}, which takes colour and depth: expected what runs on a robot "
            "without depth, an RGB model; name a student, e.g. default"
        )


class Shadow:
    """Runs a student on the images of the teacher's tracks. Each image is encoded once.

    Args:
        student: an RGB model.
        config: may be replaced between two tracks.
        shadow: its settings; likewise.

    Raises:
        ConfigError: the student is an RGB-D model.
    """

    def __init__(self, student: Matcher, config: AppConfig, shadow: ShadowConfig) -> None:
        check_is_student(student)
        self.student = student
        self.config = config
        self.shadow = shadow
        self._features: dict[int, Any] = {}  # by stamp, of the last pair
        self._turn = 0

    def check(self, track: Track) -> StudentCheck | None:
        """The student on the two images of a track; None where it is not their turn (``shadow.every``)."""
        self._turn += 1
        if self._turn % self.shadow.every:
            return None
        clock = time.perf_counter()
        truth = truth_of(track, self.config)
        if track.pose.status is PoseStatus.NO_REFERENCE:
            matches = Matches.empty()
            # anew, since a recording that starts again may repeat stamps
            self._features = {track.stamp_ns: self.student.features(track.image1)}
        else:
            of_both = {
                track.reference_stamp_ns: self._encode(track.reference_stamp_ns, track.image0),
                track.stamp_ns: self._encode(track.stamp_ns, track.image1),
            }
            matches = self.student.match_features(of_both[track.reference_stamp_ns], of_both[track.stamp_ns])
            self._features = of_both
        matched = time.perf_counter()
        pose = self._pose(truth, matches)
        scale = max(track.size1[0] / self.student.width, track.size1[1] / self.student.height)
        check = check_student(truth, matches, pose, self.shadow, scale)
        check.timings_ms.update(student=1e3 * (matched - clock), check=1e3 * (time.perf_counter() - matched))
        return check

    def _encode(self, stamp_ns: int, image: Any) -> Any:
        kept = self._features.get(stamp_ns)
        return self.student.features(image) if kept is None else kept

    def _pose(self, truth: Truth, matches: Matches) -> RelativePose:
        cameras = truth.camera0, truth.camera1
        if self.shadow.scale == "depth":
            return estimate_metric_pose(matches, *cameras, truth.depth0, self.config.pose, truth.noise)
        return estimate_relative_pose(matches, *cameras, self.config.pose)


def truth_of(track: Track, config: AppConfig) -> Truth:
    """What the teacher's track says of its two images."""
    noise = config.odometry
    return Truth(
        track.matches,
        track.pose,
        track.camera0 or track.camera,
        track.camera,
        track.depth0,
        track.depth1,
        DepthNoise(noise.depth_noise_m, noise.depth_noise_share, noise.depth_noise_quadratic),
    )


# -- whether the teacher is to be believed -----------------------------------------------------------


def _verdict(truth: Truth, places: _Places | None, config: ShadowConfig) -> tuple[Verdict, str]:
    pose, inliers = truth.pose, int(truth.pose.inliers.sum())
    if pose.status is PoseStatus.NO_REFERENCE:
        return Verdict.NO_REFERENCE, pose.reason
    if not pose.status.has_rotation:
        return Verdict.NO_TEACHER_POSE, f"the teacher has no pose: {pose.reason}"
    if pose.status is PoseStatus.TWO_MOTIONS:
        return Verdict.TWO_MOTIONS, f"the teacher sees two motions: {pose.reason}"
    if inliers < config.min_inliers:
        why = f"{inliers} of the teacher's matches agree with its pose, fewer than {config.min_inliers}"
        return Verdict.FEW_INLIERS, f"{why} (shadow.min_inliers)"
    if places is not None:
        share = _share(places.same_surface[pose.inliers & (places.depth1 > 0)])
        if share < AGREEING:
            why = f"{100 * share:.0f} % of the teacher's points keep their depth in the current image by its pose"
            return Verdict.DEPTH_DISAGREES, f"{why}, fewer than {100 * AGREEING:.0f} %: pose or depth is wrong"
    return Verdict.JUDGED, ""


# -- the matches ---------------------------------------------------------------------------------------


def _common(truth: Truth, student: Matches, limit_px: float, half_cell_px: float) -> tuple[float, float]:
    """Share of the teacher's inliers that the student has too, and the median distance of their ends."""
    teacher = truth.matches.take(truth.pose.inliers)
    if not len(student):
        return 0.0, _NAN
    nearest = np.array([near.trainIdx for near in _nearest(teacher.keypoints0, student.keypoints0)], np.int64)
    between = student.keypoints0[nearest] - teacher.keypoints0
    same_cell = np.abs(between).max(axis=1) <= half_cell_px
    apart = np.linalg.norm(student.keypoints1[nearest] - teacher.keypoints1 - between, axis=1)
    common = same_cell & (apart < limit_px)
    return _share(common), _median(apart[common])


@dataclass(frozen=True)
class _Places:
    """Where the teacher's pose and the depth of image 0 put points in image 1.

    Attributes:
        pixels: (n, 2) of image 1; NaN where it is not known.
        covariance: (n, 2, 2) of them, pixels^2: by the depth's noise and the pose's covariance.
        depth1: (n,) metres, of image 1 there; 0 where there is none.
        same_surface: (n,) whether that is the point's, as far as the depth's noise lets see.
        seen: (n,) whether the point is seen there: so says depth of image 1, or there is none at all.
    """

    pixels: FloatArray
    covariance: FloatArray
    depth1: FloatArray
    same_surface: BoolArray
    seen: BoolArray

    @staticmethod
    def of(truth: Truth, keypoints0: Float32Array) -> _Places:
        assert truth.camera0 is not None and truth.camera1 is not None and truth.depth0 is not None
        camera1 = truth.camera1
        R, position = truth.pose.camera1_in_camera0
        depth = depth_at(truth.depth0, keypoints0.astype(np.float64))
        rays = normalise_points(keypoints0, truth.camera0)
        rays = np.column_stack([rays, np.ones(len(rays))])
        known = (depth > 0) & np.isfinite(rays).all(axis=1)
        depth, rays = np.where(known, depth, 1.0), np.where(known[:, None], rays, (0.0, 0.0, 1.0))

        def seen(points: FloatArray, turn: FloatArray, step: FloatArray) -> tuple[FloatArray, FloatArray]:
            moved = (points - position - step) @ np.asarray(cv2.Rodrigues(turn)[0]) @ R
            return project_points(moved, camera1), moved[:, 2]

        still, points = np.zeros(3), rays * depth[:, None]
        pixels, depth_seen = seen(points, still, still)
        pixels[~known] = np.nan
        sigma = truth.noise.sigma_m(depth)
        along = seen(points + rays * sigma[:, None], still, still)[0] - pixels
        covariance = along[:, :, None] * along[:, None] + _by_pose(truth.pose, pixels, lambda *of: seen(points, *of)[0])
        inside = ((pixels >= -0.5) & (pixels < (camera1.width - 0.5, camera1.height - 0.5))).all(axis=1)
        pixels[~inside] = np.nan
        there = np.zeros(len(pixels))
        if truth.depth1 is not None:
            there[inside] = depth_at(truth.depth1, pixels[inside])
        room = EDGE * depth_seen + SIGMAS * np.hypot(truth.noise.sigma_m(there), sigma)
        same: BoolArray = np.asarray((there > 0) & (np.abs(there - depth_seen) < room))
        return _Places(pixels, covariance, there, same, inside & (same | (truth.depth1 is None)))


def _places(truth: Truth, matches: Matches) -> _Places | None:
    """Of matches, where the teacher says in metres how the camera moved, and depth where the points are."""
    known = truth.pose.metric or truth.pose.status is PoseStatus.STATIC
    if not known or truth.depth0 is None or truth.camera0 is None or truth.camera1 is None:
        return None
    return _Places.of(truth, matches.keypoints0)


def _by_pose(
    pose: RelativePose, pixels: FloatArray, seen: Callable[[FloatArray, FloatArray], FloatArray]
) -> FloatArray:
    """(n, 2, 2) what the pose's covariance adds to that of places; of the translation only where it has metres."""
    steps = 1e-4 * np.eye(6)
    jacobian = np.stack([(seen(step[3:], step[:3]) - pixels) / 1e-4 for step in steps], axis=2)  # (n, 2, 6)
    covariance = pose.covariance if pose.metric else np.kron(np.diag([0.0, 1.0]), np.ones((3, 3))) * pose.covariance
    by_pose: FloatArray = jacobian @ covariance @ jacobian.transpose(0, 2, 1)
    return by_pose


@dataclass(frozen=True)
class _Judged:
    """The matches of one that can be judged.

    Attributes:
        starts: (n, 2) float32 pixels of image 0.
        errors_px: (n,) distances from where they ought to end.
        whitened: (n, 2) the same by axis, in standard deviations.
        confidence: (n,).
        limit_px: below which one is right.
        why_none: where there are none; empty otherwise.
    """

    starts: Float32Array
    errors_px: FloatArray
    whitened: FloatArray
    confidence: Float32Array
    limit_px: float
    why_none: str = ""

    @property
    def is_right(self) -> BoolArray:
        return np.asarray(self.errors_px < self.limit_px)

    @property
    def right(self) -> float:
        return _share(self.is_right)

    def within(self, sigmas: float) -> float:
        """Share of the errors of right matches, by axis."""
        return _share(np.abs(self.whitened[self.is_right]) < sigmas)


def _judge(places: _Places | None, matches: Matches, limit_px: float) -> _Judged:
    """Matches by where they ought to end."""
    if places is None:
        why = "single matches cannot be judged: the teacher's pose is not in metres, or there is no depth"
        none = Matches.empty()
        return _Judged(none.keypoints0, np.zeros(0), np.zeros((0, 2)), none.confidence, limit_px, why)
    spread = places.covariance[:, 0, 0] + places.covariance[:, 1, 1]
    known = places.seen & (np.nan_to_num(spread, nan=np.inf) < (limit_px / 2) ** 2)
    matches = matches.take(known)
    errors = matches.keypoints1 - places.pixels[known]
    claimed = matches.sigma[:, None, None].astype(np.float64) ** 2 * np.eye(2) + places.covariance[known]
    whitened = np.linalg.solve(np.linalg.cholesky(claimed), errors[:, :, None])[:, :, 0]
    why = "" if len(matches) else "none of the student's matches starts where there is depth and ends in view"
    distances = np.linalg.norm(errors, axis=1)
    return _Judged(matches.keypoints0, distances, whitened, matches.confidence, limit_px, why)


def _covered(teacher: _Judged, student: _Judged, near_px: float) -> float:
    """Share of the teacher's right matches that have a right one of the student near them."""
    wanted, there = teacher.starts[teacher.is_right], student.starts[student.is_right]
    if not len(wanted) or not len(student.starts):
        return _NAN
    if not len(there):
        return 0.0
    return _share(np.array([near.distance <= near_px for near in _nearest(wanted, there)]))


def _nearest(points: Float32Array, among: Float32Array) -> Sequence[cv2.DMatch]:
    """Of each point (n, 2) the nearest of others (m, 2)."""
    return cv2.BFMatcher(cv2.NORM_L2).match(points, among)


# -- numbers -------------------------------------------------------------------------------------------


def _has_direction(pose: RelativePose) -> bool:
    """Whether a translation is longer than its standard deviations."""
    if not pose.status.has_translation:
        return False
    deviation = float(np.sqrt(np.linalg.eigvalsh(pose.covariance[:3, :3])[-1]))
    return float(np.linalg.norm(pose.t)) > SIGMAS * deviation


def _nees(error: FloatArray, covariance: FloatArray) -> float:
    return float(error @ np.linalg.solve(covariance + 1e-18 * np.eye(len(error)), error))


def _share(flags: BoolArray) -> float:
    return float(flags.mean()) if flags.size else _NAN


def _as_right(student: float, teacher: float) -> float:
    return min(student / teacher, 1.0) if np.isfinite(student) and teacher > 0 else _NAN


def _median(values: FloatArray | Float32Array) -> float:
    return float(np.median(values)) if len(values) else _NAN
