"""Elements chosen by their index: gathering, compressing, one-hot rows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from hasten.bridge.operator import Call, Function, operator
from hasten.bridge.ops.integers import one, read, reader, wrapped
from hasten.bridge.unsigned import as_bits, as_ordered, through_bits


def from_front(indices: Tensor, size: int) -> Tensor:
    """Indices as int64, the negative ones counted from the end."""
    indices = indices.long()
    return torch.where(indices < 0, indices + size, indices)


@operator("Gather", host=(1,))
def gather(call: Call) -> Function:
    """Slices of the input at the given indices of one axis; the indices' shape takes the axis's place."""
    axis = call.integer("axis", 0)
    constant = call.constant(1)
    if constant is not None and constant.ndim == 0:
        index = int(constant)
        return lambda x, _: x.select(axis, index)

    def run(x: Tensor, indices: Tensor) -> Tensor:
        place = wrapped(axis, x.dim())
        chosen = from_front(indices.to(x.device), x.shape[place])
        if place == 0 and x.dim() == 2 and x.is_floating_point():
            return functional.embedding(chosen, x)
        found = x.index_select(place, chosen.reshape(-1))
        if chosen.dim() == 1:
            return found
        return found.reshape((*x.shape[:place], *chosen.shape, *x.shape[place + 1 :]))

    return run


@operator("GatherElements")
def gather_elements(call: Call) -> Function:
    """For every index, the element there along one axis."""
    axis = call.integer("axis", 0)
    return through_bits(lambda x, indices: x.gather(axis, from_front(indices, x.shape[axis])))


@operator("GatherND")
def gather_nd(call: Call) -> Function:
    """Slices at index tuples: the last axis of the indices, within each of the leading batch axes."""
    batch_axes = call.integer("batch_dims", 0)

    def run(x: Tensor, indices: Tensor) -> Tensor:
        batch = x.shape[:batch_axes]
        entry = [
            torch.arange(n, device=x.device).reshape(-1, *(1,) * (indices.dim() - 2 - i))
            for i, n in enumerate(batch)
        ]
        return x[(*entry, *indices.long().unbind(-1))]

    return run


@operator("Compress")
def compress(call: Call) -> Function:
    """The slices of an axis, or the elements, at which the condition holds."""
    axis = call.integer("axis") if call.given("axis") else None

    def run(x: Tensor, condition: Tensor) -> Tensor:
        chosen = condition.nonzero().squeeze(1)
        return x.reshape(-1)[chosen] if axis is None else x.index_select(axis, chosen)

    return run


@operator("NonZero")
def non_zero(call: Call) -> Function:
    """The indices of the elements that are not zero, one row for every axis."""
    return lambda x: as_bits(x).nonzero().t()


@operator("OneHot", host=(1,))
def one_hot(call: Call) -> Function:
    """A new axis with the "on" value at the index and the "off" value elsewhere."""
    axis = call.integer("axis", -1)
    depth_of = reader(call, 1)

    def run(indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
        count = depth_of(depth)[0]
        place = wrapped(axis, indices.dim() + 1)
        classes = torch.arange(count, device=indices.device)
        hit = from_front(indices, count).unsqueeze(place) == classes.reshape(
            -1, *(1,) * (indices.dim() - place)
        )
        values = values.to(indices.device)
        return torch.where(hit, values[1], values[0])

    return run


@operator("TopK", host=(1,))
def top_k(call: Call) -> Function:
    """The k largest (or smallest) elements along an axis and where they are; of equals the first ones."""
    axis = call.integer("axis", -1)
    largest = bool(call.integer("largest", 1))
    fixed = call.integer("k") if call.version < 10 else one(call, 1)

    pick = through_bits(lambda x, order: x.gather(axis, order))

    def run(x: Tensor, k: Tensor | None = None) -> tuple[Tensor, Tensor]:
        count = read(k)[0] if fixed is None and k is not None else fixed
        assert count is not None
        # Not torch.topk: which of equal elements it takes is not said.
        order = as_ordered(x.detach()).argsort(dim=axis, descending=largest, stable=True)
        order = order.narrow(axis, 0, count)
        return pick(x, order), order

    return run


@operator("Unique")
def unique(call: Call) -> Function:
    """The distinct elements (or slices of an axis), where each is first, which each is, and how many."""
    axis = call.integer("axis") if call.given("axis") else None
    in_order = bool(call.integer("sorted", 1))

    def run(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rows = x.reshape(-1) if axis is None else x
        place = 0 if axis is None else axis
        # Each row as its first equal: torch has the first of its kind only through the inverse.
        _, inverse, counts = torch.unique(rows.detach(), return_inverse=True, return_counts=True, dim=place)
        step = torch.arange(inverse.numel(), device=x.device)
        first = step.new_full(counts.shape, inverse.numel()).scatter_reduce(0, inverse, step, "amin")
        if not in_order:
            order = first.argsort()
            first, counts = first[order], counts[order]
            inverse = order.argsort()[inverse]
        return rows.index_select(place, first), first, inverse, counts

    return run
