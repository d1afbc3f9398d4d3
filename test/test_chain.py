"""Relative poses without a length become a trajectory of one scale."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from stfm_ros.chain import Chain
from stfm_ros.types import Camera, FloatArray, Matches, PoseStatus, RelativePose

CAMERA = Camera(640, 480, np.array([[500.0, 0, 319.5], [0, 500.0, 239.5], [0, 0, 1]]))
RNG = np.random.default_rng(3)
POINTS = np.column_stack([RNG.uniform(-3, 3, 400), RNG.uniform(-2, 2, 400), RNG.uniform(4, 9, 400)])


def pose_at(i: int) -> FloatArray:
    """Camera to world: along a curve, with steps of different lengths, turning slowly."""
    angle = 0.02 * i
    pose = np.eye(4)
    pose[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    pose[:3, 3] = 0.1 * i + 0.03 * i**2, 0.05 * np.sin(i), 0.04 * i
    return pose


def seen(pose: FloatArray) -> tuple[FloatArray, FloatArray]:
    local = (POINTS - pose[:3, 3]) @ pose[:3, :3]
    return local @ CAMERA.K[:2].T / local[:, 2:], local[:, 2]


def track(i: int, j: int, status: PoseStatus = PoseStatus.OK, metric: bool = False) -> SimpleNamespace:
    """Image j against reference i, with a perfect pose whose translation has length 1."""
    pixels0, _ = seen(pose_at(i))
    pixels1, _ = seen(pose_at(j))
    motion = np.linalg.inv(pose_at(j)) @ pose_at(i)
    t = motion[:3, 3] if metric else motion[:3, 3] / np.linalg.norm(motion[:3, 3])
    ones = np.ones(len(POINTS), np.float32)
    matches = Matches(pixels0.astype(np.float32), pixels1.astype(np.float32), ones, ones)
    pose = RelativePose(
        motion[:3, :3], t, np.eye(6), np.ones(len(POINTS), bool), status, "", parallax_deg=float(j - i), metric=metric
    )  # fmt: skip
    return SimpleNamespace(stamp_ns=j, reference_stamp_ns=i, matches=matches, pose=pose)


def placed(pairs: list[tuple[int, int]], metric: bool = False) -> tuple[FloatArray, FloatArray, Chain]:
    chain = Chain()
    placed = [chain.add(track(i, j, metric=metric), CAMERA) for i, j in pairs]
    poses = [one.pose for one in placed if one is not None]
    assert all(one is not None and one.metric is metric for one in placed)
    truth = np.array([np.linalg.inv(pose_at(pairs[0][0])) @ pose_at(j) for _, j in pairs])
    return np.array(poses), truth, chain


@pytest.mark.parametrize(
    "pairs",
    [[(i, i + 1) for i in range(8)], [(0, 1), (0, 2), (0, 3), (3, 4), (3, 5), (3, 6), (6, 7)]],
    ids=["previous", "keyframes"],
)
def test_steps_of_different_lengths_are_told_apart(pairs: list[tuple[int, int]]) -> None:
    poses, truth, chain = placed(pairs)
    assert np.linalg.norm(poses[0, :3, 3]) == pytest.approx(1.0, abs=1e-5)  # the first translation is the unit
    scale = np.linalg.norm(truth[0, :3, 3])
    np.testing.assert_allclose(scale * poses[:, :3, 3], truth[:, :3, 3], atol=2e-3)
    np.testing.assert_allclose(poses[:, :3, :3], truth[:, :3, :3], atol=1e-9)
    assert chain.breaks == 0


def test_metric_poses_keep_their_metres() -> None:
    poses, truth, _ = placed([(0, 2), (2, 5)], metric=True)
    np.testing.assert_allclose(poses, truth, atol=1e-9)


def test_a_turn_on_the_spot_carries_the_scale_on() -> None:
    chain = Chain()
    chain.add(track(0, 2), CAMERA)
    turn = track(2, 3, PoseStatus.ROTATION_ONLY)
    turn.pose = RelativePose(np.eye(3), np.zeros(3), np.eye(6), turn.pose.inliers, PoseStatus.ROTATION_ONLY, "")
    turn.matches = track(2, 3).matches
    pixels = seen(pose_at(2))[0].astype(np.float32)
    turn.matches = Matches(pixels, pixels, turn.matches.confidence, turn.matches.sigma)  # it did not turn at all
    standing = chain.add(turn, CAMERA)
    onwards = track(2, 5)
    onwards.reference_stamp_ns = 3
    moved = chain.add(onwards, CAMERA)
    assert standing is not None
    assert moved is not None
    unit = np.linalg.norm(pose_at(2)[:3, 3] - pose_at(0)[:3, 3])
    expected = np.linalg.inv(pose_at(0)) @ pose_at(5)
    np.testing.assert_allclose(unit * moved.pose[:3, 3], expected[:3, 3], atol=5e-3)


def test_without_a_pose_nothing_is_placed_and_a_new_reference_is_a_break() -> None:
    chain = Chain()
    last = chain.add(track(0, 1), CAMERA)
    assert chain.add(track(0, 2, PoseStatus.FEW_MATCHES), CAMERA) is None
    assert chain.breaks == 0
    after = chain.add(track(4, 5), CAMERA)  # 4 was never placed: it stands where 1 stood
    assert chain.breaks == 1
    assert last is not None
    assert after is not None
    step = np.linalg.norm(after.pose[:3, 3] - last.pose[:3, 3])
    true_step = np.linalg.norm(pose_at(5)[:3, 3] - pose_at(4)[:3, 3]) / np.linalg.norm(pose_at(1)[:3, 3])
    assert step == pytest.approx(true_step, rel=0.3)  # the median depth of the scene tells the scale, roughly


def test_metres_are_lent_to_a_pose_that_has_none() -> None:
    chain = Chain()
    chain.add(track(0, 2, metric=True), CAMERA)
    between = chain.add(track(2, 3), CAMERA)
    assert between is not None
    assert between.metric
    assert 0.01 < between.share < 0.1
    expected = np.linalg.inv(pose_at(0)) @ pose_at(3)
    np.testing.assert_allclose(between.pose[:3, 3], expected[:3, 3], atol=2e-3)
    local, _ = seen(pose_at(2))
    assert between.points.shape == (len(between.index), 3)
    np.testing.assert_allclose(between.points @ CAMERA.K[:2].T / between.points[:, 2:], local[between.index], atol=0.01)
    alone = chain.add(track(7, 8), CAMERA)  # after a break the metres are a guess, and are called none
    assert alone is not None
    assert not alone.metric
    assert alone.share >= 0.5


def test_points_that_hardly_moved_do_not_spoil_the_length() -> None:
    """Forward along a road: most of what a far-apart pair has in common lies ahead, where noise makes the depth."""
    rng = np.random.default_rng(5)
    near = np.column_stack([rng.uniform(-6, 6, 60), rng.uniform(1, 2, 60), rng.uniform(12, 20, 60)])
    far = np.column_stack([rng.uniform(-3, 3, 300), rng.uniform(-2, 2, 300), rng.uniform(150, 400, 300)])
    points = np.vstack([near, far])
    chain, lengths = Chain(), []
    for j in range(1, 6):
        pixels = []
        for z in (0.0, 1.5 * j):
            local = points - [0, 0, z]
            pixels.append(local @ CAMERA.K[:2].T / local[:, 2:])
        pixels[1] += rng.normal(0, 1.0, pixels[1].shape)
        ones = np.ones(len(points), np.float32)
        matches = Matches(pixels[0].astype(np.float32), pixels[1].astype(np.float32), ones, ones)
        pose = RelativePose(
            np.eye(3), np.array([0, 0, -1.0]), 1e-8 * np.eye(6), ones > 0, PoseStatus.OK, "", parallax_deg=1.0
        )
        found = chain.add(SimpleNamespace(stamp_ns=j, reference_stamp_ns=0, matches=matches, pose=pose), CAMERA)
        assert found is not None
        lengths.append(found.length)
    np.testing.assert_allclose(lengths, np.arange(1, 6), rtol=0.03)  # if all counted alike: a quarter short


def some(pair: SimpleNamespace, chosen: FloatArray) -> SimpleNamespace:
    """A track of some of the points alone."""
    matches = pair.matches.take(chosen)
    pair.pose = replace(pair.pose, inliers=np.ones(len(matches), bool))
    return SimpleNamespace(**{**vars(pair), "matches": matches})


def length(i: int, j: int) -> float:
    return float(np.linalg.norm(pose_at(j)[:3, 3] - pose_at(i)[:3, 3]))


def test_a_far_keyframe_hands_on_what_its_own_few_matches_do_not_show() -> None:
    near_first = np.argsort(POINTS[:, 2])
    chain = Chain()
    chain.add(track(0, 3), CAMERA)
    far = chain.add(some(track(0, 5), near_first[:20]), CAMERA)
    onwards = chain.add(some(track(5, 6), near_first[20:]), CAMERA)  # none of the 20
    assert far is not None and onwards is not None
    assert onwards.length == pytest.approx(length(5, 6) / length(0, 3), rel=0.01)
    assert onwards.share < 0.1, "it was told by points in common, not by the depth of the scene"
