"""The layers that take scales in: linear ones on both sides, normalizations and constant factors on one."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.graph.channels import NOTHING, Labels
from hasten.graph.reading import constant, given
from hasten.methods._equal.trace import Reader, Rule, Stop, Trace


def _convolution(trace: Trace, node: ir.Node) -> list[Labels | None]:
    """Weights are [M, C/g, *kernel]; of a transposed convolution [C, M/g, *kernel]."""
    weight = _weight(trace, node)
    groups, ones = node.attributes.get_int("group", 1), (1,) * (weight.ndim - 2)
    if weight.ndim < 3 or groups < 1 or weight.shape[0] % groups:
        raise Stop("its weight does not have the shape of a convolution's")
    transposed = node.op_type == "ConvTranspose"
    rows, columns = weight.shape[0], weight.shape[1] * groups
    read = _read(trace, node, 1, rows if transposed else columns)
    made = trace.channels.new((columns if transposed else rows,))
    by_row, by_column = (read, made) if transposed else (made, read)
    narrow = by_row.reshape(rows, 1, *ones)
    # Each row of a grouped weight has the columns of its own group.
    wide = np.repeat(by_column.reshape(groups, -1), rows // groups if groups > 1 else 1, axis=0)
    wide = wide.reshape(*wide.shape, *ones)
    trace.layer(node, weight, *((wide, narrow) if transposed else (narrow, wide)))
    labels = made.reshape(1, -1, *ones)
    _bias(trace, node, labels, made)
    return [labels]


def _gemm(trace: Trace, node: ir.Node) -> list[Labels | None]:
    weight = _weight(trace, node)
    if weight.ndim != 2 or node.attributes.get_int("transA", 0) != 0:
        raise Stop("it transposes what it reads")
    rows_are_outputs = bool(node.attributes.get_int("transB", 0))
    outputs, inputs = weight.shape if rows_are_outputs else weight.shape[::-1]
    read, made = _read(trace, node, 1, inputs), trace.channels.new((outputs,))
    if rows_are_outputs:
        trace.layer(node, weight, made[:, None], read[None])
    else:
        trace.layer(node, weight, made[None], read[:, None])
    _bias(trace, node, made[None], made)
    return [made[None]]


def _product(trace: Trace, node: ir.Node) -> list[Labels | None]:
    left, right = node.inputs[0], node.inputs[1]
    if constant(right) is None:
        return [_between(trace, node)]
    weight, shape = _weight(trace, node), trace.shape(left)
    if weight.ndim != 2 or shape is None or len(shape) < 2:
        raise Stop("its weight is not one matrix for all rows of what it reads")
    read, made = _read(trace, node, len(shape) - 1, weight.shape[0]), trace.channels.new((weight.shape[1],))
    trace.layer(node, weight, made[None], read[:, None])
    return [made.reshape(*(1,) * (len(shape) - 1), -1)]


def _between(trace: Trace, node: ir.Node) -> Labels | None:
    """Two activations: the scales of one pass where none lies on the axis that is summed over."""
    left, right = node.inputs
    first, second = trace.labels(left), trace.labels(right)
    if first is None and second is None:
        return None
    if first is not None and second is not None:
        raise Stop(f"MatMul {node.name} multiplies it by another value with scales")
    labels, axis = (first, -1) if second is None else (second, -2)
    shapes = trace.shape(left), trace.shape(right)
    ranks = {len(shape) for shape in shapes if shape is not None}
    if labels is None or None in shapes or len(ranks) != 1 or labels.ndim < 2 or labels.shape[axis] != 1:
        raise Stop(f"MatMul {node.name} sums over its channels")
    return labels


def _layer_norm(trace: Trace, node: ir.Node) -> list[Labels | None]:
    _keep(trace, node, "it is normalized by {}")
    shape, factor = trace.shape(node.inputs[0]), trace.number(given(node, 1))
    if shape is None or factor is None or factor.ndim != 1 or factor.size < 2:
        return []
    return [_normalized(trace, node, factor, (*(1,) * (len(shape) - 1), -1))]


def _batch_norm(trace: Trace, node: ir.Node) -> list[Labels | None]:
    """γ·(x - μ)/√(σ²+ε) + β: scales of x pass with those of μ and β; otherwise γ and β take new ones in."""
    shape, factor, mean = (
        trace.shape(node.inputs[0]),
        trace.number(given(node, 1)),
        trace.number(given(node, 3)),
    )
    term, labels = trace.number(given(node, 2)), trace.labels(node.inputs[0])
    if shape is None or factor is None or mean is None or term is None or len(node.outputs) > 1:
        raise Stop("its parameters are not constants")
    if labels is None:
        return [_normalized(trace, node, factor, (1, -1, *(1,) * (len(shape) - 2)))]
    if not _only_along(labels, 1):
        raise Stop("its channels lie along another axis")
    for index, array in ((2, term), (3, mean)):
        trace.divide(node, index, array, labels.reshape(-1))
    return [labels]


def _normalized(trace: Trace, node: ir.Node, factor: Array, shape: tuple[int, ...]) -> Labels | None:
    """New channels that the node's factor and term, its second and third input, take in."""
    term = trace.number(given(node, 2))
    if term is None and given(node, 2) is not None:
        return None
    made = trace.channels.new((factor.size,))
    trace.divide(node, 1, factor, made, "factor")
    if term is not None:
        trace.divide(node, 2, term, made)
    return made.reshape(shape)


def _weight(trace: Trace, node: ir.Node) -> Array:
    weight = trace.number(given(node, 1))
    if weight is None:
        raise Stop("it is read by a layer whose weight is not a float constant")
    return weight


def _read(trace: Trace, node: ir.Node, axis: int, count: int) -> Labels:
    """The channels of what the node reads along that axis; none where they lie along others too."""
    value = node.inputs[0]
    labels = trace.labels(value)
    if labels is None or value is None:
        return np.full(count, NOTHING, np.intp)
    if not _only_along(labels, axis):
        _keep(trace, node, "{} sums over another axis than that of its channels")
        return np.full(count, NOTHING, np.intp)
    trace.readers.append(Reader(node, value, labels))
    return np.broadcast_to(labels.reshape(-1), (count,))


def _bias(trace: Trace, node: ir.Node, labels: Labels, made: Labels) -> None:
    """The third input is divided like the outputs; where it is no constant the outputs have to stay."""
    if given(node, 2) is None:
        return
    bias = trace.number(given(node, 2))
    if bias is None:
        trace.channels.fix(labels, "its bias is not a float constant")
    else:
        trace.divide(node, 2, bias, made)


def _keep(trace: Trace, node: ir.Node, reason: str) -> None:
    labels = trace.labels(node.inputs[0])
    if labels is not None:
        trace.channels.fix(labels, reason.format(f"{node.op_type} {node.name}"))


def _only_along(labels: Labels, axis: int) -> bool:
    return axis < labels.ndim and labels.size == labels.shape[axis]


LAYERS: dict[str, Rule] = {
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "Gemm": _gemm,
    "MatMul": _product,
    "LayerNormalization": _layer_norm,
    "BatchNormalization": _batch_norm,
}
