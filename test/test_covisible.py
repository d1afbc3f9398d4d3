"""The closer look at what two images both show, with the shipped weights."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stfm_ros.config import MatcherConfig
from stfm_ros.covisible import FEWEST, LARGEST, SMALLEST, _enlarged, look_again
from stfm_ros.errors import ConfigError
from stfm_ros.matcher import Matcher
from stfm_ros.types import Matches

SIZE = (640, 480)


@pytest.fixture(scope="module")
def matcher():
    return Matcher.from_pretrained(MatcherConfig(model="small", looks=2))


def moved(picture, zoom: float, dx: float, angle_deg: float = 0.0):
    """The picture turned and zoomed about its middle and moved to the right, and the (2, 3) map to it."""
    A = cv2.getRotationMatrix2D((319.5, 239.5), angle_deg, zoom)
    A[0, 2] += dx
    return cv2.warpAffine(picture, A, SIZE, flags=cv2.INTER_AREA), A


def right(matches: Matches, A) -> int:
    error = matches.keypoints1 - (matches.keypoints0 @ A[:, :2].T + A[:, 2])
    return int((np.hypot(*error.T) < 3).sum())


def test_two_looks_find_more_that_is_right(matcher, picture):
    other, A = moved(picture, 1.4, 220)
    features = matcher.features(picture), matcher.features(other)
    once, twice = matcher.look(*features), matcher.match_features(*features)
    assert right(twice, A) > 1.7 * right(once, A) > 100
    assert right(twice, A) / len(twice) > right(once, A) / len(once) - 0.02
    assert (np.diff(twice.confidence) <= 0).all()
    # what the first look found is still among them
    first = {tuple(row) for row in np.column_stack(once.columns).tolist()}
    assert first < {tuple(row) for row in np.column_stack(twice.columns).tolist()}


def test_a_look_elsewhere_errs_no_more_than_the_first(matcher, picture):
    """A wrong origin of a part by half a pixel would show: both looks are read in pixels of the images given."""
    other, A = moved(picture, 1.0, 150.0)
    features = matcher.features(picture), matcher.features(other)
    once, twice = matcher.look(*features), matcher.match_features(*features)
    for matches in (once, twice):
        error = (matches.keypoints1 - (matches.keypoints0 @ A[:, :2].T + A[:, 2]))[matches.confidence > 0.5]
        assert np.abs(np.median(error, axis=0)).max() < 0.15


def test_most_matches_is_kept_to(matcher, picture):
    fewer = Matcher(matcher.runtime, replace(matcher.config, max_matches=300), "", "")
    other, _ = moved(picture, 1.1, 40)
    assert len(fewer.match(picture, other)) == 300


def test_few_or_turned_matches_come_back_as_they_are(matcher, picture):
    class Never:
        def features(self, image):
            raise AssertionError("nothing is looked at again")

        look = features

    few = matcher.match(picture, picture).take(np.arange(FEWEST - 1))
    assert look_again(Never(), picture, picture, few, SIZE) is few
    other, A = moved(picture, 1.0, 0.0, 40.0)
    points = np.random.default_rng(1).uniform(50, 400, (60, 2)).astype(np.float32)
    ones = np.ones(60, np.float32)
    turned = Matches(points, (points @ A[:, :2].T + A[:, 2]).astype(np.float32), ones, ones)
    assert look_again(Never(), picture, other, turned, SIZE) is turned
    noise = np.random.default_rng(0).integers(0, 256, picture.shape, np.uint8)
    assert len(matcher.match(picture, noise)) < 20


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(60, 1500), st.integers(60, 1500))
def test_a_part_shows_its_points_as_large_as_they_fit(seed, width, height):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.8, 2)
    share = rng.uniform(low, np.minimum(low + rng.uniform(0.05, 1), 1), (40, 2))
    points = (share * [width - 1, height - 1]).astype(np.float32)
    view = _enlarged(np.zeros((height, width, 3), np.uint8), points, SIZE)
    rows, columns = view.image.shape[:2]
    assert rows <= 480 and columns <= 640 and (rows == 480 or columns == 640)
    there = points @ view.A[:2, :2].T + view.A[:2, 2]
    inside = ((there > -1) & (there < [columns, rows])).all(1)
    assert inside.mean() >= 0.85  # outliers need not be shown, nor the border of what fills all of the image
    np.testing.assert_allclose(view.back(there.astype(np.float32)), points, atol=0.01)
    zoom = max(640 / width, 480 / height) if width * 480 < height * 640 else min(640 / width, 480 / height)
    assert view.A[0, 0] <= max(640 / width, 480 / height, zoom) / SMALLEST + 1e-6
    assert view.A[0, 0] >= min(640 / width, 480 / height) / LARGEST - 1e-6


def test_an_rgbd_model_looks_once():
    with pytest.raises(ConfigError, match=r"matcher\.looks is 2, and model \S+ is an RGB-D one, which looks once"):
        Matcher.from_pretrained(MatcherConfig(model="teacher", looks=2))
