"""Layers that multiply by a weight: along one of its axes lie what is read, along another what is made."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from hasten.graph.coupling.axes import Axes, Rule, Stop, called
from hasten.graph.coupling.elementwise import aligned
from hasten.graph.reading import constant, given


def _window(axes: Axes, node: ir.Node) -> None:
    """What a window slides over is a position, not a channel; samples stay apart."""
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None
    axes.meet(x, 0, out, 0)
    _others_stay(axes, node, x, [0])
    for value in (x, out):
        places = range(2, len(axes.shape(value)))
        axes.fix(value, places, f"{called(node)} slides over it")


def _others_stay(axes: Axes, node: ir.Node, value: ir.Value, others: Sequence[int]) -> None:
    """Biases make something of nothing but zeros, so what else could be removed stays unless it is zero."""
    if not axes.vanishes(value):
        axes.fix(value, others, f"{called(node)} is computed at each of its entries")


def _bias(axes: Axes, node: ir.Node, index: int = 2) -> None:
    bias, out = given(node, index), node.outputs[0]
    if bias is not None:
        axes.tie(axes.of(bias, 0), axes.of(out, 1))
        axes.mark(node, bias, 0, "term")
    axes.vanish(out, when=bias is None or constant(bias) is not None)


def _convolution(axes: Axes, node: ir.Node) -> None:
    """Weights are [M, C / groups, *kernel]."""
    x, weight, out = _operands(node)
    read, made = axes.of(x, 1), axes.of(out, 1)
    rows, columns = axes.of(weight, 0), axes.of(weight, 1)
    groups = node.attributes.get_int("group", 1)
    _window(axes, node)
    axes.tie(rows, made)
    if groups > 1 and groups == len(read):
        axes.tie(made.reshape(groups, -1), read[:, None])
        axes.mark(node, weight, 0, "factor")
    else:
        # Groups stay of one size: what one loses at a place, all lose there.
        axes.tie(read.reshape(groups, -1), columns[None])
        axes.tie(made.reshape(groups, -1), made.reshape(groups, -1)[:1])
        axes.mark(node, weight, 0, "made")
        axes.mark(node, weight, 1, "read")
    _bias(axes, node)


def _transposed_convolution(axes: Axes, node: ir.Node) -> None:
    """Weights are [C, M / groups, *kernel]."""
    x, weight, out = _operands(node)
    read, made = axes.of(x, 1), axes.of(out, 1)
    rows, columns = axes.of(weight, 0), axes.of(weight, 1)
    groups = node.attributes.get_int("group", 1)
    _window(axes, node)
    axes.tie(rows, read)
    if groups > 1 and groups == len(read):
        axes.tie(made.reshape(groups, -1), read[:, None])
        axes.mark(node, weight, 0, "factor")
    else:
        axes.tie(made.reshape(groups, -1), columns[None])
        axes.tie(read.reshape(groups, -1), read.reshape(groups, -1)[:1])
        axes.mark(node, weight, 1, "made")
        axes.mark(node, weight, 0, "read")
    _bias(axes, node)


def _gemm(axes: Axes, node: ir.Node) -> None:
    x, weight, out = _operands(node)
    inner = 0 if node.attributes.get_int("transA", 0) else 1
    read = 1 if node.attributes.get_int("transB", 0) else 0
    axes.meet(x, 1 - inner, out, 0)
    axes.tie(axes.of(weight, 1 - read), axes.of(out, 1))
    _others_stay(axes, node, x, [1 - inner])
    _contract(axes, node, (x, inner), (weight, read))
    axes.mark(node, weight, 1 - read, "made")
    bias = given(node, 2)
    if bias is not None:
        aligned(axes, bias, out)
        lengths = axes.shape(bias)
        if lengths and lengths[-1] != 1:
            axes.mark(node, bias, -1, "term")
        elif not axes.vanishes(bias):
            return
    axes.vanish(out, when=bias is None or constant(bias) is not None)


def _matmul(axes: Axes, node: ir.Node) -> None:
    left, right, out = _operands(node)
    if min(len(axes.shape(left)), len(axes.shape(right))) < 2:
        raise Stop(f"{called(node)} multiplies by a vector")
    rank = len(axes.shape(out))
    for value, own in ((left, -2), (right, -1)):
        lengths = axes.shape(value)
        for axis in range(len(lengths) - 2):
            axes.meet(value, axis, out, rank - len(lengths) + axis)
        axes.meet(value, own, out, own)
        axes.mark(node, value, own, "made")
    _contract(axes, node, (left, -1), (right, -2))
    if constant(left) is not None or constant(right) is not None:
        x, inner = (left, -1) if constant(left) is None else (right, -2)
        others = [axis for axis in range(len(axes.shape(x))) if axis != len(axes.shape(x)) + inner]
        _others_stay(axes, node, x, others)
        axes.vanish(out)
        return
    for labels in (*axes.all(out)[:-2], axes.all(left)[-1]):
        axes.attend(labels)
    if axes.side == "inner":
        axes.attend(axes.all(right)[-1])
    zero = axes.vanishes(left), axes.vanishes(right)
    for value, own, vanishes, other in ((left, -2, *zero), (right, -1, *zero[::-1])):
        if other and not vanishes:
            axes.fix(value, [own], f"{called(node)} reads it beside channels")
    axes.vanish(out, when=any(zero))


def _contract(axes: Axes, node: ir.Node, first: tuple[ir.Value, int], second: tuple[ir.Value, int]) -> None:
    """Two axes that are summed over together: exact without an entry only if one of the factors is zero."""
    (left, i), (right, j) = first, second
    axes.meet(left, i, right, j)
    for value, axis in (first, second):
        axes.mark(node, value, axis, "read")
    if not any(constant(v) is not None or axes.vanishes(v) for v in (left, right)):
        axes.fix(left, [i], f"{called(node)} sums over it, and it is never zero")


def _einsum(axes: Axes, node: ir.Node) -> None:
    equation = node.attributes.get_string("equation", "").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow or "." in equation or any(len(set(term)) < len(term) for term in (*terms, right)):
        raise Stop(f"{called(node)} has an equation that is not followed")
    where: dict[str, list[tuple[ir.Value, int]]] = {}
    for value, term in zip(node.inputs, terms, strict=True):
        assert value is not None
        for axis, letter in enumerate(term):
            where.setdefault(letter, []).append((value, axis))
    for letter, places in where.items():
        value, axis = places[0]
        for other, place in places:
            axes.tie(axes.of(value, axis), axes.of(other, place))
            axes.mark(node, other, place, "made" if letter in right else "read")
        if letter in right:
            axes.meet(value, axis, node.outputs[0], right.index(letter))
        if not any(constant(v) is not None or axes.vanishes(v) for v, _ in places):
            axes.fix(value, [axis], f"{called(node)} reads it, and it is never zero")
    axes.vanish(node.outputs[0])


def _operands(node: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value]:
    x, weight = node.inputs[:2]
    assert x is not None
    assert weight is not None
    if node.op_type != "MatMul" and constant(weight) is None:
        raise Stop(f"the weight of {called(node)} is computed")
    return x, weight, node.outputs[0]


RULES: dict[str, Rule] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Einsum": _einsum,
}
