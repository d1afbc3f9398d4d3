"""How good networks are while they are made: the measures of ``stfm eval``, at any size, several at once.

    pairs = rendered_pairs(150, textures, height=128, width=160)
    scores = evaluate_networks({"teacher": teacher, "student": student}, pairs, height=128, width=160)

Networks are in memory or files of weights; each runs as on the robot (``stfm_ros.matcher`` on torch), so that fit,
threshold and border are the same code. Pairs are those of ``stfm_ros.pairs``: of a recording, or rendered here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stfm_ros.config import MatcherConfig
from stfm_ros.errors import DatasetError
from stfm_ros.evaluate import Method, PoseScore, WithDepth, evaluate_pairs
from stfm_ros.matcher import Features, Matcher
from stfm_ros.model.network import StfmNet
from stfm_ros.model.weights import load_network, weights_hash
from stfm_ros.pairs import DEFAULTS, Pair, relative_motion, rotation_angle_deg, two_way_overlap
from stfm_ros.runtimes.torch_runtime import TorchRuntime
from stfm_ros.types import ByteArray, Camera, EngineSpec, Float32Array, FloatArray, Matches
from stfm_training.depth_sensor import DepthSensor
from stfm_training.photometric import augment
from stfm_training.render import Scene, random_pair_views
from stfm_training.sources.pair import Source
from stfm_training.supervision import CELL
from stfm_training.validate import DIFFICULTY, TruthScore, measure

Network = StfmNet | Path

#: the first word of the seed of every scene that is measured on; training begins its seeds with the run's own, which
#: a config keeps below 2^31
UNSEEN = 2**31 + 3

#: encodings a method keeps: pairs come in order of time, so that an image is met again soon
KEPT = 8


# -- networks as methods -----------------------------------------------------------------------------


def matcher_of(
    network: Network, height: int, width: int, k: int = 0, threshold: float | None = None, name: str = ""
) -> Matcher:
    """A network on torch as a matcher of its own size.

    Args:
        network: in memory (a copy is kept), or a .safetensors file; of 3 or 4 channels.
        height, width: that images are fitted to, pixels; multiples of the network's stride.
        k: matches of a pair at the most; 0 is half of the grid's cells, or 1024 where that is fewer.
        threshold: of confidence; the robot's own if not given.
        name: in messages and reports; the file's or the preset's if not given.

    Raises:
        WeightsError: the file cannot be used.
    """
    if isinstance(network, StfmNet):
        loaded, digest, called = network, weights_hash(network.state_dict()), network.config.preset
    else:
        (loaded, digest), called = load_network(network), network.stem
    cells = (height // CELL) * (width // CELL)
    k = min(k, cells) or min(cells // 2, 1024)
    spec = EngineSpec(name or called, loaded.config.preset, height, width, k, digest)
    defaults = MatcherConfig(runtime="torch")
    config = defaults if threshold is None else MatcherConfig(runtime="torch", threshold=threshold)
    return Matcher(TorchRuntime(loaded, spec), config, "torch", "the network itself")


def as_method(matcher: Matcher) -> Method:
    """A matcher as ``stfm_ros.evaluate`` takes it, which encodes an image once while it is met in pairs in a row.

    Its milliseconds are therefore not those of a whole pair.
    """
    recent: deque[tuple[ByteArray, Features]] = deque(maxlen=KEPT)

    def features(image: ByteArray, depth: Float32Array | None) -> Features:
        for known, kept in recent:
            if known is image:
                return kept
        recent.append((image, matcher.features(image, depth)))
        return recent[-1][1]

    def with_depth(
        image0: ByteArray, image1: ByteArray, depth0: Float32Array | None, depth1: Float32Array | None
    ) -> Matches:
        return matcher.match_features(features(image0, depth0), features(image1, depth1))

    return WithDepth(with_depth) if matcher.takes_depth else lambda a, b: with_depth(a, b, None, None)


def evaluate_networks(
    networks: Mapping[str, Network],
    pairs: Sequence[Pair],
    height: int,
    width: int,
    solver: str = "poselib",
    k: int = 0,
    threshold: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, PoseScore]:
    """Pose and epipolar measures of several networks on the same pairs; each image is read once for all of them.

    Args:
        networks: by name.
        pairs: of ``stfm_ros.pairs.sample_pairs`` or of :func:`rendered_pairs`; their images may be of any size.
        height, width, k, threshold: see :func:`matcher_of`.
        solver, progress: see ``stfm_ros.evaluate.evaluate_pairs``.

    Raises:
        ImageError: a network needs depth and the pairs have none.
    """
    methods = {
        name: as_method(matcher_of(network, height, width, k, threshold, name)) for name, network in networks.items()
    }
    return evaluate_pairs(methods, pairs, solver, progress=progress)


def truth_scores(
    networks: Mapping[str, Network],
    source: Source,
    pairs: int,
    seed: int,
    height: int,
    width: int,
    difficulty: float = DIFFICULTY,
    threshold: float | None = None,
) -> dict[str, TruthScore]:
    """Coarse and fine measures of several networks on pairs of a source, whose truth is exact.

    Args:
        pairs: how many are drawn from the source with ``seed``.
        difficulty: see ``stfm_training.sources.pair.Source``.
    """
    limit = MatcherConfig().threshold if threshold is None else threshold
    matchers = {name: matcher_of(net, height, width, threshold=limit) for name, net in networks.items()}
    return {name: known.score(limit) for name, known in measure(matchers, source, pairs, seed, difficulty).items()}


# -- rendered pairs ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class TwoViews:
    """Two views of a rendered scene, as ``stfm_ros.pairs.PosedImages``."""

    camera: Camera
    poses: FloatArray
    images: tuple[ByteArray, ByteArray]
    depths: tuple[Float32Array, Float32Array]
    stamps: FloatArray
    exact: tuple[Float32Array, Float32Array] | None = None  #: depth without a sensor, where the renderer is known

    def __len__(self) -> int:
        return 2

    def image(self, index: int, /) -> ByteArray:
        """(H, W, 3) uint8 RGB."""
        return self.images[index]

    def depth(self, index: int, /) -> Float32Array:
        """(H, W) float32 metres as a sensor gives them, 0 where it gives none."""
        return self.depths[index]


def rendered_pairs(
    count: int,
    textures: Sequence[ByteArray],
    height: int,
    width: int,
    seed: int = 0,
    difficulty: float = DIFFICULTY,
) -> list[Pair]:
    """Pairs of rendered scenes that no training sees, a scene each, with exact poses.

    Limits of overlap, turn and baseline are those of recorded pairs (``stfm_ros.pairs.Sampling``); the light, the
    exposure and the noise of the two images differ, and the depth is what a random sensor gives.

    Args:
        textures: photographs, (H, W, 3) uint8 RGB, best such that no training saw either; may be empty.
        height, width: of the images, pixels.
        seed: another one draws other scenes; a pair depends on it and on its number alone.

    Raises:
        DatasetError: scenes of this difficulty hardly give a pair within the limits.
    """
    pairs: list[Pair] = []
    for number in range(20 * count):
        pair = _rendered_pair(np.random.default_rng([UNSEEN, seed, number]), textures, height, width, difficulty)
        if pair is not None:
            pairs.append(pair)
        if len(pairs) == count:
            return pairs
    raise DatasetError(
        f"{20 * count} scenes of difficulty {difficulty:g} gave {len(pairs)} pairs of overlap "
        f"{DEFAULTS.min_overlap:g}-{DEFAULTS.max_overlap:g}, {count} are wanted: choose another, e.g. {DIFFICULTY:g}"
    )


def _rendered_pair(
    rng: np.random.Generator, textures: Sequence[ByteArray], height: int, width: int, difficulty: float
) -> Pair | None:
    scene = Scene.random(rng, textures)
    focal = width * rng.uniform(0.6, 1.3)
    K = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])
    camera = Camera(width, height, K)
    views = random_pair_views(scene, rng, camera, difficulty)
    poses = np.linalg.inv(np.stack(views))
    motion = relative_motion(poses, 0, 1)
    exact = [scene.depth(camera, view) for view in views]
    overlap = two_way_overlap(exact[0], exact[1], camera, motion)
    baseline = float(np.linalg.norm(motion[:3, 3])) / float(np.median(exact[0][exact[0] > 0]))
    if (
        not DEFAULTS.min_overlap <= overlap <= DEFAULTS.max_overlap
        or rotation_angle_deg(motion[:3, :3]) >= DEFAULTS.max_rotation_deg
        or baseline < DEFAULTS.min_baseline
    ):
        return None
    light = scene.relight(rng) if rng.random() < 0.4 else None
    pictures = [scene.render(camera, views[0]).image, scene.render(camera, views[1], light).image]
    sensor = DepthSensor.random(rng)
    depths = [sensor.measure(depth, image, focal, rng) for depth, image in zip(exact, pictures)]
    images = [augment(image, rng, difficulty * rng.random()) for image in pictures]
    both = np.arange(2.0), (exact[0], exact[1])
    source = TwoViews(camera, poses, (images[0], images[1]), (depths[0], depths[1]), *both)
    return Pair(source, 0, 1, overlap)
