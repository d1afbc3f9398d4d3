"""Ground truth on the coarse grid."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stfm_ros.geometry import normalise_points, project_points
from stfm_ros.types import Camera
from stfm_training.sources.pair import similarity_transform
from stfm_training.supervision import (
    MATCHED,
    UNKNOWN,
    UNMATCHED,
    View,
    grid,
    mutual_cells,
    warp_by_depth,
    warp_by_homography,
)

K = np.array([[80.0, 0, 47.5], [0, 80.0, 31.5], [0, 0, 1]])
VIEW = View(Camera(96, 64, K))
LENSES = {
    "none": Camera(96, 64, K),
    "plumb_bob": Camera(96, 64, K, "plumb_bob", np.array([-0.28, 0.08, 1e-3, -8e-4, 0.0])),
    "rational_polynomial": Camera(
        96, 64, K, "rational_polynomial", np.array([0.4, -0.15, 5e-4, -4e-4, 0.02, 0.75, -0.1, 0.05])
    ),
    "equidistant": Camera(96, 64, K, "equidistant", np.array([0.02, -0.01, 0.004, -0.001])),
}


def shifted(x: float, z: float = 2.0) -> np.ndarray:
    T = np.eye(4)
    T[0, 3] = x * z / K[0, 0]
    return T


def test_a_plane_seen_from_the_side_shifts_by_whole_cells():
    depth = np.full((64, 96), 2.0, np.float32)
    warp01 = warp_by_depth(depth, VIEW, depth, VIEW, shifted(16.0))
    warp10 = warp_by_depth(depth, VIEW, depth, VIEW, shifted(-16.0))
    inside = grid(64, 96)[:, 0] + 16 < 95.5
    assert (warp01.state[inside] == MATCHED).all()
    assert (warp01.state[~inside] == UNMATCHED).all()
    np.testing.assert_allclose(warp01.points - grid(64, 96), np.tile([16.0, 0.0], (96, 1)), atol=1e-3)
    cells = mutual_cells(warp01, warp10, 96, 96)
    assert (cells[inside] == np.flatnonzero(inside) + 2).all()
    assert (cells[~inside] == -1).all()


def test_a_hidden_point_is_unmatched_and_missing_depth_is_unknown():
    far, near = np.full((64, 96), 4.0, np.float32), np.full((64, 96), 4.0, np.float32)
    near[:, 48:] = 1.0
    hole = far.copy()
    hole[:32] = 0
    state = warp_by_depth(far, VIEW, near, VIEW, np.eye(4)).state.reshape(8, 12)
    assert (state[:, :6] == MATCHED).all() and (state[:, 6:] == UNMATCHED).all()
    state = warp_by_depth(hole, VIEW, far, VIEW, np.eye(4)).state.reshape(8, 12)
    assert (state[:4] == UNKNOWN).all() and (state[4:] == MATCHED).all()


@given(st.floats(-1.5, 1.5), st.floats(0.8, 1.3), st.floats(-20, 20), st.floats(-20, 20))
@settings(max_examples=40)
def test_mutual_cells_of_a_homography_are_mutual(angle, zoom, dx, dy):
    c, s = zoom * np.cos(angle), zoom * np.sin(angle)
    H = np.array([[c, -s, dx], [s, c, dy], [0, 0, 1.0]])
    known = np.ones((64, 96), bool)
    warp01 = warp_by_homography(H, known, known)
    warp10 = warp_by_homography(np.linalg.inv(H), known, known)
    forward, backward = mutual_cells(warp01, warp10, 96, 96), mutual_cells(warp10, warp01, 96, 96)
    matched = np.flatnonzero(forward >= 0)
    assert (backward[forward[matched]] == matched).all()
    assert len(set(forward[matched])) == len(matched)
    target = grid(64, 96)[forward[matched]]
    assert (np.abs(warp01.points[matched] - target) <= 4.0 + 1e-3).all()


# ---- distorted cameras, crops and turns


@pytest.mark.parametrize("lens", LENSES)
def test_a_point_returns_to_the_pixel_it_was_seen_at(lens):
    points = grid(64, 96)
    rays = np.column_stack([normalise_points(points, LENSES[lens]), np.ones(len(points))])
    assert np.isfinite(rays).all()
    np.testing.assert_allclose(project_points(rays * 3.0, LENSES[lens]), points, atol=1e-3)


def test_what_cannot_be_seen_has_no_pixel():
    behind, sideways, ahead = [0.1, 0.0, -1.0], [50.0, 0.0, 1.0], [0.1, 0.2, 1.0]
    for lens, camera in LENSES.items():
        pixels = project_points([behind, ahead], camera)
        assert np.isnan(pixels[0]).all() and np.isfinite(pixels[1]).all(), lens
    # x = r (1 - 0.28 r^2 + 0.08 r^4) turns back: what lies at r = 1.9 falls on what lies at r = 1
    folding = Camera(96, 64, np.diag([30.0, 30.0, 1.0]), "plumb_bob", np.array([-0.3, 0.0, 0.0, 0.0, 0.0]))
    assert np.isnan(project_points([sideways, [1.6, 0.0, 1.0]], folding)).all()
    assert project_points([[0.5, 0.0, 1.0]], folding)[0, 0] == pytest.approx(30 * 0.5 * (1 - 0.3 * 0.25))


def on_the_camera(points, view, margin=0):
    x, y = (np.column_stack([points, np.ones(len(points))]) @ np.linalg.inv(view.A).T).T[:2]
    return (x >= margin) & (y >= margin) & (x <= 95 - margin) & (y <= 63 - margin)


turns = st.tuples(st.floats(-3.1, 3.1), st.floats(0.6, 1.6), st.floats(-12, 12), st.floats(-12, 12))


@pytest.mark.parametrize("lens", LENSES)
@given(crop0=turns, crop1=turns, w=st.tuples(*[st.floats(-0.15, 0.15)] * 3), t=st.tuples(*[st.floats(-0.3, 0.3)] * 3))
@settings(max_examples=15)
def test_a_plane_is_warped_through_any_lens_crop_and_turn_as_the_pinhole_says(lens, crop0, crop1, w, t):
    """A wall at 2 m before camera 0, seen from any place: the truth is where rays meet the plane, not a depth image."""
    views = [
        View(LENSES[lens], similarity_transform(np.array([48, 32.0]), scale, angle, np.array([48 + x, 32 + y])))
        for angle, scale, x, y in (crop0, crop1)
    ]
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = cv2.Rodrigues(np.array(w))[0], t
    pixels = np.stack(np.meshgrid(np.arange(96.0), np.arange(64.0)), -1).reshape(-1, 2)
    shown0, shown1 = (on_the_camera(pixels, view).reshape(64, 96) for view in views)
    depth0 = np.where(shown0, 2.0, 0).astype(np.float32)
    # the wall's depth in camera 1: along each pixel's ray, where n . X = d
    n = T[:3, :3] @ [0, 0, 1.0]
    with np.errstate(invalid="ignore"):
        depth1 = np.where(shown1, ((2.0 + n @ T[:3, 3]) / (views[1].rays(pixels) @ n)).reshape(64, 96), 0)
    depth1 = depth1.astype(np.float32)
    warp = warp_by_depth(depth0, views[0], depth1, views[1], T)
    points = grid(64, 96)
    seen = warp.state == MATCHED
    # back by the same wall: the ray of the warped pixel meets it where the grid point lies
    rays = views[1].rays(warp.points[seen].astype(np.float64))
    wall = rays * ((2.0 + n @ T[:3, 3]) / (rays @ n))[:, None]
    back = views[0].project((wall - T[:3, 3]) @ T[:3, :3])
    np.testing.assert_allclose(back, points[seen], atol=0.02)
    inside = ((warp.points > 0) & (warp.points < [95, 63])).all(axis=1) & on_the_camera(warp.points, views[1], 1)
    assert (warp.state[inside] == MATCHED).all()


def test_ignoring_the_distortion_would_be_wrong_by_pixels():
    camera, depth = LENSES["plumb_bob"], np.full((64, 96), 2.0, np.float32)
    right = warp_by_depth(depth, View(camera), depth, View(camera), shifted(16.0))
    wrong = warp_by_depth(depth, VIEW, depth, VIEW, shifted(16.0))
    both = (right.state == MATCHED) & (wrong.state == MATCHED)
    assert np.linalg.norm(right.points - wrong.points, axis=1)[both].max() > 1.0
