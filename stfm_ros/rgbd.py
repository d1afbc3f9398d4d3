"""A folder of colour images, registered depth and camera poses, as `stfm import-rgbd` and `stfm eval` take it.

    intrinsics.yaml   width, height, fx, fy, cx, cy (pixels); distortion (0 or 5 numbers, plumb_bob; optional);
                      depth_scale: metres = value / depth_scale (1000 where not given)
    rgb/*.jpg|png     colour images, in name order
    depth/*.png       16 bit, pixel-aligned with the image of the same stem; 0 = no depth
    poses.txt         TUM lines, camera to world; line i belongs to the i-th image
    frames.txt        optional: `stem timestamp` a line, in name order; must agree with rgb/ and poses.txt

The images may be grey, in a folder of another name, and without depth, where that is asked for.

Camera axes are x right, y down, z forward (REP-103 optical); metres and seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from stfm_ros.errors import CameraError, DatasetError
from stfm_ros.trajectory import read_tum, seconds_to_ns, text_rows
from stfm_ros.types import ByteArray, Camera, Float32Array

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


class RgbdFolder:
    """A folder in the layout above; images are read when they are asked for.

    Args:
        images: name of the folder of images in it.
        with_depth: whether there has to be depth; without it, depth/ is not looked at.

    Attributes:
        path: the folder.
        names: the stems of the frames, in order.
        camera: of every image.
        depth_scale: depth values a metre.
        stamps_ns: (n,) int64 nanoseconds.
        stamps: (n,) float64 seconds.
        poses: (n, 4, 4) float64, camera to world, metres.

    Raises:
        DatasetError: a part is missing or the counts of images, depth images and poses differ.
    """

    def __init__(self, path: Path | str, images: str = "rgb", with_depth: bool = True) -> None:
        self.path = Path(path)
        self.with_depth = with_depth
        folders = [images, "depth"] if with_depth else [images]
        missing = [name for name in ("intrinsics.yaml", "poses.txt", *folders) if not (self.path / name).exists()]
        if missing:
            raise DatasetError(
                f"{self.path} lacks {', '.join(missing)}: expected a folder with intrinsics.yaml, poses.txt "
                f"(TUM lines, camera to world), {'/ and '.join(folders)}/"
            )
        self.camera, self.depth_scale = read_intrinsics(self.path / "intrinsics.yaml")
        self._images = _files(self.path / images, IMAGE_SUFFIXES)
        self._depths = _files(self.path / "depth", (".png",)) if with_depth else []
        self.names = [image.stem for image in self._images]
        trajectory = read_tum(self.path / "poses.txt")
        self.stamps_ns, self.stamps, self.poses = trajectory.stamps_ns, trajectory.stamps, trajectory.poses
        self._check()

    def __len__(self) -> int:
        return len(self.names)

    def image(self, i: int) -> ByteArray:
        """The i-th image: (H, W, 3) uint8 RGB."""
        image = self._read(self._images[i], cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))

    def image_file(self, i: int) -> Path:
        """The file of the i-th image."""
        return self._images[i]

    def depth(self, i: int) -> Float32Array:
        """The i-th depth image of a folder with depth: (H, W) float32 metres, 0 where there is none."""
        raw = self._read(self._depths[i], cv2.IMREAD_UNCHANGED)
        if raw.dtype != np.uint16 or raw.ndim != 2:
            raise DatasetError(
                f"{self._depths[i]} holds {raw.dtype} of shape {raw.shape}: expected one channel of 16 bit"
            )
        return np.asarray(raw / self.depth_scale, np.float32)

    def _read(self, path: Path, flag: int) -> Any:
        image = cv2.imread(str(path), flag)
        if image is None:
            raise DatasetError(f"{path} cannot be decoded as an image; it may be truncated: fetch it again")
        size, expected = image.shape[1::-1], (self.camera.width, self.camera.height)
        if size != expected:
            raise DatasetError(
                f"{path} is {size[0]}x{size[1]}, but intrinsics.yaml says {expected[0]}x{expected[1]}; "
                "colour and depth must be of the size that K belongs to"
            )
        return image

    def _check(self) -> None:
        folder = self._images[0].parent.name if self._images else "rgb"
        counts = [f"{len(self.names)} images in {folder}/", f"{len(self.poses)} lines in poses.txt"]
        counts[1:1] = [f"{len(self._depths)} in depth/"] if self.with_depth else []
        numbers = {len(self.names), len(self.poses)} | ({len(self._depths)} if self.with_depth else set())
        if len(numbers) != 1 or 0 in numbers:
            raise DatasetError(
                f"{self.path} holds {', '.join(counts[:-1])} and {counts[-1]}: expected the same number of each, at "
                "least one"
            )
        for image, depth in zip(self._images, self._depths):
            if image.stem != depth.stem:
                raise DatasetError(
                    f"{self.path}: {folder}/{image.name} stands beside depth/{depth.name}: expected the same stems "
                    "in both"
                )
        if (self.path / "frames.txt").is_file():
            self._check_frames(self.path / "frames.txt")

    def _check_frames(self, path: Path) -> None:
        rows = list(text_rows(path))
        if len(rows) != len(self.names):
            raise DatasetError(
                f"{path} lists {len(rows)} frames, but rgb/ holds {len(self.names)}: expected a line each"
            )
        for (where, words), name, stamp_ns in zip(rows, self.names, self.stamps_ns, strict=True):
            if len(words) != 2 or words[0] != name:
                raise DatasetError(f"{where}: {' '.join(words)!r}: expected '{name} timestamp', in the order of rgb/")
            if abs(seconds_to_ns(words[1], where) - int(stamp_ns)) > 1_000_000:
                raise DatasetError(
                    f"{where}: timestamp {words[1]}, but poses.txt has {stamp_ns / 1e9:.6f} for this frame: expected "
                    "the same"
                )


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)


def read_intrinsics(path: Path) -> tuple[Camera, float]:
    """The camera and the depth values a metre of an intrinsics.yaml.

    Raises:
        DatasetError: a value is missing or makes no camera.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as fault:
        raise DatasetError(f"{path} cannot be read as YAML: {fault}") from None
    if not isinstance(values, dict):
        raise DatasetError(f"{path} holds a {type(values).__name__}: expected width, height, fx, fy, cx, cy in pixels")
    missing = [name for name in ("width", "height", "fx", "fy", "cx", "cy") if name not in values]
    if missing:
        raise DatasetError(f"{path} lacks {', '.join(missing)}: expected width, height, fx, fy, cx, cy in pixels")
    try:
        width, height = int(values["width"]), int(values["height"])
        fx, fy, cx, cy = (float(values[name]) for name in ("fx", "fy", "cx", "cy"))
        distortion = np.asarray(values.get("distortion") or [], np.float64)
        depth_scale = float(values.get("depth_scale", 1000.0))
    except (TypeError, ValueError) as fault:
        raise DatasetError(f"{path}: {fault}; expected numbers") from None
    if not (np.isfinite(depth_scale) and depth_scale > 0):
        raise DatasetError(f"{path}: depth_scale {depth_scale} must be positive: metres = value / depth_scale")
    distorted = bool(distortion.any())
    try:
        camera = Camera(
            width,
            height,
            np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64),
            "plumb_bob" if distorted else "none",
            distortion if distorted else np.zeros(0),
        )
    except CameraError as fault:
        raise DatasetError(f"{path}: {fault}") from None
    return camera, depth_scale
