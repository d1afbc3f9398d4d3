"""Two-view geometry on synthetic scenes whose motion is known."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stfm_ros.config import PoseConfig
from stfm_ros.geometry import UNKNOWN_DIRECTION, UNKNOWN_ROTATION, estimate_relative_pose, normalise_points
from stfm_ros.types import Camera, FloatArray, Matches, PoseStatus, RelativePose

K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
PINHOLE = Camera(640, 480, K)
PLUMB_BOB = Camera(640, 480, K, "plumb_bob", np.array([-0.28, 0.07, 2e-4, 2e-5, 0.0]))
RATIONAL = Camera(640, 480, K, "rational_polynomial", np.array([0.4, -0.1, 1e-4, -2e-4, 0.01, 0.7, -0.05, 0.02]))
WIDE_K = np.array([[250.0, 0, 320], [0, 250, 240], [0, 0, 1]])
FISHEYE = Camera(640, 480, WIDE_K, "equidistant", np.array([0.02, -0.01, 2e-3, -1e-3]))
CAMERAS = {"none": PINHOLE, "plumb_bob": PLUMB_BOB, "rational_polynomial": RATIONAL, "equidistant": FISHEYE}


def project(points: FloatArray, camera: Camera) -> FloatArray:
    """OpenCV's forward model: (n, 3) metres in the camera to (n, 2) pixels."""
    zero = np.zeros(3)
    if camera.distortion_model == "equidistant":
        pixels, _ = cv2.fisheye.projectPoints(points[:, None], zero, zero, camera.K, camera.D)
    else:
        pixels, _ = cv2.projectPoints(points[:, None], zero, zero, camera.K, camera.D)
    return np.asarray(pixels, np.float64).reshape(-1, 2)


@dataclass(frozen=True)
class Scene:
    matches: Matches
    R: FloatArray
    t: FloatArray


def make_scene(
    seed: int,
    n: int = 250,
    noise_px: float = 0.5,
    outliers: float = 0.0,
    turn_deg: float = 8.0,
    baseline: float = 0.4,
    plane: bool = False,
    camera: Camera = PINHOLE,
) -> Scene:
    """Points 2-6 m ahead (or on a slanted plane), seen before and after a random motion of the given size."""
    rng = np.random.default_rng(seed)
    axis, t = rng.normal(size=3), rng.normal(size=3)
    R = np.asarray(cv2.Rodrigues(axis / np.linalg.norm(axis) * np.radians(turn_deg))[0])
    t *= baseline / np.linalg.norm(t)
    rays = np.column_stack([rng.uniform(-0.55, 0.55, 3 * n), rng.uniform(-0.42, 0.42, 3 * n), np.ones(3 * n)])
    depth = 3.0 / (1.0 - 0.5 * rays[:, 0]) if plane else rng.uniform(2, 6, 3 * n)
    points0 = rays * depth[:, None]
    points1 = points0 @ R.T + t
    pixels0, pixels1 = project(points0, camera), project(points1, camera)
    seen = (points1[:, 2] > 0.1) & (pixels1 > 0).all(axis=1) & (pixels1 < [640, 480]).all(axis=1)
    pixels0, pixels1 = pixels0[seen][:n], pixels1[seen][:n]
    pixels0 = pixels0 + rng.normal(size=pixels0.shape) * noise_px
    pixels1 = pixels1 + rng.normal(size=pixels1.shape) * noise_px
    wrong = rng.permutation(len(pixels1))[: int(outliers * len(pixels1))]
    pixels1[wrong] = rng.uniform([0, 0], [640, 480], (len(wrong), 2))
    return Scene(as_matches(pixels0, pixels1), R, t)


def as_matches(points0: FloatArray, points1: FloatArray) -> Matches:
    ones = np.ones(len(points0), np.float32)
    return Matches(np.asarray(points0, np.float32), np.asarray(points1, np.float32), ones, ones)


def turn_deg(R: FloatArray) -> float:
    return float(np.degrees(np.linalg.norm(cv2.Rodrigues(R)[0])))


def direction_deg(a: FloatArray, b: FloatArray) -> float:
    """Signed directions: cheirality has to be right."""
    return float(np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b)))


def check_sound(pose: RelativePose, n: int) -> None:
    """What holds of every pose, good or none."""
    assert np.isfinite(pose.R).all() and np.isfinite(pose.t).all() and np.isfinite(pose.covariance).all()
    assert np.allclose(pose.R @ pose.R.T, np.eye(3), atol=1e-9) and np.linalg.det(pose.R) > 0
    assert pose.covariance.shape == (6, 6) and np.allclose(pose.covariance, pose.covariance.T)
    assert np.linalg.eigvalsh(pose.covariance).min() > -1e-9
    assert pose.inliers.shape == (n,) and pose.inliers.dtype == np.bool_
    assert np.linalg.norm(pose.t) == pytest.approx(1.0 if pose.status.has_translation else 0.0)
    assert pose.reason


# -- normalise_points --------------------------------------------------------------------------------


@pytest.mark.parametrize("model", CAMERAS)
def test_normalising_undoes_the_projection(model: str) -> None:
    rng = np.random.default_rng(0)
    rays = np.column_stack([rng.uniform(-0.5, 0.5, 200), rng.uniform(-0.4, 0.4, 200)])
    points = np.column_stack([rays, np.ones(200)]) * rng.uniform(1, 5, (200, 1))
    found = normalise_points(project(points, CAMERAS[model]), CAMERAS[model])
    assert np.abs(found - rays).max() < 1e-6


def test_a_pinhole_by_hand() -> None:
    assert np.allclose(normalise_points([[320, 240], [570, -10]], PINHOLE), [[0, 0], [0.5, -0.5]])
    assert normalise_points(np.zeros((0, 2)), PINHOLE).shape == (0, 2)


def test_what_has_no_ray_becomes_nan() -> None:
    wide = Camera(640, 480, WIDE_K, "equidistant", np.zeros(4))
    found = normalise_points([[320, 240], [np.nan, 3], [320 + 500, 240]], wide)  # the last looks back, at 2 rad
    assert np.isfinite(found[0]).all() and np.isnan(found[1:]).all()


# -- motions that are known --------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), turn=st.floats(0.0, 20.0), outliers=st.sampled_from([0.0, 0.2, 0.4]))
@settings(max_examples=25)
def test_a_known_motion_comes_back(seed: int, turn: float, outliers: float) -> None:
    scene = make_scene(seed, noise_px=0.2, outliers=outliers, turn_deg=turn, baseline=0.6)
    pose = estimate_relative_pose(scene.matches, PINHOLE, PINHOLE)
    check_sound(pose, len(scene.matches))
    assert pose.status is PoseStatus.OK, pose.reason
    assert turn_deg(pose.R @ scene.R.T) < 0.5
    assert direction_deg(pose.t, scene.t) < 3.0
    assert pose.inliers.mean() > 0.9 * (1 - outliers)


@pytest.mark.parametrize("model", CAMERAS)
def test_distortion_is_taken_into_account(model: str) -> None:
    camera = CAMERAS[model]
    scene = make_scene(3, noise_px=0.2, camera=camera)
    pose = estimate_relative_pose(scene.matches, camera, camera)
    assert pose.status is PoseStatus.OK
    assert turn_deg(pose.R @ scene.R.T) < 0.2 and direction_deg(pose.t, scene.t) < 1.5
    assert pose.inliers.mean() > 0.97


def test_two_different_cameras() -> None:
    scene = make_scene(4, noise_px=0.0)
    half = Camera(320, 240, np.diag([0.5, 0.5, 1.0]) @ K)
    matches = as_matches(scene.matches.keypoints0, scene.matches.keypoints1 * 0.5)
    pose = estimate_relative_pose(matches, PINHOLE, half)
    assert turn_deg(pose.R @ scene.R.T) < 0.02 and direction_deg(pose.t, scene.t) < 0.1


@given(seed=st.integers(0, 10**6))
@settings(max_examples=10)
def test_swapping_the_images_inverts_the_motion(seed: int) -> None:
    matches = make_scene(seed, noise_px=0.3, baseline=0.6).matches
    forth = estimate_relative_pose(matches, PINHOLE, PINHOLE)
    back = estimate_relative_pose(as_matches(matches.keypoints1, matches.keypoints0), PINHOLE, PINHOLE)
    R, t = forth.camera1_in_camera0
    assert turn_deg(back.R @ R.T) < 0.1 and direction_deg(back.t, t) < 1.0


def test_the_same_matches_give_the_same_pose() -> None:
    matches = make_scene(5, outliers=0.3).matches
    first, second = (estimate_relative_pose(matches, PINHOLE, PINHOLE) for _ in range(2))
    assert np.array_equal(first.R, second.R) and np.array_equal(first.covariance, second.covariance)


def test_a_match_given_many_times_counts_once() -> None:
    matches = make_scene(6).matches
    repeated = matches.take(np.concatenate([np.arange(len(matches)), np.zeros(500, int)]))
    plain, weighty = (estimate_relative_pose(m, PINHOLE, PINHOLE) for m in (matches, repeated))
    assert turn_deg(plain.R @ weighty.R.T) < 1e-6


def test_sigma_is_a_weight() -> None:
    """Half of the matches are ten times noisier; saying so must help, in the mean of some scenes."""
    told, untold = [], []
    for seed in range(12):
        scene = make_scene(seed, noise_px=0.1)
        rng = np.random.default_rng(seed)
        noisy = np.arange(len(scene.matches)) % 2 == 0
        points1 = scene.matches.keypoints1 + rng.normal(size=(len(noisy), 2)) * np.where(noisy, 1.0, 0.0)[:, None]
        plain = as_matches(scene.matches.keypoints0, points1)
        sigma = np.where(noisy, 1.0, 0.1).astype(np.float32)
        weighted = Matches(plain.keypoints0, plain.keypoints1, plain.confidence, sigma)
        for matches, errors in ((plain, untold), (weighted, told)):
            pose = estimate_relative_pose(matches, PINHOLE, PINHOLE)
            errors.append(direction_deg(pose.t, scene.t))
    assert np.mean(told) < np.mean(untold)


# -- covariance --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("outliers", "rotation_limit", "direction_limit"), [(0.0, 3.3, 2.3), (0.1, 6.0, 8.0)])
def test_the_covariance_is_that_of_the_errors(outliers: float, rotation_limit: float, direction_limit: float) -> None:
    """The squared error in units of the covariance has mean 3 (rotation) and 2 (direction); gross outliers
    make tails, so there the mean may be larger and the median is held as well."""
    rotation, direction = [], []
    for seed in range(100):
        scene = make_scene(seed, n=150, outliers=outliers)
        pose = estimate_relative_pose(scene.matches, PINHOLE, PINHOLE)
        check_sound(pose, len(scene.matches))
        R, position = pose.camera1_in_camera0
        true_position = -scene.R.T @ scene.t / np.linalg.norm(scene.t)
        turned = cv2.Rodrigues(scene.R.T @ R.T)[0].ravel()
        rotation.append(turned @ np.linalg.inv(pose.covariance[3:, 3:]) @ turned)
        # tangent to the unit vector: no variance along it, two directions at right angles
        assert abs(position @ pose.covariance[:3, :3] @ position) < 1e-9
        tangent = np.linalg.svd(position[None])[2][1:]
        error = tangent @ (true_position - position)
        direction.append(error @ np.linalg.inv(tangent @ pose.covariance[:3, :3] @ tangent.T) @ error)
    assert 1.8 < np.mean(rotation) < rotation_limit and 1.2 < np.median(rotation) < 4.0
    assert 1.0 < np.mean(direction) < direction_limit and 0.7 < np.median(direction) < 2.6


def test_more_noise_gives_more_covariance() -> None:
    traces = []
    for noise in (0.2, 0.6):
        poses = [estimate_relative_pose(make_scene(s, noise_px=noise).matches, PINHOLE, PINHOLE) for s in range(5)]
        traces.append(np.mean([np.trace(pose.covariance[3:, 3:]) for pose in poses]))
    assert 5 < traces[1] / traces[0] < 12  # 3 squared is 9, less what the floor of the noise adds


def waves(scene: Scene, amplitude_px: float) -> Matches:
    """The scene's matches with an error that repeats with the displacement, each 8 px."""
    matches = scene.matches
    moves = matches.keypoints1 - matches.keypoints0
    return as_matches(matches.keypoints0, matches.keypoints1 + amplitude_px * np.cos(2 * np.pi * moves / 8))


def deviation(matches: Matches, shared_error: float) -> float:
    pose = estimate_relative_pose(matches, PINHOLE, PINHOLE, PoseConfig(shared_error=shared_error))
    assert pose.status.has_translation
    return float(np.sqrt(np.trace(pose.covariance[3:, 3:])))


def test_errors_that_repeat_with_the_displacement_are_found_in_the_pair() -> None:
    """Where displacements differ, what is known beforehand gives way to what the residuals show: of independent noise
    nothing is made, of a wave more than its size in the residuals."""
    clean, wavy = [], []
    for seed in range(3):
        scene = make_scene(seed, n=400, noise_px=0.3)
        clean.append(deviation(scene.matches, 0.4) / deviation(scene.matches, 0.0))
        matches = waves(scene, 0.4)
        wavy.append(deviation(matches, 0.4) / deviation(matches, 0.0))
    assert 1.0 < np.median(clean) < 1.35
    assert np.median(wavy) > np.median(clean)


def test_errors_that_no_residual_can_show_are_believed() -> None:
    """All matches moved by nearly the same: the wave looks like motion."""
    alike, apart = (make_scene(3, n=400, noise_px=0.2, turn_deg=0.0, baseline=length).matches for length in (0.03, 0.6))
    assert deviation(alike, 0.4) / deviation(alike, 0.0) > 1.5 * deviation(apart, 0.4) / deviation(apart, 0.0)


# -- what gives no full pose, and why ----------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_a_pure_rotation_is_named(seed: int) -> None:
    scene = make_scene(seed, baseline=1e-9, turn_deg=6.0)
    pose = estimate_relative_pose(scene.matches, PINHOLE, PINHOLE)
    check_sound(pose, len(scene.matches))
    assert pose.status is PoseStatus.ROTATION_ONLY, pose.reason
    assert turn_deg(pose.R @ scene.R.T) < 0.2
    assert "rotation alone" in pose.reason
    assert np.allclose(pose.covariance[:3, :3], np.eye(3) * UNKNOWN_DIRECTION)


@pytest.mark.parametrize("outliers", [0.0, 0.3])
def test_a_camera_that_stands_still_is_named(outliers: float) -> None:
    scene = make_scene(0, baseline=1e-9, turn_deg=0.0, noise_px=0.2, outliers=outliers)
    pose = estimate_relative_pose(scene.matches, PINHOLE, PINHOLE)
    check_sound(pose, len(scene.matches))
    assert pose.status is PoseStatus.STATIC
    assert np.array_equal(pose.R, np.eye(3)) and "stands still" in pose.reason
    assert pose.inliers.mean() > 0.9 * (1 - outliers)


def test_a_short_baseline_is_called_weak() -> None:
    pose = estimate_relative_pose(make_scene(1, baseline=0.02, noise_px=0.1).matches, PINHOLE, PINHOLE)
    assert pose.status is PoseStatus.LOW_PARALLAX and "below 0.5 deg" in pose.reason
    assert 0 < pose.parallax_deg < 0.5


def test_a_plane_is_named() -> None:
    found = [estimate_relative_pose(make_scene(s, plane=True).matches, PINHOLE, PINHOLE).status for s in range(10)]
    assert found.count(PoseStatus.PLANAR) >= 9
    assert estimate_relative_pose(make_scene(0).matches, PINHOLE, PINHOLE).status is PoseStatus.OK


def test_no_calibration() -> None:
    matches = make_scene(0).matches
    for camera0, camera1, which in ((None, PINHOLE, "0"), (PINHOLE, None, "1"), (None, None, "0 and 1")):
        pose = estimate_relative_pose(matches, camera0, camera1)
        check_sound(pose, len(matches))
        assert pose.status is PoseStatus.NO_CAMERA_INFO
        assert pose.reason == f"no calibration for image {which}: publish camera_info"
        assert np.allclose(np.diag(pose.covariance), [UNKNOWN_DIRECTION] * 3 + [UNKNOWN_ROTATION] * 3)


@pytest.mark.parametrize("n", [0, 1, 5, 19])
def test_few_matches(n: int) -> None:
    pose = estimate_relative_pose(make_scene(0).matches.take(np.arange(n)), PINHOLE, PINHOLE)
    check_sound(pose, n)
    assert pose.status is PoseStatus.FEW_MATCHES
    assert pose.reason == f"{n} usable matches, fewer than 20"


def test_matches_at_random_give_no_pose() -> None:
    rng = np.random.default_rng(0)
    points0, points1 = rng.uniform([0, 0], [640, 480], (2, 60, 2))
    pose = estimate_relative_pose(as_matches(points0, points1), PINHOLE, PINHOLE, PoseConfig(min_inliers=40))
    check_sound(pose, 60)
    assert pose.status is PoseStatus.FEW_MATCHES and "fewer than 40" in pose.reason


@pytest.mark.parametrize(("confidence", "status"), [(0.3, PoseStatus.FEW_MATCHES), (0.6, PoseStatus.OK)])
def test_weak_matches_give_a_pose_only_in_numbers(confidence: float, status: PoseStatus) -> None:
    scene = make_scene(0)
    some = scene.matches.take(np.arange(50))
    weak = Matches(some.keypoints0, some.keypoints1, np.full(50, confidence, np.float32), some.sigma)
    pose = estimate_relative_pose(weak, PINHOLE, PINHOLE)
    check_sound(pose, 50)
    assert pose.status is status, pose.reason
    if status is PoseStatus.FEW_MATCHES:
        assert "matches agree on a pose, but by their confidences 1" in pose.reason
        assert pose.reason.endswith("of them are right, fewer than 20")


def test_values_that_are_not_finite_are_left_out() -> None:
    scene = make_scene(2)
    points1 = scene.matches.keypoints1.copy()
    points1[:20] = [[np.nan, 0.0], [np.inf, 3.0]] * 10
    pose = estimate_relative_pose(as_matches(scene.matches.keypoints0, points1), PINHOLE, PINHOLE)
    check_sound(pose, len(points1))
    assert pose.status is PoseStatus.OK and not pose.inliers[:20].any()
    assert turn_deg(pose.R @ scene.R.T) < 0.5


def odd_matches() -> dict[str, Matches]:
    line = np.column_stack([np.linspace(10, 600, 80), np.full(80, 240.0)])
    grid = np.stack(np.meshgrid(np.arange(50.0, 600, 60), np.arange(50.0, 450, 60)), -1).reshape(-1, 2)
    return {
        "one point": as_matches(np.full((80, 2), 5.0), np.full((80, 2), 9.0)),
        "many to one": as_matches(grid, np.full_like(grid, 100.0)),
        "a line to itself": as_matches(line, line + [0, 30.0]),
        "a line along itself": as_matches(line, line + [30.0, 0]),
        "a shift": as_matches(grid, grid + [25.0, 10.0]),
        "a mirror": as_matches(grid, [640.0, 0] + grid * [-1.0, 1.0]),
        "far outside": as_matches(grid * 1e4, grid * 1e4 + 1e5),
        "zero sigma": Matches(
            grid.astype(np.float32), grid.astype(np.float32) + 9, *(np.zeros(len(grid), np.float32),) * 2
        ),
    }


@pytest.mark.parametrize("kind", odd_matches())
@pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS)
def test_odd_matches_never_raise(kind: str, camera: Camera) -> None:
    matches = odd_matches()[kind]
    check_sound(estimate_relative_pose(matches, camera, camera), len(matches))


@given(
    points=st.lists(
        st.tuples(*[st.floats(-1e4, 1e4, width=32) | st.sampled_from([0.0, float("nan"), float("inf")])] * 4),
        max_size=40,
    )
)
@settings(max_examples=60)
def test_any_matches_give_a_sound_record(points: list[tuple[float, float, float, float]]) -> None:
    rows = np.array(points, np.float32).reshape(-1, 4)
    matches = as_matches(rows[:, :2], rows[:, 2:])
    check_sound(estimate_relative_pose(matches, PINHOLE, PLUMB_BOB, PoseConfig(min_inliers=6)), len(rows))
