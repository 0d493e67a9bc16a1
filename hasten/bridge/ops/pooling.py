"""Pools: MaxPool, AveragePool, LpPool, their global forms, MaxUnpool."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hasten.bridge.operator import Call, Function, operator
from hasten.bridge.ops.windows import Sizes, Window, pad

_MAX: dict[int, Callable[..., Any]] = {
    1: functional.max_pool1d,
    2: functional.max_pool2d,
    3: functional.max_pool3d,
}
_AVERAGE: dict[int, Callable[..., Tensor]] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}
_CONV: dict[int, Callable[..., Tensor]] = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}


def _pool_of(call: Call) -> tuple[Window, Sizes, Sizes, Sizes, Sizes | None]:
    """Window, kernel, strides, dilations, and the padding where torch's own pools take it.

    Torch pads both sides alike and by at most half the kernel.
    """
    window, kernel = Window.of(call), call.integers("kernel_shape")
    if len(kernel) not in _MAX:
        raise call.wrong(f"has {len(kernel)} spatial axes; torch pools over one to three")
    strides, dilations = window.over(len(kernel))
    padding = window.symmetric
    if padding == (0,):
        padding = (0,) * len(kernel)
    if padding is not None and any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        padding = None
    return window, kernel, strides, dilations, padding


@operator("MaxPool")
def max_pool(call: Call) -> Function:
    """Maximum of every window; the second output is where it lies in the flattened input."""
    window, kernel, strides, dilations, padding = _pool_of(call)
    rank, by_column = len(kernel), bool(call.integer("storage_order", 0))
    pool = _MAX[rank]
    indexed = len(call.wanted) > 1 and call.wanted[1]
    narrow = call.dtypes[0] is not None and call.dtypes[0].is_integer()
    if padding is not None and not indexed and not narrow:
        ceil = window.ceil
        return lambda x: pool(x, kernel, strides, padding, dilations, ceil)

    def run(x: Tensor) -> Any:
        # Torch pools few integers, on CUDA none; float32 holds all that ONNX allows here (int8, uint8).
        wide = x if x.is_floating_point() else x.to(torch.float32)
        before, after = window.padding(x.shape[2:], kernel)
        ends = tuple(a + h for a, h in zip(after, window.overhang(x.shape[2:], kernel), strict=True))
        padded = pad(wide, before, ends, -math.inf)
        found = pool(padded, kernel, strides, 0, dilations, False, indexed)
        if not indexed:
            return found.to(x.dtype)
        values, places = found
        return values.to(x.dtype), _unpadded(places, padded.shape[2:], x.shape, before, by_column)

    return run


def _unpadded(
    places: Tensor, padded: Sequence[int], shape: Sequence[int], before: Sizes, by_column: bool
) -> Tensor:
    """Positions in a padded channel as positions in the whole input (N, C, spatial axes)."""
    rest = places
    coordinates: list[Tensor] = []
    for size, start in zip(reversed(padded), reversed(before), strict=True):
        coordinates.insert(0, rest % size - start)
        rest = rest // size
    order = range(len(before))
    index = torch.zeros_like(places)
    for axis in reversed(order) if by_column else order:
        index = index * shape[2 + axis] + coordinates[axis]
    channels = torch.arange(shape[0] * shape[1], device=places.device) * math.prod(shape[2:])
    return index + channels.reshape(shape[0], shape[1], *(1,) * len(before))


@operator("AveragePool")
def average_pool(call: Call) -> Function:
    """Mean of every window, the padding counted or not."""
    window, kernel, strides, dilations, padding = _pool_of(call)
    counted = bool(call.integer("count_include_pad", 0))
    if padding is not None and set(dilations) == {1}:
        pool, ceil = _AVERAGE[len(kernel)], window.ceil
        return lambda x: pool(x, kernel, strides, padding, ceil, counted)
    sums = _window_sums(kernel, strides, dilations)

    def run(x: Tensor) -> Tensor:
        before, after = window.padding(x.shape[2:], kernel)
        hang = window.overhang(x.shape[2:], kernel)
        none = (0,) * len(kernel)
        real = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
        real = pad(pad(real, before, after, 1.0 if counted else 0.0), none, hang)
        return sums(pad(pad(x, before, after), none, hang)) / sums(real)

    return run


def _window_sums(kernel: Sizes, strides: Sizes, dilations: Sizes) -> Callable[[Tensor], Tensor]:
    """The sum of every window, without padding."""
    rank = len(kernel)
    if set(dilations) == {1}:
        pool, count = _AVERAGE[rank], math.prod(kernel)
        return lambda x: pool(x, kernel, strides) * count

    def run(x: Tensor) -> Tensor:
        ones = torch.ones((1, 1, *kernel), dtype=x.dtype, device=x.device)
        found = _CONV[rank](x.reshape(-1, 1, *x.shape[2:]), ones, None, strides, 0, dilations)
        return found.reshape(*x.shape[:2], *found.shape[2:])

    return run


@operator("LpPool")
def lp_pool(call: Call) -> Function:
    """The p-norm of every window: (sum |x|^p)^(1/p)."""
    window, kernel, strides, dilations, _ = _pool_of(call)
    power = call.integer("p", 2)
    sums = _window_sums(kernel, strides, dilations)

    def run(x: Tensor) -> Tensor:
        before, after = window.padding(x.shape[2:], kernel)
        ends = tuple(a + h for a, h in zip(after, window.overhang(x.shape[2:], kernel), strict=True))
        total = sums(pad(x.abs() ** power, before, ends))
        # The root has no slope at zero: windows of zeros take the value 0 and pass no gradient.
        empty = total <= 0
        return torch.where(empty, 0.0, torch.where(empty, 1.0, total) ** (1 / power)).to(x.dtype)

    return run


def _spatial(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.dim()))


@operator("GlobalAveragePool")
def global_average_pool(call: Call) -> Function:
    """Mean over all spatial axes."""
    return lambda x: x.mean(_spatial(x), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(call: Call) -> Function:
    """Maximum over all spatial axes."""
    return lambda x: x.amax(_spatial(x), keepdim=True)


@operator("GlobalLpPool")
def global_lp_pool(call: Call) -> Function:
    """The p-norm over all spatial axes."""
    power = call.integer("p", 2)
    return lambda x: torch.linalg.vector_norm(x, power, _spatial(x), keepdim=True)


@operator("MaxUnpool", host=(2,))
def max_unpool(call: Call) -> Function:
    """Values put back where MaxPool found them, zeros elsewhere; ``output_shape`` adds zeros at the ends."""
    kernel = call.integers("kernel_shape")
    rank = len(kernel)
    window = Window.of(call)
    strides, _ = window.over(rank)
    pads = window.pads or (0,) * (2 * rank)

    def run(x: Tensor, places: Tensor, shape: Tensor | None = None) -> Tensor:
        sizes = tuple(
            (n - 1) * s - b - e + k
            for n, s, b, e, k in zip(x.shape[2:], strides, pads[:rank], pads[rank:], kernel, strict=True)
        )
        inferred = (*x.shape[:2], *sizes)
        flat = torch.zeros(math.prod(inferred), dtype=x.dtype, device=x.device)
        y = flat.scatter(0, places.reshape(-1), x.reshape(-1)).reshape(inferred)
        if shape is None:
            return y
        ends = [int(wish) - n for wish, n in zip(shape.tolist(), inferred, strict=True)]
        return pad(y, [0] * len(ends), ends)

    return run
