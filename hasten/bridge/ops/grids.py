"""Pictures sampled at given places, and pictures put together from patches."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hasten.bridge.operator import Call, Function, operator
from hasten.bridge.ops.integers import reader

_SAMPLING = {
    "linear": "bilinear",
    "bilinear": "bilinear",
    "cubic": "bicubic",
    "bicubic": "bicubic",
    "nearest": "nearest",
}


@operator("GridSample")
def grid_sample(call: Call) -> Function:
    """Samples of a picture (or volume) at the places a grid names, from -1 to 1 along each axis."""
    default = "linear" if call.version >= 20 else "bilinear"
    mode = call.text("mode", default)
    if mode not in _SAMPLING:
        raise call.wrong(f"has the mode {mode!r}; there are {', '.join(_SAMPLING)}")
    sampling, padding = _SAMPLING[mode], call.text("padding_mode", "zeros")
    corners = bool(call.integer("align_corners", 0))
    return lambda x, grid: functional.grid_sample(x, grid, sampling, padding, corners)


@operator("AffineGrid", host=(1,))
def affine_grid(call: Call) -> Function:
    """The grid that GridSample takes to transform a picture by the matrices theta."""
    corners = bool(call.integer("align_corners", 0))
    size_of = reader(call, 1)
    return lambda theta, size: functional.affine_grid(theta, list(size_of(size)), corners)


@operator("Col2Im", host=(1, 2))
def col2im(call: Call) -> Function:
    """Columns of patches back into a picture, where they overlap added up."""
    picture_of, block_of = reader(call, 1), reader(call, 2)

    def run(x: Tensor, picture: Tensor, block: Tensor) -> Tensor:
        sizes, kernel = picture_of(picture), block_of(block)
        rank = len(sizes)
        dilations, strides = call.integers("dilations", (1,) * rank), call.integers("strides", (1,) * rank)
        pads = call.integers("pads", (0,) * (2 * rank))
        if rank == 2 and pads[:2] == pads[2:]:
            return functional.fold(x, sizes, kernel, dilations, pads[:2], strides)
        before, after = pads[:rank], pads[rank:]
        padded = [n + b + a for n, b, a in zip(sizes, before, after, strict=True)]
        counts = [
            (n - d * (k - 1) - 1) // s + 1
            for n, k, d, s in zip(padded, kernel, dilations, strides, strict=True)
        ]
        n, c = x.shape[0], x.shape[1] // math.prod(kernel)
        patches = x.reshape(n, c, math.prod(kernel), *counts)
        whole = torch.zeros(n, c, *padded, dtype=x.dtype, device=x.device)
        for i, offset in enumerate(itertools.product(*map(range, kernel))):
            cut: tuple[Any, ...] = tuple(
                slice(o * d, o * d + s * (m - 1) + 1, s)
                for o, d, s, m in zip(offset, dilations, strides, counts, strict=True)
            )
            whole[(..., *cut)] += patches[:, :, i]
        inner: tuple[Any, ...] = tuple(slice(b, b + m) for b, m in zip(before, sizes, strict=True))
        return whole[(..., *inner)]

    return run
