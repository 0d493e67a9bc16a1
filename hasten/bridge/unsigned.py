"""Exact arithmetic of uint16, uint32 and uint64, for which torch stores tensors but has few kernels.

Two views of such a tensor as int64 cover nearly every operator. Sums, differences, products and bits agree
modulo 2⁶⁴ whatever the sign says (``as_bits``); order is kept by flipping the top bit (``as_ordered``).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

UNSIGNED = frozenset({torch.uint16, torch.uint32, torch.uint64})
_TOP = torch.iinfo(torch.int64).min


def as_bits(x: Tensor) -> Tensor:
    """An int64 tensor equal to x modulo 2⁶⁴; other dtypes come back as they are."""
    if x.dtype == torch.uint64:
        return x.view(torch.int64)
    return x.to(torch.int64) if x.dtype in UNSIGNED else x


def from_bits(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse of ``as_bits``: x modulo the width of the unsigned dtype."""
    if dtype == torch.uint64:
        return x.view(torch.uint64) if x.dtype == torch.int64 else x
    return x.to(dtype)


def as_ordered(x: Tensor) -> Tensor:
    """An int64 tensor in the same order as x; other dtypes come back as they are."""
    return as_bits(x) ^ _TOP if x.dtype == torch.uint64 else as_bits(x)


def from_ordered(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse of ``as_ordered``."""
    return (x ^ _TOP).view(torch.uint64) if dtype == torch.uint64 else x.to(dtype)


def through_bits(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function of one or two tensors that holds modulo 2⁶⁴, for every dtype of the first."""

    def run(x: Tensor, *others: Tensor) -> Tensor:
        if x.dtype not in UNSIGNED:
            return function(x, *others)
        return from_bits(function(as_bits(x), *(as_bits(y) for y in others)), x.dtype)

    return run


def through_order(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function of tensors that selects or compares by order alone, for every dtype of the first."""

    def run(x: Tensor, *others: Tensor) -> Tensor:
        if x.dtype not in UNSIGNED:
            return function(x, *others)
        found = function(as_ordered(x), *(as_ordered(y) for y in others))
        return found if found.dtype == torch.bool else from_ordered(found, x.dtype)

    return run


def divide(a: Tensor, b: Tensor) -> Tensor:
    """Quotient of two unsigned tensors, rounded down.

    The 64-bit case divides half of a by b, doubles, and corrects by at most one ("Hacker's Delight", 9-3).
    """
    dtype = a.dtype
    if dtype != torch.uint64:
        return from_bits(torch.div(as_bits(a), as_bits(b), rounding_mode="floor"), dtype)
    x, y = a.view(torch.int64), b.view(torch.int64)
    half = (x >> 1) & ~_TOP
    quotient = torch.div(half, torch.where(y < 0, 1, y), rounding_mode="floor") << 1
    quotient = quotient + _at_least(x - quotient * y, y)
    return torch.where(y < 0, _at_least(x, y).to(torch.int64), quotient).view(torch.uint64)


def remainder(a: Tensor, b: Tensor) -> Tensor:
    """What ``divide`` leaves."""
    return from_bits(as_bits(a) - as_bits(divide(a, b)) * as_bits(b), a.dtype)


def shift_right(x: Tensor, count: Tensor) -> Tensor:
    """Each element of x moved right by count bits, zeros moving in."""
    if x.dtype != torch.uint64:
        return from_bits(as_bits(x) >> as_bits(count).clamp(max=63), x.dtype)
    bits, n = x.view(torch.int64), count.view(torch.int64)
    moved = ((bits >> 1) & ~_TOP) >> (n - 1).clamp(0, 62)
    return torch.where(n == 0, bits, torch.where((n < 0) | (n > 63), 0, moved)).view(torch.uint64)


def _at_least(x: Tensor, y: Tensor) -> Tensor:
    """Whether x ≥ y, both bits of unsigned numbers."""
    return (x ^ _TOP) >= (y ^ _TOP)
