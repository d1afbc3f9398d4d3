"""XFeat, XFeat* and XFeat + LighterGlue from their public ONNX files, to be measured beside this package's models.

The files (Apache-2.0; not shipped) hold the networks alone. What stands round them, keypoints from the heatmap,
descriptors at keypoints, mutual nearest neighbours, offsets, is written here from the published description: XFeat,
CVPR 2024, section 3; defaults of its authors (threshold .05, 5x5 suppression, 4096 points, cosine above .82; of XFeat*
scales 0.6 and 1.3, 10,000 cells, certainty above .25).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from stfm_ros.errors import RuntimeNotAvailable
from stfm_ros.images import to_rgb
from stfm_ros.types import ByteArray, Float32Array, Matches

CELL = 8  #: pixels of a cell of the network's outputs
DIM = 64  #: of a descriptor
STRIDE = 32  #: images are scaled to multiples of it
POINTS = 4096
THRESHOLD = 0.05  #: of the heatmap
COSINE = 0.82  #: least similarity of two descriptors
SCALES = ((0.6, 2000), (1.3, 8000))  #: of the image, and how many cells XFeat* takes there at most
CERTAINTY = 0.25  #: least of the offset's most likely bin
SHARPNESS = 3.0  #: of the softmax over the offset's bins
_CUBIC = -0.75  # of the kernel that samples descriptors, as in torch's grid_sample


@dataclass(frozen=True)
class Points:
    """One image: keypoints (n, 2) in its pixels, their descriptors (n, 64), and its width and height."""

    keypoints: Float32Array
    descriptors: Float32Array
    size: tuple[int, int]


class XFeat:
    """XFeat's sparse matcher: ``(rgb0, rgb1) -> Matches``; the confidence is the cosine.

    Args:
        path: xfeat.onnx.
        threads: of ONNX Runtime; 0 is its own choice.

    Raises:
        RuntimeNotAvailable: ``onnx`` or ``onnxruntime`` is not installed.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        self.path = path
        self._threads = threads
        _need("onnx", "onnxruntime")
        self._session = lru_cache(maxsize=4)(self._make_session)

    def __call__(self, rgb0: ByteArray, rgb1: ByteArray) -> Matches:
        """Match two images (H, W, 3) RGB or (H, W) grey, uint8."""
        return mutual_nearest(self.points(rgb0), self.points(rgb1))

    def points(self, image: ByteArray) -> Points:
        """Keypoints and descriptors of an image, (H, W, 3) RGB or (H, W) grey, uint8."""
        rgb = to_rgb(image)
        height, width = rgb.shape[:2]
        features, logits, reliability = self.planes(rgb)
        heat = heatmap(logits)
        fitted = heat.shape[1], heat.shape[0]
        keypoints = pick(heat, reliability)
        descriptors = _unit(sample(_unit(features, axis=0), keypoints, fitted, cubic=True))
        scale = np.array([width / fitted[0], height / fitted[1]], np.float32)
        return Points(keypoints * scale, descriptors, (width, height))

    def planes(self, rgb: Any) -> tuple[Float32Array, Float32Array, Float32Array]:
        """What the network says of an image (H, W, 3), cell by cell of it, scaled to multiples of 32 pixels.

        Returns:
            Features (64, h, w), logits of keypoints (65, h, w) and reliability (h, w).
        """
        height, width = rgb.shape[:2]
        fitted = (max(width // STRIDE, 1) * STRIDE, max(height // STRIDE, 1) * STRIDE)
        scaled = cv2.resize(rgb, fitted, interpolation=cv2.INTER_LINEAR) if fitted != (width, height) else rgb
        planes = np.ascontiguousarray(scaled.transpose(2, 0, 1)[None], np.float32)
        features, logits, reliability = self._session(fitted[1], fitted[0]).run(None, {"input": planes})
        return features[0], logits[0], reliability[0, 0]

    def gflops(self, width: int, height: int) -> float | None:
        """1e9 operations of both images' networks; a multiply-add is two."""
        counted = count_gflops(network_of_size(self.path, height // STRIDE * STRIDE, width // STRIDE * STRIDE))
        return None if counted is None else 2 * counted

    def _make_session(self, height: int, width: int) -> Any:
        return _open(network_of_size(self.path, height, width).SerializeToString(), self._threads)


class XFeatStar:
    """XFeat*, semi-dense: cells at two scales, matched by their features, then moved in the first image.

    The confidence is the cosine of the cells' features.

    Args:
        xfeat: finds the features.
        path: xfeat_dense_match.onnx, an export that holds the third network, which tells offsets.
        threads: as of :class:`XFeat`.
    """

    def __init__(self, xfeat: XFeat, path: Path, threads: int = 0) -> None:
        self.xfeat = xfeat
        self._network = refiner(path)
        self._session = _open(self._network.SerializeToString(), threads)

    def __call__(self, rgb0: ByteArray, rgb1: ByteArray) -> Matches:
        """Match two images (H, W, 3) RGB or (H, W) grey, uint8."""
        (points0, scales), (points1, _) = self.cells(rgb0), self.cells(rgb1)
        index0, index1 = mutual(points0.descriptors @ points1.descriptors.T)
        first, second = points0.descriptors[index0], points1.descriptors[index1]
        (logits,) = self._session.run(None, {self._network.graph.input[0].name: np.hstack([first, second])})
        moved, certainty = offsets(logits)
        cosine = np.sum(_unit(first) * _unit(second), axis=1)
        kept = np.flatnonzero(certainty > CERTAINTY)
        kept = kept[np.argsort(-cosine[kept], kind="stable")]
        places = points0.keypoints.copy()
        places[index0] += moved * scales[index0, None]
        confidence = np.clip(cosine[kept], 0.0, 1.0)
        return _as_matches(replace(points0, keypoints=places), points1, index0[kept], index1[kept], confidence)

    def cells(self, image: ByteArray) -> tuple[Points, Float32Array]:
        """The most reliable cells at each of :data:`SCALES`, and the pixels (n,) of the image to one of their scale."""
        rgb = to_rgb(image).astype(np.float32)  # sampled at two scales without rounding between
        height, width = rgb.shape[:2]
        keypoints, descriptors, scales = [], [], []
        for scale, count in SCALES:
            size = int(width * scale), int(height * scale)
            features, _, reliability = self.xfeat.planes(cv2.resize(rgb, size, interpolation=cv2.INTER_LINEAR))
            rows, columns = reliability.shape
            best = np.argsort(-reliability.ravel(), kind="stable")[:count]
            corners = np.column_stack([best % columns, best // columns]) * CELL
            stretch = np.array(size) / (CELL * columns, CELL * rows) / scale
            keypoints.append((corners * stretch).astype(np.float32))
            descriptors.append(features.reshape(DIM, -1).T[best])
            scales.append(np.full(len(best), 1 / scale, np.float32))
        found = Points(np.concatenate(keypoints), np.concatenate(descriptors), (width, height))
        return found, np.concatenate(scales)

    def gflops(self, width: int, height: int) -> float | None:
        """As of :class:`XFeat`, at both scales; of the third network the most that can be asked of it."""
        sizes = [(int(width * scale), int(height * scale)) for scale, _ in SCALES]
        cells = sum(min(w // STRIDE * (h // STRIDE) * 16, count) for (w, h), (_, count) in zip(sizes, SCALES))
        counted = [self.xfeat.gflops(*size) for size in sizes]
        weights = sum(np.prod(one.dims) for one in self._network.graph.initializer if len(one.dims) == 2)
        return None if None in counted else sum(filter(None, counted)) + 2e-9 * cells * float(weights)


class XFeatLighterGlue:
    """XFeat's keypoints, matched by LighterGlue; the confidence is LighterGlue's own.

    Args:
        xfeat: finds the points.
        path: lighterglue_3layers.onnx.
        threads: as of :class:`XFeat`.
    """

    def __init__(self, xfeat: XFeat, path: Path, threads: int = 0) -> None:
        self.xfeat = xfeat
        self.path = path
        self._session = _open(path.read_bytes(), threads)

    def __call__(self, rgb0: ByteArray, rgb1: ByteArray) -> Matches:
        """Match two images (H, W, 3) RGB or (H, W) grey, uint8."""
        both = self.xfeat.points(rgb0), self.xfeat.points(rgb1)
        if min(len(points.keypoints) for points in both) < 2:
            return Matches.empty()
        inputs = {}
        for i, points in enumerate(both):
            size = np.array(points.size, np.float32)
            inputs[f"kpts{i}"] = ((points.keypoints - size / 2) / (size.max() / 2))[None].astype(np.float32)
            inputs[f"desc{i}"] = points.descriptors[None]
        pairs, scores = self._session.run(None, inputs)
        order = np.argsort(-scores, kind="stable")
        return _as_matches(*both, pairs[order, 0], pairs[order, 1], scores[order])

    def gflops(self, width: int, height: int) -> float | None:
        """As of :class:`XFeat`, with :data:`POINTS` points in each image."""
        import onnx

        model = onnx.load(self.path)
        for given in model.graph.input:
            given.type.tensor_type.shape.dim[1].dim_value = POINTS
        parts = self.xfeat.gflops(width, height), count_gflops(model)
        return None if parts[0] is None or parts[1] is None else parts[0] + parts[1]


# -- the parts ---------------------------------------------------------------------------------------


def heatmap(logits: Float32Array) -> Float32Array:
    """(65, h, w) logits of keypoints, the last of "none", to (8 h, 8 w) probabilities."""
    shifted = np.exp(logits - logits.max(axis=0, keepdims=True))
    cells = (shifted / shifted.sum(axis=0, keepdims=True))[: CELL * CELL]
    _, rows, columns = cells.shape
    folded = cells.reshape(CELL, CELL, rows, columns).transpose(2, 0, 3, 1)
    return np.ascontiguousarray(folded.reshape(CELL * rows, CELL * columns), np.float32)


def pick(heat: Float32Array, reliability: Float32Array) -> Float32Array:
    """The keypoints (n, 2): peaks of the heatmap (H, W), best by heat times reliability (H / 8, W / 8) first."""
    peaks = (heat == cv2.dilate(heat, np.ones((5, 5), np.uint8))) & (heat > THRESHOLD)
    y, x = np.nonzero(peaks)
    points = np.column_stack([x, y]).astype(np.float32)
    height, width = heat.shape
    scores = heat[y, x] * sample(reliability[None], points, (width, height))[:, 0]
    best: Float32Array = points[np.argsort(-scores, kind="stable")[:POINTS]]
    return best


def sample(planes: Float32Array, points: Float32Array, size: tuple[int, int], cubic: bool = False) -> Float32Array:
    """Values (n, c) of planes (c, h, w) at points (n, 2), pixels of an image of ``size`` (width, height).

    The place in the planes is p / (size - 1) * planes' size - 1/2, as the authors' code has it; zero beyond the edge.
    """
    channels, height, width = planes.shape
    at = points / (np.array(size, np.float32) - 1) * (width, height) - 0.5
    base = np.floor(at).astype(np.int64)
    weights = _weights(at - base, cubic)
    first = -1 if cubic else 0
    found = np.zeros((len(points), channels), np.float32)
    rows = planes.reshape(channels, -1).T
    for i in range(weights.shape[0]):
        for j in range(weights.shape[0]):
            x, y = base[:, 0] + first + i, base[:, 1] + first + j
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            weight = (weights[i, :, 0] * weights[j, :, 1] * inside)[:, None].astype(np.float32)
            found += weight * rows[np.clip(y, 0, height - 1) * width + np.clip(x, 0, width - 1)]
    return found


def _weights(offset: Any, cubic: bool) -> Any:
    """(taps, n, 2) weights of neighbouring samples for offsets (n, 2) in [0, 1)."""
    if not cubic:
        return np.stack([1 - offset, offset])
    near = [offset, 1 - offset]
    far = [1 + offset, 2 - offset]
    inner = [(_CUBIC + 2) * d**3 - (_CUBIC + 3) * d**2 + 1 for d in near]
    outer = [_CUBIC * (d**3 - 5 * d**2 + 8 * d - 4) for d in far]
    return np.stack([outer[0], inner[0], inner[1], outer[1]])


def mutual_nearest(points0: Points, points1: Points) -> Matches:
    """Pairs that are each other's nearest by cosine, above :data:`COSINE`, best first."""
    if min(len(points0.keypoints), len(points1.keypoints)) == 0:
        return Matches.empty()
    cosine = points0.descriptors @ points1.descriptors.T
    index0, index1 = mutual(cosine)
    values = cosine[index0, index1]
    order = np.argsort(-values, kind="stable")
    order = order[values[order] > COSINE]
    return _as_matches(points0, points1, index0[order], index1[order], np.minimum(values[order], 1.0))


def mutual(likeness: Float32Array) -> tuple[Any, Any]:
    """Rows and columns of the elements that are the largest of their row and of their column."""
    forth = likeness.argmax(axis=1)
    values = likeness[np.arange(len(forth)), forth]
    # the column's maximum is found much faster than its place
    rows = np.flatnonzero(values >= likeness.max(axis=0)[forth])
    return rows, forth[rows]


def offsets(logits: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Of logits (n, 64) of 8x8 bins, -4 to 3 pixels: the mean offset (n, 2) in x and y, and the likeliest's share."""
    shifted = np.exp(SHARPNESS * (logits - logits.max(axis=1, keepdims=True)))
    shares = shifted / shifted.sum(axis=1, keepdims=True)
    bins = np.arange(CELL, dtype=np.float32) - CELL // 2
    folded = shares.reshape(-1, CELL, CELL)
    mean = np.column_stack([folded.sum(axis=1) @ bins, folded.sum(axis=2) @ bins])
    return mean.astype(np.float32), shares.max(axis=1)


def _as_matches(points0: Points, points1: Points, index0: Any, index1: Any, confidence: Any) -> Matches:
    ones = np.ones(len(confidence), np.float32)
    keypoints = points0.keypoints[index0].astype(np.float32), points1.keypoints[index1].astype(np.float32)
    return Matches(*keypoints, np.asarray(confidence, np.float32), ones)


def _unit(values: Float32Array, axis: int = 1) -> Float32Array:
    unit: Float32Array = values / np.maximum(np.linalg.norm(values, axis=axis, keepdims=True), 1e-12)
    return unit


# -- the graphs --------------------------------------------------------------------------------------


def network_of_size(path: Path, height: int, width: int) -> Any:
    """XFeat's graph, exported at 640x640, for images of another size (multiples of 32).

    Two upsamplings carry their size as numbers; the slicing of the image into 8x8 cells, 320 nodes, becomes one.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(path)
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.array([1, DIM, height // CELL, width // CELL]), "sizes"))
    for node in graph.node:
        if node.op_type == "Resize":
            node.input[3] = "sizes"
    folded = next(node for node in graph.node if node.op_type == "InstanceNormalization").output[0]
    unfolded = [node for node in graph.node if node.op_type == "Reshape"][-1].output[0]
    made = {name: node for node in graph.node for name in node.output}
    made[unfolded] = helper.make_node("SpaceToDepth", [folded], [unfolded], blocksize=CELL)
    needed, stack = set(), [output.name for output in graph.output]
    while stack:
        name = stack.pop()
        if name in made and name not in needed:
            needed.add(name)
            stack += made[name].input
    nodes = [made[node.output[0]] for node in graph.node if node.output[0] in needed]
    del graph.node[:]
    graph.node.extend(nodes)
    for dim, length in zip(graph.input[0].type.tensor_type.shape.dim, (1, 3, height, width)):
        dim.dim_value = length
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    del graph.value_info[:]
    return model


def refiner(path: Path) -> Any:
    """XFeat*'s third network alone, features of both cells (n, 128) to logits (n, 64), cut from its public graph."""
    import onnx
    from onnx import TensorProto, helper, utils

    model = onnx.load(path)
    layers = [node for node in model.graph.node if node.op_type == "Gemm"]
    ends = (layers[0].input[0], 2 * DIM), (layers[-1].output[0], CELL * CELL)
    del model.graph.value_info[:]  # they may name the number of matches of the export
    model.graph.value_info.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width]) for name, width in ends
    )
    return utils.Extractor(model).extract_model([ends[0][0]], [ends[1][0]])


def count_gflops(model: Any) -> float | None:
    """1e9 operations of the convolutions and matrix products of an ONNX graph of known shapes; None if not known."""
    from onnx import shape_inference

    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {i.name: tuple(i.dims) for i in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    total = 0.0
    for node in graph.node:
        if node.op_type not in ("Conv", "MatMul", "Gemm"):
            continue
        out, other = shapes.get(node.output[0], (0,)), shapes.get(node.input[1], (0,))
        # of a convolution the weights say it all; of a product the second factor's last but one dimension
        inner = np.prod(other[1:]) if node.op_type == "Conv" else other[-2] if len(other) > 1 else 0
        if not (np.prod(out) and inner):
            return None
        total += 2.0 * float(np.prod(out)) * float(inner)
    return total / 1e9


def _open(graph: bytes, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _need(*modules: str) -> None:
    import importlib.util

    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise RuntimeNotAvailable(
            f"XFeat's graphs need {' and '.join(missing)}: pip install {' '.join(missing)}, or leave xfeat out of "
            "--methods"
        )
