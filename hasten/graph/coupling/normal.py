"""Normalizations, reductions and pooling: what they sum over stays whole, the rest passes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from hasten.graph.coupling.axes import Axes, Rule, Stop, called, is_zero, used
from hasten.graph.coupling.elementwise import aligned, carried
from hasten.graph.reading import axes_of, constant, given, integers


def _each_channel(axes: Axes, node: ir.Node) -> None:
    """Statistics and parameters of each channel by itself, along the second axis."""
    x, out = _through(node)
    _alone(node)
    aligned(axes, x, out)
    for index in range(1, len(node.inputs)):
        value = given(node, index)
        if value is not None:
            axes.tie(axes.of(value, 0), axes.of(x, 1))
            if index <= 2:
                axes.mark(node, value, 0, "factor" if index == 1 else "term")
    places, reason = range(2, len(axes.shape(x))), f"{called(node)} normalizes over it"
    if node.op_type == "InstanceNormalization":
        axes.fix(x, places, reason)
    elif node.attributes.get_int("training_mode", 0):
        axes.fix(x, [0, *places], reason)
    axes.vanish(out, 1, when=all(constant(given(node, index)) is not None for index in (1, 2)))


def _alone(node: ir.Node) -> None:
    """Statistics that are outputs of their own are not followed."""
    if any(used(output) for output in node.outputs[1:]):
        raise Stop(f"{called(node)} also gives its statistics")


def _over_last(axes: Axes, node: ir.Node) -> None:
    """Layer and RMS normalization: over the last axes, along which their parameters lie."""
    x, out = _through(node)
    _alone(node)
    aligned(axes, x, out)
    rank = len(axes.shape(x))
    start = node.attributes.get_int("axis", -1) % rank
    axes.fix(x, range(start, rank), f"{called(node)} normalizes over it")
    for value in node.inputs[1:]:
        axes.fix(value, None, f"{called(node)} normalizes over it")


def _over_one(axes: Axes, node: ir.Node) -> None:
    """One axis is summed, sorted or compared over; the others pass."""
    x, out = _through(node)
    aligned(axes, x, out)
    rank = len(axes.shape(x))
    default = -1 if axes.opset >= _SOFTMAX_BY_ONE or node.op_type not in _FLATTENING else 1
    axis = node.attributes.get_int("axis", default)
    if node.op_type == "CumSum":
        which = integers(given(node, 1))
        if which is None:
            raise Stop(f"it is not known along which axis {called(node)} is")
        axis = which[0]
    axis %= rank
    flattens = node.op_type in _FLATTENING and axes.opset < _SOFTMAX_BY_ONE
    axes.fix(x, range(axis, rank) if flattens else [axis], f"{called(node)} is computed over it")


_FLATTENING = frozenset({"Softmax", "LogSoftmax", "Hardmax"})
_SOFTMAX_BY_ONE = 13
"""From this operator set on softmax is over one axis; before, over all from it on."""


def _reduction(axes: Axes, node: ir.Node) -> None:
    x, out = _through(node)
    rank = len(axes.shape(x))
    if node.op_type in {"ArgMax", "ArgMin"}:
        over: Sequence[int] | None = [node.attributes.get_int("axis", 0)]
    else:
        over = axes_of(node)
    if over is None and given(node, 1) is not None:
        raise Stop(f"it is not known over which axes {called(node)} is")
    if not over:
        nothing = node.attributes.get_int("noop_with_empty_axes", 0)
        over = [] if nothing else range(rank)
    gone = {axis % rank for axis in over}
    axes.fix(x, sorted(gone), f"{called(node)} is over it")
    keep = node.attributes.get_int("keepdims", 1)
    place = 0
    through = node.op_type in {"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2"}
    for axis in range(rank):
        if axis not in gone:
            (axes.carry if through else axes.meet)(x, axis, out, place)
        place += keep or axis not in gone


def _pooling(axes: Axes, node: ir.Node) -> None:
    x, out = _through(node)
    for axis in (0, 1):
        axes.carry(x, axis, out, axis)
    for value in (x, out):
        axes.fix(value, range(2, len(axes.shape(value))), f"{called(node)} slides over it")
    for indices in filter(used, node.outputs[1:]):
        for value in (x, indices):
            axes.fix(value, None, f"{called(node)} numbers its entries")


def _resize(axes: Axes, node: ir.Node) -> None:
    """Axes that keep their length pass."""
    x, out = _through(node)
    sizes = given(node, 3)
    if sizes is not None and integers(sizes) is None:
        axes.fix(x, None, f"{called(node)} is given its length")
    # What lies outside of a picture gets a number that is zero, or counts for removed channels as well.
    keeps_zero = node.attributes.get_float("extrapolation_value", 0.0) == 0.0
    for axis, (before, after) in enumerate(zip(axes.shape(x), axes.shape(out), strict=True)):
        if axis < 2 or (before is not None and before == after):
            (axes.carry if keeps_zero else axes.meet)(x, axis, out, axis)
        else:
            axes.fix(x, [axis], f"{called(node)} changes its length")
            axes.fix(out, [axis], f"{called(node)} changes its length")


def _quantizer(axes: Axes, node: ir.Node) -> None:
    """Zero becomes the zero point, and that zero again."""
    x, out = _through(node)
    aligned(axes, x, out)
    if node.attributes.get_int("block_size", 0):
        raise Stop(f"{called(node)} has a scale for each block")
    rank = len(axes.shape(x))
    for value in node.inputs[1:]:
        if value is not None and axes.shape(value) not in {(), (1,)}:
            axes.tie(axes.of(value, 0), axes.of(x, node.attributes.get_int("axis", 1) % rank))
    zero_point, maker = given(node, 2), x.producer()
    if zero_point is None or is_zero(zero_point):
        carried(axes, x, out)
    elif node.op_type == "DequantizeLinear" and maker is not None and maker.op_type == "QuantizeLinear":
        here, there = constant(zero_point), constant(given(maker, 2))
        if here is not None and there is not None and np.array_equal(here, there):
            carried(axes, maker.inputs[0], out)


def _through(node: ir.Node) -> tuple[ir.Value, ir.Value]:
    x = node.inputs[0]
    assert x is not None
    return x, node.outputs[0]


_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSum", "ReduceSumSquare", "ArgMax", "ArgMin",
)  # fmt: skip
_POOLINGS = ("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool")

RULES: dict[str, Rule] = {
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), _each_channel),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _over_last),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax", "LpNormalization", "CumSum"), _over_one),
    **dict.fromkeys(_REDUCTIONS, _reduction),
    **dict.fromkeys(_POOLINGS, _pooling),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _quantizer),
}
