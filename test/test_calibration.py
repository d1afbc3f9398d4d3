"""Covariances against errors: the arithmetic of coverage, and the study in small."""

from __future__ import annotations

import numpy as np
import pytest

from stfm_ros.types import PoseStatus, RelativePose
from stfm_training.calibration.cases import noisy_case, rendered_views
from stfm_training.calibration.coverage import LEVELS, QUANTILES, coverage, pose_errors, probability
from stfm_training.calibration.study import synthetic


@pytest.mark.parametrize("dof", QUANTILES)
def test_quantiles_are_those_of_squared_normal_errors(dof: int) -> None:
    errors = np.random.default_rng(dof).standard_normal((200_000, dof))
    found = coverage((errors**2).sum(axis=1), dof)
    assert found.covered == pytest.approx(LEVELS, abs=0.004)
    assert found.nees_mean == pytest.approx(dof, rel=0.02) and found.honest
    assert probability(QUANTILES[dof], dof) == pytest.approx(LEVELS, abs=1e-4)


@pytest.mark.parametrize("factor", [0.6, 1.6])
def test_a_covariance_of_the_wrong_size_is_not_honest(factor: float) -> None:
    errors = factor * np.random.default_rng(0).standard_normal((5000, 3))
    assert not coverage((errors**2).sum(axis=1), 3).honest


def test_errors_of_a_pose_by_hand() -> None:
    """Camera 1 is at (1, 0, 0) in camera 0; the truth is turned by 0.02 rad about y and 0.01 rad off towards z."""
    covariance = np.diag([0.0, 0.01**2, 0.02**2, 1, 0.01**2, 1])
    pose = RelativePose(np.eye(3), np.array([-1.0, 0, 0]), covariance, np.ones(1, bool), PoseStatus.OK, "")
    T = np.eye(4)
    c, s = np.cos(0.02), np.sin(0.02)
    T[:3, :3] = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]).T
    T[:3, 3] = -T[:3, :3] @ [3 * np.cos(0.01), 0, 3 * np.sin(0.01)]
    errors = pose_errors(pose, T)
    assert errors.rotation_nees == pytest.approx(4.0, rel=1e-6)
    assert errors.translation_nees == pytest.approx(0.25, rel=1e-3)
    assert errors.rotation_deg == pytest.approx(np.degrees(0.02))
    assert errors.translation == pytest.approx(np.degrees(0.01), rel=1e-6)


def test_a_case_has_the_noise_that_it_says() -> None:
    views = rendered_views(np.random.default_rng(1), 0.2)
    case = noisy_case(views, np.random.default_rng(2), 0.5, count=800, outliers=0.25)
    again = noisy_case(views, np.random.default_rng(2), 0.5, count=800, outliers=0.25)
    assert np.array_equal(case.matches.keypoints1, again.matches.keypoints1)
    scaled = case.errors_px[case.right] / case.matches.sigma[case.right, None]
    assert scaled.std() == pytest.approx(1.0, abs=0.06)
    assert 0.7 < case.right.mean() < 0.8
    exact = views.scene.depth(views.camera, views.T_world[0])
    baseline_m = float(np.linalg.norm(views.T_0to1[:3, 3]))
    assert baseline_m / float(np.median(exact[exact > 0])) == pytest.approx(0.2, rel=1e-3)


@pytest.mark.slow
def test_covariances_are_honest_on_rendered_scenes() -> None:
    """150 cases; bands of the study (60-76 % and 90-98 %) widened by two standard errors of so few."""
    tally = synthetic(150, seed=4)
    assert sum(tally.status.values()) == 300
    for name in ("rotation", "direction", "metric rotation", "metric position"):
        dof, squares = tally.squares[name]
        found = coverage(squares, dof)
        assert found.count >= 140
        assert 0.53 < found.covered[0] < 0.84 and found.covered[1] > 0.86, f"{name}: {found}"
        assert found.nees_median == pytest.approx({2: 1.386, 3: 2.366}[dof], rel=0.45)
