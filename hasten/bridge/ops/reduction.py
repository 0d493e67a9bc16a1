"""Reductions over axes, indices of extremes, running sums and products, and normalizations made of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hasten.bridge import unsigned
from hasten.bridge.operator import Call, Function, operator
from hasten.bridge.unsigned import UNSIGNED

Axes = tuple[int, ...]
Reducer = Callable[[Tensor, Axes, bool], Tensor]


def _sum(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    found = torch.sum(unsigned.as_bits(x), axes, keep, dtype=torch.int64 if x.dtype in UNSIGNED else x.dtype)
    return unsigned.from_bits(found, x.dtype)


def _mean(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    if x.is_floating_point():
        return torch.mean(x, axes, keep)
    # An integer's mean is its sum divided as integers are; int64 keeps narrow sums from wrapping.
    count = math.prod(x.shape[a] for a in axes)
    wide = torch.sum(unsigned.as_bits(x), axes, keep, dtype=torch.int64)
    return unsigned.from_bits(torch.div(wide, count, rounding_mode="trunc"), x.dtype)


def _product(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    found = unsigned.as_bits(x)
    for axis in sorted((a % x.dim() for a in axes), reverse=True):
        found = torch.prod(found, axis, keep, dtype=found.dtype)
    return unsigned.from_bits(found, x.dtype)


def _extreme(function: Callable[..., Tensor], sign: int) -> Reducer:
    def reduce(x: Tensor, axes: Axes, keep: bool) -> Tensor:
        if x.numel() == 0:
            return _extreme_of_nothing(x, axes, keep, sign)
        return unsigned.from_ordered(function(unsigned.as_ordered(x), axes, keep), x.dtype)

    def plain(x: Tensor, axes: Axes, keep: bool) -> Tensor:
        return reduce(x, axes, keep) if x.dtype in UNSIGNED or not x.numel() else function(x, axes, keep)

    return plain


def _extreme_of_nothing(x: Tensor, axes: Axes, keep: bool, sign: int) -> Tensor:
    """The neutral element of max (sign -1) or min (sign 1) in the shape that the reduction leaves."""
    if x.dtype.is_floating_point:
        value: float | bool = sign * math.inf
    elif x.dtype == torch.bool:
        value = sign > 0
    else:
        limits = torch.iinfo(x.dtype)
        value = limits.max if sign > 0 else limits.min
    shape = torch.sum(torch.empty(x.shape, device="meta"), axes, keep).shape
    return torch.full(shape, value, dtype=x.dtype, device=x.device)


def _in_floats(function: Reducer) -> Reducer:
    """A reduction by real numbers, of integers too."""

    def reduce(x: Tensor, axes: Axes, keep: bool) -> Tensor:
        if x.is_floating_point():
            return function(x, axes, keep)
        return function(x.to(torch.float64), axes, keep).to(x.dtype)

    return reduce


_REDUCERS: dict[str, Reducer] = {
    "ReduceL1": lambda x, axes, keep: _sum(x if x.dtype in UNSIGNED else x.abs(), axes, keep),
    "ReduceL2": _in_floats(lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep)),
    "ReduceLogSum": _in_floats(lambda x, axes, keep: torch.log(torch.sum(x, axes, keep))),
    "ReduceLogSumExp": _in_floats(torch.logsumexp),
    "ReduceMax": _extreme(torch.amax, -1),
    "ReduceMean": _mean,
    "ReduceMin": _extreme(torch.amin, 1),
    "ReduceProd": _product,
    "ReduceSum": _sum,
    "ReduceSumSquare": lambda x, axes, keep: _sum(unsigned.through_bits(torch.square)(x), axes, keep),
}


@operator(*_REDUCERS)
def reduce_by_attribute(call: Call) -> Function:
    """Axes as an attribute, before version 18 (13 for ReduceSum)."""
    return _reduction(call, call.integers("axes", ()))


@operator("ReduceSum", since=13, host=(1,))
@operator(*_REDUCERS, since=18, host=(1,))
def reduce(call: Call) -> Function:
    """Axes as an optional input; none given means all, or none where ``noop_with_empty_axes`` is set."""
    known = call.constant(1)
    if known is None and call.has(1):
        return _reduction(call, None)
    return _reduction(call, () if known is None else tuple(known.reshape(-1).tolist()))


def _reduction(call: Call, known: Axes | None) -> Function:
    reducer, keep = _REDUCERS[call.op_type], bool(call.integer("keepdims", 1))
    nothing = bool(call.integer("noop_with_empty_axes", 0))
    if known:
        return lambda x, _=None: reducer(x, known, keep)

    def run(x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = tuple(axes.tolist()) if known is None and axes is not None else ()
        if not chosen and not nothing:
            chosen = tuple(range(x.dim()))
        # Reducing no axis still squares, takes logarithms and so on: a new axis of one element is reduced.
        return reducer(x, chosen, keep) if chosen else reducer(x.unsqueeze(-1), (x.dim(),), False)

    return run


@operator("ArgMax", "ArgMin")
def arg_extreme(call: Call) -> Function:
    """Index of the first, or the last, of the largest or smallest elements along an axis."""
    function = torch.argmax if call.op_type == "ArgMax" else torch.argmin
    axis, keep = call.integer("axis", 0), bool(call.integer("keepdims", 1))
    if not call.integer("select_last_index", 0):
        return lambda x: function(unsigned.as_ordered(x), axis, keep)
    return lambda x: x.shape[axis] - 1 - function(unsigned.as_ordered(x).flip(axis), axis, keep)


@operator("CumSum", "CumProd", host=(1,))
def cumulate(call: Call) -> Function:
    """Running sum or product along an axis; from its end, or without the element itself, where asked."""
    function, neutral = (torch.cumsum, 0) if call.op_type == "CumSum" else (torch.cumprod, 1)
    exclusive, backwards = bool(call.integer("exclusive", 0)), bool(call.integer("reverse", 0))
    known = call.constant(1)
    fixed = None if known is None else int(known.reshape(-1)[0])

    def run(x: Tensor, axis: Tensor) -> Tensor:
        d = int(axis) if fixed is None else fixed
        found = unsigned.as_bits(x)
        found = found.flip(d) if backwards else found
        if exclusive and found.shape[d]:
            first = torch.full_like(found.narrow(d, 0, 1), neutral)
            found = torch.cat((first, found.narrow(d, 0, found.shape[d] - 1)), d)
        found = function(found, d, dtype=found.dtype)
        return unsigned.from_bits(found.flip(d) if backwards else found, x.dtype)

    return run


@operator("LpNormalization")
def lp_normalization(call: Call) -> Function:
    """Each vector along an axis divided by its p-norm; zero vectors stay zero."""
    axis, p = call.integer("axis", -1), call.integer("p", 2)

    def run(x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
        return x / torch.where(norm == 0, 1, norm)

    return run


@operator("MeanVarianceNormalization")
def mean_variance_normalization(call: Call) -> Function:
    """(x - mean) / (deviation + 1e-9) over axes, by default all but the channels."""
    axes = call.integers("axes", (0, 2, 3))

    def run(x: Tensor) -> Tensor:
        centred = x - x.mean(axes, keepdim=True)
        count = math.prod(x.shape[a] for a in axes)
        # Not the root of a mean of squares: where all are alike, as behind a dead Relu, it has no derivative.
        deviation: Tensor = torch.linalg.vector_norm(centred, 2, axes, keepdim=True) / math.sqrt(count)
        return centred / (deviation + 1e-9)

    return run
