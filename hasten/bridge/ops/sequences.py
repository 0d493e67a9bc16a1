"""Sequences (lists of tensors) and optionals (a value or None)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hasten.bridge.operator import Call, Function, operator
from hasten.bridge.ops.integers import reader, wrapped


@operator("SequenceConstruct")
def construct(call: Call) -> Function:
    """A sequence of the inputs."""
    return lambda *values: list(values)


@operator("SequenceEmpty")
def empty(call: Call) -> Function:
    """A sequence of nothing."""
    return list


@operator("SequenceInsert", host=(2,))
def insert(call: Call) -> Function:
    """The sequence with a tensor before a position, or at the end."""
    place_of = reader(call, 2)

    def run(sequence: list[Any], value: Any, position: Tensor | None = None) -> list[Any]:
        place = len(sequence) if position is None else wrapped(place_of(position)[0], len(sequence))
        return [*sequence[:place], value, *sequence[place:]]

    return run


@operator("SequenceErase", host=(1,))
def erase(call: Call) -> Function:
    """The sequence without the tensor at a position, or without the last one."""
    place_of = reader(call, 1)

    def run(sequence: list[Any], position: Tensor | None = None) -> list[Any]:
        place = wrapped(-1 if position is None else place_of(position)[0], len(sequence))
        return [*sequence[:place], *sequence[place + 1 :]]

    return run


@operator("SequenceAt", host=(1,))
def at(call: Call) -> Function:
    """The tensor at a position, counted from the end where negative."""
    place_of = reader(call, 1)
    return lambda sequence, position: sequence[place_of(position)[0]]


@operator("SequenceLength")
def length(call: Call) -> Function:
    """The number of tensors."""
    return lambda sequence: torch.tensor(len(sequence), dtype=torch.int64)


@operator("SplitToSequence", host=(1,))
def split_to_sequence(call: Call) -> Function:
    """Pieces along an axis as a sequence: of given sizes, of one size, or single slices."""
    axis, keeps_axis = call.integer("axis", 0), bool(call.integer("keepdims", 1))
    sizes_of = reader(call, 1)

    def run(x: Tensor, split: Tensor | None = None) -> list[Tensor]:
        if split is None:
            return list(torch.split(x, 1, axis) if keeps_axis else x.unbind(axis))
        sizes = sizes_of(split)
        return list(torch.split(x, sizes[0] if split.dim() == 0 else list(sizes), axis))

    return run


@operator("ConcatFromSequence")
def concat_from_sequence(call: Call) -> Function:
    """The tensors of a sequence one after another along an axis, an old or a new one."""
    axis = call.integer("axis")
    join = torch.stack if call.integer("new_axis", 0) else torch.cat
    return lambda sequence: join(sequence, axis)


@operator("Optional", "OptionalGetElement")
def optional(call: Call) -> Function:
    """An optional is its value, or None."""
    return lambda value=None: value


@operator("OptionalHasElement")
def has_element(call: Call) -> Function:
    """Whether there is a value."""
    return lambda value=None: torch.tensor(value is not None)
