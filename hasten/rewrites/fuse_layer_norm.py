"""Write layer normalization as one operator.

Algebra: γ·(x - mean(x))/√(mean((x - mean(x))²) + ε) + β = LayerNormalization(x, γ, β) (Ba, Kiros & Hinton
2016), the means over the last axes.

Check: opset 17, which brought the operator; means over the same axes, which are the last ones, kept as axes
of length 1; γ and β constants of exactly the normalized shape; nothing else uses the values in between.

Why: the runtimes fuse the parts themselves, but only while all are there: other rewrites would fold γ into
the weights behind it, and a quantizer would put steps between the parts.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.graph import Graph
from hasten.graph.editor import Editor, Findings, is_float
from hasten.graph.reading import axes_of, constant, given, rank, scalar, sole_user

SINCE = 17


def apply(graph: Graph) -> Findings:
    """Fuse every layer normalization, in place."""
    editor = Editor(graph, shapes=True)
    if graph.opset < SINCE:
        return editor.findings
    for node in editor.nodes("Div"):
        _fuse(editor, node)
    return editor.findings


def _fuse(editor: Editor, division: ir.Node) -> None:
    centred = division.inputs[0]
    x = _centred(centred)
    spread = _variance_and_epsilon(given(division, 1), centred)
    scaling = sole_user(division.outputs[0])
    if centred is None or x is None or spread is None or scaling is None or not is_float(x[0]):
        return
    value, axis = x
    variance_axis, epsilon = spread
    dims = rank(value)
    gamma = _operand(scaling, "Mul", division.outputs[0])
    if dims is None or variance_axis != axis or gamma is None:
        return
    shape = tuple(d for d in list(value.shape or ())[axis:] if isinstance(d, int))
    adding = sole_user(scaling.outputs[0])
    beta = _operand(adding, "Add", scaling.outputs[0]) if adding is not None else None
    last = scaling if beta is None or adding is None else adding
    scale, shift = _shaped(gamma, shape, dims), None if beta is None else _shaped(beta, shape, dims)
    if scale is None or len(shape) != dims - axis:
        return
    if beta is not None and shift is None:
        last = scaling
    inputs: list[ir.Value | None] = [value, editor.constant(scale, f"{last.outputs[0].name}.scale")]
    if shift is not None:
        inputs.append(editor.constant(shift, f"{last.outputs[0].name}.bias"))
    attributes = {"axis": axis - dims, "epsilon": epsilon}
    made = editor.replace(last, "LayerNormalization", inputs, attributes)
    editor.changed(made, "fused from means, differences and a root")


def _centred(value: ir.Value | None) -> tuple[ir.Value, int] | None:
    """The x of x - mean(x), and the first of the axes of the mean."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "Sub" or node.domain or node.inputs[0] is None:
        return None
    axis = _mean_of(given(node, 1), node.inputs[0])
    return None if axis is None else (node.inputs[0], axis)


def _mean_of(value: ir.Value | None, x: ir.Value) -> int | None:
    """The first axis, if the value is the mean of x over its last axes."""
    node = value.producer() if value is not None else None
    dims = rank(x)
    if node is None or node.op_type != "ReduceMean" or node.domain or node.inputs[0] is not x or dims is None:
        return None
    axes = axes_of(node)
    if axes is None or not node.attributes.get_int("keepdims", 1):
        return None
    found = sorted({a % dims for a in axes})
    return found[0] if found and found == list(range(found[0], dims)) else None


def _variance_and_epsilon(value: ir.Value | None, centred: ir.Value | None) -> tuple[int, float] | None:
    """Axis and ε, if the value is √(mean(centred²) + ε)."""
    root = value.producer() if value is not None else None
    total = (
        root.inputs[0].producer() if root is not None and root.inputs and root.inputs[0] is not None else None
    )
    if root is None or root.op_type != "Sqrt" or total is None or total.op_type != "Add" or total.domain:
        return None
    for mean, other in ((total.inputs[0], total.inputs[1]), (total.inputs[1], total.inputs[0])):
        epsilon = scalar(other)
        node = mean.producer() if mean is not None else None
        square = node.inputs[0] if node is not None and node.inputs else None
        if epsilon is not None and square is not None and _is_square(square, centred):
            axis = _mean_of(mean, square)
            return None if axis is None else (axis, epsilon)
    return None


def _is_square(value: ir.Value, of: ir.Value | None) -> bool:
    node = value.producer()
    if node is None or node.domain or of is None or node.inputs[0] is not of:
        return False
    if node.op_type == "Pow":
        return scalar(given(node, 1)) == 2.0
    return node.op_type == "Mul" and node.inputs[1] is of


def _operand(node: ir.Node, op_type: str, value: ir.Value) -> Array | None:
    """The constant that the node combines the value with."""
    if node.op_type != op_type or node.domain:
        return None
    return constant(given(node, 1 if node.inputs[0] is value else 0))


def _shaped(array: Array, shape: tuple[int, ...], dims: int) -> Array | None:
    """The constant in the normalized shape; None where it is not one number for each element of that."""
    if array.ndim > dims or array.size != int(np.prod(shape, dtype=np.int64)):
        return None
    trailing = array.shape[max(array.ndim - len(shape), 0) :]
    return array.reshape(shape) if trailing == shape[len(shape) - len(trailing) :] else None
