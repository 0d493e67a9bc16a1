"""Changes of element type: Cast, CastLike, BitCast; and values as they are: Constant, Identity."""

from __future__ import annotations

from typing import cast as typed

import onnx_ir as ir
import torch
from torch import Tensor

from hasten.bridge.conversion import NARROW_BITS, RoundMode, conversion
from hasten.bridge.dtypes import CARRIERS, carrier
from hasten.bridge.operator import Call, Function, operator


def _conversion(call: Call, dtype: ir.DataType) -> Function:
    round_mode = call.text("round_mode", "up")
    if round_mode not in ("up", "down", "nearest"):
        raise call.wrong(f"has an unknown round_mode {round_mode!r}")
    return conversion(dtype, bool(call.integer("saturate", 1)), typed("RoundMode", round_mode))


@operator("Cast")
def cast(call: Call) -> Function:
    """Conversion to the element type ``to``."""
    return _conversion(call, ir.DataType(call.integer("to")))


@operator("CastLike")
def cast_like(call: Call) -> Function:
    """Conversion to the element type of the second input."""
    known = call.dtypes[1] or call.output_dtypes[0]
    if known is not None:
        convert = _conversion(call, known)
        return lambda x, _: convert(x)
    # A type of less than a byte shares its carrier with the wider type that is meant more often.
    by_carrier = {carried: dtype for dtype, carried in CARRIERS.items() if dtype.bitwidth >= 8}
    return lambda x, like: _conversion(call, by_carrier[like.dtype])(x)


@operator("BitCast")
def bit_cast(call: Call) -> Function:
    """The same bits as another element type of the same width."""
    dtype = ir.DataType(call.integer("to"))
    if dtype in NARROW_BITS:
        return conversion(dtype)
    if dtype == ir.DataType.FLOAT4E2M1 or call.dtypes[0] == ir.DataType.FLOAT4E2M1:
        raise call.wrong("reads the bits of 4-bit floats, which torch does not have")
    target = carrier(dtype)

    def run(x: Tensor) -> Tensor:
        # torch views a byte as a truth value only by way of the number.
        return x.view(torch.uint8).to(torch.bool) if target == torch.bool else x.view(target)

    return run


@operator("Identity")
def identity(call: Call) -> Function:
    """The value itself, whatever it is."""
    return lambda x: x


@operator("Constant")
def constant(call: Call) -> Function:
    """A value stored in the node, where it was not lifted to the weights."""
    if call.given("value"):
        value = call.tensor("value")
    elif call.given("value_float"):
        value = torch.tensor(call.real("value_float"), dtype=torch.float32)
    elif call.given("value_floats"):
        value = torch.tensor(call.reals("value_floats"), dtype=torch.float32)
    elif call.given("value_int"):
        value = torch.tensor(call.integer("value_int"), dtype=torch.int64)
    elif call.given("value_ints"):
        value = torch.tensor(call.integers("value_ints"), dtype=torch.int64)
    else:
        raise call.wrong("holds neither a dense tensor nor numbers")
    return lambda: value
