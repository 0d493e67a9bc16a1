"""Comparisons, truth values, bits, and choices between tensors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from hasten.bridge import unsigned
from hasten.bridge.operator import Call, Function, operator
from hasten.bridge.unsigned import UNSIGNED, as_bits, from_bits, through_bits, through_order

_LOGIC: dict[str, Callable[..., Tensor]] = {
    "And": torch.logical_and,
    "Equal": torch.eq,
    "IsNaN": torch.isnan,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "Where": torch.where,
}

_ORDER: dict[str, Callable[..., Tensor]] = {
    "Greater": through_order(torch.gt),
    "GreaterOrEqual": through_order(torch.ge),
    "Less": through_order(torch.lt),
    "LessOrEqual": through_order(torch.le),
}

_BITS: dict[str, Callable[..., Tensor]] = {
    "BitwiseAnd": through_bits(torch.bitwise_and),
    "BitwiseNot": through_bits(torch.bitwise_not),
    "BitwiseOr": through_bits(torch.bitwise_or),
    "BitwiseXor": through_bits(torch.bitwise_xor),
}


@operator(*_LOGIC, *_ORDER, *_BITS)
def logic(call: Call) -> Function:
    """Operators that torch has under a like name."""
    return (_LOGIC | _ORDER | _BITS)[call.op_type]


@operator("IsInf")
def is_inf(call: Call) -> Function:
    """Whether an element is +∞ or -∞; attributes may leave one of them out."""
    negative, positive = bool(call.integer("detect_negative", 1)), bool(call.integer("detect_positive", 1))
    if negative and positive:
        return torch.isinf
    if positive:
        return torch.isposinf
    return torch.isneginf if negative else lambda x: torch.zeros_like(x, dtype=torch.bool)


@operator("BitShift")
def bit_shift(call: Call) -> Function:
    """Bits moved left or right; a count outside the width leaves nothing but copies of the sign."""
    left = call.text("direction") == "LEFT"

    def run(x: Tensor, count: Tensor) -> Tensor:
        width = 8 * x.element_size()
        if x.dtype in UNSIGNED:
            if not left:
                return unsigned.shift_right(x, count)
            bits, n = as_bits(x), as_bits(count)
            return from_bits(torch.where((n < 0) | (n >= width), 0, bits << n.clamp(0, 63)), x.dtype)
        outside = (count < 0) | (count >= width)
        n = torch.where(outside, width - 1, count)
        if left:
            return torch.where(outside, 0, torch.bitwise_left_shift(x, n))
        shifted = torch.bitwise_right_shift(x, n)
        # Unsigned bytes have no sign to copy: width - 1 places would leave their top bit.
        return torch.where(outside, 0, shifted) if x.dtype == torch.uint8 else shifted

    return run


@operator("Clip")
def clip_by_attributes(call: Call) -> Function:
    """Bounds as attributes, before version 11."""
    low = call.real("min") if call.given("min") else None
    high = call.real("max") if call.given("max") else None
    if low is None and high is None:
        return lambda x: x
    clamp = _clamp(low, high)
    return lambda x: clamp(x, low, high)


@operator("Clip", since=11)
def clip(call: Call) -> Function:
    """Bounds as inputs; where they cross, the upper one wins."""
    if not call.has(1) and not call.has(2):
        return lambda x, *_: x
    bounds = [_number(call.constant(i)) for i in (1, 2)]
    if all(known is not None for known, i in zip(bounds, (1, 2), strict=True) if call.has(i)):
        low, high = bounds
        clamp = _clamp(low, high)

        def fixed(x: Tensor, *_: Tensor | None) -> Tensor:
            return clip_tensors(x, *_) if x.dtype in UNSIGNED else clamp(x, low, high)

        return fixed
    return clip_tensors


def _clamp(low: float | None, high: float | None) -> Callable[..., Tensor]:
    """The function that clips to two numbers; between floats in order, the one with the faster way back."""
    ordered = isinstance(low, float) and isinstance(high, float) and low <= high
    return torch.nn.functional.hardtanh if ordered else torch.clamp


def clip_tensors(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Clip to bounds that are tensors."""
    if low is not None:
        x = through_order(torch.maximum)(x, low)
    return x if high is None else through_order(torch.minimum)(x, high)


def _number(array: np.ndarray | None) -> float | int | None:
    return None if array is None else array.reshape(-1)[0].item()
