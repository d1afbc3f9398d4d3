"""Pictures turned and zoomed against each other, with the shipped weights."""

import cv2
import numpy as np
import pytest

from stfm_ros.matcher import Matcher
from stfm_ros.search import View, _turned_and_shrunk
from stfm_ros.types import Matches


@pytest.fixture(scope="module")
def matcher():
    return Matcher.from_pretrained()


def moved(picture, angle_deg: float, zoom: float):
    """The picture turned and zoomed about its middle, and the (3, 3) map to it."""
    A = np.vstack([cv2.getRotationMatrix2D((319.5, 239.5), angle_deg, zoom), [0, 0, 1]])
    return View.of(picture, A, 640, 480).image, A


def right(matches: Matches, A, px: float = 4.0) -> int:
    truth = matches.keypoints0 @ A[:2, :2].T + A[:2, 2]
    return int((np.linalg.norm(matches.keypoints1 - truth, axis=1) < px).sum())


@pytest.mark.parametrize(("angle_deg", "zoom"), [(-80, 0.4), (0, 0.35), (135, 0.5)])
def test_search_finds_what_a_single_look_does_not(matcher, picture, angle_deg, zoom):
    other, A = moved(picture, angle_deg, zoom)
    plain, searched = matcher.match(picture, other), matcher.match(picture, other, search=True)
    assert right(searched, A) > max(500, 5 * right(plain, A))
    assert right(searched, A) > 0.95 * len(searched)


def test_pictures_in_line_are_left_as_they_are(matcher, picture):
    other, _ = moved(picture, 3, 1.05)
    plain, searched = matcher.match(picture, other), matcher.match(picture, other, search=True)
    np.testing.assert_array_equal(plain.keypoints1, searched.keypoints1)


def test_nothing_in_common_gives_no_more_than_a_few_matches(matcher, picture):
    noise = np.random.default_rng(0).integers(0, 256, picture.shape, np.uint8)
    assert len(matcher.match(picture, noise, search=True)) < 20


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("shrunk", [False, True])
def test_points_of_a_view_come_back(picture, turns, shrunk):
    view = _turned_and_shrunk(picture, turns, shrunk)
    points = np.array([[0, 0], [639, 0], [320, 240], [639, 479]], np.float32)
    there = points @ view.A[:2, :2].T + view.A[:2, 2]
    np.testing.assert_allclose(view.back(there.astype(np.float32)), points, atol=1e-3)
    assert view.inside(points).all() and not view.inside(points + 640).any()
    if not shrunk:  # a right angle takes pixels to pixels
        x, y = np.rint(there[2]).astype(int)
        np.testing.assert_array_equal(view.image[y, x], picture[240, 320])
