"""A rolling shutter against its definition: each row is a row of the picture that its own pose would have taken."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from stfm_ros.types import Camera, FloatArray
from stfm_training.motions import MOTIONS
from stfm_training.raster import Rendering
from stfm_training.render import Scene, random_pair_views
from stfm_training.shutter import RollingView, Shutter
from stfm_training.sources.pair import depth_pair
from stfm_training.supervision import MATCHED, View, grid
from stfm_training.textures import PROCEDURAL

CAMERA = Camera(128, 96, np.array([[100.0, 0, 63.5], [0, 101.0, 47.5], [0, 0, 1]]))
SHUTTERS = (
    Shutter(np.radians([1.0, -2.0, 1.5]), np.array([0.02, 0.01, -0.03])),
    Shutter(np.radians([-1.5, 1.0, 0.5]), np.array([-0.03, 0.0, 0.04])),
)


def scene_and_views(seed: int, kind: str) -> tuple[Scene, tuple[FloatArray, FloatArray]]:
    rng = np.random.default_rng(seed)
    photographs = [PROCEDURAL[name](rng, 256) for name in ("patches", "text", "cloudy", "windows")]
    scene = Scene.random(rng, photographs, kind)
    return scene, random_pair_views(scene, rng, CAMERA, 0.3)


def taken(scene: Scene, T: FloatArray, shutter: Shutter) -> tuple[Rendering, RollingView]:
    return shutter.expose(lambda camera: scene.render(camera, T), CAMERA)


def pose_of_row(T: FloatArray, shutter: Shutter, row: float) -> FloatArray:
    """World to the camera of a row, as :class:`Shutter` defines it, without its code."""
    share = (row - (CAMERA.height - 1) / 2) / CAMERA.height
    moved = np.eye(4)
    moved[:3, :3] = cv2.Rodrigues(share * shutter.turn)[0]
    moved[:3, 3] = -moved[:3, :3] @ (share * shutter.step)
    return moved @ T


@pytest.mark.parametrize(("seed", "kind"), [(1, "indoor"), (3, "road")])
def test_a_row_shows_what_its_own_pose_sees(seed: int, kind: str) -> None:
    scene, (T, _) = scene_and_views(seed, kind)
    picture, _ = taken(scene, T, SHUTTERS[0])
    at_once = scene.render(CAMERA, T)
    rows = range(4, CAMERA.height, 29)
    wanted = np.stack([scene.render(CAMERA, pose_of_row(T, SHUTTERS[0], row)).image[row] for row in rows]).astype(int)
    error = abs(wanted - picture.image[rows]).mean(-1)
    without = abs(wanted - at_once.image[rows]).mean(-1)
    assert np.median(error) < 2
    assert np.percentile(error, 80) < 0.6 * np.percentile(without, 80)


@pytest.mark.parametrize(("seed", "kind"), [(1, "indoor"), (3, "road")])
def test_its_truth_is_that_of_its_rows(seed: int, kind: str) -> None:
    """Where a point of a row lies in the other picture: the row of that picture whose camera sees it there."""
    scene, poses = scene_and_views(seed, kind)
    (first, view0), (second, view1) = (taken(scene, T, shutter) for T, shutter in zip(poses, SHUTTERS))
    depths, motion = (first.depth, second.depth), poses[1] @ np.linalg.inv(poses[0])
    pair = depth_pair((first.image, second.image), depths, (view0, view1), motion)
    at_once = depth_pair((first.image, second.image), depths, (View(CAMERA), View(CAMERA)), motion)
    points = grid(CAMERA.height, CAMERA.width)
    rows1 = np.arange(-2, CAMERA.height + 2)
    cameras1 = np.stack([CAMERA.K @ pose_of_row(poses[1], SHUTTERS[1], row)[:3] for row in rows1])
    errors, ignored = [], []
    for row in range(8, CAMERA.height, 24):
        T0 = pose_of_row(poses[0], SHUTTERS[0], row)
        depth = scene.depth(CAMERA, T0)[row]
        for i in np.flatnonzero((points[:, 1] == row) & (pair.warp01.state == MATCHED)):
            x = int(points[i, 0])
            ray = np.linalg.inv(CAMERA.K) @ [x, row, 1.0]
            place = np.linalg.inv(T0) @ [*(ray * depth[x]), 1.0]
            seen = cameras1 @ place
            seen = seen[:, :2] / seen[:, 2:]
            late = seen[:, 1] - rows1  # falls through 0 in the row that is asked for
            expected = [np.interp(0, -late, seen[:, 0]), np.interp(0, -late, seen[:, 1])]
            errors.append(np.linalg.norm(pair.warp01.points[i] - expected))
            ignored.append(np.linalg.norm(at_once.warp01.points[i] - expected))
    assert len(errors) > 20
    assert np.median(errors) < 0.01
    assert np.percentile(errors, 90) < 0.1
    assert np.median(ignored) > 1


def test_a_still_camera_takes_the_picture_that_is_drawn_at_once() -> None:
    scene, (T, _) = scene_and_views(1, "indoor")
    picture, view = taken(scene, T, Shutter(np.zeros(3), np.zeros(3)))
    at_once = scene.render(CAMERA, T)
    np.testing.assert_array_equal(picture.image, at_once.image)
    known = picture.depth > 0
    assert known.mean() > 0.9  # edges are left out
    np.testing.assert_allclose(picture.depth[known], at_once.depth[known], rtol=1e-5)
    points = grid(96, 128)
    np.testing.assert_allclose(view.rays(points), View(CAMERA).rays(points), atol=1e-6)
    np.testing.assert_allclose(view.project(view.rays(points)), points, atol=1e-6)


def test_what_is_behind_the_camera_has_no_pixel() -> None:
    view = RollingView(CAMERA, shutter=SHUTTERS[0], shown=np.zeros((96, 128, 2), np.float32))
    seen = view.project(np.array([[0.1, 0.1, -2.0], [0.1, 0.1, 2.0]]))
    assert np.isnan(seen[0]).all() and np.isfinite(seen[1]).all()


def test_both_pictures_of_a_rig_are_skewed_alike_and_those_of_a_hand_are_not() -> None:
    kinds = {motion.name: motion for motion in MOTIONS}
    for name, alike in (("stereo", True), ("hand-held", False)):
        first, second = kinds[name].shutters(np.random.default_rng(0))
        assert np.array_equal(first.turn, second.turn) == np.array_equal(first.step, second.step) == alike
