"""Operators that work element by element: what meets stands or falls together."""

from __future__ import annotations

import onnx_ir as ir

from hasten.graph.coupling.axes import Axes, Rule, is_zero
from hasten.graph.reading import constant, given, scalar


def aligned(axes: Axes, value: ir.Value | None, out: ir.Value) -> None:
    """Tie the axes of an operand with those of the result, as broadcasting aligns them."""
    for operand, axis, place in _places(axes, value, out):
        axes.meet(operand, axis, out, place)


def carried(axes: Axes, value: ir.Value | None, out: ir.Value) -> None:
    """The same where the result is zero wherever the operand is."""
    for operand, axis, place in _places(axes, value, out):
        axes.carry(operand, axis, out, place)


def _places(axes: Axes, value: ir.Value | None, out: ir.Value) -> list[tuple[ir.Value, int, int]]:
    if value is None:
        return []
    offset = len(axes.shape(out)) - len(axes.shape(value))
    return [(value, axis, offset + axis) for axis in range(len(axes.shape(value)))]


def _tied(axes: Axes, node: ir.Node) -> None:
    for value in node.inputs:
        aligned(axes, value, node.outputs[0])


def _through_zero(axes: Axes, node: ir.Node) -> None:
    """f(0) = 0, whatever the second operand."""
    carried(axes, node.inputs[0], node.outputs[0])
    for value in node.inputs[1:]:
        aligned(axes, value, node.outputs[0])


def _first_only(axes: Axes, node: ir.Node) -> None:
    """f(0) = 0; further inputs are single numbers, or only say of which type the result is."""
    carried(axes, node.inputs[0], node.outputs[0])
    for out in node.outputs[1:]:
        aligned(axes, node.inputs[0], out)


def _shrink(axes: Axes, node: ir.Node) -> None:
    """What is nearer to zero than lambd becomes zero; all is moved where that is negative."""
    moved = node.attributes.get_float("lambd", 0.5) < 0 and node.attributes.get_float("bias", 0.0) != 0
    (aligned if moved else carried)(axes, node.inputs[0], node.outputs[0])


def _clip(axes: Axes, node: ir.Node) -> None:
    low, high = (
        node.attributes.get_float(name, default) if given(node, i) is None else scalar(given(node, i))
        for i, name, default in ((1, "min", -1.0), (2, "max", 1.0))
    )
    keeps_zero = low is not None and high is not None and low <= 0.0 <= high
    (carried if keeps_zero else aligned)(axes, node.inputs[0], node.outputs[0])


def _product(axes: Axes, node: ir.Node) -> None:
    for value in node.inputs:
        carried(axes, value, node.outputs[0])


def _sum(axes: Axes, node: ir.Node) -> None:
    """A constant with a number for each channel is masked with it; one number for all is not."""
    _tied(axes, node)
    out = node.outputs[0]
    vanishing = set(range(len(axes.shape(out))))
    for value in node.inputs:
        own = [each for each in _places(axes, value, out) if axes.shape(each[0])[each[1]] != 1]
        for operand, axis, _ in own:
            axes.mark(node, operand, axis, "term")
        if value is not None and not is_zero(value):
            masked = constant(value) is not None
            vanishing &= {place for _, axis, place in own if masked or axes.vanishes(value, axis)}
    for place in vanishing:
        axes.vanish(out, place)


_THROUGH_ZERO = (
    "Abs", "Asin", "Asinh", "Atan", "Atanh", "Cast", "Ceil", "Celu", "Div", "Elu", "Erf", "Floor", "Gelu",
    "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Mish", "Neg", "PRelu", "Relu", "Round", "Selu",
    "Sign", "Sin", "Sinh", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
)  # fmt: skip
_OTHERS = (
    "Acos", "Acosh", "And", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Cos", "Cosh",
    "Equal", "Exp", "Greater", "GreaterOrEqual", "HardSigmoid", "Less", "LessOrEqual", "Log", "Max", "Mean",
    "Min", "Mod", "Not", "Or", "Pow", "Reciprocal", "Sigmoid", "Softplus", "Where", "Xor",
)  # fmt: skip

RULES: dict[str, Rule] = {
    **dict.fromkeys(_THROUGH_ZERO, _through_zero),
    **dict.fromkeys(_OTHERS, _tied),
    **dict.fromkeys(("CastLike", "Dropout"), _first_only),
    **dict.fromkeys(("Add", "Sub", "Sum"), _sum),
    "Clip": _clip,
    "Mul": _product,
    "Shrink": _shrink,
}
