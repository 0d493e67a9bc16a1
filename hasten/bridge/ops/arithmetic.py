"""Elementwise arithmetic of one, two or many tensors, with numpy's broadcasting."""

from __future__ import annotations

import functools
from collections.abc import Callable

import onnx_ir as ir
import torch
from torch import Tensor

from hasten.bridge import unsigned
from hasten.bridge.operator import Call, Function, operator
from hasten.bridge.unsigned import UNSIGNED, through_bits, through_order

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Log": torch.log,
    "Neg": torch.neg,
    "Reciprocal": torch.reciprocal,
    "Round": torch.round,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}

_MODULAR: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "Mul": torch.mul,
    "Sub": torch.sub,
}

_VARIADIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Max": through_order(torch.maximum),
    "Min": through_order(torch.minimum),
    "Sum": torch.add,
}


def is_float(call: Call) -> bool:
    """Whether the first input is known to hold floats."""
    return call.dtypes[0] in FLOATS


@operator(*_UNARY)
def unary(call: Call) -> Function:
    """Operators of one input that torch has under their own name (Round: halves to the even neighbour)."""
    return _UNARY[call.op_type]


@operator("Abs")
def absolute(call: Call) -> Function:
    """|x|, which for unsigned integers is x."""
    if is_float(call):
        return torch.abs
    return lambda x: x if x.dtype in UNSIGNED else torch.abs(x)


@operator("Sign")
def sign(call: Call) -> Function:
    """-1, 0 or 1."""
    if is_float(call):
        return torch.sign
    return lambda x: (x != 0).to(x.dtype) if x.dtype in UNSIGNED else torch.sign(x)


@operator("Erf")
def erf(call: Call) -> Function:
    """The error function; integers are rounded towards zero."""
    return torch.erf if is_float(call) else lambda x: torch.erf(x).to(x.dtype)


@operator(*_MODULAR)
def binary(call: Call) -> Function:
    """Sum, difference, product; integers wrap around."""
    function = _MODULAR[call.op_type]
    return function if is_float(call) else through_bits(function)


@operator("Div")
def divide(call: Call) -> Function:
    """Quotient; of integers rounded towards zero, as in C."""
    if is_float(call):
        return torch.div

    def run(a: Tensor, b: Tensor) -> Tensor:
        if a.dtype.is_floating_point:
            return torch.div(a, b)
        return unsigned.divide(a, b) if a.dtype in UNSIGNED else torch.div(a, b, rounding_mode="trunc")

    return run


@operator("Mod")
def modulo(call: Call) -> Function:
    """Remainder with the sign of the divisor, or with that of the dividend where ``fmod`` is set."""
    function = torch.fmod if call.integer("fmod", 0) else torch.remainder

    def run(a: Tensor, b: Tensor) -> Tensor:
        return unsigned.remainder(a, b) if a.dtype in UNSIGNED else function(a, b)

    return run


@operator("Pow")
def power(call: Call) -> Function:
    """The base to the exponent, in the base's dtype."""
    exponent = call.constant(1)
    fixed = float(exponent) if exponent is not None and exponent.ndim == 0 else None

    def run(x: Tensor, y: Tensor) -> Tensor:
        if x.dtype.is_floating_point:
            # torch has short ways for a number such as 2 or 0.5.
            return torch.pow(x, y).to(x.dtype) if fixed is None else torch.pow(x, fixed)
        if y.dtype.is_floating_point:
            return torch.pow(x.to(torch.float64), y).to(x.dtype)
        return unsigned.from_bits(torch.pow(unsigned.as_bits(x), unsigned.as_bits(y)), x.dtype)

    return run


@operator(*_VARIADIC)
def variadic(call: Call) -> Function:
    """Maximum, minimum or sum of any number of tensors."""
    function = _VARIADIC[call.op_type]
    if len(call.present) == 2:
        return function
    return lambda *given: functools.reduce(function, given)


@operator("Mean")
def mean(call: Call) -> Function:
    """Mean of any number of tensors."""
    count = len(call.present)
    return lambda *given: functools.reduce(torch.add, given) / count
