"""A few frames of a bag, evenly spread over it, decoded and measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stfm_ros.errors import StfmError
from stfm_ros.images import decode_depth, decode_image
from stfm_ros.quality import Exposure, blur, exposure
from stfm_ros.types import ByteArray, Float32Array, FloatArray
from stfm_training.inspection.digest import Digest
from stfm_training.inspection.edges import EdgeMap, edge_map, lag_maps, optical_flow
from stfm_training.inspection.selection import Selection
from stfm_training.recordings.config import RecordingConfig
from stfm_training.recordings.frames import to_size

#: edges, in metres, of the histogram of depth
DEPTH_BINS = np.geomspace(1e-4, 1e4, 161)
#: pictures that are kept to be shown
PICTURES = 3
#: depth of another aspect ratio than the image's cannot be laid upon it
SAME_ASPECT = 0.01


@dataclass(frozen=True)
class DepthFacts:
    """Of one depth image, before it is brought to the image's size.

    Attributes:
        width, height: pixels.
        valid: share of the pixels with depth.
        low_m, median_m, high_m: 5 %, 50 % and 95 % of them, in metres by REP-118 times depth_factor; NaN without any.
        histogram: counts in :data:`DEPTH_BINS`.
    """

    width: int
    height: int
    valid: float
    low_m: float
    median_m: float
    high_m: float
    histogram: FloatArray


@dataclass(frozen=True)
class Sample:
    """One frame.

    Attributes:
        row: of the selection.
        second: since the first frame.
        width, height: of the image.
        blur, exposure: see ``stfm_ros.quality``.
        following_mean: mean grey value of the next image, NaN without one.
        flow_px: median motion of the image to the next one; step_s: the time between the two.
        depth: None where there is none.
        edges: agreement of depth edges with image edges; None where there are too few.
        lags: the same by lag in time, and the motion.
    """

    row: int
    second: float
    width: int
    height: int
    blur: float
    exposure: Exposure
    following_mean: float = float("nan")
    flow_px: float = float("nan")
    step_s: float = float("nan")
    depth: DepthFacts | None = None
    edges: EdgeMap | None = None
    lags: tuple[list[EdgeMap], float] | None = None


@dataclass(frozen=True)
class Shown:
    """A frame to look at: image (H, W, 3) RGB, depth (H, W) metres of the same size or None, and the second."""

    image: ByteArray
    depth: Float32Array | None
    second: float


@dataclass
class Samples:
    """The frames that were looked at.

    Attributes:
        frames: in order of time.
        depths: row to depth in metres at the image's size, of the frames that have any.
        shown: a few to look at.
        faults: what could not be decoded, by first sentence.
    """

    frames: list[Sample] = field(default_factory=list)
    depths: dict[int, Float32Array] = field(default_factory=dict)
    shown: list[Shown] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)


class Decoder:
    """The images and depth images of a selection, by row; ``stfm_training.recordings.pairs.RgbdFrames`` in shape."""

    def __init__(self, digest: Digest, selection: Selection, config: RecordingConfig) -> None:
        self._digest, self._selection, self._factor = digest, selection, np.float32(config.depth_factor)

    def __len__(self) -> int:
        return len(self._selection)

    def image(self, row: int) -> ByteArray:
        """(H, W, 3) uint8 RGB."""
        topic = self._selection.topics["image"]
        return decode_image(self._digest.image(topic, int(self._selection.images[row])))

    def own_depth(self, row: int) -> Float32Array:
        """Metres, as recorded."""
        topic = self._selection.topics["depth"]
        depth = decode_depth(self._digest.image(topic, int(self._selection.depths[row])))
        return np.asarray(depth * self._factor, np.float32)

    def depth(self, row: int) -> Float32Array:
        """Metres, at the size of the calibrated image."""
        depth, camera = self.own_depth(row), self._selection.camera
        return depth if camera is None else to_size(depth, camera.width, camera.height)


def look(
    decoder: Decoder,
    selection: Selection,
    count: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Samples:
    """Decode and measure ``count`` frames, and of each the next image for what moves."""
    found = Samples()
    rows = spread_rows(len(selection), count)
    pictured = {rows[k] for k in np.linspace(0, len(rows) - 1, min(PICTURES, len(rows)) + 2).astype(int)[1:-1].tolist()}
    for done, row in enumerate(rows, 1):
        try:
            _look_at(row, decoder, selection, found, row in pictured)
        except StfmError as fault:
            found.faults[str(fault).partition(";")[0]] += 1
        progress(done, len(rows))
    return found


def spread_rows(length: int, count: int) -> list[int]:
    """At most ``count`` of so many rows, evenly spread."""
    return sorted(set(np.linspace(0, length - 1, min(length, count)).round().astype(int).tolist())) if length else []


def _look_at(row: int, decoder: Decoder, selection: Selection, found: Samples, pictured: bool) -> None:
    image = decoder.image(row)
    height, width = image.shape[:2]
    before, after = (_neighbour(row + step, decoder, selection, image) for step in (-1, 1))
    step_s = float("nan") if after is None else float(selection.stamps_ns[row + 1] - selection.stamps_ns[row]) / 1e9
    depth, facts = _depth(row, decoder, selection, image)
    lags = None
    if before is not None and after is not None and depth is not None:
        lags = lag_maps(before, image, after, depth)
    flow_px = lags[1] if lags else _flow_px(image, after) if after is not None else float("nan")
    second = float(selection.stamps_ns[row] - selection.stamps_ns[0]) / 1e9
    found.frames.append(
        Sample(
            row,
            second,
            width,
            height,
            blur(image),
            exposure(image),
            float("nan") if after is None else exposure(after).mean,
            flow_px,
            step_s,
            facts,
            None if depth is None else edge_map(image, depth),
            lags,
        )
    )
    if depth is not None:
        found.depths[row] = depth
    if pictured:
        found.shown.append(Shown(image, depth, second))


def _neighbour(row: int, decoder: Decoder, selection: Selection, image: ByteArray) -> ByteArray | None:
    """The image of a row; None where there is none of the same size."""
    if not 0 <= row < len(selection):
        return None
    other = decoder.image(row)
    return other if other.shape == image.shape else None


def _depth(
    row: int, decoder: Decoder, selection: Selection, image: ByteArray
) -> tuple[Float32Array | None, DepthFacts | None]:
    if selection.depths[row] < 0:
        return None, None
    own = decoder.own_depth(row)
    valid = own[own > 0]
    low, median, high = np.percentile(valid, (5, 50, 95)) if len(valid) else (np.nan, np.nan, np.nan)
    facts = DepthFacts(
        own.shape[1],
        own.shape[0],
        len(valid) / own.size,
        float(low),
        float(median),
        float(high),
        np.histogram(valid, DEPTH_BINS)[0].astype(np.float64),
    )
    height, width = image.shape[:2]
    if abs(own.shape[1] * height / (own.shape[0] * width) - 1) > SAME_ASPECT:
        return None, facts
    return to_size(own, width, height), facts


def _flow_px(image: ByteArray, after: ByteArray) -> float:
    shrink = max(1, round(image.shape[1] / 320))
    flow = optical_flow(
        np.ascontiguousarray(image[::shrink, ::shrink]), np.ascontiguousarray(after[::shrink, ::shrink])
    )
    return float(np.median(np.linalg.norm(flow, axis=2)) * shrink)


def medians(values: list[float]) -> tuple[float, float, float]:
    """5 %, 50 % and 95 % of what is finite; NaN without any."""
    finite: NDArray[np.float64] = np.array([value for value in values if np.isfinite(value)], np.float64)
    if len(finite) == 0:
        return float("nan"), float("nan"), float("nan")
    low, middle, high = np.percentile(finite, (5, 50, 95))
    return float(low), float(middle), float(high)
