"""A float32 graph -> the same graph in half precision, but for what needs float32.

Convention: types are the graph's own ("strongly typed"), so that every engine computes what is written here. Half are
the convolutions, the attention and the fine layers (:data:`HALF_SCOPES`), and the features that travel between the two
graphs. float32 stay the statistics of the image, the match head with its similarity (a unit
is a factor of e^2 in confidence, and half resolves 1/32 at 40), log-sum-exp, selection and coordinates (half resolves
half a pixel at 1024), the heatmap of the fine stage with what gives its logits, and any value that comes near half's
largest. Elsewhere a node keeps the type of what it gets; between two types lies one Cast.

Own code, because the converters of onnxruntime and onnxconverter-common pass every value between two float32 nodes
through half, which rounds the coordinates, and turn a graph's inputs and outputs all or none.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod, create_calibrator

Feed = Mapping[str, NDArray[np.generic]]

HALF_SCOPES = ("/backbone", "/transformer", "/fine")
SINGLE_SCOPES = ("/head",)
#: what only moves values keeps their type everywhere
MOVES = {
    "Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Pad", "Reshape", "Slice",
    "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
}  # fmt: skip
PRODUCTS = {"Conv", "Gemm", "MatMul", "ReduceSum"}
#: inputs that are float32 whatever the type of the node
FIXED_INPUTS = {"Resize": (1, 2)}
#: a quarter of float16's largest: scenes are brighter and busier than those that were looked at
LARGEST = 65504 / 4
SMALLEST = 6e-8  #: float16's


def halve(model: onnx.ModelProto, largest: Mapping[str, float], half_ends: Collection[str]) -> onnx.ModelProto:
    """The graph in half precision.

    Args:
        model: static, simplified, float32, its constants initializers, without subgraphs.
        largest: of each value's magnitude on real images, see :func:`magnitudes`.
        half_ends: inputs and outputs of the graph that become float16; the others stay.

    Returns:
        A new model; node names are kept.
    """
    return _Conversion(model, largest, half_ends).run()


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Iterable[Feed]) -> None:
        self._feeds: Iterator[Feed] = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)


def magnitudes(model: onnx.ModelProto, feeds: Iterable[Feed]) -> dict[str, float]:
    """The largest magnitude of every float value of a graph, inputs and outputs too, over some inputs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        onnx.save(model, path)
        calibrator = create_calibrator(
            path, augmented_model_path=str(Path(folder) / "augmented.onnx"), calibrate_method=CalibrationMethod.MinMax
        )
        calibrator.collect_data(_Reader(feeds))
        found = calibrator.compute_data()
    return {
        name: float(np.abs([low, high]).max())
        for name, (low, high) in ((name, found[name].range_value) for name in found.keys())  # noqa: SIM118 - no dict
    }


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """A half graph in float32 arithmetic, with every half value rounded: what an engine with half kernels computes.

    ONNX Runtime has few half kernels on CPUs: there it computes in float32 and leaves out the rounding between two
    nodes, overflow included. For measuring; inputs and outputs are float32.
    """
    copy = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    graph = copy.graph
    infos = [*graph.input, *graph.value_info, *graph.output]
    half = {info.name for info in infos if info.type.tensor_type.elem_type == TensorProto.FLOAT16}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        made = [name for name in node.output if name in half]
        if node.op_type == "Cast" and made:
            node.attribute[0].i = TensorProto.FLOAT
        node.output[:] = [f"{name}_exact" if name in half else name for name in node.output]
        nodes.append(node)
        for name in made:
            nodes += [_cast(f"{name}_exact", f"{name}_short", True), _cast(f"{name}_short", name, False)]
    for info in (*graph.input, *graph.output):
        if info.name in half:
            info.type.tensor_type.elem_type = TensorProto.FLOAT
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            single = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(single, tensor.name))
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    return copy


class _Conversion:
    """One walk through the nodes in their order; ``half`` says of every float value whether it is half so far."""

    def __init__(self, model: onnx.ModelProto, largest: Mapping[str, float], half_ends: Collection[str]) -> None:
        self.model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        graph = self.graph = self.model.graph
        self.largest = largest
        self.half_ends = half_ends
        self.weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
        infos = (*graph.input, *graph.value_info, *graph.output)
        self.floats = {info.name for info in infos if info.type.tensor_type.elem_type == TensorProto.FLOAT}
        self.half = {info.name: info.name in half_ends for info in graph.input if info.name in self.floats}
        self.single = _heatmap(graph, self.floats)  # values whose nodes stay float32
        self.nodes: list[onnx.NodeProto] = []
        self.made: dict[tuple[str, bool], str] = {}  # (value or weight, half) -> its name in that type

    def run(self) -> onnx.ModelProto:
        """See :func:`halve`."""
        graph = self.graph
        ends = {info.name for info in graph.output} & self.floats
        for node in graph.node:
            half = self._is_half(node)
            fixed = FIXED_INPUTS.get(node.op_type, ())
            node.input[:] = [self._as(name, half and i not in fixed) for i, name in enumerate(node.input)]
            self.nodes.append(node)
            for i, name in enumerate(node.output):
                if name in self.floats:
                    self.half[name] = half
                    if name in ends and half != (name in self.half_ends):
                        self._end(node, i, half)
        for info in (*graph.input, *graph.output):
            if info.name in self.half_ends:
                info.type.tensor_type.elem_type = TensorProto.FLOAT16
        del graph.node[:]
        graph.node.extend(self.nodes)
        used = {name for node in graph.node for name in node.input}
        kept = [tensor for tensor in graph.initializer if tensor.name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        del graph.value_info[:]  # of the old types
        converted: onnx.ModelProto = onnx.shape_inference.infer_shapes(self.model, strict_mode=True)
        return converted

    def _is_half(self, node: onnx.NodeProto) -> bool:
        """The type a node computes in."""
        inputs = [self.half[name] for name in node.input if name in self.half]
        of_half = bool(inputs) and all(inputs)
        if node.op_type in MOVES:
            return of_half
        if node.op_type == "Cast" or node.output[0] in self.single or node.name.startswith(SINGLE_SCOPES):
            return False
        if any(self.largest.get(name, 0.0) > LARGEST for name in (*node.input, *node.output)):
            return False
        if any(_vanishes(self.weights[name]) for name in node.input if name in self.weights):
            return False
        return of_half or node.name.startswith(HALF_SCOPES)

    def _end(self, node: onnx.NodeProto, index: int, half: bool) -> None:
        """Give an output of the graph its type: what the node makes becomes an inner value."""
        name = node.output[index]
        node.output[index] = self.made[name, half] = _typed(name, half)
        self.half[name] = not half
        self.nodes.append(_cast(node.output[index], name, not half))

    def _as(self, name: str, half: bool) -> str:
        """The name under which a value, or weight, can be had in a type."""
        if name in self.weights:
            if half and (name, half) not in self.made:
                tensor = numpy_helper.to_array(self.weights[name]).astype(np.float16)
                self.made[name, half] = _typed(name, half)
                self.graph.initializer.append(numpy_helper.from_array(tensor, self.made[name, half]))
            return self.made.get((name, half), name)
        if self.half.get(name, half) == half:
            return name
        if (name, half) not in self.made:
            self.made[name, half] = _typed(name, half)
            self.nodes.append(_cast(name, self.made[name, half], half))
        return self.made[name, half]


def _typed(name: str, half: bool) -> str:
    return f"{name}_{'half' if half else 'single'}"


def _cast(source: str, target: str, half: bool) -> onnx.NodeProto:
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    node: onnx.NodeProto = helper.make_node("Cast", [source], [target], name=f"{source}/Cast", to=kind)
    return node


def _vanishes(tensor: onnx.TensorProto) -> bool:
    """Whether a constant is lost in half: what keeps a division from zero, say. Single weights may go to zero."""
    values = np.abs(numpy_helper.to_array(tensor))
    return bool(values.size == 1 and (0 < values.item() < SMALLEST or LARGEST < values.item() < np.inf))


def _heatmap(graph: onnx.GraphProto, floats: Collection[str]) -> set[str]:
    """Values of the fine stage's heatmap, its one LogSoftmax: what gives its logits, and all that comes after.

    An attention's Softmax is none of these.
    """
    makers = {name: node for node in graph.node for name in node.output}
    heatmaps = [name for node in graph.node if node.op_type == "LogSoftmax" for name in node.output]
    found, before = set(heatmaps), list(heatmaps)
    while before:  # back to the product that gives the logits
        node = makers[before.pop()]
        if node.op_type not in PRODUCTS:
            before += [name for name in node.input if name in makers and name in floats]
        found |= set(node.output)
    after = set(heatmaps)
    for node in graph.node:  # they are in order
        if after & set(node.input):
            after |= set(node.output) & set(floats)
    return found | after
