"""Pose in metres from the depth of image 0, on synthetic scenes whose motion is known."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_geometry import CAMERAS, PINHOLE, as_matches, direction_deg, make_scene, project, turn_deg

from stfm_ros.config import PoseConfig
from stfm_ros.errors import ImageError
from stfm_ros.geometry import DepthNoise, estimate_metric_pose, normalise_points
from stfm_ros.types import Camera, Float32Array, FloatArray, Matches, PoseStatus, RelativePose

EXACT = DepthNoise(1e-4, 0.0)


@dataclass(frozen=True)
class Scene:
    matches: Matches
    depth0: Float32Array
    R: FloatArray
    t: FloatArray


def make_depth_scene(
    seed: int,
    n: int = 200,
    noise_px: float = 0.0,
    outliers: float = 0.0,
    turn: float = 8.0,
    roll: float = 0.0,
    baseline: float = 0.4,
    camera: Camera = PINHOLE,
) -> Scene:
    """A smooth depth image 2-6 m ahead, its pixels seen again after a random motion; degrees, metres."""
    rng = np.random.default_rng(seed)
    axis, t = rng.normal(size=3), rng.normal(size=3)
    R = cv2.Rodrigues(axis / np.linalg.norm(axis) * np.radians(turn))[0]
    R = np.asarray(cv2.Rodrigues(np.array([0, 0, np.radians(roll)]))[0] @ R, np.float64)
    t *= baseline / np.linalg.norm(t)
    x, y = np.meshgrid(np.arange(640.0), np.arange(480.0))
    phase = rng.uniform(0, 6, 2)
    depth0 = np.asarray(4 + np.sin(x / 90 + phase[0]) + np.cos(y / 70 + phase[1]), np.float32)
    pixels0 = np.floor(rng.uniform([20, 20], [620, 460], (4 * n, 2)))
    rays = normalise_points(pixels0, camera)
    seen = np.isfinite(rays).all(axis=1) & (np.abs(rays) < 1.0).all(axis=1)
    pixels0, rays = pixels0[seen], rays[seen]
    z = depth0[pixels0[:, 1].astype(int), pixels0[:, 0].astype(int)].astype(np.float64)
    points1 = (np.column_stack([rays, np.ones(len(rays))]) * z[:, None]) @ R.T + t
    pixels1 = project(points1, camera)
    seen = (points1[:, 2] > 0.1) & (pixels1 > 0).all(axis=1) & (pixels1 < [640, 480]).all(axis=1)
    pixels0, pixels1 = pixels0[seen][:n], pixels1[seen][:n]
    pixels1 = pixels1 + noise_px * rng.normal(size=pixels1.shape)
    wrong = rng.permutation(len(pixels1))[: int(outliers * len(pixels1))]
    pixels1[wrong] = rng.uniform([0, 0], [640, 480], (len(wrong), 2))
    return Scene(as_matches(pixels0, pixels1), depth0, R, t)


def estimate(scene: Scene, camera: Camera = PINHOLE, noise: DepthNoise = EXACT) -> RelativePose:
    return estimate_metric_pose(scene.matches, camera, camera, scene.depth0, noise=noise)


def check_sound(pose: RelativePose, n: int) -> None:
    """What holds of every metric pose, good or none."""
    assert np.isfinite(pose.R).all() and np.isfinite(pose.t).all() and np.isfinite(pose.covariance).all()
    assert np.allclose(pose.R @ pose.R.T, np.eye(3), atol=1e-9) and np.linalg.det(pose.R) > 0
    assert np.allclose(pose.covariance, pose.covariance.T)
    assert np.linalg.eigvalsh(pose.covariance).min() > -1e-9
    assert pose.inliers.shape == (n,) and pose.reason


# -- motions that are known --------------------------------------------------------------------------


@pytest.mark.parametrize("model", CAMERAS)
@given(seed=st.integers(0, 10**6), turn=st.floats(0, 20))
@settings(max_examples=8)
def test_exact_points_give_the_exact_pose(model: str, seed: int, turn: float) -> None:
    scene = make_depth_scene(seed, turn=turn, camera=CAMERAS[model])
    if len(scene.matches) < 40:
        return
    pose = estimate(scene, CAMERAS[model])
    check_sound(pose, len(scene.matches))
    assert (pose.status, pose.metric) == (PoseStatus.OK, True), pose.reason
    assert turn_deg(pose.R @ scene.R.T) < 0.01
    assert np.linalg.norm(pose.t - scene.t) < 1e-3


@given(seed=st.integers(0, 10**6), scale=st.floats(0.05, 20))
@settings(max_examples=12)
def test_scaled_depth_scales_the_translation_alone(seed: int, scale: float) -> None:
    scene = make_depth_scene(seed, noise_px=0.2)
    share = DepthNoise(0.0, 0.005)  # a noise that scales along
    pose = estimate(scene, noise=share)
    scaled = estimate_metric_pose(
        scene.matches, PINHOLE, PINHOLE, np.asarray(scene.depth0 * scale, np.float32), noise=share
    )
    assert turn_deg(pose.R @ scaled.R.T) < 1e-3
    assert np.allclose(scaled.t, pose.t * scale, rtol=1e-3, atol=1e-4 * scale)
    by_scale = np.diag([scale] * 3 + [1.0] * 3)
    expected = by_scale @ pose.covariance @ by_scale
    assert np.allclose(scaled.covariance, expected, rtol=0.02, atol=0.02 * np.abs(expected).max())


@given(seed=st.integers(0, 10**6), outliers=st.sampled_from([0.2, 0.35, 0.5]))
@settings(max_examples=15)
def test_half_of_the_matches_may_be_wrong(seed: int, outliers: float) -> None:
    scene = make_depth_scene(seed, noise_px=0.3, outliers=outliers)
    pose = estimate(scene)
    check_sound(pose, len(scene.matches))
    assert pose.status is PoseStatus.OK and pose.metric
    assert turn_deg(pose.R @ scene.R.T) < 0.5 and np.linalg.norm(pose.t - scene.t) < 0.03


@pytest.mark.parametrize("roll", [90.0, 180.0, -45.0])
def test_a_rolled_camera(roll: float) -> None:
    scene = make_depth_scene(1, n=300, roll=roll)
    pose = estimate(scene)
    assert pose.metric and turn_deg(pose.R @ scene.R.T) < 0.01 and np.linalg.norm(pose.t - scene.t) < 1e-3


def test_swapped_images_give_the_inverse() -> None:
    scene = make_depth_scene(2, n=300)
    depth1 = np.zeros_like(scene.depth0)
    keypoints1 = np.rint(scene.matches.keypoints1)
    keypoints0 = scene.matches.keypoints0
    z = scene.depth0[keypoints0[:, 1].astype(int), keypoints0[:, 0].astype(int)].astype(np.float64)
    points1 = (np.column_stack([normalise_points(keypoints0, PINHOLE), np.ones(len(z))]) * z[:, None]) @ scene.R.T
    depth1[keypoints1[:, 1].astype(int), keypoints1[:, 0].astype(int)] = (points1 + scene.t)[:, 2]
    back = estimate_metric_pose(as_matches(scene.matches.keypoints1, keypoints0), PINHOLE, PINHOLE, depth1)
    forth = estimate(scene)
    R, t = forth.camera1_in_camera0
    assert turn_deg(back.R @ R.T) < 0.05 and np.linalg.norm(back.t - t) < 0.005


def test_two_different_cameras() -> None:
    scene = make_depth_scene(3)
    half = Camera(320, 240, np.diag([0.5, 0.5, 1.0]) @ PINHOLE.K)
    matches = as_matches(scene.matches.keypoints0, scene.matches.keypoints1 * 0.5)
    pose = estimate_metric_pose(matches, PINHOLE, half, scene.depth0)
    assert turn_deg(pose.R @ scene.R.T) < 0.01 and np.linalg.norm(pose.t - scene.t) < 1e-3


def test_a_turn_on_the_spot_makes_up_no_translation() -> None:
    scene = make_depth_scene(4, noise_px=0.3, baseline=1e-9)
    pose = estimate(scene)
    assert pose.metric and np.linalg.norm(pose.t) < 0.01
    assert np.linalg.norm(pose.t) < 5 * np.sqrt(np.trace(pose.covariance[:3, :3]))


def test_points_that_end_up_behind_the_camera_are_outliers() -> None:
    scene = make_depth_scene(11, turn=0.0)
    t = np.array([0.0, 0.0, -1.5])  # forwards
    keypoints0 = scene.matches.keypoints0
    z = scene.depth0[keypoints0[:, 1].astype(int), keypoints0[:, 0].astype(int)].astype(np.float64)
    points1 = np.column_stack([normalise_points(keypoints0, PINHOLE), np.ones(len(z))]) * z[:, None] + t
    depth0 = scene.depth0.copy()
    wrong = np.arange(0, len(z), 4)
    for index, depth in zip(wrong, np.linspace(0.2, 1.6, len(wrong))):  # some exactly in the camera
        x, y = keypoints0[index].astype(int)
        depth0[y - 1 : y + 2, x - 1 : x + 2] = 1.5 if index % 8 else depth
    pose = estimate_metric_pose(as_matches(keypoints0, project(points1, PINHOLE)), PINHOLE, PINHOLE, depth0)
    check_sound(pose, len(z))
    assert pose.metric and np.linalg.norm(pose.t - t) < 0.02 and pose.inliers[wrong].mean() < 0.1


def test_the_same_matches_give_the_same_pose() -> None:
    scene = make_depth_scene(5, noise_px=0.3, outliers=0.3)
    first, second = estimate(scene), estimate(scene)
    assert np.array_equal(first.t, second.t) and np.array_equal(first.covariance, second.covariance)


def test_depth_without_any_noise_is_taken_at_its_word() -> None:
    pose = estimate(make_depth_scene(12), noise=DepthNoise(0.0, 0.0, 0.0))
    check_sound(pose, 200)
    assert pose.metric and np.linalg.norm(pose.t) == pytest.approx(0.4, rel=1e-3)


def test_noise_of_depth_does_not_shorten_the_motion() -> None:
    """Before a wall with a relief of 5 %, noise of 2 % that is taken for relief would cost a tenth of the length."""
    lengths = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        pixels0 = np.floor(rng.uniform([20, 20], [620, 460], (600, 2)))
        column, row = pixels0.T.astype(int)
        z = 4 + 0.2 * rng.standard_normal(600)
        t = np.array([0.3, 0.1, 0.0])
        points1 = np.column_stack([normalise_points(pixels0, PINHOLE), np.ones(600)]) * z[:, None] + t
        depth0 = np.zeros((480, 640), np.float32)
        depth0[row, column] = z * (1 + 0.02 * rng.standard_normal(600))
        pixels1 = project(points1, PINHOLE) + 0.3 * rng.standard_normal((600, 2))
        pose = estimate_metric_pose(as_matches(pixels0, pixels1), PINHOLE, PINHOLE, depth0, noise=DepthNoise(0.0, 0.02))
        lengths.append(float(np.linalg.norm(pose.t)) / float(np.linalg.norm(t)))
    assert np.mean(lengths) == pytest.approx(1.0, abs=0.02)


# -- depth that is missing or wrong ------------------------------------------------------------------


def test_holes_and_edges_of_depth_are_left_out() -> None:
    scene = make_depth_scene(6)
    depth0 = scene.depth0.copy()
    depth0[:, :200] = 0
    depth0[:, 200:260] = np.nan
    depth0[100:104] *= 3  # an edge: its pixels and those beside them disagree
    pose = estimate_metric_pose(scene.matches, PINHOLE, PINHOLE, depth0, noise=EXACT)
    assert pose.metric and np.linalg.norm(pose.t - scene.t) < 1e-3
    assert not pose.inliers[scene.matches.keypoints0[:, 0] < 260].any()


def test_few_depths_give_the_scale_of_the_two_view_pose() -> None:
    scene = make_depth_scene(7, noise_px=0.1)
    depth0 = np.zeros_like(scene.depth0)
    for x, y in scene.matches.keypoints0[:12].astype(int):
        depth0[y, x] = scene.depth0[y, x]
    pose = estimate_metric_pose(scene.matches, PINHOLE, PINHOLE, depth0)
    check_sound(pose, len(scene.matches))
    assert pose.metric and pose.status is PoseStatus.OK
    assert "scale from 12 depths: 12 matches with depth, fewer than 20" in pose.reason
    assert np.linalg.norm(pose.t) == pytest.approx(0.4, rel=0.05) and direction_deg(pose.t, scene.t) < 2
    assert pose.inliers.sum() > 150


@pytest.mark.parametrize("depths", [0, 3])
def test_no_depth_gives_a_direction(depths: int) -> None:
    scene = make_depth_scene(8, noise_px=0.1)
    depth0 = np.zeros_like(scene.depth0)
    for x, y in scene.matches.keypoints0[:depths].astype(int):
        depth0[y, x] = scene.depth0[y, x]
    pose = estimate_metric_pose(scene.matches, PINHOLE, PINHOLE, depth0)
    assert not pose.metric and np.linalg.norm(pose.t) == pytest.approx(1.0)
    assert f"no metric scale: {depths} matches with depth, fewer than 20" in pose.reason


def test_points_on_a_line_are_not_enough() -> None:
    scene = make_depth_scene(9, n=300)
    depth0 = np.zeros_like(scene.depth0)
    depth0[238:243] = 4.0  # equal depth along a row: a line in space
    x = np.linspace(30, 600, 60).round()
    line0 = np.column_stack([x, 240.0 + np.arange(60) % 3 - 1])
    points1 = (np.column_stack([normalise_points(line0, PINHOLE), np.ones(60)]) * 4.0) @ scene.R.T + scene.t
    off = scene.matches.keypoints0[:, 1] > 260
    matches = as_matches(
        np.concatenate([line0, scene.matches.keypoints0[off]]),
        np.concatenate([project(points1, PINHOLE), scene.matches.keypoints1[off]]),
    )
    pose = estimate_metric_pose(matches, PINHOLE, PINHOLE, depth0)
    check_sound(pose, len(matches))
    assert "matches with depth lie on a line" in pose.reason


def test_a_still_camera_stays_static() -> None:
    scene = make_depth_scene(10, noise_px=0.1, turn=0.0, baseline=1e-9)
    pose = estimate(scene)
    assert pose.status is PoseStatus.STATIC and not pose.t.any() and np.array_equal(pose.R, np.eye(3))


def test_no_depth_at_all_is_the_two_view_pose() -> None:
    scene = make_scene(0)
    pose = estimate_metric_pose(scene.matches, PINHOLE, PINHOLE, None)
    assert pose.status is PoseStatus.OK and not pose.metric
    none = estimate_metric_pose(scene.matches, None, PINHOLE, np.ones((480, 640), np.float32))
    assert none.status is PoseStatus.NO_CAMERA_INFO


def test_depth_of_another_size_is_refused() -> None:
    scene = make_depth_scene(0)
    with pytest.raises(
        ImageError, match=r"^the depth is 320x240, image 0 is 640x480: give depth registered to the colour image "
    ):
        estimate_metric_pose(scene.matches, PINHOLE, PINHOLE, np.ones((240, 320), np.float32))


@given(
    points=st.lists(
        st.tuples(*[st.floats(-1e4, 1e4, width=32) | st.sampled_from([0.0, float("nan"), float("inf")])] * 4),
        max_size=40,
    ),
    depth=st.sampled_from([0.0, 1.0, 1e-6, 1e6, float("nan"), float("inf"), -1.0]),
)
@settings(max_examples=60)
def test_any_matches_give_a_sound_record(points: list[tuple[float, float, float, float]], depth: float) -> None:
    rows = np.array(points, np.float32).reshape(-1, 4)
    rows[:, :2] = np.fmod(np.abs(rows[:, :2]), 480, where=np.isfinite(rows[:, :2]), out=rows[:, :2])  # mostly inside
    matches = as_matches(rows[:, :2], rows[:, 2:])
    depth0 = np.full((480, 640), depth, np.float32)
    pose = estimate_metric_pose(matches, PINHOLE, PINHOLE, depth0, PoseConfig(min_inliers=6))
    assert np.isfinite(pose.R).all() and np.isfinite(pose.t).all() and np.isfinite(pose.covariance).all()
    assert pose.inliers.shape == (len(rows),) and pose.reason
