"""Operators that work element by element: what meets stands or falls together."""

from __future__ import annotations

import onnx_ir as ir

from hasten.graph.coupling.axes import Axes, Rule
from hasten.graph.reading import constant, given, scalar


def aligned(axes: Axes, value: ir.Value | None, out: ir.Value) -> None:
    """Tie the axes of an operand with those of the result, as broadcasting aligns them."""
    if value is None:
        return
    offset = len(axes.shape(out)) - len(axes.shape(value))
    for axis in range(len(axes.shape(value))):
        axes.meet(value, axis, out, offset + axis)


def _tied(axes: Axes, node: ir.Node) -> None:
    for value in node.inputs:
        aligned(axes, value, node.outputs[0])


def _through_zero(axes: Axes, node: ir.Node) -> None:
    """f(0) = 0, whatever the second operand."""
    _tied(axes, node)
    axes.vanish(node.outputs[0], when=axes.vanishes(node.inputs[0]))


def _first_only(axes: Axes, node: ir.Node) -> None:
    """Further inputs are single numbers."""
    for out in node.outputs:
        aligned(axes, node.inputs[0], out)
    axes.vanish(node.outputs[0], when=axes.vanishes(node.inputs[0]))


def _clip(axes: Axes, node: ir.Node) -> None:
    aligned(axes, node.inputs[0], node.outputs[0])
    low, high = (
        node.attributes.get_float(name, default) if given(node, i) is None else scalar(given(node, i))
        for i, name, default in ((1, "min", -1.0), (2, "max", 1.0))
    )
    keeps_zero = low is not None and high is not None and low <= 0.0 <= high
    axes.vanish(node.outputs[0], when=keeps_zero and axes.vanishes(node.inputs[0]))


def _product(axes: Axes, node: ir.Node) -> None:
    _tied(axes, node)
    axes.vanish(node.outputs[0], when=any(axes.vanishes(value) for value in node.inputs))


def _sum(axes: Axes, node: ir.Node) -> None:
    """A constant with a number for each channel is masked with it; one number for all is not."""
    _tied(axes, node)
    vanishing = True
    for value in node.inputs:
        if value is None or constant(value) is None:
            vanishing = vanishing and axes.vanishes(value)
            continue
        lengths = axes.shape(value)
        for axis, length in enumerate(lengths):
            if length != 1:
                axes.mark(node, value, axis, "term")
        vanishing = vanishing and (axes.vanishes(value) or any(length != 1 for length in lengths))
    axes.vanish(node.outputs[0], when=vanishing)


_THROUGH_ZERO = (
    "Abs", "Asin", "Asinh", "Atan", "Atanh", "Cast", "Ceil", "Celu", "Div", "Elu", "Erf", "Floor", "Gelu",
    "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Mish", "Neg", "PRelu", "Relu", "Round", "Selu",
    "Sign", "Sin", "Sinh", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu", "CastLike",
)  # fmt: skip
_OTHERS = (
    "Acos", "Acosh", "And", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Cos", "Cosh",
    "Equal", "Exp", "Greater", "GreaterOrEqual", "HardSigmoid", "Less", "LessOrEqual", "Log", "Max", "Mean",
    "Min", "Mod", "Not", "Or", "Pow", "Reciprocal", "Sigmoid", "Softplus", "Where", "Xor",
)  # fmt: skip

RULES: dict[str, Rule] = {
    **dict.fromkeys(_THROUGH_ZERO, _through_zero),
    **dict.fromkeys(_OTHERS, _tied),
    **dict.fromkeys(("Dropout", "Shrink"), _first_only),
    **dict.fromkeys(("Add", "Sub", "Sum"), _sum),
    "Clip": _clip,
    "Mul": _product,
}
