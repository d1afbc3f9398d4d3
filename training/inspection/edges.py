"""Whether depth lies on the image: edges of depth are edges of the image, unless one of the two is displaced.

Where depth jumps, one surface ends before another, and the image has an edge there with the same normal. The share of
that agreement is the normalised gradient field of Haber and Modersitzki ("Intensity gradient based registration and
fusion of multi-modal images", MICCAI 2006): the mean over the depth edges of (n_depth . n_image)^2, n_image being the
gradient over sqrt(|gradient|^2 + e^2) with e its mean length. It is measured over displacements of the depth (a map a
frame) and summed over frames: single frames have too few edges in some direction, all frames together have not.

A displacement is of the depth relative to the image, (x, y) in pixels of the image: (12, 0) is depth 12 px too far to
the right. A lag is in frames: 1 is depth of the next image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from stfm_ros.types import ByteArray, Float32Array, FloatArray

#: displacements looked at, either way, in pixels of an image 640 wide
REACH_PX = 24
#: depth jumps where its logarithm changes by more than this within a pixel
JUMP = 0.05
#: holes of depth up to about twice this many pixels are filled from the far side: they lie behind the nearer surface
HOLE_PX = 10
#: fewer pixels of depth edges than this say nothing
LEAST_EDGES = 150
#: lags looked at, in frames
LAGS = (-3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
_WIDTH, _LAG_WIDTH = 640, 320


@dataclass(frozen=True)
class EdgeMap:
    """Agreement of one frame by displacement.

    Attributes:
        agreement: (2 r + 1, 2 r + 1) float64 in [0, 1], rows by y; the middle is no displacement.
        edges: pixels with a depth edge.
        px: pixels of the image a step.
    """

    agreement: FloatArray
    edges: int
    px: float


@dataclass(frozen=True)
class Alignment:
    """Of all frames together.

    Attributes:
        frames: that have enough edges.
        offset_px: (x, y) of the depth relative to the image, where edges agree best.
        here, best, elsewhere: agreement without displacement, at the best one, and the median of all.
        contrast: (best - elsewhere) in standard deviations of the agreement away from the best.
        agreeing: share of the frames that agree better at the best displacement than at nine in ten others.
        agreement: (n, n) the map that is summed up; ``px`` pixels of the image a step.
    """

    frames: int
    offset_px: tuple[float, float]
    here: float
    best: float
    elsewhere: float
    contrast: float
    agreeing: float
    agreement: FloatArray
    px: float

    @property
    def distance_px(self) -> float:
        """Length of the displacement."""
        return float(np.hypot(*self.offset_px))

    @property
    def lost_in_place(self) -> float:
        """Of what the best agreement has over that elsewhere, the share that is lost without displacement.

        Near 0 where edges of one direction alone leave the displacement open.
        """
        return (self.best - self.here) / max(self.best - self.elsewhere, 1e-6)


@dataclass(frozen=True)
class Lag:
    """Depth that is of another time than its image.

    Attributes:
        frames: the lag with the best agreement, in frames.
        best, here: agreement at that lag and at none, each at its best displacement.
        certainty: mean gain over the standard error of its mean, over the frames.
        flow_px: median motion of the image within a frame; a lag of a still camera cannot be seen.
    """

    frames: float
    best: float
    here: float
    certainty: float
    flow_px: float


def depth_edges(depth: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Unit normals (x, y) of the edges of a depth image, (H, W) each, 0 where there is none.

    The edge is that of the nearer surface: a hole belongs to what is behind.
    """
    far = depth.copy()
    kernel = np.ones((3, 3), np.uint8)
    for _ in range(HOLE_PX):
        holes = far <= 0
        if not holes.any():
            break
        far = np.where(holes, cv2.dilate(far, kernel), far)
    known = cv2.erode((far > 0).astype(np.uint8), kernel) > 0
    log = np.log(np.where(far > 0, far, 1.0)).astype(np.float32)
    x, y = (cv2.Sobel(log, cv2.CV_32F, *order, ksize=3, scale=1 / 8) for order in ((1, 0), (0, 1)))
    length = np.hypot(x, y)
    edge = known & (length > JUMP)
    length = np.where(edge, length, 1.0)
    return np.where(edge, x / length, 0).astype(np.float32), np.where(edge, y / length, 0).astype(np.float32)


def image_normals(image: ByteArray) -> tuple[Float32Array, Float32Array]:
    """The normalised gradient field of (H, W, 3) RGB: x and y, (H, W) each, shorter than 1."""
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1.0)
    x, y = (cv2.Sobel(grey, cv2.CV_32F, *order, ksize=3, scale=1 / 8) for order in ((1, 0), (0, 1)))
    square = x * x + y * y
    length = np.sqrt(square + max(float(np.sqrt(square).mean()), 0.05) ** 2)
    return np.asarray(x / length, np.float32), np.asarray(y / length, np.float32)


def edge_map(image: ByteArray, depth: Float32Array) -> EdgeMap | None:
    """Agreement by displacement of one frame; None where depth has too few edges.

    Args:
        image: (H, W, 3) RGB.
        depth: (H, W) metres, 0 where there is none; of the image's size.
    """
    image, depth, px = _sized(image, depth, _WIDTH)
    return _map(depth_edges(depth), image_normals(image), REACH_PX, px)


def align(maps: Sequence[EdgeMap]) -> Alignment | None:
    """What the frames say together; None where none of them has edges."""
    if not maps:
        return None
    stack = np.stack([one.agreement for one in maps])
    total = np.average(stack, axis=0, weights=[np.sqrt(one.edges) for one in maps])
    px, reach = maps[0].px, total.shape[0] // 2
    y, x = np.unravel_index(int(total.argmax()), total.shape)
    away = _away(total.shape[0], int(x), int(y))
    at_best = stack[:, y, x]
    return Alignment(
        frames=len(maps),
        offset_px=(float((_peak(total[y], int(x)) - reach) * px), float((_peak(total[:, x], int(y)) - reach) * px)),
        here=float(total[reach, reach]),
        best=float(total[y, x]),
        elsewhere=float(np.median(total)),
        contrast=float((total[y, x] - np.median(total[away])) / max(float(total[away].std()), 1e-6)),
        agreeing=float(np.mean(at_best > np.quantile(stack[:, away], 0.9, axis=1))),
        agreement=total,
        px=px,
    )


def lag_maps(
    before: ByteArray, image: ByteArray, after: ByteArray, depth: Float32Array
) -> tuple[list[EdgeMap], float] | None:
    """Agreement by displacement for each of :data:`LAGS`, and the median motion in pixels, of one frame.

    Args:
        before, image, after: (H, W, 3) RGB, of this frame and of its neighbours in time.
        depth: as of :func:`edge_map`.
    """
    small, shrunk, px = _sized(image, depth, _LAG_WIDTH)
    back, ahead = (optical_flow(small, _sized(other, depth, _LAG_WIDTH)[0]) for other in (before, after))
    edges, normals = depth_edges(shrunk), image_normals(small)
    y, x = np.mgrid[: small.shape[0], : small.shape[1]].astype(np.float32)
    maps = []
    for lag in LAGS:
        # depth of another frame is displaced by the flow: it is brought back to this one
        flow = abs(lag) * (ahead if lag > 0 else back)
        moved = tuple(
            np.asarray(cv2.remap(part, x + flow[..., 0], y + flow[..., 1], cv2.INTER_NEAREST), np.float32)
            for part in edges
        )
        one = _map((moved[0], moved[1]), normals, REACH_PX // 2, px)
        if one is None:
            return None
        maps.append(one)
    return maps, float(np.median(np.linalg.norm(ahead, axis=2))) * px


def find_lag(frames: Sequence[tuple[list[EdgeMap], float]]) -> Lag | None:
    """The lag at which the frames agree best; None where there are no frames."""
    if len(frames) < 3:
        return None
    stack = np.array([[one.agreement for one in maps] for maps, _ in frames])  # frames, lags, y, x
    total = stack.mean(axis=0)
    peaks = total.reshape(len(LAGS), -1).max(axis=1)
    best, none = int(peaks.argmax()), LAGS.index(0.0)
    rows = [np.unravel_index(int(total[k].argmax()), total[k].shape) for k in (best, none)]
    gain = stack[:, best, rows[0][0], rows[0][1]] - stack[:, none, rows[1][0], rows[1][1]]
    error = max(float(gain.std(ddof=1)) / np.sqrt(len(gain)), 1e-9)
    flow = float(np.median([motion for _, motion in frames]))
    return Lag(LAGS[best], float(peaks[best]), float(peaks[none]), float(gain.mean()) / error, flow)


def optical_flow(image0: ByteArray, image1: ByteArray) -> Float32Array:
    """(H, W, 2) dense flow in pixels: what is at p in image 0 is at p + flow in image 1 (DIS, Kroeger et al. 2016)."""
    grey0, grey1 = (np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)) for image in (image0, image1))
    estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)  # type: ignore[attr-defined,unused-ignore]
    return np.asarray(estimator.calc(grey0, grey1, None), np.float32)


def _map(
    edges: tuple[Float32Array, Float32Array], normals: tuple[Float32Array, Float32Array], reach: int, px: float
) -> EdgeMap | None:
    height, width = edges[0].shape
    if min(height, width) <= 4 * reach:
        reach = max(1, min(height, width) // 4 - 1)
    inner = (slice(reach, -reach), slice(reach, -reach))  # every displacement stays inside the image
    x, y = edges[0][inner], edges[1][inner]
    count = int(np.count_nonzero(x * x + y * y))
    if count < LEAST_EDGES * (width / _WIDTH):
        return None
    a, b = normals
    products = ((x * x, a * a), (2 * x * y, a * b), (y * y, b * b))
    total = sum(cv2.matchTemplate(image, depth, cv2.TM_CCORR) for depth, image in products)
    # the match at +d is of depth that lies at -d
    return EdgeMap(np.asarray(total, np.float64)[::-1, ::-1] / count, count, px)


def _sized(image: ByteArray, depth: Float32Array, width: int) -> tuple[ByteArray, Float32Array, float]:
    """Both at most so wide, and pixels of the image for one of what is given back."""
    px = max(1.0, image.shape[1] / width)
    if px == 1.0:
        return image, depth, px
    size = (round(image.shape[1] / px), round(image.shape[0] / px))
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return small, np.asarray(cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST_EXACT), np.float32), px


def _away(size: int, x: int, y: int) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Where a map is away from its peak."""
    rows, columns = np.mgrid[:size, :size]
    return np.asarray(np.hypot(rows - y, columns - x) > size / 8)


def _peak(line: FloatArray, at: int) -> float:
    """The maximum of a parabola through a peak and its neighbours."""
    if not 0 < at < len(line) - 1:
        return float(at)
    before, peak, after = line[at - 1 : at + 2]
    bend = before - 2 * peak + after
    return float(at + 0.5 * (before - after) / bend) if bend < 0 else float(at)
