"""Cameras move as they do on robots; light and colour change as the documented shares say."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from stfm_ros.types import Camera, FloatArray
from stfm_training import photometric, weather
from stfm_training.motions import MOTIONS, random_motion
from stfm_training.photometric import GREY_PAIRS, augment_pair
from stfm_training.raster import Rendering
from stfm_training.render import Scene, overlap
from stfm_training.sources import rendered
from stfm_training.sources.homographies import Homographies
from stfm_training.sources.pair import Pair
from stfm_training.sources.rendered import Rendered
from stfm_training.supervision import MATCHED, grid
from stfm_training.textures import PROCEDURAL
from stfm_training.weather import Weather, random_weathers

CAMERA = Camera(160, 128, np.array([[120.0, 0, 79.5], [0, 120.0, 63.5], [0, 0, 1]]))
KINDS = {motion.name: motion for motion in MOTIONS}


def place_of(T: FloatArray) -> FloatArray:
    return np.asarray(-T[:3, :3].T @ T[:3, 3])


def turn_deg(T: FloatArray) -> float:
    return float(np.degrees(np.arccos(np.clip((np.trace(T[:3, :3]) - 1) / 2, -1, 1))))


@cache
def drawn(name: str) -> list[tuple[Scene, FloatArray, FloatArray]]:
    """Some pairs of views of one kind of camera."""
    found = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        scene = Scene.random(rng, [], KINDS[name].scene)
        found.append((scene, *KINDS[name].views(scene, rng, CAMERA, 0.6)))
    return found


def test_half_of_the_pairs_are_of_no_camera_in_particular() -> None:
    assert sum(motion.share for motion in MOTIONS) == pytest.approx(1)
    assert KINDS["any"].share == 0.5
    rng = np.random.default_rng(0)
    names = [random_motion(rng).name for _ in range(500)]
    for motion in MOTIONS:
        assert names.count(motion.name) / 500 == pytest.approx(motion.share, abs=0.07)


def test_a_rig_has_a_baseline_and_hardly_a_turn() -> None:
    for _, T0, T1 in drawn("stereo"):
        way = T0[:3, :3] @ (place_of(T1) - place_of(T0))
        assert 0.05 <= abs(way[0]) <= 0.25 and abs(way[1:]).max() < 0.2 * abs(way[0])
        assert turn_deg(T1 @ np.linalg.inv(T0)) < 3


def test_a_robot_on_wheels_keeps_its_height_and_hardly_rolls() -> None:
    for _, T0, T1 in drawn("planar"):
        heights = place_of(T0)[2], place_of(T1)[2]
        assert 0.1 < heights[0] < 1.05 and abs(heights[0] - heights[1]) < 0.05
        assert all(abs(T[0, 2]) < np.sin(np.radians(3)) for T in (T0, T1))  # right stays level
        assert 0.01 < np.linalg.norm(place_of(T1) - place_of(T0)) < 1.5


def test_a_car_goes_along_its_road() -> None:
    for scene, T0, T1 in drawn("driving"):
        way = place_of(T1) - place_of(T0)
        assert scene.kind == "road"
        assert 0.2 <= np.linalg.norm(way) < 6 and abs(way[0]) > 0.9 * np.linalg.norm(way)
        assert turn_deg(T1 @ np.linalg.inv(T0)) < 12


def test_a_hand_goes_no_further_than_a_step() -> None:
    for _, T0, T1 in drawn("hand-held"):
        assert 0.01 <= np.linalg.norm(place_of(T1) - place_of(T0)) < 0.15 + 0.6
        assert turn_deg(T1 @ np.linalg.inv(T0)) < 45


@pytest.mark.parametrize("name", ["hand-held", "planar", "driving", "stereo"])
def test_robots_see_what_they_saw(name: str) -> None:
    for scene, T0, T1 in drawn(name):
        small = Camera(64, 48, np.diag([0.4, 0.375, 1]) @ CAMERA.K)
        assert (
            overlap(scene.depth(small, T0), scene.depth(small, T1), small, T1 @ np.linalg.inv(T0)) > 0.2
        )  # much is sky


def test_a_pair_with_everything_is_a_function_of_its_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendered, "ROLLING", 1.0)
    monkeypatch.setattr(weather, "CHANGED", 10.0)
    first, second = (Rendered([]).pair(np.random.default_rng(3), 0.8, 64, 96) for _ in range(2))
    for name in ("image0", "image1", "depth0", "depth1"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert (first.warp01.state == MATCHED).mean() > 0.2


def test_plain_pairs_are_of_no_robot_and_of_one_day(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw() -> Pair:
        return Rendered([], plain=True).pair(np.random.default_rng(3), 1.0, 64, 96)

    usual = draw()
    monkeypatch.setattr(rendered, "ROLLING", 1.0)
    monkeypatch.setattr(weather, "CHANGED", 10.0)
    monkeypatch.setattr(rendered, "random_motion", lambda rng: KINDS["stereo"])
    np.testing.assert_array_equal(draw().image1, usual.image1)


def test_haze_hides_the_far_and_half_at_its_distance() -> None:
    depth = np.array([[0.1, 10.0, 100.0, 0.0]], np.float32)
    hazy = Weather(Scene.random(np.random.default_rng(0), []).light, half_m=10.0, haze=np.full(3, 200.0))
    seen = hazy.over(Rendering(np.full((1, 4, 3), 40, np.uint8), depth))
    np.testing.assert_allclose(seen.image[0, :, 0], [41, 120, 200, 200], atol=1)
    np.testing.assert_array_equal(seen.depth, depth)
    clear = replace(hazy, half_m=np.inf)
    assert clear.over(seen) is seen


def test_light_changes_more_where_pairs_are_hard() -> None:
    scene = Scene.random(np.random.default_rng(1), [], "outdoor")
    views = np.eye(4), np.eye(4)

    def changed(difficulty: float) -> float:
        rng = np.random.default_rng(2)
        pairs = [random_weathers(scene, rng, views, difficulty) for _ in range(200)]
        return float(np.mean([any(w.sky != 1 or np.isfinite(w.half_m) for w in pair) for pair in pairs]))

    assert changed(0.0) == 0
    assert changed(0.5) == pytest.approx(0.5 * weather.CHANGED, abs=0.08)
    assert changed(1.0) == pytest.approx(weather.CHANGED, abs=0.09)


def test_the_night_is_dark_and_its_pictures_have_grain() -> None:
    rng = np.random.default_rng(4)
    scene = Scene.random(rng, [], "outdoor")
    T = KINDS["hand-held"].views(scene, rng, CAMERA, 0.5)[0]
    day, levels = scene.render(CAMERA, T).image.mean(), []
    for _ in range(4):
        night = weather._night(Weather(scene.light), scene, rng, T, 1.0)
        picture = night.over(scene.render(CAMERA, T, night.light)).image
        levels.append(picture.mean())
        assert 0.5 < abs(night.grainy(picture, rng).astype(int) - picture).mean() < 20
    assert np.mean(levels) < 0.75 * day


def test_a_grey_camera_is_grey_in_both_pictures() -> None:
    rng = np.random.default_rng(0)
    image = PROCEDURAL["patches"](rng, 32)

    def is_grey(picture: np.ndarray) -> bool:
        return bool((picture == picture[..., :1]).all())

    assert is_grey(photometric.augment(image, rng, 0.0, grey=True))
    pairs = [[is_grey(picture) for picture in augment_pair(image, image, rng, 0.0)] for _ in range(400)]
    assert all(first == second for first, second in pairs)
    assert np.mean(pairs) == pytest.approx(GREY_PAIRS, abs=0.06)
    assert all(is_grey(photometric.augment(image, rng, 1.0, grey=True)) for _ in range(10))


def test_few_homographies_are_turned_on_their_side() -> None:
    source = Homographies([PROCEDURAL["patches"](np.random.default_rng(0), 128)])
    rng = np.random.default_rng(1)

    def angle(pair: Pair) -> float:
        """Of a step to the right in the middle of the image."""
        middle = int(np.flatnonzero((grid(64, 64) == [32, 32]).all(1))[0])
        way = pair.warp01.points[middle + 1] - pair.warp01.points[middle]
        return float(abs(np.degrees(np.arctan2(way[1], way[0]))))

    angles = np.array([angle(source.pair(rng, 1.0, 64, 64)) for _ in range(150)])
    assert np.mean(angles > 70) == pytest.approx(Homographies.TURNED * 110 / 180, abs=0.06)
    assert np.median(angles) < 20
