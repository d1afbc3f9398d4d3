"""Which image pairs of a recording are measured: spread over overlap, with a baseline worth a pose.

Overlap is the share of image 0's depth that is seen again in image 1, at the same depth to 5 % (so
that what is hidden does not count), averaged over both directions. Poses are camera to world.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stfm_ros.errors import DatasetError
from stfm_ros.types import ByteArray, Camera, Float32Array, FloatArray


class PosedImages(Protocol):
    """A recording with a pose for every image, and depth where it was recorded (a folder or a bag)."""

    @property
    def camera(self) -> Camera: ...

    @property
    def stamps(self) -> FloatArray:
        """(n,) float64 seconds."""

    @property
    def poses(self) -> FloatArray:
        """(n, 4, 4) float64 camera to world."""

    def __len__(self) -> int: ...

    def image(self, index: int, /) -> ByteArray:
        """(H, W, 3) uint8 RGB."""

    def depth(self, index: int, /) -> Float32Array | None:
        """(H, W) float32 metres, 0 where unknown; None where the recording has no depth."""


@dataclass(frozen=True)
class Pair:
    """Two images of a recording. ``overlap`` is NaN where no depth was recorded."""

    source: PosedImages
    index0: int
    index1: int
    overlap: float

    @property
    def images(self) -> tuple[ByteArray, ByteArray]:
        """Both images, (H, W, 3) uint8 RGB, read anew each time."""
        return self.source.image(self.index0), self.source.image(self.index1)

    @property
    def depths(self) -> tuple[Float32Array | None, Float32Array | None]:
        """The depth of both images, (H, W) float32 metres, 0 where unknown; None where none was recorded."""
        return self.source.depth(self.index0), self.source.depth(self.index1)

    @property
    def cameras(self) -> tuple[Camera, Camera]:
        """The cameras of both images."""
        return self.source.camera, self.source.camera

    @property
    def T_0to1(self) -> FloatArray:
        """(4, 4) float64, the true motion: maps points of camera 0 into camera 1."""
        return relative_motion(self.source.poses, self.index0, self.index1)


#: where nothing shows whether two images see the same, they must be close in time
WITHOUT_DEPTH_S = 1.0


@dataclass(frozen=True)
class Sampling:
    """How pairs are drawn.

    Attributes:
        count: at most this many pairs.
        max_gap_s: longest time between the two images; 0 means no limit where depth shows the overlap and
            WITHOUT_DEPTH_S where it does not. Poses of fusion or odometry drift, so a limit makes the
            epipolar lines truer; but a short baseline turns what error they have into a large angle.
            Against PnP on depth, Red Kitchen's poses agree to AUC@10 .36 within 1 s, .58 within
            2.5 s, .55 without a limit.
        min_overlap, max_overlap: mean overlap of both directions; used where there is depth.
        max_rotation_deg: larger turns are left out.
        min_baseline: shortest translation as a share of image 0's median depth; without depth, as a
            share of the longest translation among the candidates.
        bins: overlap (without depth: time gap) is cut into so many equal bins, drawn from evenly.
        max_candidates: at most this many pairs are looked at.
        seed: the same seed draws the same pairs.
    """

    count: int = 200
    max_gap_s: float = 0.0
    min_overlap: float = 0.2
    max_overlap: float = 0.97
    max_rotation_deg: float = 60.0
    min_baseline: float = 0.06
    bins: int = 7
    max_candidates: int = 4000
    seed: int = 0

    def describe(self) -> dict[str, float | int]:
        """For the record that stands beside every result."""
        return asdict(self)


DEFAULTS = Sampling()


def sample_pairs(source: PosedImages, sampling: Sampling = DEFAULTS) -> list[Pair]:
    """Pairs of a recording, spread evenly over overlap, in order of time.

    Raises:
        DatasetError: no pair fits; says how many candidates there were and what to loosen.
    """
    rng = np.random.default_rng(sampling.seed)
    has_depth = len(source) > 0 and source.depth(0) is not None
    gap_s = sampling.max_gap_s or (float("inf") if has_depth else WITHOUT_DEPTH_S)
    candidates = _candidates(source, gap_s, sampling.max_candidates, rng)
    if has_depth:
        pairs = list(_with_depth(source, candidates, sampling))
        value, limits = [pair.overlap for pair in pairs], (sampling.min_overlap, sampling.max_overlap)
    else:
        pairs = list(_without_depth(source, candidates, sampling))
        value = [float(source.stamps[pair.index1] - source.stamps[pair.index0]) for pair in pairs]
        limits = (0.0, gap_s)
    if not pairs:
        raise DatasetError(
            f"no pair to evaluate: {len(source)} images with poses give {len(candidates)} candidates within "
            f"{gap_s:g} s, none with rotation < {sampling.max_rotation_deg:g} deg, baseline >= "
            f"{sampling.min_baseline:g} and, where there is depth, overlap {sampling.min_overlap:g}-"
            f"{sampling.max_overlap:g}; allow a larger gap"
        )
    edges = np.linspace(*limits, sampling.bins + 1)[1:-1]
    chosen = spread(np.digitize(value, edges), sampling.count, rng)
    return sorted((pairs[i] for i in chosen), key=lambda pair: (pair.index0, pair.index1))


def relative_motion(poses: FloatArray, index0: int, index1: int) -> FloatArray:
    """T_0to1 (4, 4) of two rows of camera-to-world ``poses`` (n, 4, 4)."""
    motion: FloatArray = np.linalg.solve(poses[index1], poses[index0])
    return motion


def rotation_angle_deg(R: FloatArray) -> float:
    """Angle of a (3, 3) rotation in degrees, exact near 0 and 180."""
    sine = np.linalg.norm([R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]])
    return float(np.degrees(np.arctan2(sine, np.trace(R) - 1.0)))


def two_way_overlap(
    depth0: Float32Array, depth1: Float32Array, camera: Camera, T_0to1: FloatArray, tolerance: float = 0.05
) -> float:
    """Mean over both directions of the share of depth that is seen again at the same place.

    Args:
        depth0, depth1: (H, W) float32 metres, 0 where unknown.
        camera: of these (perhaps subsampled) depth images; distortion is ignored, the bins are wide.
        T_0to1: (4, 4).
        tolerance: relative difference of depth above which a point counts as hidden.
    """
    T_1to0 = np.asarray(np.linalg.inv(T_0to1), np.float64)
    shares = _overlap(depth0, depth1, camera, T_0to1, tolerance), _overlap(depth1, depth0, camera, T_1to0, tolerance)
    return float(np.mean(shares))


def _overlap(depth0: Float32Array, depth1: Float32Array, camera: Camera, T_0to1: FloatArray, tolerance: float) -> float:
    y, x = np.nonzero(depth0 > 0)
    if len(x) == 0:
        return 0.0
    rays = np.linalg.inv(camera.K) @ np.stack([x, y, np.ones_like(x)])
    points = T_0to1[:3, :3] @ (rays * depth0[y, x]) + T_0to1[:3, 3:]
    ahead = points[2] > 1e-6
    projected = camera.K @ points[:, ahead]
    u, v = np.rint(projected[:2] / projected[2]).astype(np.int64)
    inside = (u >= 0) & (u < depth1.shape[1]) & (v >= 0) & (v < depth1.shape[0])
    z, seen = projected[2, inside], depth1[v[inside], u[inside]]
    return float(np.count_nonzero(np.abs(seen - z) < tolerance * z) / len(x))


def _candidates(source: PosedImages, gap_s: float, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(m, 2) indices of images that lie within the time gap, the earlier first; at most ``most``, at random."""
    last = np.searchsorted(source.stamps, np.asarray(source.stamps) + gap_s + 1e-9, side="right")
    pairs = [(i, j) for i in range(len(source)) for j in range(i + 1, int(last[i]))]
    candidates = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    if len(candidates) > most:
        candidates = candidates[np.sort(rng.permutation(len(candidates))[:most])]
    return candidates


def _with_depth(source: PosedImages, candidates: NDArray[np.int64], sampling: Sampling) -> Iterator[Pair]:
    depths: dict[int, Float32Array] = {}
    stride = max(1, round(source.camera.width / 160))
    camera = _subsampled(source.camera, stride)
    for index0, index1 in candidates.tolist():
        for index in (index0, index1):
            if index not in depths:
                depth = source.depth(index)
                depths[index] = np.zeros((1, 1), np.float32) if depth is None else depth[::stride, ::stride].copy()
        motion = relative_motion(source.poses, index0, index1)
        known = depths[index0][depths[index0] > 0]
        if len(known) == 0 or rotation_angle_deg(motion[:3, :3]) >= sampling.max_rotation_deg:
            continue
        if np.linalg.norm(motion[:3, 3]) < sampling.min_baseline * np.median(known):
            continue
        overlap = two_way_overlap(depths[index0], depths[index1], camera, motion)
        if sampling.min_overlap <= overlap <= sampling.max_overlap:
            yield Pair(source, index0, index1, overlap)


def _without_depth(source: PosedImages, candidates: NDArray[np.int64], sampling: Sampling) -> Iterator[Pair]:
    """Where overlap cannot be known, half the field of view is the largest turn."""
    camera = source.camera
    half_view_deg = float(np.degrees(np.arctan(camera.width / 2 / camera.K[0, 0])))
    motions = [relative_motion(source.poses, i, j) for i, j in candidates.tolist()]
    baselines = [float(np.linalg.norm(motion[:3, 3])) for motion in motions]
    shortest = max(sampling.min_baseline * max(baselines, default=0.0), 1e-9)
    for (index0, index1), motion, baseline in zip(candidates.tolist(), motions, baselines):
        turn = rotation_angle_deg(motion[:3, :3])
        if baseline >= shortest and turn < min(sampling.max_rotation_deg, half_view_deg):
            yield Pair(source, index0, index1, float("nan"))


def _subsampled(camera: Camera, stride: int) -> Camera:
    """The camera of ``image[::stride, ::stride]``: pixel (x, y) comes from (stride x, stride y)."""
    K = camera.K / stride
    K[2, 2] = 1.0
    return Camera(-(-camera.width // stride), -(-camera.height // stride), K)


def spread(bins: Iterable[int], count: int, rng: np.random.Generator) -> list[int]:
    """Up to ``count`` positions, drawn in turn from each bin that still has some."""
    labels = np.fromiter(bins, dtype=np.int64)
    queues = [rng.permutation(np.flatnonzero(labels == label)).tolist() for label in np.unique(labels)]
    chosen: list[int] = []
    while len(chosen) < count and any(queues):
        chosen += [queue.pop() for queue in queues if queue]
    return chosen[:count]
