"""Layers that multiply by a weight: along one of its axes lie what is read, along another what is made."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from hasten.graph.channels import Labels
from hasten.graph.coupling.axes import Axes, Rule, Stop, called, is_zero
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
    """Besides what is summed over, nothing is removed that is not zero."""
    alive = [axis for axis in others if not axes.vanishes(value, axis)]
    axes.fix(value, alive, f"{called(node)} is computed at each of its entries")


def _bias(axes: Axes, node: ir.Node) -> None:
    """It is masked with its channel, but added to samples that are zero as well."""
    bias, out = given(node, 2), node.outputs[0]
    if bias is not None:
        axes.tie(axes.of(bias, 0), axes.of(out, 1))
        axes.mark(node, bias, 0, "term")
    axes.vanish(out, 1, when=bias is None or constant(bias) is not None)
    axes.vanish(out, 0, when=bias is None or is_zero(bias))


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
        _grouped(axes, node, groups, (read, columns), (made, axes.new(len(made) // groups)))
        axes.mark(node, weight, 0, "made")
        axes.mark(node, weight, 1, "read")
    _bias(axes, node)


def _grouped(
    axes: Axes, node: ir.Node, groups: int, read: tuple[Labels, Labels], made: tuple[Labels, Labels]
) -> None:
    """Groups stay of one size: whole ones can go or, of few and wide ones, the same place in each.

    read, made: all channels, and the places in a group.
    """
    if groups == 1:
        for one, places in (read, made):
            axes.tie(one, places)
        return
    whole, few = axes.new(groups), groups < max(len(read[1]), len(made[1]))
    for one, places in (read, made):
        axes.divide(one, [whole, places], f"{called(node)} has groups, which stay of one size", inner=few)


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
        _grouped(axes, node, groups, (read, axes.new(len(read) // groups)), (made, columns))
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
    nothing = bias is None or is_zero(bias)
    axes.vanish(out, 0, when=nothing)
    axes.vanish(out, 1, when=nothing)
    if bias is None:
        return
    aligned(axes, bias, out)
    if axes.shape(bias)[-1:] not in {(), (1,)}:
        axes.mark(node, bias, -1, "term")
        axes.vanish(out, 1, when=constant(bias) is not None)


def _matmul(axes: Axes, node: ir.Node) -> None:
    left, right, out = _operands(node)
    if min(len(axes.shape(left)), len(axes.shape(right))) < 2:
        raise Stop(f"{called(node)} multiplies by a vector")
    rank = len(axes.shape(out))
    for value, own in ((left, -2), (right, -1)):
        lengths = axes.shape(value)
        for axis in range(len(lengths) - 2):
            axes.carry(value, axis, out, rank - len(lengths) + axis)
        axes.carry(value, own, out, own)
        axes.mark(node, value, own, "made")
        axes.vanish(out, own, when=constant(value) is not None)
    _contract(axes, node, (left, -1), (right, -2))
    if constant(left) is not None or constant(right) is not None:
        x, inner = (left, -1) if constant(left) is None else (right, -2)
        others = [axis for axis in range(len(axes.shape(x))) if axis != len(axes.shape(x)) + inner]
        _others_stay(axes, node, x, others)
        return
    _stored(axes, node)
    for labels in (*axes.all(out)[:-2], axes.all(left)[-1]):
        axes.attend(labels)
    if axes.side == "inner":
        axes.attend(axes.all(right)[-1])


def _contract(axes: Axes, node: ir.Node, first: tuple[ir.Value, int], second: tuple[ir.Value, int]) -> None:
    """Two axes that are summed over together: exact without an entry only if one of the factors is zero."""
    (left, i), (right, j) = first, second
    axes.meet(left, i, right, j)
    for value, axis in (first, second):
        axes.mark(node, value, axis, "read")
    if not any(constant(v) is not None or axes.vanishes(v, axis) for v, axis in (first, second)):
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
        # One that is repeated is the same for all entries: it makes none of them zero.
        whole = [(value, axis) for value, axis in places if axes.shape(value)[axis] != 1] or places
        value, axis = whole[0]
        for other, place in whole:
            axes.meet(value, axis, other, place)
            axes.mark(node, other, place, "made" if letter in right else "read")
        if letter in right:
            axes.meet(value, axis, node.outputs[0], right.index(letter))
            axes.vanish(node.outputs[0], right.index(letter))
        if not any(constant(v) is not None or axes.vanishes(v, a) for v, a in whole):
            axes.fix(value, [axis], f"{called(node)} reads it, and it is never zero")
    if any(constant(value) is not None for value in node.inputs):
        return
    _stored(axes, node)
    for letter, places in where.items():
        value, axis = places[-1]
        shared, kept = len(places) > 1, letter in right
        # Heads lie in all operands and in the result; inside them, what is summed over or the last one's own.
        inside = not kept if shared else value is node.inputs[-1]
        if inside if axes.side == "inner" else shared and kept:
            axes.attend(axes.all(value)[axis])


def _operands(node: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value]:
    x, weight = node.inputs[:2]
    assert x is not None
    assert weight is not None
    if node.op_type != "MatMul" and constant(weight) is None:
        raise Stop(_why_not(node, weight))
    return x, weight, node.outputs[0]


def _stored(axes: Axes, node: ir.Node) -> None:
    """Say of a layer whose weight is no constant, though it is stored, that its outputs stay."""
    for value in node.inputs:
        producer = None if value is None else value.producer()
        quantized = producer is not None and producer.op_type == "DequantizeLinear"
        stored = producer.inputs[0] if producer is not None and quantized else value
        if value is not None and stored is not None and stored.is_initializer():
            axes.refuse(node, _why_not(node, value))


def _why_not(node: ir.Node, weight: ir.Value) -> str:
    can = "an input, which may be given" if weight.is_graph_input() else "computed"
    return f"the weight of {called(node)} is {can}"


RULES: dict[str, Rule] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Einsum": _einsum,
}
