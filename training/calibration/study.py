"""The study: cases by the hundred, their poses, and how often the intervals held the truth.

Each case depends on the study's seed and its own number. Poses that the estimator itself does not call good
(FEW_MATCHES, ROTATION_ONLY ...) claim no translation; they are counted, not covered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from stfm_ros.config import PoseConfig
from stfm_ros.geometry import DepthNoise, estimate_metric_pose, estimate_relative_pose
from stfm_ros.matcher import Matcher
from stfm_ros.pairs import Sampling, sample_pairs
from stfm_ros.posed_bag import PosedBag
from stfm_ros.types import ByteArray, FloatArray, Matches, RelativePose
from stfm_training.calibration.cases import Case, network_case, noisy_case, rendered_views
from stfm_training.calibration.coverage import Coverage, coverage, pose_errors

BASELINES = (0.03, 0.06, 0.12, 0.25, 0.5)
NETWORK_BASELINES = (0.05, 0.1, 0.2, 0.4)
NOISES_PX = (0.25, 0.5, 1.0)
OUTLIERS = (0.0, 0.15, 0.3)
DEPTH_NOISE = 0.01
#: of the truth of a recording: what a residual of a pixel or so of its own poses (median of SIFT matches lifted by
#: depth, 0.9 to 1.6 px) amounts to
TRUTH_ROTATION_DEG = 0.14
TRUTH_POSITION_M = 0.005
POSE = PoseConfig()
#: what is true of noise that is drawn for each match by itself
INDEPENDENT = PoseConfig(shared_error=0.0)
#: noise that is drawn anew for each match has nothing in common
INDEPENDENT = PoseConfig(shared_error=0.0)
#: side of the fields of the chessboard that cuts an image into two halves
FIELD_PX = 90

Step = Callable[[int, int], None]
#: rows of one quantity: its degrees of freedom, and the squared errors in units of the covariance
Squares = dict[str, tuple[int, list[float]]]


@dataclass
class Tally:
    """What was found on a set of cases.

    Attributes:
        name: of the set.
        squares: by quantity.
        groups: the same by level of each factor, e.g. ``baseline 0.1``.
        status: how many poses of each.
        sizes: of the errors: degrees; metres for metric translation.
    """

    name: str
    squares: Squares = field(default_factory=dict)
    groups: dict[str, Squares] = field(default_factory=dict)
    status: Counter[str] = field(default_factory=Counter)
    sizes: dict[str, list[float]] = field(default_factory=dict)

    def add(self, quantity: str, dof: int, values: Sequence[float] | FloatArray, groups: Sequence[str] = ()) -> None:
        """More squared errors of a quantity, in units of their covariance; to the whole and to groups of it."""
        for squares in (self.squares, *(self.groups.setdefault(group, {}) for group in groups)):
            squares.setdefault(quantity, (dof, []))[1].extend(float(value) for value in values)

    def add_pair(
        self, two_view: RelativePose, metric: RelativePose, T_0to1: FloatArray, groups: Sequence[str] = ()
    ) -> None:
        """Both poses of a pair against the truth, as far as they claim one."""
        self.status[two_view.status.name] += 1
        self.status[f"metric {metric.status.name}" if metric.metric else "without scale"] += 1
        for kind, pose in (("", two_view), ("metric ", metric)):
            if not pose.status.has_translation or pose.metric != bool(kind):
                continue
            errors = pose_errors(pose, T_0to1)
            where = "position" if pose.metric else "direction"
            self.add(f"{kind}rotation", 3, [errors.rotation_nees], groups)
            self.add(f"{kind}{where}", len(errors.translation_axes), [errors.translation_nees], groups)
            self.sizes.setdefault(f"{kind}rotation", []).append(errors.rotation_deg)
            self.sizes.setdefault(f"{kind}{where}", []).append(errors.translation)

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "status": dict(self.status),
            "coverage": {name: _row(coverage(values, dof)) for name, (dof, values) in self.squares.items()},
            "median_error": {name: float(np.median(values)) for name, values in self.sizes.items()},
            "groups": {
                group: {name: _row(coverage(values, dof)) for name, (dof, values) in squares.items()}
                for group, squares in self.groups.items()
            },
        }


def synthetic(count: int, seed: int, progress: Step | None = None) -> Tally:
    """Points of rendered scenes with Gaussian noise of known sigma, by baseline, noise and outliers."""
    tally = Tally("synthetic")
    for number, (case, groups) in enumerate(synthetic_cases(count, seed), start=1):
        tally.add_pair(*_poses(case, INDEPENDENT), case.T_0to1, groups)
        if progress:
            progress(number, count)
    return tally


def synthetic_cases(count: int, seed: int) -> Iterator[tuple[Case, tuple[str, ...]]]:
    """Cases and the names of their levels; two from each scene."""
    levels = np.stack(np.meshgrid(BASELINES, NOISES_PX, OUTLIERS, indexing="ij"), -1).reshape(-1, 3)
    levels = np.random.default_rng(0).permutation(levels)  # so that few cases have a bit of each
    for number in range(count):
        rng = np.random.default_rng([seed, 1, number])
        if number % 2 == 0:
            baseline, *level = levels[(number // 2) % len(levels)].tolist()
            views = rendered_views(rng, baseline)
        else:
            level = levels[int(rng.integers(len(levels))), 1:].tolist()
        noise_px, outliers = level
        matches = int(np.exp(rng.uniform(np.log(60), np.log(1000))))
        case = noisy_case(views, rng, noise_px, matches, outliers, DEPTH_NOISE)
        yield case, (f"baseline {baseline:g}", f"noise {noise_px:g} px", f"outliers {outliers:g}")


def network(
    matcher: Matcher, textures: Sequence[ByteArray], count: int, seed: int, progress: Step | None = None
) -> Tally:
    """The network's own matches on pictures of rendered scenes."""
    tally = Tally("network")
    for number in range(count):
        rng = np.random.default_rng([seed, 2, number])
        baseline = NETWORK_BASELINES[number % len(NETWORK_BASELINES)]
        case = network_case(rendered_views(rng, baseline, textures), rng, matcher, DEPTH_NOISE)
        groups = (f"baseline {baseline:g}",)
        tally.add_pair(*_poses(case, POSE), case.T_0to1, groups)
        right = case.right
        tally.add("sigma", 1, ((case.errors_px[right] / case.matches.sigma[right, None]) ** 2).ravel(), groups)
        if progress:
            progress(number + 1, count)
    return tally


def recorded(matcher: Matcher, bag: Path, count: int, seed: int, progress: Step | None = None) -> Tally:
    """Pairs of a recording with poses and depth.

    Its truth errs too: the covariances are taken as they are, and (``with truth's noise``) with TRUTH_ROTATION_DEG and
    TRUTH_POSITION_M added. ``between halves`` needs no truth: matches of one half of the image's blocks against those
    of the other half, as on a chessboard; what both get wrong alike (calibration, scale of depth) does not show.
    """
    tally, widened, between = Tally("recorded"), Tally("with truth's noise"), Tally("between halves")
    rotation, position = np.radians(TRUTH_ROTATION_DEG) ** 2, TRUTH_POSITION_M**2
    with PosedBag(bag) as source:
        pairs = sample_pairs(source, Sampling(count=count, seed=seed))
        for number, pair in enumerate(pairs, start=1):
            camera0, camera1 = pair.cameras
            matches = matcher.match(*pair.images)
            two_view = estimate_relative_pose(matches, camera0, camera1, POSE)
            metric = estimate_metric_pose(matches, camera0, camera1, pair.depths[0], POSE)
            tally.add_pair(two_view, metric, pair.T_0to1)
            squared_m2 = float(np.sum(pair.T_0to1[:3, 3] ** 2))  # of the baseline: a direction's unit
            more = np.diag([position / squared_m2] * 3 + [rotation] * 3), np.diag([position] * 3 + [rotation] * 3)
            wide, wide_metric = (
                replace(pose, covariance=pose.covariance + add) for pose, add in zip((two_view, metric), more)
            )
            widened.add_pair(wide, wide_metric, pair.T_0to1)
            black, white = _halves(matches)
            first, second = (
                estimate_metric_pose(half, camera0, camera1, pair.depths[0], POSE) for half in (black, white)
            )
            if first.metric and second.metric:
                motion = np.eye(4)
                motion[:3, :3], motion[:3, 3] = second.R, second.t
                apart = replace(first, covariance=first.covariance + second.covariance)
                between.add_pair(estimate_relative_pose(Matches.empty(), camera0, camera1), apart, motion)
            if progress:
                progress(number, len(pairs))
    for group in (widened, between):
        tally.groups[group.name] = group.squares
    return tally


def _halves(matches: Matches) -> tuple[Matches, Matches]:
    """By the colour of the chessboard's field in which they lie."""
    black = (matches.keypoints0 // FIELD_PX).astype(int).sum(axis=1) % 2 == 0
    return matches.take(black), matches.take(~black)


def _poses(case: Case, config: PoseConfig) -> tuple[RelativePose, RelativePose]:
    """Without and with the case's depth."""
    noise = DepthNoise(0.0, DEPTH_NOISE)
    metric = estimate_metric_pose(case.matches, case.camera, case.camera, case.depth0, config, noise)
    return estimate_relative_pose(case.matches, case.camera, case.camera, config), metric


def _row(one: Coverage) -> dict[str, Any]:
    return {**asdict(one), "honest": one.honest}
