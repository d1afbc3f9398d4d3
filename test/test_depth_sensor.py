"""What a depth camera makes of exact depth: each fault where it belongs, and of the size that it should have."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stfm_ros.types import ByteArray, Float32Array
from stfm_training.depth_sensor import BLIND, EXACT, DepthSensor, measured_pair
from stfm_training.sources.rendered import Rendered
from stfm_training.textures import PROCEDURAL

HEIGHT, WIDTH, FOCAL = 120, 160, 150.0
KINECT = DepthSensor(noise_per_m2=1.425e-3, step_per_m2=2.85e-3, baseline_m=0.075, steepest_deg=75)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def wall(z: float) -> Float32Array:
    return np.full((HEIGHT, WIDTH), z, np.float32)


def box_before_a_wall() -> Float32Array:
    depth = wall(3.0)
    depth[40:80, 60:100] = 1.0
    return depth


def slanted(degrees: float) -> Float32Array:
    """A plane through (0, 0, 2 m), turned about the vertical."""
    x = (np.arange(WIDTH) - WIDTH / 2) / FOCAL
    z = 2 / np.maximum(1 - x * np.tan(np.radians(degrees)), 0.1)
    return np.broadcast_to(z, (HEIGHT, WIDTH)).astype(np.float32)


def test_a_perfect_camera_changes_nothing() -> None:
    exact = box_before_a_wall()
    perfect = DepthSensor(near_m=0.1, far_m=100, steepest_deg=89.99)
    np.testing.assert_array_equal(perfect.measure(exact, None, FOCAL, rng()), exact)


def test_the_error_of_structured_light_grows_with_the_square_of_the_distance() -> None:
    for z in (1.0, 2.0, 4.0):
        measured = KINECT.measure(wall(z), None, FOCAL, rng())
        error = measured[measured > 0] - z
        expected = np.hypot(1.425e-3, 2.85e-3 / np.sqrt(12)) * z * z  # noise and rounding
        assert error.std() == pytest.approx(expected, rel=0.12)
        assert abs(error.mean()) < 0.1 * expected


def test_depth_comes_in_steps_of_disparity() -> None:
    values = np.unique(KINECT.measure(wall(2.0), None, FOCAL, rng()))
    gaps = np.diff(values[values > 0])
    np.testing.assert_allclose(gaps, 2.85e-3 * 4, rtol=0.05)


@pytest.mark.parametrize("side", [-1, 1])
def test_the_projector_leaves_a_shadow_on_one_side_of_what_is_near(side: int) -> None:
    sensor = DepthSensor(baseline_m=0.1 * side, steepest_deg=89.99)
    hidden = sensor.measure(box_before_a_wall(), None, FOCAL, rng()) == 0
    expected = 0.1 * FOCAL * (1 / 1.0 - 1 / 3.0)  # px: the difference of the disparities
    left, right = hidden[60, :60].sum(), hidden[60, 100:].sum()
    wide, none = (left, right) if side > 0 else (right, left)
    assert wide == pytest.approx(expected, abs=1.5)
    assert none == 0
    assert not hidden[:39].any() and not hidden[40:80, 60:100].any()


def test_steep_surfaces_and_edges_have_no_depth() -> None:
    sensor = DepthSensor(steepest_deg=75)
    assert (sensor.measure(slanted(50), None, FOCAL, rng())[:, :90] > 0).mean() > 0.999
    steep = slanted(82)
    assert (sensor.measure(steep, None, FOCAL, rng())[:, 78:84] == 0).mean() > 0.95
    hidden = sensor.measure(box_before_a_wall(), None, FOCAL, rng()) == 0
    assert hidden[60, 59:61].all() and hidden[60, 99:101].all()
    assert not hidden[60, 62:98].any() and not hidden[:38].any()


def test_time_of_flight_mixes_the_depths_of_an_edge() -> None:
    measured = DepthSensor(steepest_deg=80, mixes=True).measure(box_before_a_wall(), None, FOCAL, rng())
    assert (measured > 0).all()
    assert 1.2 < measured[60, 60] < 2.8
    exact = box_before_a_wall()
    exact[exact == 3] = 0  # before the sky there is nothing to mix with
    measured = DepthSensor(steepest_deg=80, mixes=True).measure(exact, None, FOCAL, rng())
    assert set(np.unique(measured)) <= {0.0, 1.0}


def test_dark_surfaces_are_lost_the_sooner_the_farther_they_are() -> None:
    image = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    image[:, :80] = 15
    sensor = DepthSensor(weakest=0.01)
    near, far = (sensor.measure(wall(z), image, FOCAL, rng()) == 0 for z in (0.8, 3.5))
    assert near.mean() < 0.01
    assert far[:, :76].mean() > 0.9 and far[:, 84:].mean() < 0.01
    assert (sensor.measure(wall(3.5), None, FOCAL, rng()) > 0).all()


def test_nothing_is_measured_out_of_range_or_out_of_view() -> None:
    sensor = DepthSensor(near_m=0.5, far_m=4.0, margins=(0.1, 0.2, 0.05, 0.0))
    assert not sensor.measure(wall(0.4), None, FOCAL, rng()).any()
    assert not sensor.measure(wall(4.5), None, FOCAL, rng()).any()
    assert not sensor.measure(wall(0.0), None, FOCAL, rng()).any()
    seen = sensor.measure(wall(2.0), None, FOCAL, rng()) > 0
    assert seen[24:, 16:152].all()
    assert seen.sum() == 96 * 136


@pytest.mark.parametrize(("fault", "share"), [("blobs", 0.1), ("dropout", 0.02), ("lattice", 0.12)])
def test_holes_take_the_share_that_was_asked_for(fault: str, share: float) -> None:
    sensor = DepthSensor(**{fault: share})  # type: ignore[arg-type]
    holes = np.mean([sensor.measure(wall(2.0), None, FOCAL, rng(seed)) == 0 for seed in range(20)])
    assert holes == pytest.approx(share, rel=0.35)


def test_the_misalignment_moves_depth_against_the_image() -> None:
    sensor = DepthSensor(offset_px=(3.0, -2.0), steepest_deg=89.99)
    moved = sensor.measure(box_before_a_wall(), None, FOCAL, rng())
    np.testing.assert_array_equal(np.argwhere(moved == 1).min(0), [42, 57])


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(-75, 75), st.sampled_from([(32, 40), (64, 48), (120, 160)]))
def test_any_camera_gives_depth_that_is_none_or_near_the_truth(seed: int, angle: float, size: tuple[int, int]) -> None:
    exact = np.ascontiguousarray(slanted(angle)[: size[0], : size[1]])
    image = rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
    before = exact.copy()
    sensor = DepthSensor.random(rng(seed))
    measured = sensor.measure(exact, image, FOCAL, rng(seed))
    assert measured.dtype == np.float32 and measured.shape == exact.shape
    assert np.isfinite(measured).all() and (measured >= 0).all()
    np.testing.assert_array_equal(exact, before)
    np.testing.assert_array_equal(measured, sensor.measure(exact, image, FOCAL, rng(seed)))
    known = measured > 0
    if known.any():
        assert np.median(abs(measured[known] / exact[known] - 1)) < 0.08


def test_random_cameras_differ_in_every_figure() -> None:
    cameras = [DepthSensor.random(rng(seed)) for seed in range(60)]
    for field in fields(DepthSensor):
        assert len({getattr(camera, field.name) for camera in cameras}) > 1, field.name


def test_some_pairs_are_exact_and_some_have_depth_in_one_image_only() -> None:
    exact = wall(1.5), wall(1.6)
    images = (np.full((HEIGHT, WIDTH, 3), 180, np.uint8),) * 2
    untouched = blind = 0
    for seed in range(400):
        measured = measured_pair(exact, images, FOCAL, rng(seed))
        untouched += all((a == b).all() for a, b in zip(measured, exact))
        blind += sum(not depth.any() for depth in measured)
        assert any(depth.any() for depth in measured)
    assert untouched / 400 == pytest.approx(EXACT, abs=0.04)
    assert blind / 400 == pytest.approx(BLIND, abs=0.035)


def textures() -> list[ByteArray]:
    return [PROCEDURAL[kind](rng(), 256) for kind in ("patches", "text", "cloudy")]


def test_holes_of_rendered_rooms_are_as_many_as_in_recorded_ones() -> None:
    source = Rendered(textures())
    shares = []
    for seed in range(24):
        pair = source.pair(rng(seed), 0.5, 96, 128)
        shares.append([(depth == 0).mean() for depth in (pair.depth0, pair.depth1)])
        assert (pair.warp01.state != 0).mean() > 0.3  # the truth knows nothing of the camera's holes
    # recorded: .23 (Kinect), .27 (Kinect), .36 (HoloLens), .02 (rendered, clean)
    assert 0.15 < np.median(shares) < 0.45
    assert np.min(shares) < 0.1 < 0.5 < np.max(shares)
