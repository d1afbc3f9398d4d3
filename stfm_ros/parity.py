"""Whether two ways to run a model agree: runtimes, precisions, machines.

Convention: matches are *common* where both name the same coarse cell of image 0 (equal ``keypoints0``) and points of
image 1 within :data:`SAME_PX`; their share is of the larger number of matches. Distances are of ``keypoints1`` over the
common ones. ``expected`` comes first, ``found`` second.

An export holds a reference pair: two images, and what the float32 graphs made of them in ONNX Runtime. With it
:func:`check_reference` tells on any machine, without a recording, whether a runtime computes what was exported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import cv2
import numpy as np
from numpy.typing import NDArray

from stfm_ros.config import MatcherConfig
from stfm_ros.errors import DatasetError, WeightsError
from stfm_ros.evaluate import ColourMethod, evaluate_pairs
from stfm_ros.geometry import estimate_relative_pose
from stfm_ros.pairs import Pair, rotation_angle_deg
from stfm_ros.runtimes.store import REFERENCE, Model
from stfm_ros.types import ByteArray, Float32Array, Matches

if TYPE_CHECKING:
    from stfm_ros.runtimes import Rows, Runtime

SAME_PX = 8.0  #: a coarse cell; what is further apart is another match


# -- two sets of matches -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Deviation:
    """Of matches from those that were expected, over one or more pairs.

    Attributes:
        common: share of the matches that both have, 0 to 1; 1 where there are none at all.
        p50_px, p99_px: of the distances of common matches in image 1; 0 where there are none.
        confidence: 99th percentile of the absolute difference, of common matches.
        expected, found: number of matches.
    """

    common: float
    p50_px: float
    p99_px: float
    confidence: float
    expected: int
    found: int


def deviation(pairs: Sequence[tuple[Matches, Matches]]) -> Deviation:
    """Of ``(expected, found)`` of some pairs of images, taken together."""
    px, confidence = np.zeros(0), np.zeros(0)
    for expected, found in pairs:
        i, j = _same_cell(expected.keypoints0, found.keypoints0)
        gaps = np.linalg.norm(expected.keypoints1[i] - found.keypoints1[j], axis=1)
        same = gaps < SAME_PX
        px = np.append(px, gaps[same])
        confidence = np.append(confidence, np.abs(expected.confidence[i] - found.confidence[j])[same])
    most = sum(max(len(expected), len(found)) for expected, found in pairs)
    p50, p99 = np.percentile(px, [50, 99]) if len(px) else (0.0, 0.0)
    return Deviation(
        common=len(px) / most if most else 1.0,
        p50_px=float(p50),
        p99_px=float(p99),
        confidence=float(np.percentile(confidence, 99)) if len(confidence) else 0.0,
        expected=sum(len(expected) for expected, _ in pairs),
        found=sum(len(found) for _, found in pairs),
    )


def _same_cell(a: Float32Array, b: Float32Array) -> tuple[list[int], list[int]]:
    """Indices of the points of a (n, 2) and b (m, 2) that are equal to 1/8 px; no two of either are."""
    at = {tuple(point): index for index, point in enumerate(np.rint(8 * b).astype(int).tolist())}
    pairs = [(i, at[key]) for i, point in enumerate(np.rint(8 * a).astype(int).tolist()) if (key := tuple(point)) in at]
    return [i for i, _ in pairs], [j for _, j in pairs]


# -- the reference pair of an export -----------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """Two images and what is expected of them.

    Attributes:
        images: two of (height, width, 3) uint8 RGB, of the model's own size.
        depths: two of (height, width) uint16 millimetres of an RGB-D model; none of an RGB one.
        rows: of the float32 graphs, image 0 to image 1.
    """

    images: tuple[ByteArray, ByteArray]
    depths: tuple[NDArray[np.uint16], ...]
    rows: Rows

    def write(self, path: Path) -> None:
        """Write as .npz of plain arrays, the images as PNG files in them."""
        arrays = {f"image{i}": _encoded(image[:, :, ::-1]) for i, image in enumerate(self.images)}
        arrays |= {f"depth{i}": _encoded(depth) for i, depth in enumerate(self.depths)}
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays, **self.rows._asdict())

    @staticmethod
    def read(path: Path) -> Reference:
        """Read what :meth:`write` wrote.

        Raises:
            WeightsError: it is not that.
        """
        from stfm_ros.runtimes import Rows

        try:
            with np.load(path, allow_pickle=False) as arrays:
                images = [np.asarray(_decoded(arrays[f"image{i}"])[:, :, ::-1], np.uint8) for i in (0, 1)]
                depths = [np.asarray(_decoded(arrays[f"depth{i}"]), np.uint16) for i in (0, 1) if "depth0" in arrays]
                rows = Rows(*(arrays[name] for name in Rows._fields))
        except (OSError, EOFError, ValueError, KeyError, BadZipFile) as fault:
            raise WeightsError(
                f"{path} is no reference pair of an export ({fault}); export the weights again"
            ) from fault
        return Reference((images[0], images[1]), tuple(depths), rows)


def check_reference(runtime: Runtime, model: Model) -> Deviation:
    """How far a runtime is from what was exported, on the reference pair.

    Matches of the default threshold are compared, in pixels of the model's own size.

    Raises:
        WeightsError: the export has no reference pair, or a damaged one.
    """
    reference = Reference.read(model.file(REFERENCE))
    first, second = (runtime.features(image) for image in as_inputs(reference.images, reference.depths))
    return deviation([(as_matches(reference.rows), as_matches(runtime.pair(first, second)))])


def as_matches(rows: Rows, threshold: float | None = None) -> Matches:
    """The rows from a threshold on, the default one unless it is given."""
    keep = rows.confidence >= (MatcherConfig().threshold if threshold is None else threshold)
    return Matches(*(column[keep] for column in rows))


def as_inputs(images: Sequence[ByteArray], depths: Sequence[NDArray[np.uint16]]) -> list[Float32Array]:
    """What ``Runtime.features`` takes, for images and depths as in :class:`Reference`."""
    tensors = [image.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255) for image in images]
    tens_of_metres = [depth[None, None].astype(np.float32) / np.float32(10_000) for depth in depths]
    if depths:
        tensors = [np.concatenate(both, axis=1) for both in zip(tensors, tens_of_metres, strict=True)]
    return [np.ascontiguousarray(tensor) for tensor in tensors]


def _encoded(picture: NDArray[Any]) -> ByteArray:
    """The bytes of a PNG file, BGR or 16 bit grey: without loss on every machine."""
    done, data = cv2.imencode(".png", np.ascontiguousarray(picture), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert done, "OpenCV encodes PNG"
    return np.asarray(data, np.uint8).ravel()


def _decoded(data: ByteArray) -> NDArray[Any]:
    picture = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise ValueError("a picture cannot be decoded")
    return np.asarray(picture)


# -- matchers on recorded pairs ----------------------------------------------------------------------


@dataclass(frozen=True)
class Parity:
    """One way to run a model, on all pairs.

    Attributes:
        deviation: from the first way, of all matches.
        rotation_deg: median over the pairs of the angle between the rotations that the robot's estimator finds from
            both ways' matches; infinite where no pair has both.
        auc: of the pose error at 5, 10 and 20 degrees, 0 to 1, see :func:`stfm_ros.evaluate.pose_auc`.
        auc_95: its 95 % interval over the choice of pairs.
        median_ms: of a pair, both images encoded.
    """

    deviation: Deviation
    rotation_deg: float
    auc: dict[str, float]
    auc_95: dict[str, tuple[float, float]]
    median_ms: float


def compare(
    methods: Mapping[str, ColourMethod],
    pairs: Sequence[Pair],
    solver: str = "poselib",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Parity]:
    """Several ways to run a model on the same pairs, each against the first.

    Args:
        methods: by name, ``(rgb0, rgb1) -> Matches``; at least one.
        pairs: with true poses.
        solver: of the pose error, one of :data:`stfm_ros.evaluate.SOLVERS`.
        progress: called with pairs done and pairs in all.

    Raises:
        DatasetError: there are no pairs, or no methods.
        RuntimeNotAvailable: the solver is not installed.
    """
    if not methods:
        raise DatasetError("there is nothing to compare: give at least one method")
    found: dict[str, list[Matches]] = {name: [] for name in methods}

    def kept(name: str) -> ColourMethod:
        def match(rgb0: ByteArray, rgb1: ByteArray) -> Matches:
            matches = methods[name](rgb0, rgb1)
            found[name].append(matches)
            return matches

        return match

    scores = evaluate_pairs({name: kept(name) for name in methods}, pairs, solver, progress=progress)
    expected = next(iter(found.values()))
    return {
        name: Parity(
            deviation=deviation(list(zip(expected, found[name], strict=True))),
            rotation_deg=_rotation_deg(pairs, expected, found[name]),
            auc=score.auc,
            auc_95=score.auc_95,
            median_ms=score.median_ms,
        )
        for name, score in scores.items()
    }


def _rotation_deg(pairs: Sequence[Pair], expected: Sequence[Matches], found: Sequence[Matches]) -> float:
    angles = []
    for pair, *both in zip(pairs, expected, found, strict=True):
        first, second = (estimate_relative_pose(matches, *pair.cameras) for matches in both)
        if first.status.has_rotation and second.status.has_rotation:
            angles.append(rotation_angle_deg(first.R @ second.R.T))
    return float(np.median(angles)) if angles else float("inf")
