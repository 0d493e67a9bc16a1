"""Remove operators that return their input.

Algebra: Identity(x) = x; Dropout(x) = x in inference; x·1 = x/1 = x+0 = x-0 = x¹ = x; a Cast to the type the
value has, a Transpose that keeps the order, a Reshape or Expand to the shape the value has, a Pad by nothing,
a Slice of everything, a Tile by one, a Clip without bounds, a Concat, Sum, Min, Max or Mean of one.

Check: a constant must not enlarge its partner by broadcasting; shapes must be known, or differ from static
ones in one dimension only, which the number of elements then fixes. A Slice to 10⁹ or beyond is to the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from hasten.graph import Graph
from hasten.graph.editor import Editor, Findings, fits
from hasten.graph.reading import constant, given, integers, rank

END = 10**9
"""tf2onnx writes 10⁹ and others 2³¹-1 or 2⁶³-1 for "to the end"; no dimension of a real tensor is larger."""


def apply(graph: Graph) -> Findings:
    """Remove all no-ops, in place."""
    editor = Editor(graph, shapes=True)
    for node in editor.nodes():
        check = CHECKS.get(node.op_type)
        if check is None or any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
            continue
        value = check(node)
        if value is None:
            continue
        if editor.bypass(node, value):
            editor.changed(node, "removed: it returned its input")
        else:
            editor.refused(
                node, "it returns its input, but an input or a constant cannot be an output itself"
            )
    return editor.findings


def _always(node: ir.Node) -> ir.Value | None:
    return node.inputs[0]


def _only_one(node: ir.Node) -> ir.Value | None:
    return node.inputs[0] if len(node.inputs) == 1 else None


def _dropout(node: ir.Node) -> ir.Value | None:
    training = given(node, 2)
    if training is None:
        return node.inputs[0]
    flag = constant(training)
    return node.inputs[0] if flag is not None and not flag.any() else None


def _cast(node: ir.Node) -> ir.Value | None:
    x = node.inputs[0]
    return (
        x if x is not None and x.dtype is not None and x.dtype == node.attributes.get_int("to", 0) else None
    )


def _transpose(node: ir.Node) -> ir.Value | None:
    x, perm = node.inputs[0], node.attributes.get_ints("perm", None)
    if perm is not None:
        return x if list(perm) == list(range(len(perm))) else None
    dims = rank(x)
    return x if dims is not None and dims <= 1 else None


def _same_shape(node: ir.Node) -> ir.Value | None:
    """Equal static dimensions, but for one at most that both leave open: the element count decides it."""
    x, out = node.inputs[0], node.outputs[0]
    if x is None or x.shape is None or out.shape is None or len(x.shape) != len(out.shape):
        return None
    pairs = list(zip(x.shape, out.shape, strict=True))
    open_dims = [pair for pair in pairs if not all(isinstance(d, int) for d in pair)]
    static = all(a == b for a, b in pairs if isinstance(a, int) and isinstance(b, int))
    zero = any(d == 0 for d in x.shape if isinstance(d, int))
    return x if static and not zero and len(open_dims) <= 1 else None


def _expand(node: ir.Node) -> ir.Value | None:
    """To all ones, or to static dimensions the value has: the result's shape alone cannot tell."""
    x, target = node.inputs[0], integers(given(node, 1))
    dims = rank(x)
    if x is None or x.shape is None or dims is None or target is None or len(target) > dims:
        return None
    tail = list(x.shape)[dims - len(target) :]
    return x if all(want in {1, have} for want, have in zip(target, tail, strict=True)) else None


def _slice(node: ir.Node) -> ir.Value | None:
    x = node.inputs[0]
    starts, ends = integers(given(node, 1)), integers(given(node, 2))
    if x is None or starts is None or ends is None:
        return None
    axes = integers(given(node, 3)) if given(node, 3) is not None else list(range(len(starts)))
    steps = integers(given(node, 4)) if given(node, 4) is not None else [1] * len(starts)
    if axes is None or steps is None or any(step != 1 for step in steps) or any(starts):
        return None
    dims = list(x.shape) if x.shape is not None else None
    for end, axis in zip(ends, axes, strict=True):
        size = dims[axis] if dims is not None and -len(dims) <= axis < len(dims) else None
        if end < END and not (isinstance(size, int) and end >= size):
            return None
    return x


def _zeros(index: int) -> Callable[[ir.Node], ir.Value | None]:
    def check(node: ir.Node) -> ir.Value | None:
        amounts = integers(given(node, index))
        return node.inputs[0] if amounts is not None and not any(amounts) else None

    return check


def _tile(node: ir.Node) -> ir.Value | None:
    repeats = integers(given(node, 1))
    return node.inputs[0] if repeats is not None and all(r == 1 for r in repeats) else None


def _clip(node: ir.Node) -> ir.Value | None:
    if {"min", "max"} & node.attributes.keys():  # before operator set 11
        return None
    for index, bound in ((1, -np.inf), (2, np.inf)):
        if given(node, index) is not None:
            array = constant(given(node, index))
            if array is None or array.dtype.kind in "iu" or float(array.reshape(())) != bound:
                return None
    return node.inputs[0]


def _neutral(number: float, *, either: bool) -> Callable[[ir.Node], ir.Value | None]:
    """The operand whose partner is a constant full of the operator's neutral element."""

    def check(node: ir.Node) -> ir.Value | None:
        a, b = given(node, 0), given(node, 1)
        for x, other in ((a, b), (b, a))[: 2 if either else 1]:
            array = constant(other)
            if x is not None and array is not None and bool(np.all(array == number)) and fits(array.shape, x):
                return x
        return None

    return check


CHECKS: Mapping[str, Callable[[ir.Node], ir.Value | None]] = {
    "Identity": _always,
    "Dropout": _dropout,
    "Cast": _cast,
    "Transpose": _transpose,
    "Reshape": _same_shape,
    "Flatten": _same_shape,
    "Expand": _expand,
    "Slice": _slice,
    "Pad": _zeros(1),
    "Tile": _tile,
    "Clip": _clip,
    "Mul": _neutral(1, either=True),
    "Div": _neutral(1, either=False),
    "Add": _neutral(0, either=True),
    "Sub": _neutral(0, either=False),
    "Pow": _neutral(1, either=False),
    "Concat": _only_one,
    "Sum": _only_one,
    "Min": _only_one,
    "Max": _only_one,
    "Mean": _only_one,
}
"""Operator to the check that returns the value it hands through, or None."""
