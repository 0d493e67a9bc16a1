"""Reading elementwise arithmetic as a polynomial in one value, so that its many spellings compare equal.

0.5·x, x/2 and x·0.5 are the same polynomial; so are x·(c·x) and c·x². Exporters differ in how they spell an
activation function, not in which function it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isclose
from typing import TypeAlias

import onnx_ir as ir

from hasten.graph.editor import fits
from hasten.graph.reading import constant, given, scalar, sole_user

Polynomial: TypeAlias = Mapping[int, float]
"""Degree to coefficient."""

TOLERANCE = 1e-5
"""Relative; exporters round constants such as √(2/π) to 6 digits or more."""
_DEEPEST = 8
_HIGHEST = 6


def polynomial(value: ir.Value | None, x: ir.Value, depth: int = _DEEPEST) -> Polynomial | None:
    """The value as a polynomial in x, or None where it is none."""
    if value is x:
        return {1: 1.0}
    number = scalar(value)
    if number is not None:
        array = constant(value)
        return {0: number} if array is not None and fits(array.shape, x) else None
    node = value.producer() if value is not None else None
    return None if node is None or node.domain or depth == 0 else _of_node(node, x, depth - 1)


def _of_node(node: ir.Node, x: ir.Value, depth: int) -> Polynomial | None:
    if node.op_type == "Pow":
        return _power(polynomial(node.inputs[0], x, depth), scalar(given(node, 1)))
    if node.op_type not in {"Add", "Sub", "Mul", "Div"}:
        return None
    left, right = (polynomial(given(node, i), x, depth) for i in (0, 1))
    return None if left is None or right is None else _combined(node.op_type, left, right)


def _combined(operator: str, left: Polynomial, right: Polynomial) -> Polynomial | None:
    if operator == "Mul":
        return times(left, right)
    if operator == "Div":
        divisor = right.get(0, 0.0)
        return times(left, {0: 1.0 / divisor}) if set(right) == {0} and divisor else None
    sign = 1.0 if operator == "Add" else -1.0
    return {k: left.get(k, 0.0) + sign * right.get(k, 0.0) for k in {*left, *right}}


def _power(base: Polynomial | None, exponent: float | None) -> Polynomial | None:
    if base is None or exponent not in {1.0, 2.0, 3.0}:
        return None
    found: Polynomial | None = base
    for _ in range(int(exponent or 1) - 1):
        found = times(found, base) if found is not None else None
    return found


def times(left: Polynomial, right: Polynomial) -> Polynomial | None:
    """The product; None where its degree exceeds what an activation function has."""
    found: dict[int, float] = {}
    for i, a in left.items():
        for j, b in right.items():
            found[i + j] = found.get(i + j, 0.0) + a * b
    return found if max(found) <= _HIGHEST else None


def same(left: Polynomial | None, right: Polynomial) -> bool:
    """Whether both are equal, to the digits exporters write."""
    if left is None:
        return False
    degrees = {*left, *right}
    largest = max(abs(c) for c in right.values())
    return all(
        isclose(left.get(k, 0.0), right.get(k, 0.0), rel_tol=TOLERANCE, abs_tol=TOLERANCE * largest * 1e-3)
        for k in degrees
    )


def variables(value: ir.Value | None) -> list[ir.Value]:
    """Values in which this one may be a polynomial: itself and what its arithmetic starts from."""
    found: dict[ir.Value, None] = {}
    level = [value]
    for _ in range(_DEEPEST):
        fresh = [v for v in level if v is not None and v not in found and constant(v) is None]
        found.update(dict.fromkeys(fresh))
        nodes = [node for v in fresh if (node := v.producer()) is not None and not node.domain]
        level = [v for n in nodes if n.op_type in {"Add", "Sub", "Mul", "Div", "Pow"} for v in n.inputs[:2]]
    return list(found)


def gated(value: ir.Value, x: ir.Value, wanted: Polynomial) -> ir.Node | None:
    """The node behind ``value`` at which it has been multiplied by exactly that polynomial in x, or None.

    Walks over multiplications (and divisions by constants) that alone use the value.
    """
    found: Polynomial = {0: 1.0}
    for _ in range(3):
        node = sole_user(value)
        if node is None or node.domain or node.op_type not in {"Mul", "Div"}:
            return None
        first = node.inputs[0] is value
        if node.op_type == "Div" and not first:
            return None
        other = polynomial(given(node, 1 if first else 0), x)
        combined = None if other is None else _combined(node.op_type, found, other)
        if combined is None:
            return None
        if same(combined, wanted):
            return node
        found, value = combined, node.outputs[0]
    return None
