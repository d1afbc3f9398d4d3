"""The measures against cases computed by hand, and the sampling of pairs on a scene that is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from stfm_ros.baselines import BASELINES, orb, sift
from stfm_ros.errors import DatasetError, RuntimeNotAvailable
from stfm_ros.evaluate import (
    WithDepth,
    agreeing,
    auc_interval,
    corner_error,
    epipolar_errors,
    evaluate_homographies,
    evaluate_pairs,
    homography_errors,
    match_pair,
    pose_auc,
    pose_error,
)
from stfm_ros.pairs import Pair, Sampling, rotation_angle_deg, sample_pairs, two_way_overlap
from stfm_ros.solvers import SOLVERS
from stfm_ros.types import ByteArray, Camera, Float32Array, FloatArray, Matches

K = np.array([[200.0, 0, 80], [0, 200, 60], [0, 0, 1]])
CAMERA = Camera(160, 120, K)
INFINITY = float("inf")


def rotation(degrees: float, axis: tuple[float, float, float] = (0.0, 0.0, 1.0)) -> FloatArray:
    return np.asarray(cv2.Rodrigues(np.radians(degrees) * np.array(axis))[0])


def transform(R: FloatArray, t: tuple[float, float, float]) -> FloatArray:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R, t
    return T


def as_matches(points0: FloatArray, points1: FloatArray) -> Matches:
    ones = np.ones(len(points0), np.float32)
    return Matches(np.asarray(points0, np.float32), np.asarray(points1, np.float32), ones, ones)


class Recording:
    """A camera that looks at points 3-6 m ahead from known places; frame i's image holds the value i."""

    camera = CAMERA

    def __init__(self, positions: list[tuple[float, float, float]], depth: bool = True, turns: float = 0.0) -> None:
        self.stamps = np.arange(len(positions)) / 10.0
        self.poses = np.stack([transform(rotation(turns * i), p) for i, p in enumerate(positions)])
        self.with_depth = depth
        rng = np.random.default_rng(0)
        self.points = rng.uniform([-2.0, -1.5, 3.0], [4.0, 1.5, 6.0], (4000, 3))

    def __len__(self) -> int:
        return len(self.stamps)

    def image(self, index: int, /) -> ByteArray:
        return np.full((120, 160, 3), index, np.uint8)

    def depth(self, index: int, /) -> Float32Array | None:
        """A wall at z = 4 m in the world."""
        if not self.with_depth:
            return None
        return np.full((120, 160), 4.0 - self.poses[index][2, 3], np.float32)

    def truth(self, image0: ByteArray, image1: ByteArray) -> Matches:
        """A matcher without error, found out by the images' values."""
        pixels = []
        for image in (image0, image1):
            T = np.linalg.inv(self.poses[int(image[0, 0, 0])])
            points = self.points @ T[:3, :3].T + T[:3, 3]
            pixels.append((points @ K.T)[:, :2] / points[:, 2:])
        seen = np.all([(p > 0).all(1) & (p < [160, 120]).all(1) for p in pixels], axis=0)
        return as_matches(pixels[0][seen][:300], pixels[1][seen][:300])


# -- pose error --------------------------------------------------------------------------------------


def test_a_known_pose_has_no_error() -> None:
    T = transform(rotation(30), (1.0, 2.0, 3.0))
    assert pose_error(T, T[:3, :3], T[:3, 3]) == pytest.approx((0.0, 0.0), abs=1e-6)
    assert pose_error(T, T[:3, :3], 17.0 * T[:3, 3]) == pytest.approx((0.0, 0.0), abs=1e-6)  # length is free


def test_a_wrong_pose_has_the_right_error() -> None:
    T = transform(rotation(30), (1.0, 0.0, 0.0))
    found = pose_error(T, rotation(37), np.array([np.cos(np.radians(12)), np.sin(np.radians(12)), 0]))
    assert found == pytest.approx((7.0, 12.0))
    assert pose_error(T, rotation(30) @ rotation(180, (1, 0, 0)), np.array([0.0, 2, 0])) == pytest.approx((180, 90))


@pytest.mark.parametrize(("angle", "folded"), [(10, 10), (89, 89), (91, 89), (170, 10), (180, 0)])
def test_translation_is_folded(angle: float, folded: float) -> None:
    T = transform(np.eye(3), (0.0, 0.0, 2.0))
    t = np.array([np.sin(np.radians(angle)), 0, np.cos(np.radians(angle))])
    assert pose_error(T, np.eye(3), t)[1] == pytest.approx(folded, abs=1e-6)


def test_no_pose_is_infinitely_wrong() -> None:
    T = transform(np.eye(3), (1.0, 0.0, 0.0))
    assert pose_error(T, np.eye(3), np.zeros(3)) == (0.0, INFINITY)
    assert pose_error(T, np.full((3, 3), np.nan), np.ones(3)) == (INFINITY, INFINITY)
    assert pose_error(np.eye(4), np.eye(3), np.ones(3)) == (0.0, 0.0)  # no direction to be wrong about


# -- AUC ---------------------------------------------------------------------------------------------


def test_auc_by_hand() -> None:
    assert pose_auc([0.0], (5,)) == [1.0]
    assert pose_auc([INFINITY], (5, 10, 20)) == [0.0, 0.0, 0.0]
    assert pose_auc([], (5,)) == [0.0]
    # recall rises from (0, 0) to (2, 1/2), stays to 10: 1/2 * 2 * 1/2 + 8 * 1/2 = 4.5
    assert pose_auc([2.0, 30.0], (10,)) == pytest.approx([0.45])
    # (0, 0) -> (1, 1/4) -> (3, 1/2) -> (4, 3/4), level to 5: 0.125 + 0.75 + 0.625 + 0.75 = 2.25
    assert pose_auc([4.0, 1.0, INFINITY, 3.0], (5,)) == pytest.approx([0.45])
    assert pose_auc([1.0, float("nan")], (5,)) == pose_auc([1.0, INFINITY], (5,))


def test_auc_grows_with_the_threshold_and_falls_with_a_failure() -> None:
    errors = np.random.default_rng(0).exponential(6.0, 50)
    areas = pose_auc(errors)
    assert 0 < areas[0] < areas[1] < areas[2] < 1
    assert all(worse < area for worse, area in zip(pose_auc([*errors, INFINITY]), areas))


def test_bootstrap_holds_the_value_and_narrows() -> None:
    errors = np.random.default_rng(0).exponential(6.0, 400)
    few, many = auc_interval(errors[:25], (10,))[0], auc_interval(errors, (10,))[0]
    assert many[0] < pose_auc(errors, (10,))[0] < many[1]
    assert many[1] - many[0] < 0.5 * (few[1] - few[0])
    assert auc_interval(errors, (10,)) == auc_interval(errors, (10,))


# -- epipolar and homography -------------------------------------------------------------------------


def test_epipolar_error_by_hand() -> None:
    """For a move along x the lines are rows: a point 0.01 off its row is 0.01 off in both images."""
    T = transform(np.eye(3), (3.0, 0.0, 0.0))
    rays0 = np.array([[0.1, 0.2], [0.1, 0.2], [-0.4, 0.0]])
    rays1 = np.array([[0.3, 0.2], [0.3, 0.21], [0.4, -0.02]])
    assert epipolar_errors(rays0, rays1, T) == pytest.approx([0.0, 2e-4, 8e-4], abs=1e-12)


def test_homography_measures_by_hand() -> None:
    H = np.array([[1.0, 0, 10], [0, 1, 0], [0, 0, 1]])
    points = np.array([[0.0, 0], [50, 0], [50, 40], [0, 40], [20, 10]])
    matches = as_matches(points, points + [10, 0])
    assert homography_errors(points, points + [10, 2.0], H) == pytest.approx([2.0] * 5)
    assert corner_error(matches, H, 100, 80) == pytest.approx(0.0, abs=1e-3)
    off = H + [[0, 0, 3], [0, 0, 4], [0, 0, 0]]
    assert corner_error(matches, off, 100, 80) == pytest.approx(5.0, abs=1e-3)
    assert corner_error(matches.take(np.arange(3)), H, 100, 80) == INFINITY


def test_a_folder_of_homographies(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (60, 80), dtype=np.uint8)
    image = cv2.resize(noise, (640, 480), interpolation=cv2.INTER_CUBIC)
    H = np.array([[1.0, 0.02, 12], [-0.02, 1, 7], [0, 0, 1]])
    cv2.imwrite(str(tmp_path / "1.png"), image)
    cv2.imwrite(str(tmp_path / "2.png"), cv2.warpPerspective(image, H, (640, 480)))
    np.savetxt(tmp_path / "H_1_2", H)
    scores = evaluate_homographies({"sift": sift, "none": lambda a, b: Matches.empty()}, tmp_path)
    assert scores["sift"].mma["3"] > 0.9 and scores["sift"].median_corner_px < 1.0
    assert scores["none"].mma["3"] == 0.0 and scores["none"].to_dict()["median_corner_px"] is None
    (tmp_path / "2.png").unlink()
    with pytest.raises(DatasetError, match=r"has no readable image 2\.jpg"):
        evaluate_homographies({"sift": sift}, tmp_path)
    with pytest.raises(DatasetError, match="holds no H_1_k file"):
        evaluate_homographies({"sift": sift}, tmp_path / "nothing")


# -- pairs -------------------------------------------------------------------------------------------


def test_overlap_by_hand() -> None:
    """A wall at 4 m, 160 px wide at f = 200: moving 0.8 m shifts it by 40 px, a quarter of the view."""
    wall = np.full((120, 160), 4.0, np.float32)
    T = transform(np.eye(3), (-0.8, 0.0, 0.0))
    assert two_way_overlap(wall, wall, CAMERA, np.eye(4)) == 1.0
    assert two_way_overlap(wall, wall, CAMERA, T) == pytest.approx(0.75)
    assert two_way_overlap(wall, 0 * wall, CAMERA, T) == 0.0
    hidden = wall.copy()
    hidden[:, :80] = 1.0  # something near now covers half of the second view
    assert two_way_overlap(wall, hidden, CAMERA, np.eye(4)) == pytest.approx(0.5)
    assert two_way_overlap(wall, wall * 1.04, CAMERA, np.eye(4)) == 1.0  # within 5 %
    assert two_way_overlap(wall, wall * 1.06, CAMERA, np.eye(4)) == 0.0


def test_pairs_obey_the_limits_and_spread_over_overlap() -> None:
    source = Recording([(0.06 * i, 0.0, 0.0) for i in range(45)])
    pairs = sample_pairs(source, Sampling(count=70))
    overlaps = np.array([pair.overlap for pair in pairs])
    assert len(pairs) == 70 and overlaps.min() >= 0.2 and overlaps.max() <= 0.97
    for pair in pairs:
        assert 0.06 * (pair.index1 - pair.index0) >= 0.06 * 4.0 - 1e-9
        assert pair.T_0to1[0, 3] == pytest.approx(-0.06 * (pair.index1 - pair.index0))
    assert np.histogram(overlaps, np.linspace(0.2, 0.97, 8))[0].min() >= 8
    again = sample_pairs(source, Sampling(count=70))
    assert [(p.index0, p.index1) for p in pairs] == [(p.index0, p.index1) for p in again]
    other = sample_pairs(source, Sampling(count=70, seed=1))
    assert [(p.index0, p.index1) for p in pairs] != [(p.index0, p.index1) for p in other]


def test_the_gap_in_time_is_held() -> None:
    source = Recording([(0.1 * i, 0.0, 0.0) for i in range(40)])
    gaps = {p.index1 - p.index0 for p in sample_pairs(source, Sampling(max_gap_s=0.5))}
    assert gaps == {3, 4, 5}  # shorter ones have too little baseline
    assert max(p.index1 - p.index0 for p in sample_pairs(source)) > 5


def test_large_turns_are_left_out() -> None:
    source = Recording([(0.3 * i, 0.0, 0.0) for i in range(8)], turns=25.0)
    turns = {round(rotation_angle_deg(p.T_0to1[:3, :3])) for p in sample_pairs(source, Sampling(min_overlap=0.0))}
    assert turns == {25, 50}


def test_without_depth_pairs_are_close_in_time() -> None:
    source = Recording([(0.05 * i, 0.0, 0.0) for i in range(40)], depth=False)
    pairs = sample_pairs(source, Sampling(count=30))
    assert len(pairs) == 30 and all(np.isnan(pair.overlap) for pair in pairs)
    assert {p.index1 - p.index0 for p in pairs} == set(range(1, 11))


def test_no_pair_says_what_to_do() -> None:
    with pytest.raises(DatasetError, match=r"no pair to evaluate: 5 images .* 10 candidates .* allow a larger gap"):
        sample_pairs(Recording([(0.0, 0.0, 0.0)] * 5))


# -- methods on pairs --------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_perfect_matcher_and_one_that_finds_nothing(solver: str) -> None:
    if solver == "poselib":
        pytest.importorskip("poselib")
    source = Recording([(0.1 * i, 0.02 * i, 0.05 * i) for i in range(12)], turns=1.0)
    pairs = sample_pairs(source, Sampling(count=6))
    seen: list[tuple[int, int]] = []
    methods = {"truth": source.truth, "nothing": lambda a, b: Matches.empty()}
    scores = evaluate_pairs(methods, pairs, solver, progress=lambda done, of: seen.append((done, of)))
    good, none = scores["truth"], scores["nothing"]
    assert good.auc["5"] > 0.98 and good.failures == 0 and good.median_error_deg < 0.1
    assert good.precision == {"0.0001": 1.0, "0.0005": 1.0}
    assert none.auc == {"5": 0.0, "10": 0.0, "20": 0.0} and none.failures == len(pairs)
    assert none.median_error_deg == INFINITY and none.precision["0.0001"] == 0.0
    assert (good.solver, good.threshold_px) == (solver, SOLVERS[solver][1])
    assert good.image_size == "160x120" and good.K == (200.0, 200.0, 80.0, 60.0)
    assert good.most_matches == max(score.matches for score in good.scores)
    assert seen == [(i + 1, len(pairs)) for i in range(len(pairs))]
    record = json.loads(json.dumps(none.to_dict(with_pairs=True), allow_nan=False))
    assert record["median_error_deg"] is None and len(record["scores"]) == len(pairs)


def test_a_method_that_asks_for_depth_gets_that_of_both_images() -> None:
    source = Recording([(0.0, 0.0, 0.3 * i) for i in range(3)])
    pairs = [Pair(source, 0, 1, 1.0), Pair(source, 1, 2, 1.0)]
    seen: list[tuple[float, float]] = []

    def look(a: ByteArray, b: ByteArray, depth0: Float32Array | None, depth1: Float32Array | None) -> Matches:
        assert depth0 is not None and depth1 is not None
        seen.append((float(depth0[0, 0]), float(depth1[0, 0])))
        return source.truth(a, b)

    scores = evaluate_pairs({"colour": source.truth, "depth": WithDepth(look)}, pairs, "stfm")
    assert np.array(seen) == pytest.approx(np.array([(4.0, 3.7), (3.7, 3.4)]))
    assert scores["colour"].auc == scores["depth"].auc
    assert len(match_pair(WithDepth(look), pairs[0])) == len(match_pair(source.truth, pairs[0])) > 0
    blind = Pair(Recording([(0.3 * i, 0.0, 0.0) for i in range(2)], depth=False), 0, 1, 1.0)
    assert blind.depths == (None, None)


def test_matches_that_fit_the_true_motion_are_told_from_others() -> None:
    source = Recording([(0.3 * i, 0.0, 0.0) for i in range(2)])
    pair = Pair(source, 0, 1, 1.0)
    found = match_pair(source.truth, pair)
    off = found.keypoints1.copy()
    off[::3, 1] += 8  # across the epipolar lines, which are rows
    fits = agreeing(pair, replace(found, keypoints1=off))
    assert fits.dtype == np.bool_ and not fits[::3].any() and fits[1::3].all() and fits[2::3].all()


def test_one_failed_pair_of_two_halves_the_auc() -> None:
    source = Recording([(0.3 * i, 0.0, 0.1 * i) for i in range(3)])
    pairs = [Pair(source, 0, 1, 1.0), Pair(source, 1, 2, 1.0)]

    def half(image0: ByteArray, image1: ByteArray) -> Matches:
        return source.truth(image0, image1) if image0[0, 0, 0] == 0 else Matches.empty()

    score = evaluate_pairs({"half": half}, pairs, "stfm")["half"]
    assert score.failures == 1 and score.auc["20"] == pytest.approx(0.5, abs=0.01)
    assert score.precision["0.0005"] == pytest.approx(0.5)


def test_a_wrong_truth_is_measured_as_such() -> None:
    """The matches are perfect, the recorded pose is turned by 7 degrees about the axis of motion."""
    source = Recording([(0.3 * i, 0.0, 0.0) for i in range(2)])
    turned = Recording([(0.3 * i, 0.0, 0.0) for i in range(2)])
    turned.poses[1, :3, :3] = rotation(7, (1, 0, 0))
    score = evaluate_pairs({"truth": source.truth}, [Pair(turned, 0, 1, 1.0)], "stfm")["truth"]
    assert score.median_rotation_deg == pytest.approx(7.0, abs=0.1)
    assert score.median_translation_deg == pytest.approx(0.0, abs=0.3)


def test_refusals() -> None:
    source = Recording([(0.3 * i, 0.0, 0.0) for i in range(3)])
    with pytest.raises(RuntimeNotAvailable, match="solver 'ransac' is not one of poselib, opencv, stfm"):
        evaluate_pairs({}, [Pair(source, 0, 1, 1.0)], "ransac")
    with pytest.raises(DatasetError, match="there are no pairs to evaluate"):
        evaluate_pairs({}, [], "opencv")


# -- baselines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_find_a_shift(name: str) -> None:
    rng = np.random.default_rng(1)
    image = cv2.resize(rng.integers(0, 255, (60, 80), dtype=np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
    shifted = np.roll(image, (5, 20), axis=(0, 1))
    rgb0, rgb1 = (np.repeat(i[..., None], 3, axis=2) for i in (image, shifted))
    matches = BASELINES[name](rgb0, rgb1)
    assert len(matches) > 100
    assert np.median(np.abs(matches.keypoints1 - matches.keypoints0 - [20, 5])) < 0.3
    assert (np.diff(matches.confidence) <= 0).all()
    assert (matches.confidence > 0).all() and (matches.confidence <= 1).all()
    assert len(BASELINES[name](image, shifted)) == len(matches)  # grey gives the same


@pytest.mark.parametrize("matcher", [sift, orb])
def test_baselines_find_nothing_in_black(matcher: object) -> None:
    black = np.zeros((48, 64, 3), np.uint8)
    assert callable(matcher) and len(matcher(black, black)) == 0


def test_describe_is_complete() -> None:
    sampling = replace(Sampling(), seed=7)
    assert Sampling(**sampling.describe()) == sampling  # type: ignore[arg-type]
