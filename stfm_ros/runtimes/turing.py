"""Float32 matrix products as convolutions, for TensorRT-RTX on Turing (sm75).

There TensorRT-RTX has matrix products in float16 alone ("FP32 GEMM is not supported"), but convolutions in float32 as
well. A product is a convolution of 1x1 whose weights are the second factor; each matrix of a batch is a group. It is
slower than a product would be, so that half precision, where few products are float32, is the better choice there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Convolution:
    """How ``a @ b`` is computed: order of axes and then shape of the input and of the weights; shape and then order of
    axes of the result."""

    groups: int
    a_order: tuple[int, ...]
    a_shape: tuple[int, ...]  #: (1, groups * K, rows, 1)
    b_order: tuple[int, ...]
    b_shape: tuple[int, ...]  #: (groups * N, K, 1, 1)
    out_shape: tuple[int, ...]
    out_order: tuple[int, ...]


def as_convolution(a: Sequence[int], a_turned: bool, b: Sequence[int], b_turned: bool) -> Convolution | None:
    """The convolution for a product of these shapes (..., M, K) and (..., K, N), where not ``turned`` about.

    The shapes have the same rank; ``None`` where the batches are neither equal nor 1 on the right.
    """
    rank = len(a)
    lead, last = tuple(range(rank - 2)), (rank - 2, rank - 1)
    rows, inner_a = reversed(last) if a_turned else last
    inner_b, columns = reversed(last) if b_turned else last
    M, K, N = a[rows], a[inner_a], b[columns]
    groups, batch = math.prod(b[:-2]), tuple(a[:-2])
    b_side = ((*lead, columns, inner_b), (groups * N, K, 1, 1))
    if groups == 1:  # one matrix for all rows of the batch
        a_side = ((inner_a, *lead, rows), (1, K, math.prod(batch) * M, 1))
        return Convolution(1, *a_side, *b_side, (N, *batch, M), (*range(1, rank), 0))
    if batch != tuple(b[:-2]):
        return None
    a_side = ((*lead, inner_a, rows), (1, groups * K, M, 1))
    return Convolution(groups, *a_side, *b_side, (*batch, N, M), (*lead, rank - 1, rank - 2))


def replace_products(trt: Any, network: Any) -> int:
    """Compute the float32 products of a TensorRT network as convolutions; gives how many those were."""
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    readers: dict[str, list[tuple[Any, int]]] = {}
    for layer in layers:
        for i in range(layer.num_inputs):
            tensor = layer.get_input(i)
            if tensor is not None:
                readers.setdefault(tensor.name, []).append((layer, i))
    replaced = 0
    for layer in layers:
        if layer.type != trt.LayerType.MATRIX_MULTIPLY or layer.get_output(0).dtype != trt.float32:
            continue
        layer.__class__ = trt.IMatrixMultiplyLayer  # the class that knows op0 and op1
        a, b, product = layer.get_input(0), layer.get_input(1), layer.get_output(0)
        turned = [op == trt.MatrixOperation.TRANSPOSE for op in (layer.op0, layer.op1)]
        how = as_convolution(tuple(a.shape), turned[0], tuple(b.shape), turned[1])
        if how is None or product.is_network_output:
            continue  # the builder will say that it cannot be built
        result = _add(trt, network, how, a, b)
        for reader, i in readers.get(product.name, []):
            reader.set_input(i, result)
        replaced += 1
    return replaced


def _add(trt: Any, network: Any, how: Convolution, a: Any, b: Any) -> Any:
    sides = []
    for tensor, order, shape in ((a, how.a_order, how.a_shape), (b, how.b_order, how.b_shape)):
        shuffle = network.add_shuffle(tensor)
        shuffle.first_transpose = trt.Permutation(order)
        shuffle.reshape_dims = trt.Dims(shape)
        sides.append(shuffle.get_output(0))
    convolution = network.add_convolution_nd(sides[0], how.b_shape[0], (1, 1), trt.Weights(trt.float32))
    convolution.num_groups = how.groups
    convolution.set_input(1, sides[1])
    shuffle = network.add_shuffle(convolution.get_output(0))
    shuffle.reshape_dims = trt.Dims(how.out_shape)
    shuffle.second_transpose = trt.Permutation(how.out_order)
    return shuffle.get_output(0)
