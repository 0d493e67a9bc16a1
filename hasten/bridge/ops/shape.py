"""The shape of tensors: asking for it, changing it without moving an element."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hasten.bridge.operator import Call, Function, operator
from hasten.bridge.ops.integers import Integers, attribute_or_input, read, reader, wrapped
from hasten.bridge.unsigned import as_bits, from_bits, through_bits


@operator("Shape")
def shape(call: Call) -> Function:
    """The sizes of the axes from ``start`` to ``end``, counted and clamped as a Python slice does."""
    part = slice(call.integer("start", 0), call.integer("end") if call.given("end") else None)
    return lambda x: torch.tensor(x.shape[part], dtype=torch.int64)


@operator("Size")
def size(call: Call) -> Function:
    """The number of elements."""
    return lambda x: torch.tensor(x.numel(), dtype=torch.int64)


@operator("Reshape", host=(1,))
def reshape(call: Call) -> Function:
    """The elements in another shape; -1 is what is left, 0 the input's size there unless ``allowzero``."""
    copies_zeros = not call.integer("allowzero", 0)
    target_of = reader(call, 1)

    def run(x: Tensor, target: Tensor) -> Tensor:
        sizes = target_of(target)
        if copies_zeros and 0 in sizes:
            sizes = tuple(x.shape[i] if n == 0 else n for i, n in enumerate(sizes))
        if -1 in sizes and 0 in sizes:
            # Torch cannot tell the size of -1 beside an axis of size zero.
            rest = math.prod(n for n in sizes if n > 0)
            there = math.prod(n for n in x.shape if n > 0)
            sizes = tuple(max(there // rest, 1) if n == -1 else n for n in sizes)
        return x.reshape(sizes)

    return run


@operator("Flatten")
def flatten(call: Call) -> Function:
    """A matrix: the axes before ``axis`` joined to rows, the others to columns."""
    axis = call.integer("axis", 1)

    def run(x: Tensor) -> Tensor:
        sizes = x.shape
        return x.reshape(math.prod(sizes[:axis]), math.prod(sizes[axis:]))

    return run


@operator("Squeeze", host=(1,))
def squeeze(call: Call) -> Function:
    """Without the axes of size one that are named, or without all of them."""
    if not (call.has(1) if call.version >= 13 else call.given("axes")):
        return torch.squeeze
    axes = attribute_or_input(call, "axes", 1, since=13)
    if axes is None:
        return lambda x, places: x.squeeze(read(places))
    return lambda x, places=None: x.squeeze(axes)


@operator("Unsqueeze", host=(1,))
def unsqueeze(call: Call) -> Function:
    """With axes of size one at the places named, counted in the result."""
    axes = attribute_or_input(call, "axes", 1, since=13)
    if axes is not None and len(axes) == 1:
        axis = axes[0]
        return lambda x, places=None: x.unsqueeze(axis)

    def run(x: Tensor, places: Tensor | None = None) -> Tensor:
        new = axes if places is None or axes is not None else read(places)
        assert new is not None  # the attribute is required where there is no input
        rank = x.dim() + len(new)
        for axis in sorted(wrapped(a, rank) for a in new):
            x = x.unsqueeze(axis)
        return x

    return run


@operator("Transpose")
def transpose(call: Call) -> Function:
    """The axes in another order; reversed unless ``perm`` says otherwise."""
    if not call.given("perm"):
        return lambda x: x.permute(tuple(range(x.dim() - 1, -1, -1)))
    order = call.integers("perm")
    return lambda x: x.permute(order)


@operator("Expand", host=(1,))
def expand(call: Call) -> Function:
    """Repeated along axes of size one; the input and the given shape are broadcast both ways."""
    target_of = reader(call, 1)

    def run(x: Tensor, target: Tensor) -> Tensor:
        sizes = target_of(target)
        both = max(len(sizes), x.dim())
        given = (1,) * (both - len(sizes)) + sizes
        there = (1,) * (both - x.dim()) + tuple(x.shape)
        return x.expand([n if m == 1 else m for n, m in zip(given, there, strict=True)])

    return run


@operator("Tile", host=(1,))
def tile(call: Call) -> Function:
    """Repeated along every axis."""
    counts_of = reader(call, 1)
    return lambda x, counts: x.repeat(counts_of(counts))


@operator("DepthToSpace")
def depth_to_space(call: Call) -> Function:
    """Channels to blocks of pixels; ``mode`` says which part of a channel's number is the block."""
    block = call.integer("blocksize")
    if call.text("mode", "DCR") == "CRD":
        return through_bits(lambda x: torch.pixel_shuffle(x, block))

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        parts = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
        return parts.reshape(n, c // block**2, h * block, w * block)

    return run


@operator("SpaceToDepth")
def space_to_depth(call: Call) -> Function:
    """Blocks of pixels to channels; the reverse of DepthToSpace in the same mode."""
    block = call.integer("blocksize")
    if call.text("mode", "DCR") == "CRD":
        return through_bits(lambda x: torch.pixel_unshuffle(x, block))

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        parts = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
        return parts.reshape(n, c * block**2, h // block, w // block)

    return run


@operator("ReverseSequence")
def reverse_sequence(call: Call) -> Function:
    """Along the time axis, the first ``lengths[b]`` steps of every batch entry in reverse order."""
    batch_axis, time_axis = call.integer("batch_axis", 1), call.integer("time_axis", 0)

    def run(x: Tensor, lengths: Tensor) -> Tensor:
        rows = x.movedim((time_axis, batch_axis), (0, 1))
        step = torch.arange(rows.shape[0], device=x.device).unsqueeze(1)
        source = torch.where(step < lengths, lengths - 1 - step, step)
        entry = torch.arange(rows.shape[1], device=x.device)
        return rows[source, entry].movedim((0, 1), (time_axis, batch_axis))

    return run


@operator("Trilu", host=(1,))
def trilu(call: Call) -> Function:
    """The upper or lower triangle of matrices, from the k-th diagonal on; zeros elsewhere."""
    keep = torch.triu if call.integer("upper", 1) else torch.tril
    if not call.has(1):
        return through_bits(keep)
    diagonal_of = reader(call, 1)

    def run(x: Tensor, diagonal: Tensor) -> Tensor:
        # Torch's diagonal has 32 bits; beyond the matrix all are the same.
        bound = max(x.shape[-2:]) + 1
        k = min(max(diagonal_of(diagonal)[0], -bound), bound)
        return from_bits(keep(as_bits(x), k), x.dtype)

    return run


@operator("CenterCropPad", host=(1,))
def center_crop_pad(call: Call) -> Function:
    """The middle of the input, or the input in the middle of zeros, axis by axis; odd ones lean left."""
    sizes_of = reader(call, 1)
    axes = call.integers("axes") if call.given("axes") else None

    def run(x: Tensor, sizes: Tensor) -> Tensor:
        pads = [0] * (2 * x.dim())
        for axis, wanted in zip(axes or range(x.dim()), sizes_of(sizes), strict=False):
            place, there = wrapped(axis, x.dim()), x.shape[axis]
            before = (wanted - there) // 2 if wanted > there else -((there - wanted) // 2)
            _put(pads, place, before, wanted - there - before)
        return torch.nn.functional.pad(x, pads)

    return run


def _put(pads: list[int], axis: int, before: int, after: int) -> None:
    """Enter an axis's padding in torch's order: the last axis first, before and after."""
    start = len(pads) - 2 * (axis + 1)
    pads[start : start + 2] = [before, after]


def torch_pads(before: Integers, after: Integers) -> list[int]:
    """Padding of every axis in torch's order."""
    pads = [0] * (2 * len(before))
    for axis, (left, right) in enumerate(zip(before, after, strict=True)):
        _put(pads, axis, left, right)
    return pads
