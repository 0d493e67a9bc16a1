"""Inputs that are read as Python integers: shapes, axes, counts.

What is known at compile time is read then; what is not is read from a tensor on the CPU at every step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from hasten.bridge.operator import Call

Integers = tuple[int, ...]


def read(tensor: Tensor) -> Integers:
    """The elements of a tensor of integers, whatever its shape."""
    return tuple(int(v) for v in tensor.reshape(-1).tolist())


def known(call: Call, index: int) -> Integers | None:
    """The elements of an input if they are known at compile time."""
    value = call.constant(index)
    return None if value is None else tuple(int(v) for v in value.reshape(-1))


def one(call: Call, index: int) -> int | None:
    """The one element of an input if it is known at compile time."""
    value = known(call, index)
    return None if value is None else value[0]


def reader(call: Call, index: int) -> Callable[[Any], Integers]:
    """A function from an input's tensor to its elements, which does not look at the tensor if it need not."""
    value = known(call, index)
    if value is None:
        return read
    return lambda _: value


def attribute_or_input(call: Call, name: str, index: int, since: int) -> Integers | None:
    """Integers that were an attribute before version ``since`` and are an input from then on.

    None when they are absent or not known at compile time.
    """
    if call.version >= since:
        return known(call, index)
    return call.integers(name) if call.given(name) else None


def wrapped(axis: int, rank: int) -> int:
    """An axis counted from the front."""
    return axis + rank if axis < 0 else axis
