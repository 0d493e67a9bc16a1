"""Elements put where their index says."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hasten.bridge.operator import Call, Function, operator
from hasten.bridge.ops.gather import from_front
from hasten.bridge.ops.integers import wrapped
from hasten.bridge.unsigned import through_bits, through_order

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _reduction(call: Call) -> str | None:
    """Torch's name of the reduction; None when later elements replace earlier ones."""
    name = call.text("reduction", "none")
    if name == "none":
        return None
    if name not in _REDUCTIONS:
        raise call.wrong(f"has the reduction {name!r}; there are none, {', '.join(_REDUCTIONS)}")
    return _REDUCTIONS[name]


def _for_unsigned(function: Function, reduction: str | None) -> Function:
    """The function for unsigned integers too, by their bits or by their order, as the reduction needs."""
    return through_order(function) if reduction in ("amax", "amin") else through_bits(function)


def _alike(x: Tensor, updates: Tensor) -> tuple[Tensor, Tensor]:
    """Both in one precision, which those of a graph have; but mixed precision computes one in less."""
    wide = torch.promote_types(x.dtype, updates.dtype)
    return x.to(wide), updates.to(wide)


@operator("Scatter", "ScatterElements")
def scatter_elements(call: Call) -> Function:
    """The input with an update at every index along one axis, alone or reduced with what is there."""
    axis = call.integer("axis", 0)
    reduction = _reduction(call)

    def run(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        places = from_front(indices, x.shape[axis])
        x, updates = _alike(x, updates)
        if reduction is None:
            return x.scatter(axis, places, updates)
        return x.scatter_reduce(axis, places, updates, reduction)

    return _for_unsigned(run, reduction)


@operator("ScatterND")
def scatter_nd(call: Call) -> Function:
    """The input with an update at every index tuple (the last axis of the indices)."""
    reduction = _reduction(call)
    if reduction in (None, "sum"):
        adds = reduction == "sum"

        def put(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
            x, updates = _alike(x, updates)
            return x.index_put(indices.long().unbind(-1), updates, accumulate=adds)

        return through_bits(put)

    def run(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        x, updates = _alike(x, updates)
        depth = indices.shape[-1]
        strides = [math.prod(x.shape[i + 1 : depth]) for i in range(depth)]
        row = sum(from_front(part, x.shape[i]) * strides[i] for i, part in enumerate(indices.unbind(-1)))
        assert isinstance(row, Tensor)
        flat = x.reshape(math.prod(x.shape[:depth]), -1)
        chosen = row.reshape(-1, 1).expand(-1, flat.shape[1])
        return flat.scatter_reduce(0, chosen, updates.reshape(chosen.shape), str(reduction)).reshape(x.shape)

    return _for_unsigned(run, reduction)


@operator("TensorScatter")
def tensor_scatter(call: Call) -> Function:
    """A cache with an update written from each batch entry's index on; around its end when circular."""
    axis, circular = call.integer("axis", -2), call.text("mode", "linear") == "circular"

    def run(cache: Tensor, update: Tensor, starts: Tensor | None = None) -> Tensor:
        cache, update = _alike(cache, update)
        place = wrapped(axis, cache.dim())
        step = torch.arange(update.shape[place], device=cache.device)
        first = starts.to(cache.device) if starts is not None else step.new_zeros(cache.shape[0])
        target = first.unsqueeze(1) + step
        target = target.remainder(cache.shape[place]) if circular else target
        shape = [1] * cache.dim()
        shape[0], shape[place] = target.shape
        return cache.scatter(place, target.reshape(shape).expand_as(update), update)

    return through_bits(run)
