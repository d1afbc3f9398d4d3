"""Frames of recorded RGB-D sequences: real images, sensors and motion."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from stfm_ros.errors import DatasetError
from stfm_ros.rgbd import RgbdFolder
from stfm_ros.types import ByteArray, Float32Array, FloatArray
from stfm_training.recordings.config import RecordingConfig
from stfm_training.recordings.pairs import posed_pairs
from stfm_training.recordings.recording import RECORD, Recording
from stfm_training.sources.pair import Pair, depth_pair, similarity_transform
from stfm_training.supervision import View

#: decoded frames are kept, in every process that draws pairs, up to so many bytes of them
KEPT_BYTES = 512 << 20
#: the easiest pairs are drawn however few there are: at least this share of all
LEAST_SHARE = 0.1


class Recorded:
    """Pairs of frames of an RGB-D sequence, cropped at random, the second crop round the first's view.

    Images keep their distortion, as the robot sees them.

    Args:
        sequence: a prepared recording, whose training pairs are used; or a folder of images, depth and poses
            (``stfm_ros.rgbd``), all of whose frames are.
        precise: whether the truth is good to a pixel; false for sequences where it is only good to some.
        upright: share of pairs without a turn in the plane of the image.
        held_out: take the pairs of a recording that are held out instead.
    """

    def __init__(
        self,
        sequence: Recording | RgbdFolder | Path,
        precise: bool = True,
        upright: float = 0.8,
        held_out: bool = False,
    ) -> None:
        if isinstance(sequence, Path):
            sequence = Recording(sequence) if (sequence / RECORD).is_file() else RgbdFolder(sequence)
        self.sequence = sequence
        self.precise = precise
        self.upright = upright
        if isinstance(sequence, Recording):
            pairs = sequence.held_out if held_out else sequence.train
        else:
            everything = np.zeros(len(sequence), np.bool_)
            pairs, _ = posed_pairs(sequence, sequence.poses, "poses.txt", everything, RecordingConfig())
        if not len(pairs):
            raise DatasetError(
                f"{sequence.path} has no {'held-out ' if held_out else ''}pairs: prepare it with another held_out share"
            )
        self.pairs = pairs.take(np.argsort(-pairs.overlap, kind="stable"))
        self._kept: dict[int, tuple[ByteArray, Float32Array]] = {}

    def pair(self, rng: np.random.Generator, difficulty: float, height: int, width: int) -> Pair:
        lowest = 0.75 - 0.55 * difficulty
        eligible = int(np.searchsorted(-self.pairs.overlap, -lowest, side="right"))
        pick = rng.integers(max(eligible, int(np.ceil(LEAST_SHARE * len(self.pairs)))))
        i, j, T_0to1 = self.pairs.index0[pick], self.pairs.index1[pick], self.pairs.T_0to1[pick]
        if rng.random() < 0.5:
            i, j, T_0to1 = j, i, np.asarray(np.linalg.inv(T_0to1))
        image0, depth0 = self._frame(int(i))
        image1, depth1 = self._frame(int(j))
        full = np.array(image0.shape[1::-1], float)
        size = np.array([width, height], float)
        fit = (full / size).min()
        scale0, scale1 = 1 / (fit * np.exp(rng.uniform(np.log(0.54), np.log(1.18), 2)))
        angle = 0.0 if rng.random() < self.upright else rng.uniform(-np.pi, np.pi) * difficulty**1.5
        margin = np.minimum(size / 2 / scale0, full / 2)
        centre0 = rng.uniform(margin, full - margin + 1e-6)
        centre1 = self._seen_at(centre0, depth0, T_0to1) + rng.normal(0, 0.12, 2) * size / scale1 * difficulty
        margin = np.minimum(size / 2 / scale1, full / 2)
        centre1 = np.clip(centre1, margin, full - margin)
        view0 = View(self.sequence.camera, similarity_transform(centre0, scale0, 0.0, size / 2))
        view1 = View(self.sequence.camera, similarity_transform(centre1, scale1, angle, size / 2))
        return depth_pair(
            (_image(image0, view0, height, width), _image(image1, view1, height, width)),
            (_depth(depth0, view0, height, width), _depth(depth1, view1, height, width)),
            (view0, view1),
            T_0to1,
            self.precise,
        )

    def _frame(self, i: int) -> tuple[ByteArray, Float32Array]:
        if i in self._kept:
            return self._kept[i]
        frame = self.sequence.image(i), self.sequence.depth(i)
        if (len(self._kept) + 1) * (frame[0].nbytes + frame[1].nbytes) <= KEPT_BYTES:
            self._kept[i] = frame
        return frame

    def _seen_at(self, centre: FloatArray, depth: Float32Array, T_0to1: FloatArray) -> FloatArray:
        """Where the other frame sees what is at ``centre``; the middle of the image where that cannot be told."""
        size = np.array(depth.shape[::-1])
        x, y = np.clip(centre, 0, size - 1).astype(int)
        z = float(depth[y, x]) or float(np.median(depth[depth > 0]))
        view = View(self.sequence.camera)
        point = T_0to1[:3, :3] @ (view.rays(np.array([[x, y]], float))[0] * z) + T_0to1[:3, 3]
        seen = view.project(point[None])[0]
        return seen if np.isfinite(seen).all() else (size - 1) / 2


def _image(image: ByteArray, view: View, height: int, width: int) -> ByteArray:
    scale = np.sqrt(abs(np.linalg.det(view.A[:2, :2])))
    if scale < 0.7:  # blur first: warpAffine alone would alias
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), 0.35 / scale))
    return np.asarray(cv2.warpAffine(image, view.A[:2], (width, height), flags=cv2.INTER_LINEAR))


def _depth(depth: Float32Array, view: View, height: int, width: int) -> Float32Array:
    return np.asarray(cv2.warpAffine(depth, view.A[:2], (width, height), flags=cv2.INTER_NEAREST))
