"""Pictures of failures: which matches are right, which pair is the worst, and whether the picture can be read."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch", reason="stfm_training is not installed")

from stfm_ros.matcher import Matcher
from stfm_ros.pairs import Pair, rotation_angle_deg
from stfm_ros.types import BoolArray, Camera, Matches
from stfm_ros.visualise import INLIER, OUTLIER
from stfm_training.evaluation import TwoViews, matcher_of
from stfm_training.failures import (
    BARE_OVERLAP,
    CAUSES,
    COLUMN,
    DARK,
    FONT,
    FONT_SIZE,
    MOST_BYTES,
    TILT_DEG,
    TURN_DEG,
    ZOOM,
    Failure,
    Look,
    cell,
    encoded,
    failures,
    header,
    picture,
    right_matches,
)
from stfm_training.sources.homographies import Homographies

SHIPPED = Path(__file__).parents[1] / "stfm_ros" / "weights" / "small" / "weights.safetensors"
HEIGHT, WIDTH = 192, 256
SEED = 7
K = np.array([[200.0, 0, 127.5], [0, 200.0, 95.5], [0, 0, 1]])


@pytest.fixture(scope="module")
def matcher() -> Matcher:
    return matcher_of(SHIPPED, HEIGHT, WIDTH)


def shifted(depth0: float = 2.0, depth1: float = 2.0, shift_px: float = 20.0) -> Pair:
    """A plane before a camera that moves to the left: all points move to the right by ``shift_px``."""
    poses = np.repeat(np.eye(4)[None], 2, axis=0)
    poses[1, 0, 3] = -shift_px * 2.0 / K[0, 0]
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    depths = (np.full((HEIGHT, WIDTH), depth0, np.float32), np.full((HEIGHT, WIDTH), depth1, np.float32))
    return Pair(TwoViews(Camera(WIDTH, HEIGHT, K), poses, (image, image), depths, np.arange(2.0)), 0, 1, 1.0)


def matched(points0: object, points1: object) -> Matches:
    first, second = np.asarray(points0, np.float32), np.asarray(points1, np.float32)
    return Matches(first, second, np.full(len(first), 0.9, np.float32), np.full(len(first), 0.5, np.float32))


def looked(right: int, wrong: int, searched: BoolArray | None = None) -> Look:
    """A look at a plane with so many right and wrong matches, spread over the image."""
    points = np.random.default_rng(right).uniform(30, 150, (right + wrong, 2))
    flags = np.arange(right + wrong) < right
    return Look(shifted(), matched(points, points + [20, 0]), flags, searched)


def test_a_match_is_right_within_three_pixels_of_where_the_camera_takes_its_point() -> None:
    points = [[40, 40]] * 4
    matches = matched(points, [[60, 40], [62.9, 40], [63.1, 40], [60, 36.9]])
    assert right_matches(shifted(), matches).tolist() == [True, True, False, False]


def test_what_is_hidden_out_of_view_or_has_no_depth_has_no_right_match() -> None:
    there = matched([[40, 40]], [[60, 40]])
    assert not right_matches(shifted(depth1=1.0), there).any()
    assert not right_matches(shifted(depth0=0.0), there).any()
    assert not right_matches(shifted(), matched([[250, 40]], [[255.4, 40]])).any()
    assert right_matches(shifted(), Matches.empty()).shape == (0,)


def test_the_worst_pair_has_the_fewest_right_matches_then_the_most_wrong_ones() -> None:
    looks = [looked(40, 1), looked(9, 0), looked(9, 30), looked(12, 300)]
    assert Failure(CAUSES[0], looks).worst is looks[2]


def test_the_caption_has_the_worst_and_the_medians() -> None:
    looks = [looked(10, 30, np.arange(50) < 45), looked(60, 20, np.arange(80) < 60), looked(70, 30, np.ones(90, bool))]
    title, worst, median = Failure(CAUSES[0], looks).caption
    assert title == CAUSES[0].title
    assert worst == "Worst of 3: 10 of 40 matches right; with the search 45 of 50"
    assert median == "Median of 3: 60 right, 70 %; with the search 60 right, 90 %"
    nothing = Failure(CAUSES[3], [looked(0, 0)]).caption
    assert nothing[1:] == ["Worst of 1: 0 of 0 matches right", "Median of 1: 0 right, 0 %"]


def test_the_longest_captions_fit_their_column(matcher: Matcher) -> None:
    every = np.ones(1024, bool)
    most = Look(shifted(), Matches.empty(), every, every)
    texts = [text for cause in CAUSES for text in Failure(cause, [most] * 12).caption]
    assert all(text.isascii() for text in texts)
    assert max(cv2.getTextSize(text, FONT, FONT_SIZE, 1)[0][0] for text in texts) <= COLUMN
    assert cv2.getTextSize(header(matcher, 12345), FONT, FONT_SIZE, 1)[0][0] <= 2 * COLUMN


def test_right_matches_are_green_and_wrong_ones_red() -> None:
    def shares(look: Look) -> list[float]:
        drawn = cell(Failure(CAUSES[3], [look])).astype(int)
        return [float((abs(drawn - colour).sum(axis=2) < 60).mean()) for colour in (INLIER, OUTLIER)]

    green, red = shares(looked(60, 0)), shares(looked(0, 60))
    assert green[0] > 0.005 > 0.0005 > green[1]
    assert red[1] > 0.005 > 0.0005 > red[0]


def test_a_picture_has_two_columns_and_is_small_enough() -> None:
    cells = [cell(Failure(cause, [looked(60, 60)])) for cause in CAUSES[:3]]
    shown = picture(cells, "title")
    assert 1100 <= shown.shape[1] <= 1200 and shown.shape[0] > 2 * cells[0].shape[0]
    noise = np.random.default_rng(0).integers(0, 60, (600, 1200, 3)).astype(np.uint8)
    for image in (shown, noise):  # noise is the most that a JPEG can be asked for
        data = encoded(image)
        assert len(data) <= MOST_BYTES
        assert np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)).shape == image.shape


def test_causes_are_what_they_say_and_follow_from_the_seed(photographs: Path) -> None:
    photos = Homographies(photographs, validation=True).photos
    camera = Camera(160, 128, np.array([[131.2, 0, 79.5], [0, 131.2, 63.5], [0, 0, 1]]))
    pairs = {cause.title.split()[0]: cause.pair(np.random.default_rng(SEED), photos, camera) for cause in CAUSES}
    turn = abs(np.degrees(np.arctan2(pairs["Turned"].T_0to1[1, 0], pairs["Turned"].T_0to1[0, 0])))
    assert TURN_DEG[0] <= turn <= TURN_DEG[1]
    distances = sorted(float(np.median(np.asarray(depth))) for depth in pairs["Zoomed"].depths)
    assert distances[1] / distances[0] == pytest.approx(ZOOM, rel=0.1)
    assert rotation_angle_deg(pairs["Tilted"].T_0to1[:3, :3]) == pytest.approx(TILT_DEG)
    assert BARE_OVERLAP[0] - 0.02 <= pairs["Half"].overlap <= BARE_OVERLAP[1] + 0.02
    assert min(image.mean() for image in pairs["Night:"].images) < DARK + 5
    sharpness = [np.abs(np.diff(image.astype(int), axis=1)).mean() for image in pairs["The"].images]
    assert sharpness[1] < 0.6 * sharpness[0]
    again = CAUSES[-1].pair(np.random.default_rng(SEED), photos, camera)
    np.testing.assert_array_equal(again.images[1], pairs["Nine"].images[1])


def test_a_network_finds_what_is_smeared_and_with_the_search_what_is_turned_but_no_pattern(
    matcher: Matcher, photographs: Path
) -> None:
    """Matches of a network that sees are right, so that what is called wrong is."""
    photos = Homographies(photographs, validation=True).photos
    causes = [cause for cause in CAUSES if cause.title.startswith(("Turned", "A pattern", "The second"))]
    turned, pattern, smeared = (failure.worst for failure in failures(matcher, photos, 1, 3, causes))
    assert turned.searched is not None and turned.searched.sum() > 100 > turned.right.sum()
    assert smeared.searched is None and smeared.right.sum() > 100 and smeared.right.mean() > 0.5
    assert pattern.right.sum() < 5 < len(pattern.matches)
