"""Pictures of matches: where the lines are, what the caption counts, and images of any kind."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from stfm_ros.types import Matches, PoseStatus, RelativePose
from stfm_ros.visualise import INLIER, OUTLIER, draw_matches, pose_words, spread

GREY = np.full((48, 64, 3), 90, np.uint8)


def matches(n: int, seed: int = 0, width: int = 64, height: int = 48) -> Matches:
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 1, (n, 2)) * [width - 1, height - 1]
    confidence = np.sort(rng.uniform(0.2, 1, n))[::-1]
    return Matches(points.astype("f4"), points[::-1].astype("f4"), confidence.astype("f4"), np.ones(n, np.float32))


def pose(status: PoseStatus, n: int = 0, metric: bool = False) -> RelativePose:
    R, _ = cv2.Rodrigues(np.array([0, np.radians(5.0), 0]))
    return RelativePose(np.asarray(R), np.array([1.0, 0, 0]), np.eye(6), np.ones(n, bool), status, "", metric=metric)


def test_a_keypoint_is_drawn_at_its_pixel() -> None:
    at0, at1 = np.array([[10, 20]], np.float32), np.array([[30, 40]], np.float32)
    one = Matches(at0, at1, np.ones(1, np.float32), np.ones(1, np.float32))
    picture = draw_matches(GREY, GREY, one, np.array([True]))
    assert tuple(picture[20, 10]) == INLIER
    assert tuple(picture[40, 64 + 4 + 30]) == INLIER
    assert tuple(picture[5, 5]) == (90, 90, 90)
    assert tuple(draw_matches(GREY, GREY, one, np.array([False]))[20, 10]) == OUTLIER


def test_a_keypoint_keeps_its_place_in_a_larger_picture() -> None:
    at = np.array([[10, 20]], np.float32)
    one = Matches(at, at, np.ones(1, np.float32), np.ones(1, np.float32))
    picture = draw_matches(GREY, GREY, one, np.array([True]), width=4 * 132)
    y, x = np.nonzero((picture[: 48 * 4, : 64 * 4] == INLIER).all(-1))
    # the centre of pixel 10 of 64 is at 41.5 of 256
    np.testing.assert_allclose([x.mean(), y.mean()], [41.5, 81.5], atol=1.5)


def test_images_of_any_size_and_kind() -> None:
    grey = np.zeros((30, 40), np.uint8)
    picture = draw_matches(GREY, grey, Matches.empty())
    assert picture.dtype == np.uint8
    assert picture.shape[1] == 64 + 4 + 40
    assert picture.shape[0] > 48  # the caption
    assert (picture[30:48, 68:] == picture[47, 107]).all()  # below the smaller image: background
    assert draw_matches(GREY, grey, matches(500), width=200).shape[1] == pytest.approx(200, abs=1)


def test_a_flag_for_each_match() -> None:
    with pytest.raises(ValueError, match="3 inlier flags for 5 matches: expected one each"):
        draw_matches(GREY, GREY, matches(5), np.ones(3, bool))


def test_a_pose_brings_its_inliers_and_its_words() -> None:
    picture = draw_matches(GREY, GREY, matches(5), pose=pose(PoseStatus.OK, 5))
    assert (picture == INLIER).all(-1).any()
    assert pose_words(pose(PoseStatus.OK)) == "OK: turn 5.0 deg, t (-1.00 0.00 -0.09)"
    assert pose_words(pose(PoseStatus.OK, metric=True)).endswith(" m")
    assert pose_words(pose(PoseStatus.ROTATION_ONLY)) == "ROTATION_ONLY: turn 5.0 deg"
    assert pose_words(pose(PoseStatus.LOST)) == "LOST"


def test_the_lines_that_are_drawn_are_spread_and_best_first() -> None:
    crowd = matches(400, 1, 20, 20)  # confident, in one corner
    few = matches(20, 2, 600, 400)
    both = Matches(
        np.concatenate([crowd.keypoints0, few.keypoints0]),
        np.concatenate([crowd.keypoints1, few.keypoints1]),
        np.repeat(np.array([0.9, 0.3], np.float32), [400, 20]),
        np.ones(420, np.float32),
    )
    chosen = spread(both, 30)
    assert len(chosen) == 30
    assert len(set(chosen.tolist())) == 30
    assert np.count_nonzero(chosen >= 400) >= 15  # the few far ones are not crowded out
    assert (np.diff(both.confidence[chosen]) <= 0).all()
    np.testing.assert_array_equal(spread(few, 30), np.arange(20))
