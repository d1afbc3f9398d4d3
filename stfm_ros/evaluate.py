"""How good matches are: relative pose, epipolar and homography measures.

The protocol is that of SuperGlue, LoFTR and 3DG-STFM. The error of a pair is the larger of the angle
between the rotations and the angle between the directions of translation, the latter folded to
``min(e, 180 - e)`` because an essential matrix leaves its sign open; a pair without a pose counts as
infinite. A method is a callable ``(rgb0, rgb1) -> Matches``, or one that is given the depth too
(:class:`WithDepth`).

    >>> pose_auc([0.0, float("inf")], (5.0,))
    [0.5]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike

from stfm_ros.errors import DatasetError
from stfm_ros.geometry import normalise_points
from stfm_ros.pairs import Pair, rotation_angle_deg
from stfm_ros.solvers import Solver, find_solver
from stfm_ros.types import BoolArray, ByteArray, Camera, Float32Array, FloatArray, Matches


@dataclass(frozen=True)
class WithDepth:
    """A method that sees RGB-D: ``match(rgb0, rgb1, depth0, depth1)``.

    Depths are (H, W) float32 metres, 0 where unknown, or None where a recording has none: the method refuses that.
    """

    match: Callable[[ByteArray, ByteArray, Float32Array | None, Float32Array | None], Matches]


ColourMethod = Callable[[ByteArray, ByteArray], Matches]
Method = ColourMethod | WithDepth
POSE_THRESHOLDS_DEG = (5.0, 10.0, 20.0)
EPIPOLAR_THRESHOLDS = (1e-4, 5e-4)
MMA_THRESHOLDS_PX = (1.0, 3.0, 5.0)
CORNER_THRESHOLDS_PX = (3.0, 5.0, 10.0)


# -- measures ----------------------------------------------------------------------------------------


def pose_error(T_gt: FloatArray, R: FloatArray, t: FloatArray) -> tuple[float, float]:
    """Angles between an estimated and the true relative pose.

    Args:
        T_gt: (4, 4) true T_0to1.
        R, t: (3, 3) and (3,) estimated T_0to1; the length of ``t`` does not matter.

    Returns:
        Rotation and translation error in degrees, the latter in [0, 90]. The translation error is 0
        where the true translation is zero, and infinite where only the estimated one is; both are
        infinite where the estimate is not finite.
    """
    if not (np.isfinite(R).all() and np.isfinite(t).all()):
        return float("inf"), float("inf")
    rotation = rotation_angle_deg(R @ T_gt[:3, :3].T)
    truth = T_gt[:3, 3]
    if np.linalg.norm(truth) < 1e-12:
        return rotation, 0.0
    if np.linalg.norm(t) < 1e-12:
        return rotation, float("inf")
    sine, cosine = np.linalg.norm(np.cross(truth, t)), abs(float(np.dot(truth, t)))
    return rotation, float(np.degrees(np.arctan2(sine, cosine)))


def pose_auc(errors: ArrayLike, thresholds: Sequence[float] = POSE_THRESHOLDS_DEG) -> list[float]:
    """Area under the recall of ``errors``, up to each threshold and divided by it.

    Recall is joined by straight lines from (0, 0) through the sorted errors and held to the threshold.

    Args:
        errors: (n,) any order; infinite or NaN counts as failed.

    Returns:
        One number in [0, 1] for each threshold; 0 where there are no errors at all.
    """
    ordered = np.sort(np.nan_to_num(np.asarray(errors, dtype=np.float64).ravel(), nan=np.inf))
    x = np.concatenate([[0.0], ordered])
    recall = np.arange(len(x)) / max(len(ordered), 1)
    areas = []
    for threshold in thresholds:
        n = int(np.searchsorted(x, threshold))
        xs, ys = np.append(x[:n], threshold), np.append(recall[:n], recall[n - 1])
        areas.append(float(np.sum(np.diff(xs) * (ys[1:] + ys[:-1]) / 2) / threshold))
    return areas


def auc_interval(
    errors: ArrayLike, thresholds: Sequence[float] = POSE_THRESHOLDS_DEG, draws: int = 1000, seed: int = 0
) -> list[tuple[float, float]]:
    """Bootstrap 95 % interval of :func:`pose_auc`, over the choice of pairs."""
    values = np.asarray(errors, dtype=np.float64).ravel()
    if len(values) == 0:
        return [(0.0, 0.0)] * len(thresholds)
    rng = np.random.default_rng(seed)
    areas = [pose_auc(rng.choice(values, len(values)), thresholds) for _ in range(draws)]
    low, high = np.percentile(areas, [2.5, 97.5], axis=0)
    return [(float(a), float(b)) for a, b in zip(low, high)]


def auc_gain(
    before: ArrayLike,
    after: ArrayLike,
    threshold: float,
    draws: int = 1000,
    seed: int = 0,
    groups: Sequence[Any] | None = None,
) -> tuple[float, float, float]:
    """What AUC at ``threshold`` gains from ``before`` to ``after``, errors of the same pairs in the same order.

    Args:
        groups: a label of each pair. Pairs of one label are drawn together, for pairs that share an image err together
            and tell less than as many others would; without it each pair is drawn on its own.

    Returns:
        The gain, and its bootstrap 95 % interval over the choice of pairs. Both errors of a pair are drawn together, so
        that how hard pairs are does not widen the interval.
    """
    errors = np.column_stack([np.asarray(before, np.float64), np.asarray(after, np.float64)])
    labels = np.arange(len(errors)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    members = np.split(np.argsort(labels, kind="stable"), np.flatnonzero(np.diff(np.sort(labels))) + 1)
    rng = np.random.default_rng(seed)

    def gain(rows: FloatArray) -> float:
        return pose_auc(rows[:, 1], [threshold])[0] - pose_auc(rows[:, 0], [threshold])[0]

    drawn = (np.concatenate([members[k] for k in rng.integers(len(members), size=len(members))]) for _ in range(draws))
    low, high = np.percentile([gain(errors[rows]) for rows in drawn], [2.5, 97.5])
    return gain(errors), float(low), float(high)


def epipolar_errors(rays0: FloatArray, rays1: FloatArray, T_0to1: FloatArray) -> FloatArray:
    """Symmetric squared epipolar distances in normalised coordinates, as in SuperGlue and LoFTR.

    Args:
        rays0, rays1: (n, 2) normalised points, see :func:`stfm_ros.geometry.normalise_points`.
        T_0to1: (4, 4) true motion.

    Returns:
        (n,) float64.
    """
    x, y, z = T_0to1[:3, 3] / max(float(np.linalg.norm(T_0to1[:3, 3])), 1e-12)
    E = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ T_0to1[:3, :3]
    points0, points1 = _homogeneous(rays0), _homogeneous(rays1)
    lines1, lines0 = points0 @ E.T, points1 @ E
    algebraic = np.sum(points1 * lines1, axis=1) ** 2
    weights = 1 / np.maximum(np.sum(lines1[:, :2] ** 2, axis=1), 1e-18)
    weights += 1 / np.maximum(np.sum(lines0[:, :2] ** 2, axis=1), 1e-18)
    errors: FloatArray = algebraic * weights
    return errors


def homography_errors(keypoints0: ArrayLike, keypoints1: ArrayLike, H_0to1: FloatArray) -> FloatArray:
    """(n,) distances in pixels of image 1 between ``keypoints1`` and ``H_0to1`` (3, 3) of ``keypoints0`` (n, 2)."""
    points0, points1 = np.asarray(keypoints0, np.float64), np.asarray(keypoints1, np.float64)
    if len(points0) == 0:
        return np.zeros(0)
    distances: FloatArray = np.linalg.norm(_warp(points0, H_0to1) - points1, axis=1)
    return distances


def corner_error(matches: Matches, H_0to1: FloatArray, width: int, height: int, threshold_px: float = 3.0) -> float:
    """Mean distance in pixels of the four corners of image 0 under the estimated and the true homography.

    Returns:
        Infinity where no homography can be estimated.
    """
    if len(matches) < 4:
        return float("inf")
    H, _ = cv2.findHomography(matches.keypoints0, matches.keypoints1, cv2.USAC_MAGSAC, threshold_px)
    if H is None or not np.isfinite(H).all():
        return float("inf")
    corners = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], dtype=np.float64)
    return float(np.linalg.norm(_warp(corners, np.asarray(H)) - _warp(corners, H_0to1), axis=1).mean())


# -- pose on pairs -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairScore:
    """One method on one pair; angles in degrees, infinite where there is no pose."""

    index0: int
    index1: int
    overlap: float
    rotation_deg: float
    translation_deg: float
    matches: int
    inliers: int
    precision: tuple[float, ...]  #: share of matches below each of EPIPOLAR_THRESHOLDS; 0 without matches
    ms: float

    @property
    def error_deg(self) -> float:
        """The larger of both angles."""
        return max(self.rotation_deg, self.translation_deg)


@dataclass(frozen=True)
class PoseScore:
    """One method on all pairs. AUC and precision are shares in [0, 1]; medians count failed pairs as infinite."""

    method: str
    solver: str
    threshold_px: float
    image_size: str  #: width x height of the images given to the method
    K: tuple[float, float, float, float]  #: fx fy cx cy of the (first) pair in pixels
    most_matches: int  #: of any pair: the budget the method used
    pairs: int
    auc: dict[str, float]
    auc_95: dict[str, tuple[float, float]]
    median_error_deg: float
    median_rotation_deg: float
    median_translation_deg: float
    precision: dict[str, float]  #: mean over the pairs, by epipolar threshold
    median_matches: float
    median_inliers: float
    failures: int
    median_ms: float
    scores: tuple[PairScore, ...]

    def to_dict(self, with_pairs: bool = False) -> dict[str, Any]:
        """For JSON; numbers that are not finite become None."""
        record = asdict(self)
        if not with_pairs:
            del record["scores"]
        return {key: _finite(value) for key, value in record.items()}


def evaluate_pairs(
    methods: Mapping[str, Method],
    pairs: Sequence[Pair],
    solver: str = "poselib",
    threshold_px: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, PoseScore]:
    """Measure several methods on the same pairs, with the same solver.

    Args:
        methods: by name.
        pairs: e.g. of :func:`stfm_ros.pairs.sample_pairs`.
        solver: one of ``stfm_ros.solvers.SOLVERS``.
        threshold_px: inlier threshold; the solver's own default if not given.
        progress: called with pairs done and pairs in all.

    Raises:
        RuntimeNotAvailable: the solver is unknown or not installed.
        DatasetError: there are no pairs.
    """
    solve, default_px = find_solver(solver)
    if not pairs:
        raise DatasetError("there are no pairs to evaluate; sample them with stfm_ros.pairs.sample_pairs")
    limit = default_px if threshold_px is None else threshold_px
    scores: dict[str, list[PairScore]] = {name: [] for name in methods}
    for done, pair in enumerate(pairs, start=1):
        images = pair.images
        depths = pair.depths if any(isinstance(method, WithDepth) for method in methods.values()) else (None, None)
        for name, method in methods.items():
            began = time.perf_counter()
            matches = method.match(*images, *depths) if isinstance(method, WithDepth) else method(*images)
            ms = 1e3 * (time.perf_counter() - began)
            scores[name].append(_score_pair(pair, matches, solve, limit, ms))
        if progress:
            progress(done, len(pairs))
    camera = pairs[0].cameras[0]
    size = f"{camera.width}x{camera.height}"
    K = (float(camera.K[0, 0]), float(camera.K[1, 1]), float(camera.K[0, 2]), float(camera.K[1, 2]))
    return {name: _summary(name, solver, limit, size, K, scores[name]) for name in methods}


def match_pair(method: Method, pair: Pair) -> Matches:
    """What a method finds on a pair."""
    return method.match(*pair.images, *pair.depths) if isinstance(method, WithDepth) else method(*pair.images)


def agreeing(pair: Pair, matches: Matches, threshold: float = EPIPOLAR_THRESHOLDS[-1]) -> BoolArray:
    """(n,) whether each match fits the true motion, by :func:`epipolar_errors`."""
    points = zip((matches.keypoints0, matches.keypoints1), pair.cameras)
    rays0, rays1 = (normalise_points(keypoints, camera) for keypoints, camera in points)
    fits: BoolArray = epipolar_errors(rays0, rays1, pair.T_0to1) < threshold
    return fits


def _score_pair(pair: Pair, matches: Matches, solve: Solver, threshold_px: float, ms: float) -> PairScore:
    rays = rays_of(matches, pair.cameras)
    precision = epipolar_precision(rays, pair.T_0to1, len(matches))
    rotation, translation, inliers = solve_pair(rays, pair.cameras, pair.T_0to1, solve, threshold_px)
    return PairScore(
        pair.index0, pair.index1, pair.overlap, rotation, translation, len(matches), inliers, precision, ms
    )


def rays_of(matches: Matches, cameras: tuple[Camera, Camera]) -> tuple[FloatArray, FloatArray]:
    """The normalised points (n, 2) of both images, of the matches where both have one."""
    rays0, rays1 = (
        normalise_points(points, camera) for points, camera in zip((matches.keypoints0, matches.keypoints1), cameras)
    )
    usable = np.isfinite(rays0).all(axis=1) & np.isfinite(rays1).all(axis=1)
    return rays0[usable], rays1[usable]


def epipolar_precision(rays: tuple[FloatArray, FloatArray], T_0to1: FloatArray, matches: int) -> tuple[float, ...]:
    """Share of ``matches`` below each of :data:`EPIPOLAR_THRESHOLDS`; 0 without matches."""
    errors = epipolar_errors(*rays, T_0to1)
    return tuple(float(np.sum(errors < limit)) / max(matches, 1) for limit in EPIPOLAR_THRESHOLDS)


def solve_pair(
    rays: tuple[FloatArray, FloatArray],
    cameras: tuple[Camera, Camera],
    T_0to1: FloatArray,
    solve: Solver,
    threshold_px: float,
) -> tuple[float, float, int]:
    """Rotation and translation error in degrees (infinite where there is no pose), and how many matches agree.

    Args:
        rays: see :func:`rays_of`.
        cameras: their K gives the threshold its meaning; the rays have no distortion any more.
    """
    solved = None
    if len(rays[0]) >= 5:
        pinhole0, pinhole1 = map(_pinhole, cameras)
        solved = solve(_pixels(rays[0], pinhole0), _pixels(rays[1], pinhole1), pinhole0, pinhole1, threshold_px)
    if solved is None or not solved[2].any():
        return float("inf"), float("inf"), 0
    return *pose_error(T_0to1, solved[0], solved[1]), int(solved[2].sum())


def _summary(
    name: str,
    solver: str,
    threshold_px: float,
    image_size: str,
    K: tuple[float, float, float, float],
    scores: list[PairScore],
) -> PoseScore:
    errors = [score.error_deg for score in scores]
    names = [f"{threshold:g}" for threshold in POSE_THRESHOLDS_DEG]
    return PoseScore(
        method=name,
        solver=solver,
        threshold_px=threshold_px,
        image_size=image_size,
        K=K,
        most_matches=max(score.matches for score in scores),
        pairs=len(scores),
        auc=dict(zip(names, pose_auc(errors))),
        auc_95=dict(zip(names, auc_interval(errors))),
        median_error_deg=float(np.median(errors)),
        median_rotation_deg=float(np.median([score.rotation_deg for score in scores])),
        median_translation_deg=float(np.median([score.translation_deg for score in scores])),
        precision={
            f"{limit:g}": float(np.mean([score.precision[i] for score in scores]))
            for i, limit in enumerate(EPIPOLAR_THRESHOLDS)
        },
        median_matches=float(np.median([score.matches for score in scores])),
        median_inliers=float(np.median([score.inliers for score in scores])),
        failures=int(np.sum(np.isinf(errors))),
        median_ms=float(np.median([score.ms for score in scores])),
        scores=tuple(scores),
    )


# -- homographies ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HomographyScore:
    """One method on one planar sequence (images 1 and k). Shares in [0, 1], means over the pairs."""

    method: str
    sequence: str
    pairs: int
    mma: dict[str, float]  #: share of matches within so many pixels of the truth; 0 without matches
    corner_auc: dict[str, float]  #: as pose_auc, of the mean corner error in pixels
    median_corner_px: float
    median_matches: float
    mma_by_pair: tuple[float, ...]  #: at 3 px, in order of k

    def to_dict(self) -> dict[str, Any]:
        """For JSON; numbers that are not finite become None."""
        return {key: _finite(value) for key, value in asdict(self).items()}


def evaluate_homographies(methods: Mapping[str, ColourMethod], folder: Path) -> dict[str, HomographyScore]:
    """Measure methods on a folder of Oxford's affine data: ``1.jpg`` ... and ``H_1_k`` (maps image 1 to k).

    Raises:
        DatasetError: an image or a homography is missing.
    """
    truths = sorted(folder.glob("H_1_*"), key=lambda path: int(path.name[4:]))
    if not truths:
        raise DatasetError(f"{folder} holds no H_1_k file; expected a sequence of Oxford's affine data set")
    reference = _read(folder, 1)
    height, width = reference.shape[:2]
    found: dict[str, list[tuple[FloatArray, float]]] = {name: [] for name in methods}
    for path in truths:
        H, image = np.loadtxt(path), _read(folder, int(path.name[4:]))
        for name, method in methods.items():
            matches = method(reference, image)
            errors = homography_errors(matches.keypoints0, matches.keypoints1, H)
            found[name].append((errors, corner_error(matches, H, width, height)))
    return {name: _homography_summary(name, folder.name, rows) for name, rows in found.items()}


def _homography_summary(name: str, sequence: str, rows: list[tuple[FloatArray, float]]) -> HomographyScore:
    corners = [corner for _, corner in rows]
    mma = {
        limit: [float(np.mean(errors < limit)) if len(errors) else 0.0 for errors, _ in rows]
        for limit in MMA_THRESHOLDS_PX
    }
    return HomographyScore(
        method=name,
        sequence=sequence,
        pairs=len(rows),
        mma={f"{limit:g}": float(np.mean(shares)) for limit, shares in mma.items()},
        corner_auc=dict(zip([f"{px:g}" for px in CORNER_THRESHOLDS_PX], pose_auc(corners, CORNER_THRESHOLDS_PX))),
        median_corner_px=float(np.median(corners)),
        median_matches=float(np.median([len(errors) for errors, _ in rows])),
        mma_by_pair=tuple(mma[3.0]),
    )


# -- helpers -----------------------------------------------------------------------------------------


def _homogeneous(points: FloatArray) -> FloatArray:
    """(n, 2) -> (n, 3) with a last column of ones."""
    return np.column_stack([points, np.ones(len(points))])


def _warp(points: FloatArray, H: FloatArray) -> FloatArray:
    warped = _homogeneous(points) @ H.T
    result: FloatArray = warped[:, :2] / warped[:, 2:]
    return result


def _pinhole(camera: Camera) -> Camera:
    return Camera(camera.width, camera.height, camera.K)


def _pixels(rays: FloatArray, camera: Camera) -> FloatArray:
    pixels: FloatArray = _homogeneous(rays) @ camera.K[:2].T
    return pixels


def _read(folder: Path, number: int) -> ByteArray:
    for path in sorted(folder.glob(f"{number}.*")):
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is not None:
            return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)
    raise DatasetError(f"{folder} has no readable image {number}.jpg, .png or .ppm; expected Oxford's affine data set")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
