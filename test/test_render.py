"""The renderer's promise: exact depth and pose, the same scene from the same seed."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stfm_ros.types import Camera, Float32Array, FloatArray
from stfm_training import photometric
from stfm_training.raster import Face, Light, Raster, Round, magnified
from stfm_training.render import Scene, look_at, overlap, random_pair_views, trajectory
from stfm_training.textures import PROCEDURAL, Texture

CAMERA = Camera(160, 120, np.array([[140.0, 0, 79.5], [0, 141.0, 59.5], [0, 0, 1]]))
LIGHT = Light(np.array([0, 0, 1.0]), ambient=1.0, distant=0.0, near=0.0)


def photographs(count: int = 6) -> list[np.ndarray]:
    """Stand-ins with structure at several scales."""
    rng = np.random.default_rng(7)
    return [PROCEDURAL[kind](rng, 256) for kind in ("patches", "text", "cloudy", "windows", "bricks", "wood")[:count]]


def warped(depth: Float32Array, T_0to1: FloatArray) -> tuple[Float32Array, Float32Array]:
    """Where each pixel of view 0 lies in view 1 (H, W, 2), and its depth there (H, W)."""
    y, x = np.mgrid[: CAMERA.height, : CAMERA.width].astype(np.float64)
    points = np.linalg.inv(CAMERA.K) @ np.stack([x * depth, y * depth, depth]).reshape(3, -1)
    moved = T_0to1[:3, :3] @ points + T_0to1[:3, 3:]
    pixels = CAMERA.K @ moved
    pixels = pixels[:2] / np.where(moved[2] > 0.05, moved[2], np.inf)
    shape = (CAMERA.height, CAMERA.width)
    return pixels.T.reshape(*shape, 2).astype(np.float32), moved[2].reshape(shape).astype(np.float32)


@pytest.mark.parametrize("kind", ["indoor", "outdoor"])
@pytest.mark.parametrize("seed", range(4))
def test_two_views_agree_in_depth_and_picture(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = Scene.random(rng, photographs(), kind)
    T0, T1 = random_pair_views(scene, rng, CAMERA, 0.3)
    first, second = (scene.render(CAMERA, T, supersample=2) for T in (T0, T1))
    pixels, expected = warped(first.depth, T1 @ np.linalg.inv(T0))
    # depth is not linear in the pixel, its inverse is: interpolate that
    inverse = np.where(second.depth > 0, 1 / np.maximum(second.depth, 1e-6), 0).astype(np.float32)
    seen = cv2.remap(inverse, pixels[..., 0], pixels[..., 1], cv2.INTER_LINEAR, borderValue=0)
    nearest = cv2.remap(inverse, pixels[..., 0], pixels[..., 1], cv2.INTER_NEAREST, borderValue=0)
    error = abs(seen * expected - 1)
    both = (first.depth > 0) & (nearest > 0) & (abs(nearest * expected - 1) < 0.05)
    assert both.mean() > 0.25
    assert np.median(error[both]) < 1e-3
    assert np.percentile(error[both], 90) < 0.01
    there = cv2.remap(second.image, pixels[..., 0], pixels[..., 1], cv2.INTER_LINEAR, borderValue=0)
    difference = abs(there.astype(int) - first.image).mean(-1)[both]
    shuffled = abs(rng.permutation(there[both].astype(int)) - first.image[both]).mean(-1)
    assert np.median(difference) < 0.35 * np.median(shuffled)
    assert np.median(difference) < 8


def shift_px(first: np.ndarray, second: np.ndarray) -> float:
    """How far the second image has moved, by least squares on the gradients."""
    a, b = (cv2.cvtColor(x, cv2.COLOR_RGB2GRAY)[16:-16, 16:-16].astype(np.float64) for x in (first, second))
    down, across = np.gradient(0.5 * (a + b))
    move, *_ = np.linalg.lstsq(np.stack([across.ravel(), down.ravel()], 1), (a - b).ravel(), rcond=None)
    return float(np.hypot(*move))


def plane(two_sided: bool = False) -> Raster:
    """A wall of 200 m at z = 2 of the world, seen from below."""
    texture = Texture(photographs(1)[0], tiled=True)
    origin, u, v = np.array([-100.0, -100, 2]), np.array([0, 200.0, 0]), np.array([200.0, 0, 0])
    return Raster([Face(origin, u, v, texture, np.diag([5000.0, 5000.0, 1.0]), two_sided=two_sided)])


@settings(max_examples=25)
@given(st.floats(-0.9, 0.9), st.floats(-0.9, 0.9), st.floats(-3, 3), st.floats(0.1, 1.8))
def test_depth_of_a_plane_is_exact_at_pixel_centres(x: float, y: float, roll: float, height: float) -> None:
    T = look_at(np.array([0, 0, 2 - height]), np.array([x, y, 2.0]), roll)
    depth = plane().depth(CAMERA, T)
    v, u = np.mgrid[: CAMERA.height, : CAMERA.width]
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(CAMERA.K).T @ T[:3, :3]
    with np.errstate(divide="ignore"):
        expected = height / rays[..., 2]
    hit = (rays[..., 2] > 1e-3) & (expected < 60) & (expected > 0.06)
    np.testing.assert_allclose(depth[hit], expected[hit], rtol=1e-4)
    assert (depth[rays[..., 2] < -1e-3] == 0).all()


@pytest.mark.parametrize("kind", ["indoor", "outdoor"])
def test_a_small_image_is_drawn_another_way_and_is_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = Camera(64, 48, np.diag([0.4, 0.4, 1]) @ CAMERA.K)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        scene = Scene.random(rng, photographs(), kind)
        for T in random_pair_views(scene, rng, CAMERA):
            monkeypatch.setattr("stfm_training.raster.SMALL", 64 * 48)
            small = scene.render(camera, T)
            monkeypatch.setattr("stfm_training.raster.SMALL", 0)
            usual = scene.render(camera, T)
            np.testing.assert_array_equal(small.depth, usual.depth)
            np.testing.assert_array_equal(small.image, usual.image)


def test_a_face_is_drawn_from_its_front_only_unless_it_has_two_sides() -> None:
    above = look_at(np.array([0, 0, 3.0]), np.array([0.1, 0, 2.0]))
    assert (plane().depth(CAMERA, above) == 0).all()
    assert (plane(two_sided=True).depth(CAMERA, above) > 0).all()


def test_the_nearer_surface_hides_the_farther_one() -> None:
    texture = Texture(photographs(1)[0], tiled=True)
    ball = Round(np.array([0, 0, 1.0]), 0.25 * np.eye(3), texture)
    raster = Raster(plane().faces, [ball])
    camera = Camera(161, 121, np.array([[140.0, 0, 80], [0, 140, 60], [0, 0, 1]]))
    depth = raster.depth(camera, look_at(np.zeros(3), np.array([0, 0, 2.0])))
    assert depth[60, 80] == pytest.approx(0.75, rel=1e-5)
    assert depth[0, 0] == pytest.approx(2.0, rel=1e-5)
    image = raster.render(camera, look_at(np.zeros(3), np.array([0, 0, 2.0])), LIGHT)
    np.testing.assert_array_equal(image.depth, depth)


def test_an_upright_cylinder_has_its_own_depth() -> None:
    texture = Texture(photographs(1)[0], tiled=True)
    raster = Raster([], [Round(np.array([3.0, 0, 0]), np.diag([0.5, 0.5, 1.0]), texture, cylinder=True)])
    camera = Camera(161, 121, np.array([[140.0, 0, 80], [0, 140, 60], [0, 0, 1]]))
    depth = raster.depth(camera, look_at(np.zeros(3), np.array([1.0, 0, 0])))
    assert depth[60, 80] == pytest.approx(2.5, rel=1e-5)
    assert depth[30, 80] == pytest.approx(2.5, rel=1e-5)  # upright: the same depth higher up
    assert depth[0, 80] == 0  # above its end: 60 / 140 * 2.5 > 1


def test_supersampling_moves_nothing() -> None:
    raster, T = plane(), look_at(np.array([0.3, 0.2, 0.5]), np.array([0.5, 0.1, 2.0]))
    once, twice = raster.render(CAMERA, T, LIGHT), raster.render(CAMERA, T, LIGHT, supersample=2)
    np.testing.assert_array_equal(once.depth, twice.depth)
    assert shift_px(once.image, twice.image) < 0.05
    centre = np.linalg.inv(magnified(CAMERA, 2).K) @ [2 * 10 + 0.5, 2 * 20 + 0.5, 1]
    np.testing.assert_allclose(centre, np.linalg.inv(CAMERA.K) @ [10, 20, 1])


def test_the_same_seed_gives_the_same_scene() -> None:
    def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        scene = Scene.random(rng, photographs())
        T0, _ = random_pair_views(scene, rng, CAMERA)
        rendering = scene.render(CAMERA, T0)
        return photometric.augment(rendering.image, rng), rendering.depth

    (image, depth), (again, depth_again), (other, _) = draw(3), draw(3), draw(4)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(depth, depth_again)
    assert (image != other).any()


def test_a_picture_does_not_depend_on_what_was_looked_at_before() -> None:
    def drawn(order: list[int]) -> tuple[list[np.ndarray], float]:
        rng = np.random.default_rng(11)
        scene = Scene.random(rng, photographs(), "indoor")
        views = random_pair_views(scene, rng, CAMERA, 1.0)
        images = {i: scene.render(CAMERA, views[i]).image for i in order}
        painted = {face.texture: "image" in vars(face.texture) for face in scene.raster.faces}
        return [images[0], images[1]], float(np.mean(list(painted.values())))

    (first, share), (again, _) = drawn([0, 1]), drawn([1, 0])
    np.testing.assert_array_equal(first, again)
    assert 0 < share < 0.9  # what nobody sees is not painted


def test_a_scene_needs_no_photographs_and_refuses_an_unknown_kind() -> None:
    rng = np.random.default_rng(0)
    assert Scene.random(rng, []).kind in ("indoor", "outdoor")
    with pytest.raises(ValueError, match="kind 'underwater' is not one of indoor, outdoor, road, None"):
        Scene.random(rng, [], "underwater")


def test_harder_pairs_overlap_less() -> None:
    shares = []
    for difficulty in (0.0, 1.0):
        rng = np.random.default_rng(5)
        found = []
        for _ in range(5):
            scene = Scene.random(rng, photographs(), "indoor")
            T0, T1 = random_pair_views(scene, rng, CAMERA, difficulty)
            found.append(overlap(scene.depth(CAMERA, T0), scene.depth(CAMERA, T1), CAMERA, T1 @ np.linalg.inv(T0)))
        shares.append(np.mean(found))
    assert shares[0] > 0.6
    assert shares[0] > shares[1] > 0.1


def test_a_trajectory_is_smooth_and_in_free_space() -> None:
    rng = np.random.default_rng(2)
    scene = Scene.random(rng, photographs(), "indoor")
    views = trajectory(scene, rng, 40)
    steps = views[1:] @ np.linalg.inv(views[:-1])
    distance = np.linalg.norm(steps[:, :3, 3], axis=1)
    angle = np.degrees(np.arccos(np.clip((np.trace(steps[:, :3, :3], axis1=1, axis2=2) - 1) / 2, -1, 1)))
    assert distance.max() < 0.06
    assert angle.max() < 6
    assert all(scene.is_free(-T[:3, :3].T @ T[:3, 3]) for T in views[::5])


def test_photometric_strength() -> None:
    rng = np.random.default_rng(0)
    image = photographs(1)[0]
    assert photometric.augment(image, rng, 0.0) is image
    change = [
        np.mean([abs(photometric.augment(image, rng, s).astype(int) - image).mean() for _ in range(30)])
        for s in (0.2, 1)
    ]
    assert 0 < change[0] < change[1]
    with pytest.raises(ValueError, match=r"strength 1.5 is outside 0..1"):
        photometric.augment(image, rng, 1.5)


@pytest.mark.parametrize("blur", ["_gaussian", "_motion", "_defocus", "_resample"])
def test_blur_moves_nothing(blur: str) -> None:
    image = cv2.GaussianBlur(photographs(1)[0], (0, 0), 2)
    for seed in range(10):
        moved = getattr(photometric, blur)(image, np.random.default_rng(seed), 1.0)
        assert shift_px(image, moved) < 0.05


def test_time_is_printed() -> None:
    camera = Camera(320, 256, np.array([[280.0, 0, 159.5], [0, 280, 127.5], [0, 0, 1]]))
    rng = np.random.default_rng(0)
    started = time.perf_counter()
    scene = Scene.random(rng, photographs())
    built = time.perf_counter()
    views = random_pair_views(scene, rng, camera)
    chosen = time.perf_counter()
    for T in views:
        scene.render(camera, T)
    rendered = time.perf_counter()
    print(f"scene {1e3 * (built - started):.0f} ms, pair {1e3 * (chosen - built):.0f} ms, ", end="")
    print(f"rendering 320x256 {500 * (rendered - chosen):.0f} ms")
