"""Chained poses as odometry: covariances against draws, twists in the child frame, and no metres out of nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from stfm_ros.config import OdometryConfig
from stfm_ros.motion import compose, exponential, inverse, logarithm
from stfm_ros.odometry import OPTICAL_IN_BODY, UNKNOWN, Odometer
from stfm_ros.types import Camera, FloatArray, Matches, PoseStatus, RelativePose

CAMERA = Camera(640, 480, np.array([[500.0, 0, 319.5], [0, 500.0, 239.5], [0, 0, 1]]))
RNG = np.random.default_rng(7)
POINTS = np.column_stack([RNG.uniform(-3, 3, 200), RNG.uniform(-2, 2, 200), RNG.uniform(4, 9, 200)])
STEP_NS = 100_000_000
NOISE = np.diag([0.01, 0.01, 0.02, 0.002, 0.003, 0.001]) ** 2
METRIC = OdometryConfig(scale="depth", covariance_factor=1.0)


def camera_at(i: int) -> FloatArray:
    """Optical camera to a fixed optical world: forward along a bend to the right, 1 m/s and 0.5 rad/s."""
    time = 0.1 * i
    pose = np.eye(4)
    pose[:3, :3] = cv2.Rodrigues(np.array([0, 0.5 * time, 0]))[0]
    pose[:3, 3] = 2 * (1 - np.cos(0.5 * time)), 0, 2 * np.sin(0.5 * time)
    return pose


def track(i: int, j: int, metric: bool = True, status: PoseStatus = PoseStatus.OK, **fields: Any) -> Any:
    """Image j against image i, with its true pose and the covariance NOISE."""
    pixels = []
    for number in (i, j):
        pose = camera_at(number)
        local = (POINTS - pose[:3, 3]) @ pose[:3, :3]
        pixels.append((local @ CAMERA.K[:2].T / local[:, 2:]).astype(np.float32))
    motion = np.linalg.inv(camera_at(j)) @ camera_at(i)
    t = motion[:3, 3] if metric else motion[:3, 3] / max(np.linalg.norm(motion[:3, 3]), 1e-9)
    if not status.has_translation:
        t = np.zeros(3)
    ones = np.ones(len(POINTS), np.float32)
    pose = RelativePose(motion[:3, :3], t, NOISE, ones > 0, status, "", parallax_deg=1.0, metric=metric)
    given = {"stamp_ns": j * STEP_NS, "reference_stamp_ns": i * STEP_NS, "frame_id": "camera"}
    return SimpleNamespace(**given | fields, matches=Matches(*pixels, ones, ones), pose=pose)


def small(xi: FloatArray) -> FloatArray:
    """exp of the rotation, and the position, of a small pose error."""
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = cv2.Rodrigues(xi[3:])[0], xi[:3]
    return pose


def test_composed_covariance_is_that_of_draws() -> None:
    rng = np.random.default_rng(1)
    roots = [np.diag(rng.uniform(0.005, 0.02, 6)) @ (np.eye(6) + 0.3 * rng.standard_normal((6, 6))) for _ in range(2)]
    first, second = small(np.array([1.0, -2, 0.5, 0.4, 0.9, -0.3])), small(np.array([3.0, 1, 2, -0.6, 0.2, 1.1]))
    mean, covariance = compose(first, roots[0] @ roots[0].T, second, roots[1] @ roots[1].T)
    errors = []
    for _ in range(4000):
        noisy = []
        for pose, root in ((first, roots[0]), (second, roots[1])):
            draw = root @ rng.standard_normal(6)
            turned = pose.copy()
            turned[:3, :3] = cv2.Rodrigues(draw[3:])[0] @ pose[:3, :3]
            turned[:3, 3] += draw[:3]
            noisy.append(turned)
        found = noisy[0] @ noisy[1]
        rotation = cv2.Rodrigues(found[:3, :3] @ mean[:3, :3].T)[0].ravel()
        errors.append(np.concatenate([found[:3, 3] - mean[:3, 3], rotation]))
    whitened = np.linalg.solve(np.linalg.cholesky(covariance), np.cov(np.array(errors).T))
    whitened = np.linalg.solve(np.linalg.cholesky(covariance), whitened.T)
    np.testing.assert_allclose(whitened, np.eye(6), atol=0.12)


@pytest.mark.parametrize("turn", [0.0, 1e-6, 0.3, 2.0])
def test_the_logarithm_is_the_constant_twist(turn: float) -> None:
    twist = np.array([1.0, -0.5, 0.2, 0.1 * turn, turn, -0.3 * turn])
    small_step, steps = np.eye(4), 4000
    small_step[:3, :3] = cv2.Rodrigues(twist[3:] / steps)[0]
    small_step[:3, 3] = twist[:3] / steps
    np.testing.assert_allclose(logarithm(np.linalg.matrix_power(small_step, steps)), twist, atol=2e-3)
    np.testing.assert_allclose(logarithm(exponential(twist)), twist, atol=2e-6)  # OpenCV rounds
    np.testing.assert_allclose(exponential(twist) @ inverse(exponential(twist)), np.eye(4), atol=1e-12)


def test_the_body_is_placed_in_the_axes_of_ros_and_its_twist_is_its_own() -> None:
    arm = np.array([0.3, 0.1, 0.5])
    mounted = OPTICAL_IN_BODY.copy()
    mounted[:3, 3] = arm
    odometer = Odometer(OdometryConfig(scale="depth", base_frame="base_link"), camera_in_base=mounted)
    found = [odometer.add(track(i, i + 1), CAMERA) for i in range(8)]
    last = found[-1]
    assert last is not None
    assert last.child_frame == "base_link"
    expected = mounted @ np.linalg.inv(camera_at(0)) @ camera_at(8) @ np.linalg.inv(mounted)
    np.testing.assert_allclose(last.pose, expected, atol=1e-6)
    np.testing.assert_allclose(last.camera, expected @ mounted, atol=1e-6)
    # a bend to the right is about -z; the base is not where the camera is, so it moves by v - w x arm
    turn = np.array([0, 0, -0.5])
    np.testing.assert_allclose(last.twist[3:], turn, atol=1e-6)
    np.testing.assert_allclose(last.twist[:3], np.array([1.0, 0, 0]) - np.cross(turn, arm), atol=1e-3)
    assert last.metric and np.linalg.eigvalsh(last.twist_covariance).min() > 0


def test_without_a_base_the_child_is_the_optical_frame() -> None:
    odometer = Odometer(METRIC)
    found = odometer.add(track(0, 5), CAMERA)
    assert found is not None
    assert found.child_frame == "camera"
    np.testing.assert_allclose(found.pose[:3, 3], OPTICAL_IN_BODY[:3, :3] @ camera_at(5)[:3, 3], atol=1e-6)
    assert found.pose[0, 3] > 0.4 and found.pose[1, 3] < 0, "forward is x, to the right is -y"
    assert not found.twist.any() and found.twist_covariance[0, 0] == UNKNOWN, "no image before it"
    second = odometer.add(track(5, 6), CAMERA)
    assert second is not None
    np.testing.assert_allclose(second.twist, [0, 0, 1, 0, 0.5, 0], atol=0.03)  # in the optical child


def test_covariance_grows_with_the_references_alone() -> None:
    odometer = Odometer(METRIC)
    against_one = [odometer.add(track(0, j), CAMERA) for j in (1, 2, 3)]
    chained = [odometer.add(track(i, i + 1), CAMERA) for i in (3, 4, 5)]
    areas = [np.trace(found.covariance) for found in against_one + chained if found is not None]
    assert areas[0] == pytest.approx(areas[1]) == pytest.approx(areas[2])
    assert areas[2] < areas[3] < areas[4] < areas[5]


def test_after_a_gap_the_covariance_says_so() -> None:
    odometer = Odometer(METRIC)
    before = odometer.add(track(0, 1), CAMERA)
    assert odometer.add(track(0, 2, status=PoseStatus.FEW_MATCHES), CAMERA) is None
    after = odometer.add(track(21, 22), CAMERA)
    assert before is not None and after is not None
    assert odometer.gaps == 1
    grown = np.sqrt(np.diag(after.covariance))
    assert (grown[:3] >= 2.0).all() and (grown[3:] >= 2.0).all(), "2 s at 1 m/s and 1 rad/s"
    assert after.twist_covariance[0, 0] == UNKNOWN


def test_stamps_that_jump_back_begin_anew() -> None:
    odometer = Odometer(METRIC)
    for i in range(5, 8):
        odometer.add(track(i, i + 1), CAMERA)
    again = odometer.add(track(0, 1), CAMERA)
    assert again is not None
    assert (odometer.restarts, odometer.gaps) == (1, 0)
    np.testing.assert_allclose(again.covariance, Odometer(METRIC).add(track(0, 1), CAMERA).covariance)  # type: ignore[union-attr]


def test_no_metres_out_of_nothing() -> None:
    assert Odometer(METRIC).add(track(0, 1, metric=False), CAMERA) is None
    assert Odometer(METRIC).add(track(0, 1), None) is None
    found = Odometer(OdometryConfig(allow_unscaled=True)).add(track(0, 1, metric=False), CAMERA)
    assert found is not None
    assert not found.metric and np.linalg.norm(found.pose[:3, 3]) == pytest.approx(1.0)


def test_metres_are_carried_over_a_pair_without_and_cost_certainty() -> None:
    odometer = Odometer(METRIC)
    odometer.add(track(0, 4), CAMERA)
    with_metres = odometer.add(track(4, 8), CAMERA)
    odometer = Odometer(METRIC)
    odometer.add(track(0, 4), CAMERA)
    lent = odometer.add(track(4, 8, metric=False), CAMERA)
    assert with_metres is not None and lent is not None
    assert lent.metric
    np.testing.assert_allclose(lent.pose[:3, 3], with_metres.pose[:3, 3], atol=2e-3)
    length = np.linalg.norm(camera_at(8)[:3, 3] - camera_at(4)[:3, 3])
    unit_noise = NOISE[:3, :3].trace() * (length**2 - 1)  # NOISE is then of a unit vector
    extra = np.trace(lent.covariance[:3, :3]) - np.trace(with_metres.covariance[:3, :3])
    assert extra - unit_noise == pytest.approx((0.02 * length) ** 2, rel=0.3)


def test_a_camera_that_stands_still_does_not_drift_but_may_have_moved_unseen() -> None:
    odometer = Odometer(METRIC)
    moved = odometer.add(track(0, 4), CAMERA)
    assert moved is not None
    still = odometer.add(track(4, 4, status=PoseStatus.STATIC, stamp_ns=5 * STEP_NS), CAMERA)
    assert still is not None
    np.testing.assert_allclose(still.pose, moved.pose, atol=1e-9)
    np.testing.assert_allclose(still.twist, 0, atol=1e-9)
    unseen = 0.75 / 500 * still.placed.depth
    assert np.sqrt(still.twist_covariance[0, 0]) == pytest.approx(unseen / 0.1, rel=0.01)


def test_the_covariance_of_pairs_can_be_made_honest() -> None:
    found = [Odometer(OdometryConfig(scale="depth", covariance_factor=factor)) for factor in (1.0, 4.0)]
    for odometer in found:
        odometer.add(track(0, 3), CAMERA)
    plain, larger = (odometer.add(track(3, 5), CAMERA) for odometer in found)
    assert plain is not None and larger is not None
    np.testing.assert_allclose(larger.covariance, 4 * plain.covariance)
    np.testing.assert_allclose(larger.twist_covariance, 4 * plain.twist_covariance)
    np.testing.assert_allclose(larger.pose, plain.pose)


def test_the_length_of_another_sensor_keeps_its_own_error() -> None:
    found = [Odometer(OdometryConfig(scale="odometry", covariance_factor=factor)) for factor in (1.0, 9.0)]
    plain, larger = (odometer.add(track(0, 3), CAMERA) for odometer in found)
    assert plain is not None and larger is not None
    along = plain.pose[:3, 3] / np.linalg.norm(plain.pose[:3, 3])
    across = np.array([-along[1], along[0], 0.0])
    for axis, factor in ((along, 1.0), (across, 9.0)):
        before, after = (axis @ one.covariance[:3, :3] @ axis for one in (plain, larger))
        assert after == pytest.approx(factor * before)
    np.testing.assert_allclose(larger.covariance[3:, 3:], 9 * plain.covariance[3:, 3:])
