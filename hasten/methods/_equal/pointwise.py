"""Operators that work element by element: f(x / s) = f(x) / s for those that let scales pass."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.graph.channels import NOTHING, Labels
from hasten.graph.reading import constant, given, scalar
from hasten.methods._equal.trace import Rule, Stop, Trace

_UNBOUNDED = 3e38
"""Bounds from here on cut nothing off in float32."""
_LARGEST_GROWN = 1 << 16
"""Elements up to which a constant may grow for having one number a channel."""


def _same(trace: Trace, node: ir.Node) -> list[Labels | None]:
    """Positively homogeneous functions of one input."""
    return [trace.labels(node.inputs[0])]


def _clip(trace: Trace, node: ir.Node) -> list[Labels | None]:
    labels = trace.labels(node.inputs[0])
    for index, name, free in ((1, "min", -np.inf), (2, "max", np.inf)):
        bound = scalar(given(node, index)) if given(node, index) is not None else None
        if given(node, index) is None:
            bound = node.attributes.get_float(name, free)
        if labels is not None and (bound is None or not (bound == 0 or abs(bound) >= _UNBOUNDED)):
            raise Stop(f"Clip {node.name} cuts all channels at one bound, which would have to be scaled too")
    return [labels]


def _cast(trace: Trace, node: ir.Node) -> list[Labels | None]:
    labels = trace.labels(node.inputs[0])
    if labels is not None and node.attributes.get_int("to", 0) not in {ir.DataType.FLOAT, ir.DataType.DOUBLE}:
        raise Stop("it is cast to another kind of number")
    return [labels]


def _sum(trace: Trace, node: ir.Node) -> list[Labels | None]:
    """Operands of a sum have the same scales; constants are divided by them."""
    known = [labels for labels in map(trace.labels, node.inputs) if labels is not None]
    if not known:
        return [None]
    if len(known) > 1 and not trace.residuals:
        raise Stop(f"{node.op_type} {node.name} passes it on in a sum (residuals)")
    shape = trace.shape(node.outputs[0])
    if shape is None:
        raise Stop("the shape of a sum is not known")
    labels = known[0]
    for other in known[1:]:
        trace.channels.same(labels, other)
        labels = _wider(labels, other)
    labels = labels.reshape((1,) * (len(shape) - labels.ndim) + labels.shape)
    for index, value in enumerate(node.inputs):
        if trace.labels(value) is None:
            array = trace.number(value)
            if array is None:
                raise Stop(f"{node.op_type} {node.name} adds values to it that cannot be scaled")
            if np.broadcast(np.empty(array.shape), labels).size > max(array.size, _LARGEST_GROWN):
                raise Stop(f"the constant of {node.op_type} {node.name} would need a copy for each channel")
            trace.divide(node, index, array, labels)
    return [labels]


def _wider(first: Labels, second: Labels) -> Labels:
    shape = np.broadcast_shapes(first.shape, second.shape)
    return np.ascontiguousarray(np.broadcast_to(first, shape))


def _factor(trace: Trace, node: ir.Node, *, inverse: bool) -> list[Labels | None]:
    """Scales pass, (x / s)·c = (x·c) / s; a constant factor for each channel may also take new scales in."""
    left, right = (trace.labels(value) for value in node.inputs[:2])
    if right is not None and (left is not None or inverse):
        raise Stop(f"{node.op_type} {node.name} combines it with values of other scales")
    labels, shape = left if right is None else right, trace.shape(node.outputs[0])
    if labels is not None:
        if shape is None:
            raise Stop("the shape of a product is not known")
        return [labels.reshape((1,) * (len(shape) - labels.ndim) + labels.shape)]
    index = next((i for i in (0, 1) if constant(node.inputs[i]) is not None), None)
    if index is None or inverse or shape is None:
        return [None]
    return [_new(trace, node, index, shape)]


def _new(trace: Trace, node: ir.Node, index: int, shape: tuple[int | None, ...]) -> Labels | None:
    """New channels along the one axis of a constant factor; None where it has none or more."""
    array: Array | None = trace.number(node.inputs[index])
    if array is None or array.size < 2 or array.size != max(array.shape) or array.ndim > len(shape):
        return None
    wide = (1,) * (len(shape) - array.ndim) + array.shape
    if trace.shape(node.inputs[1 - index]) is None:
        return None
    labels = trace.channels.new(wide)
    trace.divide(node, index, array, labels, "factor")
    return labels


def _join(trace: Trace, node: ir.Node) -> list[Labels | None]:
    """Where channels lie along the axis they are put side by side, otherwise they have to be the same."""
    every = [trace.labels(value) for value in node.inputs]
    known = [labels for labels in every if labels is not None]
    if not known:
        return [None]
    rank = known[0].ndim
    axis = node.attributes.get_int("axis", 0) % rank
    if all(labels.shape[axis] == 1 for labels in known):
        if len(known) < len(every):
            raise Stop(f"Concat {node.name} puts values without scales behind it")
        labels = known[0]
        for other in known[1:]:
            trace.channels.same(labels, other)
            labels = _wider(labels, other)
        return [labels]
    return [np.concatenate(_side_by_side(trace, node, every, axis), axis=axis)]


def _side_by_side(trace: Trace, node: ir.Node, every: list[Labels | None], axis: int) -> list[Labels]:
    rank = max(labels.ndim for labels in every if labels is not None)
    parts = []
    for value, labels in zip(node.inputs, every, strict=True):
        shape = trace.shape(value)
        length = shape[axis] if shape is not None else None
        if length is None:
            raise Stop(f"Concat {node.name} puts a number of channels behind it that is not known")
        whole = np.full((1,) * rank, NOTHING, np.intp) if labels is None else labels
        target = (*whole.shape[:axis], length, *whole.shape[axis + 1 :])
        parts.append(np.broadcast_to(whole, target))
    others = np.broadcast_shapes(*((*p.shape[:axis], 1, *p.shape[axis + 1 :]) for p in parts))
    return [np.broadcast_to(p, (*others[:axis], p.shape[axis], *others[axis + 1 :])) for p in parts]


POINTWISE: dict[str, Rule] = {
    **dict.fromkeys(("Abs", "Dropout", "Identity", "LeakyRelu", "Neg", "PRelu", "Relu"), _same),
    **dict.fromkeys(("Add", "Max", "Min", "Sub", "Sum"), _sum),
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _join,
    "Div": partial(_factor, inverse=True),
    "Mul": partial(_factor, inverse=False),
}
