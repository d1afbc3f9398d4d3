"""Data sets as rows of views: two images, and what is known of their geometry. One class for each kind of data.

A view is read when it is asked for. ``T_0to1`` maps points of camera 0 into camera 1; pixels and axes as in
``stfm_ros.types``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import yaml  # type: ignore[import-untyped, unused-ignore]

from stfm_ros.errors import DatasetError
from stfm_ros.pairs import Pair, PosedImages, Sampling, relative_motion, rotation_angle_deg, sample_pairs
from stfm_ros.picture_files import SUFFIXES, read_picture
from stfm_ros.rgbd import RgbdFolder
from stfm_ros.rotation import quaternion_to_matrix
from stfm_ros.suite.definition import Dataset
from stfm_ros.types import ByteArray, Camera, Float32Array, FloatArray

#: points (n, 2) of image 0 to where they lie in image 1: NaN where unknown, infinite where known not to be seen
Warp = Callable[[FloatArray], FloatArray]

POSE, HOMOGRAPHY, POINTS = "pose", "homography", "points"  #: what is measured on a data set


@dataclass(frozen=True)
class View:
    """Two images, and what is known of them: a motion, a homography, or labelled points.

    Attributes:
        images: (H, W, 3) uint8 RGB each.
        overlap: share of the one that the other sees; NaN where unknown.
        cameras, T_0to1: (4, 4), where the motion is known.
        H_0to1: (3, 3), where the images are of a plane.
        labels: (n, 4) x0 y0 x1 y1, points that were marked by hand.
        warp: where each point goes, if that is known for every point.
    """

    images: tuple[ByteArray, ByteArray]
    overlap: float = float("nan")
    cameras: tuple[Camera, Camera] | None = None
    T_0to1: FloatArray | None = None
    H_0to1: FloatArray | None = None
    labels: FloatArray | None = None
    warp: Warp | None = None


class Reader(Protocol):
    """A data set that was opened.

    Attributes:
        measure: one of :data:`POSE`, :data:`HOMOGRAPHY`, :data:`POINTS`.
        names: of the views, in order.
    """

    @property
    def measure(self) -> str: ...

    @property
    def names(self) -> Sequence[str]: ...

    def view(self, index: int) -> View:
        """The view of this number; read anew each time."""


class Recorded:
    """Images with poses, and depth where ``kind`` is rgbd: pairs spread over overlap, else over time."""

    measure = POSE

    def __init__(self, folder: Path, dataset: Dataset) -> None:
        with_depth = dataset.kind == "rgbd"
        recorded = RgbdFolder(folder, "rgb" if with_depth else "image_left", with_depth)
        _check_size(dataset, recorded.camera)
        source: PosedImages = recorded if with_depth else _Colour(recorded)
        low, high = dataset.overlap
        sampling = Sampling(
            count=dataset.pairs,
            max_gap_s=dataset.gap,
            min_overlap=low,
            max_overlap=high,
            bins=dataset.bins,
            seed=dataset.seed,
        )
        self._pairs = sample_pairs(source, sampling)
        self.names = [f"{recorded.names[pair.index0]} {recorded.names[pair.index1]}" for pair in self._pairs]

    def view(self, index: int) -> View:
        """See :class:`Reader`."""
        pair = self._pairs[index]
        return View(pair.images, pair.overlap, pair.cameras, pair.T_0to1)


class _Colour:
    """A folder without depth, as ``stfm_ros.pairs.PosedImages``."""

    def __init__(self, folder: RgbdFolder) -> None:
        self._folder = folder
        self.camera, self.stamps, self.poses = folder.camera, folder.stamps, folder.poses

    def __len__(self) -> int:
        return len(self._folder)

    def image(self, index: int, /) -> ByteArray:
        return self._folder.image(index)

    def depth(self, index: int, /) -> None:
        return None


class Castle:
    """Strecha's photographs: ``images/`` and cameras.txt with K and camera-to-world pose of each."""

    measure = POSE

    def __init__(self, folder: Path, dataset: Dataset) -> None:
        rows = [line.split() for line in _text(folder / "cameras.txt").splitlines() if not line.startswith("#")]
        self._images = [folder / "images" / row[0] for row in rows if row]
        values = _numbers(folder / "cameras.txt", [row[1:] for row in rows if row], 13)
        self._cameras = [Camera(int(row[0]), int(row[1]), _intrinsics(row[2:6])) for row in values]
        for camera in self._cameras:
            _check_size(dataset, camera)
        self._poses = np.tile(np.eye(4), (len(values), 1, 1))
        self._poses[:, :3, 3] = values[:, 6:9]
        self._poses[:, :3, :3] = [quaternion_to_matrix(quaternion) for quaternion in values[:, 9:]]
        near = [(i, j) for i in range(len(values)) for j in range(i + 1, min(i + int(dataset.gap) + 1, len(values)))]
        turned = [rotation_angle_deg(relative_motion(self._poses, i, j)[:3, :3]) for i, j in near]
        kept = [pair for pair, angle in zip(near, turned) if angle < Sampling.max_rotation_deg]
        self._pairs = kept[: dataset.pairs]
        self.names = [f"{self._images[i].stem} {self._images[j].stem}" for i, j in self._pairs]

    def view(self, index: int) -> View:
        """See :class:`Reader`."""
        i, j = self._pairs[index]
        images = read_picture(self._images[i]), read_picture(self._images[j])
        cameras = self._cameras[i], self._cameras[j]
        return View(images, cameras=cameras, T_0to1=relative_motion(self._poses, i, j))


class Stereo:
    """EuRoC's two cameras at one time: ``cam0/``, ``cam1/`` and their calibrations, camera-to-body ``T_BS``."""

    measure = POSE

    def __init__(self, folder: Path, dataset: Dataset) -> None:
        (camera0, T_B0), (camera1, T_B1) = (_euroc_camera(folder / f"cam{i}.yaml") for i in (0, 1))
        self._cameras = camera0, camera1
        _check_size(dataset, camera0)
        self._T_0to1 = np.asarray(np.linalg.solve(T_B1, T_B0), np.float64)
        self._files = [(path, folder / "cam1" / path.name) for path in _pictures(folder / "cam0")][: dataset.pairs]
        self.names = [left.stem for left, _ in self._files]

    def view(self, index: int) -> View:
        """See :class:`Reader`."""
        left, right = self._files[index]
        return View((read_picture(left), read_picture(right)), cameras=self._cameras, T_0to1=self._T_0to1)


class Oxford:
    """Images 1 and k of a plane, and ``H_1_k``."""

    measure = HOMOGRAPHY

    def __init__(self, folder: Path, dataset: Dataset) -> None:
        self._truths = sorted(folder.glob("H_1_*"), key=lambda path: int(path.name[4:]))
        if not self._truths:
            raise DatasetError(f"{folder} holds no H_1_k file; expected a sequence of Oxford's affine data set")
        self._images = {path.stem: path for path in _pictures(folder)}
        self.names = [f"1 {path.name[4:]}" for path in self._truths]
        missing = sorted({stem for name in self.names for stem in name.split()} - set(self._images))
        if missing:
            raise DatasetError(f"{folder} has no image {', '.join(missing)}: expected one for each H_1_k")

    def view(self, index: int) -> View:
        """See :class:`Reader`."""
        first, other = (read_picture(self._images[stem]) for stem in self.names[index].split())
        H = np.loadtxt(self._truths[index])
        return View((first, other), H_0to1=H, warp=lambda points: _homography(points, H))


class Labelled:
    """WxBS: a folder a pair, with 01.jpg, 02.jpg and corrs.txt, rows x0 y0 x1 y1."""

    measure = POINTS

    def __init__(self, folder: Path, dataset: Dataset) -> None:
        self._folders = sorted(path.parent for path in folder.glob("*/corrs.txt"))
        if not self._folders:
            raise DatasetError(f"{folder} holds no */corrs.txt: expected a folder a pair, with 01.jpg and 02.jpg")
        self.names = [path.name for path in self._folders]

    def view(self, index: int) -> View:
        """See :class:`Reader`."""
        folder = self._folders[index]
        labels = _numbers(folder / "corrs.txt", [row.split() for row in _text(folder / "corrs.txt").splitlines()], 4)
        return View((read_picture(folder / "01.jpg"), read_picture(folder / "02.jpg")), labels=labels)


@dataclass(frozen=True)
class RenderedPair:
    """A pair of a rendered scene, and the exact depth of both views, (H, W) metres, 0 where there is nothing."""

    pair: Pair
    depths: tuple[Float32Array, Float32Array]


#: seed, height, width -> a pair of a scene that no training sees
Render = Callable[[int, int, int], RenderedPair]


class RenderedScenes:
    """Scenes of the training's renderer, one a pair, drawn when they are asked for."""

    measure = POSE

    def __init__(self, render: Render, dataset: Dataset) -> None:
        self._render, self._seed = render, dataset.seed
        self._width, self._height = map(int, dataset.size.split("x"))
        self.names = [f"{number:03}" for number in range(dataset.pairs)]

    def view(self, index: int) -> View:
        """See :class:`Reader`."""
        # the renderer's own seeds count from 0: a thousand each
        drawn = self._render(1000 * self._seed + index, self._height, self._width)
        pair, (depth0, depth1) = drawn.pair, drawn.depths
        camera = pair.cameras[0]

        def warp(points: FloatArray) -> FloatArray:
            return warp_by_depth(points, depth0, depth1, camera.K, pair.T_0to1)

        return View(pair.images, pair.overlap, pair.cameras, pair.T_0to1, warp=warp)


KINDS: dict[str, Callable[[Path, Dataset], Reader]] = {
    "rgbd": Recorded,
    "sequence": Recorded,
    "strecha": Castle,
    "stereo": Stereo,
    "oxford": Oxford,
    "labelled": Labelled,
}
RENDERED = "rendered"


def open_dataset(root: Path, dataset: Dataset, render: Render | None = None) -> Reader:
    """A data set below ``root``.

    Args:
        render: draws the scenes of the kind ``rendered``; no other needs it.

    Raises:
        DatasetError: something is missing, or not as suite.yaml says.
    """
    if dataset.kind == RENDERED:
        assert render is not None, "the caller leaves this data set out where nothing renders"
        return RenderedScenes(render, dataset)
    return KINDS[dataset.kind](root / dataset.path, dataset)


def fingerprint(folder: Path) -> str:
    """12 hex digits over the names and sizes of all files below a folder: other data are other results."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    text = "\n".join(f"{path.relative_to(folder)} {path.stat().st_size}" for path in files)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def warp_by_depth(
    points: FloatArray, depth0: Float32Array, depth1: Float32Array, K: FloatArray, T_0to1: FloatArray
) -> FloatArray:
    """Where points (n, 2) of image 0 lie in image 1, by exact depth.

    NaN where depth is missing or jumps (by 2 % between the four pixels round a point); infinite where the point is out
    of view or something nearer hides it (by 2 %).
    """
    depth, known = _depth_at(points, depth0)
    rays = np.column_stack([points, np.ones(len(points))]) @ np.linalg.inv(K).T
    moved = (rays * depth[:, None]) @ T_0to1[:3, :3].T + T_0to1[:3, 3]
    projected = moved @ K.T
    with np.errstate(divide="ignore", invalid="ignore"):
        landed: FloatArray = projected[:, :2] / projected[:, 2:]
    height, width = depth1.shape
    seen = (moved[:, 2] > 1e-6) & (landed > -0.5).all(axis=1) & (landed < (width - 0.5, height - 0.5)).all(axis=1)
    there, steady = _depth_at(np.where(seen[:, None], landed, 0.0), depth1)
    hidden = steady & (there < 0.98 * moved[:, 2])
    landed[~seen | hidden] = np.inf
    landed[~known | (seen & ~steady)] = np.nan
    return landed


def _depth_at(points: FloatArray, depth: Float32Array) -> tuple[FloatArray, Any]:
    """Depth (n,) at points (n, 2), linear in its inverse as planes are; and where it is known and does not jump."""
    height, width = depth.shape
    base = np.clip(np.floor(points), 0, [width - 2, height - 2]).astype(np.int64)
    across, down = np.clip(points - base, 0, 1).T
    x, y = base.T
    corners = np.stack([depth[y, x], depth[y, x + 1], depth[y + 1, x], depth[y + 1, x + 1]]).astype(np.float64)
    known = (corners > 0).all(axis=0) & (corners.max(axis=0) < 1.02 * corners.min(axis=0))
    inverse = 1 / np.maximum(corners, 1e-6)
    weights = np.stack([(1 - across) * (1 - down), across * (1 - down), (1 - across) * down, across * down])
    return 1 / (inverse * weights).sum(axis=0), known


def _homography(points: FloatArray, H: FloatArray) -> FloatArray:
    moved = np.column_stack([points, np.ones(len(points))]) @ H.T
    landed: FloatArray = moved[:, :2] / moved[:, 2:]
    return landed


def _euroc_camera(path: Path) -> tuple[Camera, FloatArray]:
    """The camera and its camera-to-body T_BS (4, 4) of one of EuRoC's sensor files."""
    text = "\n".join(line for line in _text(path).splitlines() if not line.startswith("%"))
    try:
        values = yaml.safe_load(text)
        width, height = values["resolution"]
        T_BS = np.array(values["T_BS"]["data"], np.float64).reshape(4, 4)
        K = _intrinsics(values["intrinsics"])
        return Camera(width, height, K, "plumb_bob", np.array(values["distortion_coefficients"])), T_BS
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as fault:
        raise DatasetError(f"{path}: {fault}; expected a camera file of EuRoC (resolution, intrinsics, T_BS)") from None


def _intrinsics(values: Any) -> FloatArray:
    fx, fy, cx, cy = map(float, values)
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def _check_size(dataset: Dataset, camera: Camera) -> None:
    found = f"{camera.width}x{camera.height}"
    if dataset.size != found:
        raise DatasetError(
            f"images of {dataset.name} are {found}, the benchmark is fixed to {dataset.size}: take the data set as "
            "suite.yaml describes it"
        )


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DatasetError(f"there is no folder {folder}: expected one with images")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as fault:
        raise DatasetError(f"{path} cannot be read ({fault.strerror}): the data set is not complete") from None


def _numbers(path: Path, rows: Sequence[Sequence[str]], columns: int) -> FloatArray:
    try:
        values = np.array(rows, np.float64)
    except ValueError as fault:
        raise DatasetError(f"{path}: {fault}; expected rows of {columns} numbers") from None
    if values.ndim != 2 or values.shape[1] != columns:
        raise DatasetError(f"{path} holds rows of another length than {columns} numbers: the data set is not complete")
    return values
