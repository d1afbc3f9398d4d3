"""Times of each stage on this machine. A measurement is the wall time of one call; figures are over its repetitions."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from stfm_ros.baselines import BASELINES
from stfm_ros.config import MatcherConfig
from stfm_ros.errors import ConfigError
from stfm_ros.geometry import estimate_relative_pose
from stfm_ros.images import fit, to_rgb
from stfm_ros.machine import cores
from stfm_ros.matcher import Features, Matcher
from stfm_ros.runtimes import RUNTIMES, why_not
from stfm_ros.types import ByteArray, Camera, Matches

#: frames of the demo's recording that are matched: half a second apart, well overlapping
DEMO_FRAMES = (20, 25)


@dataclass(frozen=True)
class Times:
    """Of one stage, ms."""

    median: float
    q25: float
    q75: float
    p95: float


@dataclass(frozen=True)
class Case:
    """One method at one number of threads on pictures of one size."""

    method: str
    threads: int
    width: int
    height: int
    matches: int
    load_s: float | None
    weights_hash: str | None
    stages: Mapping[str, Times]


@dataclass(frozen=True)
class PicturePair:
    """Two pictures (H, W, 3) uint8 RGB, where they are from, and the width their focal length is of."""

    names: tuple[str, str]
    images: tuple[ByteArray, ByteArray]
    camera: Camera

    def resized(self, size: tuple[int, int]) -> tuple[tuple[ByteArray, ByteArray], Camera]:
        """The pictures and their camera at another (width, height)."""
        small = [np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8) for image in self.images]
        K = np.diag([size[0] / self.camera.width, size[1] / self.camera.height, 1.0]) @ self.camera.K
        return (small[0], small[1]), Camera(*size, K)


#: runtime ("" for SIFT and ORB), threads, size of the pictures
Item = tuple[str, int, tuple[int, int]]


def runtime_names(text: str) -> list[str]:
    """The runtimes in ``a,b``; ``all`` for those that can be had, ``auto`` for the one that auto takes.

    Raises:
        ConfigError: one is unknown.
    """
    names = [name for name in text.replace(" ", "").split(",") if name]
    if names == ["all"]:
        return [name for name in RUNTIMES if not why_not(name)]
    unknown = [name for name in names if name not in (*RUNTIMES, "auto")]
    if unknown or not names:
        raise ConfigError(f"runtimes {text!r}: expected all, auto, or some of {', '.join(RUNTIMES)}")
    return names


def thread_counts(text: str) -> list[int]:
    """The numbers in ``1,2``.

    Raises:
        ConfigError: one is no whole number, or is below 0.
    """
    words = [word for word in text.replace(" ", "").split(",") if word]
    if not words or not all(word.isdigit() for word in words):
        raise ConfigError(f"threads {text!r}: expected whole numbers, e.g. 1,2,4; 0 leaves the choice to the runtime")
    return [int(word) for word in words]


def picture_pair(paths: Sequence[Path] | None) -> PicturePair:
    """Two pictures from files, or of the recording in the package; without a calibration a wide lens is assumed.

    Raises:
        ImageError: a picture cannot be read.
        BagError: the recording cannot be read.
    """
    from stfm_ros.demo import DEMO_BAG
    from stfm_ros.picture_files import read_picture
    from stfm_ros.posed_bag import PosedBag

    if paths:
        images = read_picture(paths[0]), read_picture(paths[1])
        height, width = images[0].shape[:2]
        K = np.array([[0.8 * width, 0, width / 2 - 0.5], [0, 0.8 * width, height / 2 - 0.5], [0, 0, 1]])
        return PicturePair((str(paths[0]), str(paths[1])), images, Camera(width, height, K))
    with PosedBag(DEMO_BAG) as bag:
        a, b = DEMO_FRAMES
        names = f"demo.mcap, image {a}", f"demo.mcap, image {b}"
        return PicturePair(names, (bag.image(a), bag.image(b)), bag.camera)


def plan(names: Sequence[str], threads: Sequence[int], sizes: Sequence[tuple[int, int]]) -> list[Item]:
    """What is measured, in order: every runtime, then the baselines."""
    return list(itertools.product([*names, ""], threads, sizes))


def measure(item: Item, model: str, pair: PicturePair, repeat: int, warm_up: int) -> list[Case]:
    """Measure one item of the plan.

    Raises:
        WeightsError, RuntimeNotAvailable: the model or the runtime cannot be had.
    """
    runtime, threads, size = item
    images, camera = pair.resized(size)
    before = cv2.getNumThreads()
    cv2.setNumThreads(threads or cores())
    try:
        if runtime:
            return [_model(runtime, threads, images, camera, model, repeat, warm_up)]
        return [_baseline(name, threads, images, camera, repeat, warm_up) for name in BASELINES]
    finally:
        cv2.setNumThreads(before)


def _model(
    runtime: str,
    threads: int,
    images: tuple[ByteArray, ByteArray],
    camera: Camera,
    model: str,
    repeat: int,
    warm_up: int,
) -> Case:
    began = time.perf_counter()
    matcher = Matcher.from_pretrained(MatcherConfig(model=model, runtime=runtime, threads=threads))
    load_s = time.perf_counter() - began
    reference = matcher.features(images[0])
    fitted, how = fit(to_rgb(images[1]), matcher.height, matcher.width)
    current = Features(matcher.runtime.features(fitted), how)
    matches = matcher.match_features(reference, current)

    def frame() -> None:
        estimate_relative_pose(matcher.match_features(reference, matcher.features(images[1])), camera, camera)

    stages: dict[str, Callable[[], object]] = {
        "fit": lambda: fit(to_rgb(images[1]), matcher.height, matcher.width),
        "features": lambda: matcher.runtime.features(fitted),
        "pair": lambda: matcher.match_features(reference, current),
        "geometry": lambda: estimate_relative_pose(matches, camera, camera),
        "frame": frame,
    }
    method = f"stfm {matcher.model_name}, {matcher.runtime_name}"
    return _case(method, threads, camera, matches, stages, repeat, warm_up, load_s, matcher.weights_hash)


def _baseline(
    name: str, threads: int, images: tuple[ByteArray, ByteArray], camera: Camera, repeat: int, warm_up: int
) -> Case:
    match = BASELINES[name]
    matches = match(*images)
    stages: dict[str, Callable[[], object]] = {
        "match": lambda: match(*images),
        "geometry": lambda: estimate_relative_pose(matches, camera, camera),
    }
    return _case(name, threads, camera, matches, stages, repeat, warm_up)


def _case(
    method: str,
    threads: int,
    camera: Camera,
    matches: Matches,
    stages: Mapping[str, Callable[[], object]],
    repeat: int,
    warm_up: int,
    load_s: float | None = None,
    weights_hash: str | None = None,
) -> Case:
    times = {stage: timed(call, repeat, warm_up) for stage, call in stages.items()}
    return Case(method, threads, camera.width, camera.height, len(matches), load_s, weights_hash, times)


def timed(call: Callable[[], object], repeat: int, warm_up: int) -> Times:
    """Of ``repeat`` calls, after some that do not count."""
    for _ in range(warm_up):
        call()
    ms = []
    for _ in range(repeat):
        began = time.perf_counter()
        call()
        ms.append(1e3 * (time.perf_counter() - began))
    return quartiles(ms)


def quartiles(ms: Sequence[float]) -> Times:
    """Of single times, ms."""
    q25, median, q75, p95 = np.percentile(ms, (25, 50, 75, 95))
    return Times(float(median), float(q25), float(q75), float(p95))
