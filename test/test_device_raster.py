"""The rasteriser that draws on a device of torch, against the one of OpenCV."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stfm_ros.errors import ConfigError
from stfm_ros.types import ByteArray, Camera, FloatArray
from stfm_training.device_raster import DeviceRaster
from stfm_training.raster import Face, Light, Raster, Rendering, Round
from stfm_training.render import Scene, look_at, random_pair_views
from stfm_training.sources.rendered import Rendered
from stfm_training.supervision import MATCHED
from stfm_training.textures import PROCEDURAL, Texture, leaves

CAMERA = Camera(160, 120, np.array([[140.0, 0, 79.5], [0, 141.0, 59.5], [0, 0, 1]]))
NO_GPU = "this machine has no GPU that torch can use"


def photographs() -> list[ByteArray]:
    rng = np.random.default_rng(7)
    return [PROCEDURAL[kind](rng, 256) for kind in ("patches", "text", "cloudy", "windows", "bricks", "wood")]


def assert_alike(ours: Rendering, theirs: Rendering, flips: float = 2e-3) -> None:
    """Depth to the last bits, colour to two levels; a share ``flips`` of pixels may be on another side of an edge."""
    both = (ours.depth > 0) & (theirs.depth > 0)
    assert ((ours.depth > 0) != (theirs.depth > 0)).mean() <= flips
    assert (abs(ours.depth[both] / theirs.depth[both] - 1) > 1e-5).mean() <= flips
    difference = abs(ours.image.astype(int) - theirs.image).max(-1)
    assert (difference > 3).mean() <= flips + 1e-3
    assert difference.mean() < 0.5


def views(seed: int, kind: str) -> tuple[Scene, FloatArray]:
    rng = np.random.default_rng(seed)
    scene = Scene.random(rng, photographs(), kind)
    return scene, random_pair_views(scene, rng, CAMERA, 0.7)[0]


@pytest.mark.parametrize("kind", ["indoor", "outdoor"])
@pytest.mark.parametrize("seed", range(4))
def test_it_draws_what_the_other_draws(kind: str, seed: int) -> None:
    scene, T = views(seed, kind)
    assert_alike(scene.on("cpu").render(CAMERA, T), scene.render(CAMERA, T))


@pytest.mark.parametrize("kind", ["indoor", "outdoor"])
def test_it_draws_the_same_on_a_gpu(kind: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip(NO_GPU)
    for seed in range(6):
        scene, T = views(seed, kind)
        drawn = scene.on("cuda")
        assert_alike(drawn.render(CAMERA, T), scene.render(CAMERA, T))
        np.testing.assert_array_equal(drawn.render(CAMERA, T).image, drawn.render(CAMERA, T).image)


def test_supersampling_too() -> None:
    scene, T = views(1, "indoor")
    light = scene.relight(np.random.default_rng(0))
    ours, theirs = (one.render(CAMERA, T, light, supersample=2) for one in (scene.on("cpu"), scene))
    assert_alike(ours, theirs)


def shapes() -> Raster:
    """A wall seen from below, a disc, a lattice, a ball, a lying ellipsoid, a pillar, in front of nothing."""
    photos, rng = photographs(), np.random.default_rng(3)
    tiled, whole = Texture(photos[0], tiled=True), Texture(photos[1])
    fit, unit = np.diag([5000.0, 5000, 1]), np.diag([255.0, 255, 1])
    x, y, z = np.eye(3)
    faces = [
        Face(np.array([-100.0, -100, 4]), 200 * y, 200 * x, tiled, fit),
        Face(np.array([0.5, 0.5, 2]), y, x, whole, unit, round=True),
        Face(np.array([-1.5, -1.5, 2.5]), 2 * y, 2 * x + 0.5 * z, leaves(rng, whole), unit, two_sided=True),
    ]
    rounds = [
        Round(np.array([0, 0, 3.0]), 0.5 * np.eye(3), whole),
        Round(np.array([1, -1, 3.0]), np.diag([0.8, 0.3, 0.2]), tiled, repeats=3),
        Round(np.array([-1, 1, 2.0]), np.diag([0.3, 0.3, 2.0]), tiled, cylinder=True),
    ]
    return Raster(faces, rounds, detail=tiled)


SHAPES = shapes()
DRAWN = DeviceRaster(SHAPES, "cpu")
LIGHT = Light(np.array([0.6, 0, -0.8]), 0.4, 0.4, 0.3, np.array([0, 0, 1.0]), colour=np.array([1.1, 1, 0.9]))


@settings(max_examples=25)
@given(*[st.floats(-1.5, 1.5)] * 5, st.floats(-3, 3))
def test_every_shape_is_the_same_from_anywhere(
    x: float, y: float, height: float, aside: float, ahead: float, roll: float
) -> None:
    T = look_at(np.array([x, y, height]), np.array([aside, ahead, 3.0]), roll)
    ours, theirs = DRAWN.render(CAMERA, T, LIGHT), SHAPES.render(CAMERA, T, LIGHT)
    assert_alike(ours, theirs, flips=5e-3)
    np.testing.assert_array_equal(DRAWN.depth(CAMERA, T), ours.depth)


def test_an_empty_scene_is_black_and_has_no_depth() -> None:
    nothing = DeviceRaster(Raster([]), "cpu").render(CAMERA, np.eye(4), LIGHT)
    assert not nothing.image.any() and not nothing.depth.any()
    assert nothing.image.shape == (120, 160, 3)


def test_small_passes_draw_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, T = views(2, "outdoor")
    whole = scene.on("cpu").render(CAMERA, T)
    monkeypatch.setattr("stfm_training.device_raster.PASS", 3 * CAMERA.width * CAMERA.height)
    parts = scene.on("cpu").render(CAMERA, T)
    np.testing.assert_array_equal(whole.depth, parts.depth)
    np.testing.assert_array_equal(whole.image, parts.image)


@pytest.mark.parametrize("everything", [False, True])
def test_pairs_are_of_the_same_views_wherever_they_are_drawn(everything: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if everything:  # a rolling shutter, and a strong change of light
        monkeypatch.setattr("stfm_training.sources.rendered.ROLLING", 1.0)
        monkeypatch.setattr("stfm_training.weather.CHANGED", 10.0)
    ours, theirs = Rendered(photographs()), Rendered(photographs())
    ours.device = "cpu:0"  # the torch way, on the processor
    first, second = (source.pair(np.random.default_rng(5), 0.5, 96, 128) for source in (ours, theirs))
    assert (first.warp01.state == second.warp01.state).mean() > (0.99 if everything else 0.9999)
    seen = (first.warp01.state == MATCHED) & (second.warp01.state == MATCHED)
    np.testing.assert_allclose(first.warp01.points[seen], second.warp01.points[seen], atol=0.01)
    assert abs(first.image0.astype(int) - second.image0).mean() < 0.5


def test_a_gpu_that_is_not_there_is_refused_and_auto_takes_what_there_is() -> None:
    assert Rendered([]).device == "cpu" and not Rendered([]).on_gpu
    if torch.cuda.is_available():
        assert Rendered([], "auto").device == "cuda:0"
        pytest.skip("this machine has a GPU: nothing to refuse")
    assert Rendered([], "auto").device == "cpu"
    with pytest.raises(ConfigError, match="device 'cuda': torch sees no GPU here; use cpu, or auto"):
        Rendered([], "cuda")
