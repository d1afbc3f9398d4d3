"""The student beside the teacher, before scenes whose geometry is known exactly."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sequences import OrbMatcher, rgbd_folder
from test_cli import FIELDS, check_documented, stfm
from test_geometry import CAMERAS as LARGE

from stfm_ros import messages
from stfm_ros.bag_types import typestore
from stfm_ros.config import AppConfig, ShadowConfig
from stfm_ros.errors import ConfigError
from stfm_ros.geometry import DepthNoise, no_pose, normalise_points, project_points
from stfm_ros.import_rgbd import import_rgbd
from stfm_ros.shadow import Shadow, StudentCheck, Truth, Verdict, check_student, compare_poses
from stfm_ros.shadow_summary import summarise
from stfm_ros.tracker import Track
from stfm_ros.types import Camera, Float32Array, FloatArray, Matches, PoseStatus, RelativePose

__all__ = ["stfm"]  # the fixture

HALF = np.diag([0.5, 0.5, 1.0])
CAMERAS = {name: Camera(320, 240, HALF @ camera.K, name, camera.D) for name, camera in LARGE.items()}
CONFIG = ShadowConfig()
EXACT = DepthNoise(1e-5, 0.0)
TINY = np.diag([1e-6] * 6) ** 2  # a thousandth of a millimetre and of a mrad
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Wall:
    """A slanted wall seen by a camera before and after a motion, and every eighth pixel of it with its true place."""

    truth: Truth
    camera: Camera

    @property
    def true(self) -> Matches:
        return self.truth.matches


@cache
def rays_of(model: str) -> FloatArray:
    """(240, 320, 3) of every pixel; NaN where there is none."""
    x, y = np.meshgrid(np.arange(320.0), np.arange(240.0))
    rays = normalise_points(np.column_stack([x.ravel(), y.ravel()]), CAMERAS[model])
    return np.column_stack([rays, np.ones(len(rays))]).reshape(240, 320, 3)


def depth_of_wall(rays: FloatArray, normal: FloatArray, distance: float) -> Float32Array:
    """Of the plane ``normal X = distance``; 0 where it is not seen."""
    with np.errstate(invalid="ignore", divide="ignore"):
        depth = distance / (rays @ normal)
    return np.where((depth > 0.2) & (depth < 50), depth, 0.0).astype(np.float32)


def wall(seed: int = 0, model: str = "none", turn_deg: float = 5.0, baseline: float = 0.2, model1: str = "") -> Wall:
    rng, camera, camera1 = np.random.default_rng(seed), CAMERAS[model], CAMERAS[model1 or model]
    axis, position = rng.normal(size=3), rng.normal(size=3)
    R = np.asarray(cv2.Rodrigues(axis / np.linalg.norm(axis) * np.radians(turn_deg))[0])
    t = -R @ (position * baseline / np.linalg.norm(position))
    normal = np.array([*rng.uniform(-0.3, 0.3, 2), 1.0])
    depth0 = depth_of_wall(rays_of(model), normal, 3.0)
    depth1 = depth_of_wall(rays_of(model1 or model), R @ normal, 3.0 + float((R @ normal) @ t))
    x, y = np.meshgrid(np.arange(4.0, 320, 8), np.arange(4.0, 240, 8))
    starts = np.column_stack([x.ravel(), y.ravel()])
    rows, columns = starts[:, 1].astype(int), starts[:, 0].astype(int)
    points = rays_of(model)[rows, columns] * depth0[rows, columns][:, None]
    with np.errstate(invalid="ignore"):
        ends = project_points(np.nan_to_num(points) @ R.T + t, camera1)
        shown = (depth0[rows, columns] > 0) & (ends > 5).all(axis=1) & (ends < (314, 234)).all(axis=1)
    starts, ends = starts[shown], ends[shown]
    n = len(starts)
    assert n > 100
    sigma = np.full(n, 0.5, np.float32)
    confidence = rng.uniform(0.2, 1.0, n).astype(np.float32)
    matches = Matches(starts.astype(np.float32), ends.astype(np.float32), confidence, sigma)
    pose = RelativePose(R, t, TINY, np.ones(n, np.bool_), PoseStatus.OK, "true", metric=True)
    return Wall(Truth(matches, pose, camera, camera1, depth0, depth1, EXACT), camera)


def moved(matches: Matches, by: Any) -> Matches:
    return replace(matches, keypoints1=(matches.keypoints1 + np.asarray(by)).astype(np.float32))


# -- single matches --------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", CAMERAS)
@settings(max_examples=8)
@given(seed=st.integers(0, 10_000), turn=st.floats(0.0, 15.0), baseline=st.floats(0.01, 0.4))
def test_a_perfect_student_is_told_so(model: str, seed: int, turn: float, baseline: float) -> None:
    scene = wall(seed, model, turn, baseline)
    check = check_student(scene.truth, scene.true, scene.truth.pose, CONFIG)
    assert check.verdict is Verdict.JUDGED and check.reason == ""
    assert check.common == 1.0 and check.common_px < 1e-4
    assert check.right == check.teacher_right and check.error_px == check.teacher_error_px
    assert check.right == 1.0 and check.error_px < 5e-3  # of single precision, and of the lens' inverse
    assert check.judged > 0.9 * len(scene.true)
    assert check.disagreement < 1e-9
    assert check.within_1_sigma == check.within_2_sigma == 1.0
    assert max(check.pose.rotation_deg, check.pose.direction_deg, abs(check.pose.length_m)) < 1e-5


def test_each_image_has_its_own_calibration() -> None:
    scene = wall(1, "none", 3.0, model1="equidistant")
    check = check_student(scene.truth, scene.true, scene.truth.pose, CONFIG)
    assert check.right == 1.0 and check.error_px < 0.01 and check.judged > 100


@settings(max_examples=15)
@given(
    off=st.floats(0.0, 12.0),
    angle=st.floats(0.0, 6.28),
    every=st.integers(1, 4),
    scale=st.sampled_from([0.5, 1.0, 2.0]),
)
def test_a_student_that_is_off_by_some_pixels_is_told_by_how_many(
    off: float, angle: float, every: int, scale: float
) -> None:
    scene = wall(3)
    wrong = np.arange(len(scene.true)) % every == 0
    student = moved(scene.true, wrong[:, None] * off * np.array([np.cos(angle), np.sin(angle)]))
    check = check_student(scene.truth, student, scene.truth.pose, CONFIG, scale)
    assert check.limit_px == 3.0 * scale
    if abs(off - check.limit_px) < 0.01:
        return
    expected = 1.0 if off < check.limit_px else 1 - wrong.mean()
    assert check.common == pytest.approx(expected, abs=1e-9)
    assert check.right == pytest.approx(expected, abs=0.02)  # a few are not judged
    assert check.disagreement == pytest.approx(1 - min(check.common, check.right))
    assert check.error_px == pytest.approx(off if every == 1 else 0.0 if every > 2 else check.error_px, abs=0.01)


def test_an_error_is_measured_behind_a_lens_that_bends() -> None:
    """Without the distortion of both images the places would be wrong by many pixels."""
    scene = wall(1, "plumb_bob", 8.0)
    straight = Camera(320, 240, scene.camera.K)
    assert check_student(scene.truth, scene.true, scene.truth.pose, CONFIG).right == 1.0
    pinhole = replace(scene.truth, camera0=straight, camera1=straight, depth1=None)
    assert check_student(pinhole, scene.true, scene.truth.pose, CONFIG).right < 0.9


def test_what_depth_and_calibration_get_wrong_is_not_laid_at_the_students_door() -> None:
    """A lens that is calibrated badly makes the matches of both wrong, and alike."""
    scene = wall(1, "plumb_bob", 8.0)
    bad = replace(scene.camera, D=0.5 * scene.camera.D)
    truth = replace(scene.truth, camera0=bad, camera1=bad)
    alike = check_student(truth, scene.true, truth.pose, CONFIG)
    assert alike.right == alike.teacher_right < 0.95 and alike.error_px == alike.teacher_error_px > 1.0
    assert alike.as_right == 1.0 and alike.disagreement == 0.0
    half = moved(scene.true, 10.0 * (np.arange(len(scene.true)) % 2)[:, None])
    worse = check_student(truth, half, truth.pose, CONFIG)
    assert worse.as_right == pytest.approx(0.5, abs=0.1) and worse.disagreement == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(("claimed", "once", "twice"), [(0.7, 0.683, 0.954), (0.35, 0.383, 0.683), (1.4, 0.954, 1.0)])
def test_sigma_is_held_to_what_it_claims_an_axis(claimed: float, once: float, twice: float) -> None:
    scene = wall(5)
    noise = np.random.default_rng(1).normal(0, 0.7, (len(scene.true), 2))
    student = replace(moved(scene.true, noise), sigma=np.full(len(scene.true), claimed, np.float32))
    check = check_student(scene.truth, student, scene.truth.pose, CONFIG)
    assert check.within_1_sigma == pytest.approx(once, abs=0.02)
    assert check.within_2_sigma == pytest.approx(twice, abs=0.02)


def test_what_depth_does_not_know_is_not_laid_at_the_students_door() -> None:
    """A student that is exact, and says so, keeps its word where depth is wrong by as much as is claimed of it."""
    scene = wall(3, baseline=0.4)
    sure = replace(scene.true, sigma=np.full(len(scene.true), 0.01, np.float32))
    noise = 0.02 * np.random.default_rng(0).normal(size=scene.truth.depth0.shape)
    noisy = replace(scene.truth, depth0=(scene.truth.depth0 * (1 + noise)).astype(np.float32))
    claimed, unclaimed = (
        check_student(replace(noisy, noise=DepthNoise(0.0, share)), sure, scene.truth.pose, CONFIG).within_1_sigma
        for share in (0.02, 0.001)
    )
    assert claimed > 0.683 - 0.04  # along the epipolar lines; across them there is no error
    assert unclaimed < 0.5


def test_what_the_teachers_pose_does_not_know_is_not_laid_at_the_students_door() -> None:
    rng, scene = np.random.default_rng(0), wall(3)
    some = scene.true.take(np.arange(0, len(scene.true), 100))
    sure = replace(some, sigma=np.full(len(some), 0.01, np.float32))
    spread = (
        np.diag([0.003] * 3 + [0.002] * 3) @ np.linalg.qr(rng.normal(size=(6, 6)))[0] @ np.diag([1, 2, 1, 0.2, 1, 0.1])
    )
    within = []
    for error in rng.normal(size=(200, 6)) @ spread.T:
        R, position = scene.truth.pose.camera1_in_camera0
        R, position = np.asarray(cv2.Rodrigues(error[3:])[0]) @ R, position + error[:3]
        teacher = replace(scene.truth.pose, R=R.T, t=-R.T @ position, covariance=spread @ spread.T)
        truth = replace(scene.truth, pose=teacher)
        within.append(check_student(truth, sure, teacher, replace(CONFIG, limit_px=6.0)).within_1_sigma)
    assert np.mean(within) == pytest.approx(0.683, abs=0.04)


def test_what_is_occluded_or_has_no_depth_is_not_judged() -> None:
    scene = wall(2)
    student = moved(scene.true, (20.0, 0.0) * (scene.true.keypoints1[:, :1] < 160))  # wrong in the left half
    assert check_student(scene.truth, student, scene.truth.pose, CONFIG).right < 0.7
    for change in (-1.0, None):  # something stands before the wall; no depth there
        depth1 = scene.truth.depth1.copy()
        depth1[:, :165] = 0.0 if change is None else depth1[:, :165] + change
        check = check_student(replace(scene.truth, depth1=depth1), student, scene.truth.pose, CONFIG)
        assert check.right == 1.0
        assert check.judged == pytest.approx((scene.true.keypoints1[:, 0] > 165).sum(), rel=0.03)
    without = check_student(replace(scene.truth, depth1=None), student, scene.truth.pose, CONFIG)
    assert without.right == pytest.approx((scene.true.keypoints1[:, 0] >= 160).mean(), abs=0.02)


def test_a_place_that_is_not_known_well_is_not_judged() -> None:
    scene = wall(2)
    doubtful = replace(scene.truth.pose, covariance=np.diag([0.0] * 3 + [np.radians(1.0) ** 2] * 3))  # 9 px
    check = check_student(replace(scene.truth, pose=doubtful), scene.true, scene.truth.pose, CONFIG)
    assert check.judged == 0 and np.isnan(check.right) and check.common == 1.0 and check.disagreement == 0.0
    assert check.reason == "none of the student's matches starts where there is depth and ends in view"


def test_a_student_on_a_coarser_grid_has_the_cells_that_its_own_hold() -> None:
    scene = wall(4)
    starts = scene.true.keypoints0
    coarse = scene.true.take((starts[:, 0] % 16 == 4) & (starts[:, 1] % 16 == 4))
    centred = replace(coarse, keypoints0=coarse.keypoints0 + 4, keypoints1=coarse.keypoints1 + 4)
    assert check_student(scene.truth, centred, scene.truth.pose, CONFIG, scale=2.0).common > 0.95
    fewer = check_student(scene.truth, coarse, scene.truth.pose, CONFIG)
    assert fewer.common == pytest.approx(0.25, abs=0.02)
    assert fewer.covered == 1.0 and fewer.disagreement == 0.0  # fewer, in the same places


def test_a_student_that_sees_half_of_the_picture_disagrees_by_the_other() -> None:
    scene = wall(4)
    half = scene.true.keypoints0[:, 0] < np.median(scene.true.keypoints0[:, 0])
    check = check_student(scene.truth, scene.true.take(half), scene.truth.pose, CONFIG)
    assert check.right == 1.0 and check.common == pytest.approx(0.5, abs=0.02)
    assert 0.5 < check.covered < 0.65  # and what is near it
    assert check.disagreement == pytest.approx(1 - check.covered)
    wrong = check_student(scene.truth, moved(scene.true, (9.0, 0.0)), scene.truth.pose, CONFIG)
    assert wrong.covered == wrong.right == 0.0 and wrong.disagreement == 1.0


def test_without_any_matches_there_is_nothing_in_common() -> None:
    scene = wall(4)
    assert check_student(scene.truth, Matches.empty(), scene.truth.pose, CONFIG).common == 0.0


# -- poses -------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), turn=st.floats(0.01, 30.0), longer=st.floats(-0.1, 0.5))
def test_differences_of_poses_are_those_that_were_made(seed: int, turn: float, longer: float) -> None:
    rng, pose = np.random.default_rng(seed), wall(0).truth.pose
    axis = rng.normal(size=3)
    by = np.asarray(cv2.Rodrigues(axis / np.linalg.norm(axis) * np.radians(turn))[0])
    R, position = pose.camera1_in_camera0
    across = np.cross(position, axis)
    swung = cv2.Rodrigues(across / np.linalg.norm(across) * np.radians(turn))[0] @ position
    swung *= 1 + longer / np.linalg.norm(position)
    spread = rng.normal(size=(6, 6))
    sigma = 1e-4 * (spread @ spread.T + np.eye(6))
    student = replace(pose, R=(by @ R).T, t=-(by @ R).T @ swung, covariance=sigma)
    found = compare_poses(replace(pose, covariance=sigma), student)
    assert found.rotation_deg == pytest.approx(turn, abs=1e-4)
    sure = compare_poses(replace(pose, covariance=1e-4 * sigma), student)  # of the direction too
    assert sure.direction_deg == pytest.approx(turn, abs=1e-4)
    assert found.length_m == pytest.approx(longer, abs=1e-9)
    errors = swung - position, cv2.Rodrigues(by)[0].ravel()
    expected = [error @ np.linalg.solve(2 * part, error) for error, part in zip(errors, (sigma[:3, :3], sigma[3:, 3:]))]
    assert [found.translation_nees, found.rotation_nees] == pytest.approx(expected, rel=1e-6)


def test_a_direction_alone_is_compared_as_one() -> None:
    pose = wall(0).truth.pose
    unit = replace(pose, t=pose.t / np.linalg.norm(pose.t), metric=False, covariance=np.diag([0.1**2] * 3 + [1e-6] * 3))
    found = compare_poses(pose, unit)
    assert found.direction_deg < 1e-5 and np.isnan(found.length_m) and found.translation_nees < 1e-9
    behind = compare_poses(pose, replace(unit, t=-unit.t))
    assert behind.direction_deg == pytest.approx(180.0) and behind.translation_nees == pytest.approx(
        (np.pi / 0.1) ** 2, 1e-3
    )
    unsure = replace(pose, covariance=np.diag([0.1**2] * 3 + [1e-6] * 3))  # 0.2 m, known to 0.1
    assert np.isnan(compare_poses(unsure, unit).direction_deg)
    nothing = compare_poses(pose, no_pose(9, PoseStatus.LOST, "dark"))
    assert all(np.isnan(value) for value in vars(nothing).values())


def test_a_student_without_a_pose_disagrees_wholly() -> None:
    scene = wall(0)
    check = check_student(scene.truth, scene.true, no_pose(9, PoseStatus.FEW_MATCHES, "dark"), CONFIG)
    assert check.disagreement == 1.0 and check.right == 1.0
    assert check.reason == "the student has no pose: dark"


# -- where the teacher is no truth ---------------------------------------------------------------------------


def few(pose: RelativePose) -> RelativePose:
    return replace(pose, inliers=np.arange(len(pose.inliers)) < 99)


def turned(pose: RelativePose) -> RelativePose:
    R = np.asarray(cv2.Rodrigues(np.radians((0.0, 20.0, 0.0)))[0])
    return replace(pose, R=R @ pose.R, t=R @ pose.t)


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        (lambda pose: no_pose(0, PoseStatus.NO_REFERENCE, "first image"), Verdict.NO_REFERENCE, "first image"),
        (
            lambda pose: no_pose(0, PoseStatus.LOST, "5 pairs"),
            Verdict.NO_TEACHER_POSE,
            "the teacher has no pose: 5 pairs",
        ),
        (
            few,
            Verdict.FEW_INLIERS,
            "99 of the teacher's matches agree with its pose, fewer than 100 (shadow.min_inliers)",
        ),
        (
            lambda pose: replace(pose, status=PoseStatus.TWO_MOTIONS),
            Verdict.TWO_MOTIONS,
            "the teacher sees two motions: true",
        ),
        (
            turned,
            Verdict.DEPTH_DISAGREES,
            r"\d+ % of the teacher's points keep their depth in the current image by its pose, fewer than 50 %: "
            "pose or depth is wrong",
        ),
    ],
)
def test_a_teacher_that_is_not_to_be_trusted_says_nothing_of_the_student(
    change: Any, verdict: Verdict, words: str
) -> None:
    scene = wall(7)
    steep = scene.truth.depth1 * np.linspace(0.5, 2.0, 320)  # so that a turn is seen in the depth
    truth = replace(scene.truth, pose=change(scene.truth.pose))
    truth = replace(truth, depth1=steep.astype(np.float32)) if verdict is Verdict.DEPTH_DISAGREES else truth
    check = check_student(truth, moved(scene.true, (50.0, 0.0)), scene.truth.pose, CONFIG)
    assert check.verdict is verdict and re.fullmatch(words if "%" in words else re.escape(words), check.reason)
    assert np.isnan(check.disagreement) and np.isnan(check.right) and check.judged == 0
    summary = summarise([check] * 20)
    assert summary.judged == 0 and summary.without == {verdict.name: 20} and summary.warning(CONFIG) == ""


def test_without_metres_only_what_both_have_is_compared() -> None:
    scene = wall(7)
    unit = replace(scene.truth.pose, t=scene.truth.pose.t / 0.2, metric=False)
    for truth in (replace(scene.truth, pose=unit), replace(scene.truth, depth0=None, depth1=None)):
        check = check_student(truth, scene.true, unit, CONFIG)
        assert (check.verdict, check.judged, check.common) == (Verdict.JUDGED, 0, 1.0)
        assert (
            check.reason == "single matches cannot be judged: the teacher's pose is not in metres, or there is no depth"
        )


def test_before_a_camera_that_stands_still_matches_are_judged_too() -> None:
    scene = wall(1, turn_deg=0.0, baseline=1e-9)
    unknown = np.diag([1 / 3] * 3 + [1e-8] * 3)  # as rotation_pose has it
    still = replace(scene.truth.pose, t=np.zeros(3), metric=False, status=PoseStatus.STATIC, covariance=unknown)
    check = check_student(replace(scene.truth, pose=still), moved(scene.true, (4.0, 0.0)), still, CONFIG)
    assert check.judged > 800 and check.right == 0.0 and check.error_px == pytest.approx(4.0, abs=1e-3)
    assert np.isnan(check.pose.direction_deg)


# -- many checks -----------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(confidence=st.lists(st.floats(0.0, 1.0, width=32), min_size=0, max_size=200), seed=st.integers(0, 99))
def test_the_counts_of_the_confidence_add_up(confidence: list[float], seed: int) -> None:
    scene = wall(0)
    n = min(len(confidence), len(scene.true))
    student = replace(scene.true.take(np.arange(n)), confidence=np.array(confidence[:n], np.float32))
    student = moved(student, 10.0 * np.random.default_rng(seed).integers(0, 2, (n, 1)))
    check = check_student(scene.truth, student, scene.truth.pose, CONFIG)
    judged, right, total = check.confidences
    assert judged.sum() == check.judged <= n and (right <= judged).all()
    assert not check.judged or right.sum() / check.judged == pytest.approx(check.right)
    for i in range(10):
        assert i / 10 * judged[i] - 1e-5 <= total[i] <= (i + 1) / 10 * judged[i] + 1e-5
    twice = summarise([check, check])
    assert (twice.confidences.judged == 2 * judged).all() and twice.matches == 2 * check.judged
    if check.judged:
        assert twice.right == pytest.approx(check.right) and 0 <= twice.calibration_error <= 1


def test_confidence_that_means_what_it_says_has_no_calibration_error() -> None:
    scene, rng = wall(0), np.random.default_rng(2)
    honest = moved(scene.true, 10.0 * (rng.uniform(size=(len(scene.true), 1)) > scene.true.confidence[:, None]))
    boastful = replace(honest, confidence=np.full(len(honest), 0.95, np.float32))
    errors = []
    for student in (honest, boastful):
        summary = summarise([check_student(scene.truth, student, scene.truth.pose, CONFIG)])
        errors.append(summary.calibration_error)
        assert summary.right == pytest.approx(0.6, abs=0.03)
    assert errors[0] < 0.05 and errors[1] == pytest.approx(0.35, abs=0.03)
    assert summary.lines()["confidence 0.9-1.0"] == f"said 0.95, right {summary.right:.2f} (n={summary.matches})"


def test_a_weak_student_is_warned_of_with_what_to_do() -> None:
    scene = wall(0)
    student = moved(scene.true, 10.0 * (np.arange(len(scene.true)) % 4 < 1)[:, None])
    check = check_student(scene.truth, student, scene.truth.pose, CONFIG)
    lost = check_student(scene.truth, student, no_pose(9, PoseStatus.LOST, ""), CONFIG)
    warning = summarise([check] * 7 + [lost] * 3).warning(CONFIG)
    assert warning == (
        "the student is weak here: 75 % of the teacher's share of right matches, expected 90 % at least "
        "(shadow.warn_right); 70 % of the pairs with a pose, expected 90 % at least (shadow.warn_poses); record this "
        "place (collect.launch.py) and train it on the recording (stfm adapt BAG)"
    )
    assert summarise([check] * 10).warning(replace(CONFIG, warn_right=0.7)) == ""
    assert summarise([check] * 9).warning(CONFIG) == ""  # too few to say
    assert summarise([]).lines() == {"pairs": "0", "judged": "0"}


# -- the student at work ----------------------------------------------------------------------------------------


class CountingStudent:
    """Gives the matches it is told; its features are the number of the image."""

    model_name, weights_hash, takes_depth, height, width = "counting", "0" * 64, False, 120, 160

    def __init__(self, matches: Matches) -> None:
        self.matches = matches
        self.encoded: list[int] = []
        self.pairs: list[tuple[int, int]] = []

    def features(self, image: Any) -> int:
        self.encoded.append(int(image[0, 0, 0]))
        return self.encoded[-1]

    def match_features(self, features0: int, features1: int) -> Matches:
        self.pairs.append((features0, features1))
        return self.matches


def track_of(scene: Wall, reference: int, current: int) -> Track:
    """Images hold their number; so do the stamps."""
    images = [np.full((240, 320, 3), number, np.uint8) for number in (reference, current)]
    first = no_pose(0, PoseStatus.NO_REFERENCE, "first image")
    pose, matches = (first, Matches.empty()) if reference == current else (scene.truth.pose, scene.truth.matches)
    return Track(
        current, "camera", reference, "camera", (320, 240), (320, 240), matches, pose, False, {}, *images,
        camera=scene.camera, depth0=scene.truth.depth0, depth1=scene.truth.depth1, camera0=scene.camera,
    )  # fmt: skip


def test_each_image_is_encoded_once_while_it_is_of_use() -> None:
    scene = wall(0)
    student = CountingStudent(scene.true)
    shadow = Shadow(student, AppConfig(), CONFIG)
    pairs = [(1, 1), (1, 2), (1, 3), (3, 4), (3, 5), (4, 6)]
    checks = [shadow.check(track_of(scene, *pair)) for pair in pairs]
    assert student.encoded == [1, 2, 3, 4, 5, 4, 6] and student.pairs == pairs[1:]
    first, then = checks[0], checks[1]
    assert first.verdict is Verdict.NO_REFERENCE and then.right == 1.0
    assert then.limit_px == 6.0  # 3 of a network half as wide
    assert then.student_status is PoseStatus.PLANAR and np.isnan(then.pose.length_m)  # seen by one eye
    assert set(then.timings_ms) == {"student", "check"}


def test_the_student_sees_each_so_many_th_image_and_depth_where_it_is_asked_to() -> None:
    scene = wall(0)
    shadow = Shadow(CountingStudent(scene.true), AppConfig(), replace(CONFIG, every=3, scale="depth"))
    checks = [shadow.check(track_of(scene, 1, stamp)) for stamp in range(2, 8)]
    assert [check is None for check in checks] == [True, True, False] * 2
    assert abs(checks[2].pose.length_m) < 0.005


def test_a_student_that_needs_depth_is_refused() -> None:
    student = CountingStudent(Matches.empty())
    student.takes_depth = True
    with pytest.raises(
        ConfigError, match="shadow.model names counting, which takes colour and depth: expected what runs"
    ):
        Shadow(student, AppConfig(), CONFIG)


# -- the message -------------------------------------------------------------------------------------------------


def test_the_message_says_what_was_found_and_constants_equal_the_enum(tmp_path: Path) -> None:
    text = (ROOT / "msg" / "StudentCheck.msg").read_text(encoding="utf-8")
    constants = {name: int(value) for name, value in re.findall(r"^uint8 (\w+)=(\d+)", text, re.M)}
    assert constants == {verdict.name: verdict.value for verdict in Verdict}
    scene = wall(0)
    check = check_student(scene.truth, moved(scene.true, (1.0, 0.0)), scene.truth.pose, CONFIG)
    fields = messages.student_check(track_of(scene, 1, 2), check, ("teacher", "a"), ("student", "b"))
    assert list(fields) == [
        name for name, _ in typestore().fielddefs["stfm_ros/msg/StudentCheck"][1] if name not in constants
    ]
    assert fields["error_px"] == check.error_px and (fields["teacher_name"], fields["student_hash"]) == ("teacher", "b")


def test_every_field_of_the_record_is_in_the_message() -> None:
    named = set(StudentCheck.__dataclass_fields__) - {"confidences", "pose", "timings_ms"}
    scene = wall(0)
    check = check_student(scene.truth, scene.true, scene.truth.pose, CONFIG)
    fields = messages.student_check(track_of(scene, 1, 2), check, ("", ""), ("", ""))
    assert named | set(vars(check.pose)) <= set(fields)


# -- a bag -------------------------------------------------------------------------------------------------------


class OrbTeacher(OrbMatcher):
    """ORB that wants depth as well."""

    takes_depth = True

    def features(self, image: Any, depth: Float32Array) -> Any:
        assert depth.shape == image.shape[:2] and depth.any()
        return image

    def match_features(self, features0: Any, features1: Any) -> Matches:
        found = super().match_features(features0, features1)
        return replace(found, sigma=0.3 * found.sigma)  # surer than ORB is, for a pose that judges at this size


class OffStudent(OrbMatcher):
    """ORB with every third match too far to the right."""

    model_name = "off"

    def match_features(self, features0: Any, features1: Any) -> Matches:
        found = super().match_features(features0, features1)
        return moved(found, 9.0 * (np.arange(len(found)) % 3 == 0)[:, None] * [1, 0])


def test_a_bag_goes_through_a_teacher_with_students_beside_it(
    stfm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_rgbd(rgbd_folder(tmp_path / "wall"), tmp_path / "wall.mcap")
    models = {"teacher": OrbTeacher, "same": OrbMatcher, "off": OffStudent}
    monkeypatch.setattr("stfm_ros.matcher.Matcher.from_pretrained", lambda config: models[config.model]())
    command = ["run", tmp_path / "wall.mcap", "--model", "teacher", "--shadow", "same,off", "--ground-truth", "none"]
    answer = stfm(*command, "--odometry.scale", "depth", "--report", tmp_path / "r.html", "--json")
    assert answer.code == 0, answer.err
    check_documented(answer.record, FIELDS["run"])
    same, off = answer.record["shadow"]
    assert [same[name] for name in ("student", "pairs", "judged", "without")] == ["same", 4, 3, {"NO_REFERENCE": 1}]
    assert same["common"] == same["covered"] == same["as_right"] == 1.0 and same["disagreement"] == 0.0
    assert off["as_right"] == pytest.approx(2 / 3, abs=0.1) and off["disagreement"] > 0.25
    assert sum(row["judged"] for row in off["confidence"]) == off["matches"] > 100
    assert "What a confidence is worth" in (tmp_path / "r.html").read_text(encoding="utf-8")

    table = stfm(*command, "--odometry.scale", "depth")
    assert "3 of 4" in table.out
    without = stfm(*command)
    assert without.code == 2 and "--shadow same,off: students are judged by metric poses and depth" in without.err
    alone = stfm("run", tmp_path / "wall.mcap", "--model", "teacher")
    assert alone.code == 2 and "model orb takes colour and depth (RGB-D): set odometry.scale to depth" in alone.err
