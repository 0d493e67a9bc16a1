"""Elementwise operators of the form y = scale·x + shift with constant scale and shift."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.graph.reading import constant, given, rank, sole_user


@dataclass(frozen=True)
class Affine:
    """One such node, in double precision; ``x`` is the input that varies."""

    node: ir.Node
    x: ir.Value
    scale: Array
    shift: Array

    @property
    def only_scales(self) -> bool:
        """Whether nothing is added."""
        return not np.any(self.shift)


_ONE, _ZERO = np.ones(()), np.zeros(())


def affine(node: ir.Node) -> Affine | None:
    """The node as an affine map, or None where it is none (or its channel axis is not known)."""
    if node.domain:
        return None
    if node.op_type == "BatchNormalization":
        return _batch_norm(node)
    if node.op_type not in {"Mul", "Div", "Add", "Sub"} or len(node.inputs) != 2:
        return None
    left, right = constant(node.inputs[0]), constant(node.inputs[1])
    if (left is None) == (right is None):
        return None
    x = node.inputs[1] if right is None else node.inputs[0]
    number = left if right is None else right
    if x is None or number is None or not (number.dtype.kind == "f" or number.dtype.name == "bfloat16"):
        return None
    return _elementwise(node, x, number.astype(np.float64), reverse=right is None)


def _elementwise(node: ir.Node, x: ir.Value, number: Array, *, reverse: bool) -> Affine | None:
    """Reverse: the constant stands first."""
    if node.op_type == "Mul":
        return Affine(node, x, number, _ZERO)
    if node.op_type == "Add":
        return Affine(node, x, _ONE, number)
    if node.op_type == "Sub":
        return Affine(node, x, -_ONE, number) if reverse else Affine(node, x, _ONE, -number)
    if reverse or np.any(number == 0):
        return None
    return Affine(node, x, 1.0 / number, _ZERO)


def _batch_norm(node: ir.Node) -> Affine | None:
    """gamma·(x - mean)/√(var + ε) + beta, per channel, which is axis 1."""
    parameters = [constant(given(node, i)) for i in range(1, 5)]
    x, dims = node.inputs[0], rank(node.outputs[0])
    if x is None or dims is None or dims < 2 or any(p is None for p in parameters):
        return None
    if len(node.outputs) > 1 or node.attributes.get_int("training_mode", 0) != 0:
        return None
    gamma, beta, mean, variance = (p.astype(np.float64) for p in parameters if p is not None)
    scale = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    shape = (-1, *(1,) * (dims - 2))
    return Affine(node, x, scale.reshape(shape), (beta - mean * scale).reshape(shape))


def next_affine(value: ir.Value) -> Affine | None:
    """The affine node that alone uses the value, or None."""
    user = sole_user(value)
    found = affine(user) if user is not None else None
    return found if found is not None and found.x is value else None


def source(item: Affine) -> ir.Value:
    """The varying input as it is now: ``x`` is what it was when the node was looked at."""
    first, second = item.node.inputs[0], item.node.inputs[1]
    value = first if constant(first) is None else second
    assert value is not None
    return value
