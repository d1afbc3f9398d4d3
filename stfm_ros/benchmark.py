"""Times of each stage on this machine. A measurement is the wall time of one call; figures are over its repetitions.

Each case runs in a fresh process (``stfm_ros.fresh_process``), so that its memory and its loading time are its own.
What follows from the times of several cases is in ``stfm_ros.cost``. Sizes are (width, height) in pixels.
"""

from __future__ import annotations

import dataclasses
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
from stfm_ros.machine import cores, peak_memory_mib
from stfm_ros.matcher import Features, Matcher
from stfm_ros.runtimes import RUNTIMES, why_not
from stfm_ros.runtimes.store import find_model
from stfm_ros.types import ByteArray, Camera, Matches

Size = tuple[int, int]
Stages = Mapping[str, Callable[[], object]]

STFM = "stfm"  #: the learned method, beside the names of BASELINES
#: frames of the demo's recording that are matched: half a second apart, well overlapping
DEMO_FRAMES = (20, 25)
BARE_SIZE = (640, 480)  #: of the network of bare weights, which have no spec to say it


@dataclass(frozen=True)
class Job:
    """What is measured in one process.

    Attributes:
        method: :data:`STFM`, or a name of ``stfm_ros.baselines``.
        config: what is run; of a classical method its threads alone.
        size: of the pictures.
    """

    method: str
    config: MatcherConfig
    size: Size

    def __str__(self) -> str:
        config = self.config
        model = f"{config.model}, runtime {config.runtime}, precision {config.precision}"
        threads = f"threads {config.threads or 'auto'}"
        return f"{model if self.method == STFM else self.method}, {threads}, pictures {self.size[0]}x{self.size[1]}"


@dataclass(frozen=True)
class Times:
    """Of one stage, ms."""

    median: float
    q25: float
    q75: float
    p95: float


@dataclass(frozen=True)
class Learned:
    """The model of a case.

    Attributes:
        given: as it was asked for.
        name, weights_hash, width, height, gflops: of its spec.
        runtime, precision: what ran it, and how.
        load_s: from the first import of the runtime to the loaded model.
    """

    given: str
    name: str
    weights_hash: str
    width: int
    height: int
    runtime: str
    precision: str
    load_s: float
    gflops: Mapping[str, float]


@dataclass(frozen=True)
class Case:
    """What was measured of one job.

    Attributes:
        method, threads: as in :class:`Job`; 0 threads are the choice of the runtime, of OpenCV all cores.
        model: None for a classical method.
        width, height: of the pictures.
        matches: of the pair.
        memory_before_mib, memory_mib: the most that the process held before loading, and in all.
        stages: by name, in the order in which a picture passes them.
    """

    method: str
    model: Learned | None
    threads: int
    width: int
    height: int
    matches: int
    memory_before_mib: float
    memory_mib: float
    stages: Mapping[str, Times]


@dataclass(frozen=True)
class PicturePair:
    """Two pictures (H, W, 3) uint8 RGB, where they are from, and their camera."""

    names: tuple[str, str]
    images: tuple[ByteArray, ByteArray]
    camera: Camera

    def resized(self, size: Size) -> PicturePair:
        """The same at another size."""
        method = cv2.INTER_AREA if size[0] < self.camera.width else cv2.INTER_CUBIC
        first, second = (np.asarray(cv2.resize(image, size, interpolation=method), np.uint8) for image in self.images)
        K = np.diag([size[0] / self.camera.width, size[1] / self.camera.height, 1.0]) @ self.camera.K
        return PicturePair(self.names, (first, second), Camera(*size, K))


# -- what is asked for -------------------------------------------------------------------------------------------------


def words(text: str) -> list[str]:
    """The words of ``a,b``."""
    return [word for word in text.replace(" ", "").split(",") if word]


def runtime_names(text: str) -> list[str]:
    """The runtimes in ``a,b``; ``all`` for those that can be had, ``auto`` for the one that auto takes.

    Raises:
        ConfigError: one is unknown.
    """
    names = words(text)
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
    counts = words(text)
    if not counts or not all(word.isdigit() for word in counts):
        raise ConfigError(f"threads {text!r}: expected whole numbers, e.g. 1,2,4; 0 leaves the choice to the runtime")
    return [int(word) for word in counts]


def peer_names(text: str) -> list[str]:
    """The classical methods in ``a,b``; none for ``none``.

    Raises:
        ConfigError: one is unknown.
    """
    names = [] if text == "none" else words(text)
    if text != "none" and (not names or not set(names) <= set(BASELINES)):
        raise ConfigError(f"peers {text!r}: expected none, or some of {', '.join(BASELINES)}")
    return names


def configs(models: str, runtimes: str, precisions: str, threads: str) -> list[MatcherConfig]:
    """Every combination of the words in these lists, in their order.

    Raises:
        ConfigError: a list is empty, or one of its words is unknown.
        WeightsError: there is no such model; lists the shipped names.
    """
    if not words(models):
        raise ConfigError(f"models {models!r}: expected shipped names or exported folders, e.g. default,small")
    for model in words(models):
        find_model(model)
    (field,) = (field for field in dataclasses.fields(MatcherConfig) if field.name == "precision")
    choices = field.metadata["option"].choices
    if not words(precisions) or not set(words(precisions)) <= set(choices):
        raise ConfigError(f"precisions {precisions!r}: expected some of {', '.join(choices)}")
    product = itertools.product(words(models), runtime_names(runtimes), words(precisions), thread_counts(threads))
    return [
        MatcherConfig(model=model, runtime=runtime, precision=precision, threads=count)
        for model, runtime, precision, count in product
    ]


def plan(wanted: Sequence[MatcherConfig], peers: Sequence[str], sizes: Sequence[Size] | None) -> list[Job]:
    """What is measured, in order: the models, then the peers on the same pictures with the same threads.

    Args:
        sizes: of the pictures; None is each model's own.
    """
    learned = [Job(STFM, config, size) for config in wanted for size in sizes or [network_size(config.model)]]
    beside = dict.fromkeys((job.size, job.config.threads) for job in learned)  # each once, in order
    classical = [Job(peer, MatcherConfig(threads=threads), size) for size, threads in beside for peer in peers]
    return learned + classical


def network_size(model: str) -> Size:
    """Of the input of a model."""
    spec = find_model(model).spec
    return (spec.width, spec.height) if spec else BARE_SIZE


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


# -- measuring ---------------------------------------------------------------------------------------------------------


def measure(job: Job, pair: PicturePair, repeat: int, warm_up: int) -> Case:
    """Measure a job; to be called in a fresh process, whose peak of memory is taken and whose threads are set.

    Raises:
        WeightsError, RuntimeNotAvailable, EngineError: the model or the runtime cannot be had.
    """
    cv2.setNumThreads(job.config.threads or cores())
    pair = pair.resized(job.size)
    before = peak_memory_mib()
    model = None
    if job.method == STFM:
        model, matcher = _load(job.config)
        matches, stages = _learned(matcher, pair)
    else:
        matches, stages = _classical(job.method, pair)
    times = {stage: timed(call, repeat, warm_up) for stage, call in stages.items()}
    return Case(job.method, model, job.config.threads, *job.size, len(matches), before, peak_memory_mib(), times)


def _load(config: MatcherConfig) -> tuple[Learned, Matcher]:
    began = time.perf_counter()
    matcher = Matcher.from_pretrained(config)
    load_s = time.perf_counter() - began
    spec, precision = matcher.runtime.spec, matcher.runtime.precision
    return Learned(
        config.model, spec.name, spec.weights_hash, spec.width, spec.height, matcher.runtime_name, precision, load_s,
        spec.gflops,
    ), matcher  # fmt: skip


def _learned(matcher: Matcher, pair: PicturePair) -> tuple[Matches, Stages]:
    runtime, camera = matcher.runtime, pair.camera
    reference = matcher.features(pair.images[0])
    image = pair.images[1]
    fitted, how = fit(to_rgb(image), matcher.height, matcher.width)
    current = Features(runtime.features(fitted), how, image)
    rows = runtime.pair(reference.data, current.data)
    matches = matcher.select(rows, reference.fit, how)

    def frame() -> None:
        estimate_relative_pose(matcher.match_features(reference, matcher.features(image)), camera, camera)

    return matches, {
        "fit": lambda: fit(to_rgb(image), matcher.height, matcher.width),
        "features": lambda: runtime.features(fitted),
        "pair": lambda: runtime.pair(reference.data, current.data),
        "select": lambda: matcher.select(rows, reference.fit, how),
        "geometry": lambda: estimate_relative_pose(matches, camera, camera),
        "frame": frame,
    }


def _classical(name: str, pair: PicturePair) -> tuple[Matches, Stages]:
    method, camera = BASELINES[name], pair.camera
    reference, current = (method.features(image) for image in pair.images)
    matches = method.match_features(reference, current)

    def frame() -> None:
        found = method.match_features(reference, method.features(pair.images[1]))
        estimate_relative_pose(found, camera, camera)

    return matches, {
        "features": lambda: method.features(pair.images[1]),
        "match": lambda: method.match_features(reference, current),
        "geometry": lambda: estimate_relative_pose(matches, camera, camera),
        "frame": frame,
        "both": lambda: method(*pair.images),
    }


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
