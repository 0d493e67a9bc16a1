"""Convolutions: Conv, ConvTranspose, DeformConv, CausalConvWithState."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hasten.bridge.operator import Call, Function, operator
from hasten.bridge.ops.windows import Sizes, Window, pad


def _convolution(x: Tensor, w: Tensor, b: Tensor | None, *options: Any) -> Tensor:
    """Torch's convolution of whatever rank."""
    if x.dtype != w.dtype and x.device.type == "cpu":
        # Autocast leaves it as it is on a CPU, and another operator may have been computed in less precision.
        wide = torch.promote_types(x.dtype, w.dtype)
        x, w, b = x.to(wide), w.to(wide), None if b is None else b.to(wide)
    return torch.convolution(x, w, b, *options)


@operator("Conv")
def conv(call: Call) -> Function:
    """Convolution over one to three axes: y[m, i] = b[m] + sum over c, k of w[m, c, k] · x[c, s·i + d·k]."""
    window, groups = Window.of(call), call.integer("group", 1)
    strides, dilations = window.strides or (1,), window.dilations or (1,)
    padding = window.symmetric
    if padding is not None:
        # One number stands for all axes, so this serves every rank without asking at run time.
        return lambda x, w, b=None: _convolution(x, w, b, strides, padding, dilations, False, (0,), groups)

    def run(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        before, after = window.padding(x.shape[2:], w.shape[2:])
        if before == after and min(before) >= 0:
            return _convolution(x, w, b, strides, before, dilations, False, (0,), groups)
        return _convolution(pad(x, before, after), w, b, strides, (0,), dilations, False, (0,), groups)

    return run


@operator("ConvTranspose")
def conv_transpose(call: Call) -> Function:
    """Transposed convolution: the gradient of Conv with respect to its input, as a layer."""
    window, groups = Window.of(call), call.integer("group", 1)
    strides, dilations = window.strides or (1,), window.dilations or (1,)
    extra = call.integers("output_padding", ())
    wished = call.integers("output_shape", ())
    padding = window.symmetric
    if padding is not None and not wished and not any(extra):
        return lambda x, w, b=None: _convolution(x, w, b, strides, padding, dilations, True, (0,), groups)

    def run(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        full = _convolution(x, w, None, strides, (0,), dilations, True, (0,), groups)
        sizes = tuple(full.shape[2:])
        before, after = _cut(window, sizes, x.shape[2:], wished, extra or (0,) * len(sizes))
        y = pad(full, [-p for p in before], [-p for p in after])
        return y if b is None else y + b.reshape(-1, *(1,) * len(sizes))

    return run


def _cut(
    window: Window, sizes: Sizes, inputs: Sequence[int], wished: Sizes, extra: Sizes
) -> tuple[Sizes, Sizes]:
    """What is cut (negative: added) before and after each axis of the full result.

    total = stride·(input - 1) + output_padding + (kernel - 1)·dilation + 1 - output (ONNX, ConvTranspose).
    """
    rank = len(sizes)
    if window.is_fixed and not wished:
        pads = window.pads or (0,) * (2 * rank)
        return pads[:rank], tuple(p - e for p, e in zip(pads[rank:], extra, strict=True))
    strides, _ = window.over(rank)
    outputs = wished[-rank:] or tuple(n * s for n, s in zip(inputs, strides, strict=True))
    total = [max(0, f + e - o) for f, e, o in zip(sizes, extra, outputs, strict=True)]
    before = tuple(t // 2 if window.auto_pad == "SAME_UPPER" else t - t // 2 for t in total)
    after = tuple(f - b - o for f, b, o in zip(sizes, before, outputs, strict=True))
    return before, after


@operator("DeformConv")
def deform_conv(call: Call) -> Function:
    """Convolution whose every tap reads at a learned offset, interpolated linearly (Dai et al. 2017)."""
    window, groups = Window.of(call), call.integer("group", 1)
    offset_groups = call.integer("offset_group", 1)

    def run(
        x: Tensor, w: Tensor, offset: Tensor, b: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        kernel, outputs = tuple(w.shape[2:]), tuple(offset.shape[2:])
        rank, taps = len(kernel), w[0, 0].numel()
        count, channels = x.shape[:2]
        places = _tap_places(window, kernel, outputs, x)
        places = places + offset.reshape(count * offset_groups, taps, rank, *outputs)
        share = channels // offset_groups
        read = _interpolated(x.reshape(-1, share, *x.shape[2:]), places.transpose(1, 2).flatten(2))
        read = read.reshape(count, offset_groups, share, taps, -1)
        if mask is not None:
            read = read * mask.reshape(count, offset_groups, 1, taps, -1)
        columns = read.reshape(count, groups, channels // groups * taps, -1)
        y = (w.reshape(groups, w.shape[0] // groups, -1) @ columns).reshape(count, -1, *outputs)
        return y if b is None else y + b.reshape(-1, *(1,) * rank)

    return run


def _interpolated(x: Tensor, places: Tensor) -> Tensor:
    """Read (N, C, spatial axes) at positions (N, axes, P), linearly between neighbours; 0 outside."""
    sizes = x.shape[2:]
    low = places.floor()
    high_share = places - low
    flat, total = x.flatten(2), None
    for corner in itertools.product((0, 1), repeat=len(sizes)):
        index, weight = torch.zeros_like(low[:, 0], dtype=torch.int64), torch.ones_like(low[:, 0])
        for axis, (size, upper) in enumerate(zip(sizes, corner, strict=True)):
            at = low[:, axis].to(torch.int64) + upper
            share = high_share[:, axis] if upper else 1 - high_share[:, axis]
            weight = weight * share * ((at >= 0) & (at < size))
            index = index * size + at.clamp(0, size - 1)
        value = flat.gather(2, index[:, None].expand(-1, x.shape[1], -1)) * weight[:, None]
        total = value if total is None else total + value
    assert total is not None  # there is at least one corner
    return total


def _tap_places(window: Window, kernel: Sizes, outputs: Sizes, x: Tensor) -> Tensor:
    """Where the taps read without offsets: (taps, rank, *outputs), in elements of the input."""
    strides, dilations = window.over(len(kernel))
    before, _ = window.padding(x.shape[2:], kernel)
    axes = []
    for k, d, n, s, p in zip(kernel, dilations, outputs, strides, before, strict=True):
        taps = torch.arange(k, device=x.device, dtype=x.dtype) * d - p
        axes.append(taps[:, None] + torch.arange(n, device=x.device, dtype=x.dtype) * s)
    rank = len(kernel)
    spread = []
    for i, axis in enumerate(axes):
        shape = [1] * (2 * rank)
        shape[i], shape[rank + i] = axis.shape
        spread.append(axis.reshape(shape).expand(*kernel, *outputs))
    return torch.stack(spread, dim=rank).reshape(-1, rank, *outputs)


@operator("CausalConvWithState")
def causal_conv(call: Call) -> Function:
    """Depthwise convolution of the past: y = act(conv([state, x])), and the last k - 1 positions as state."""
    activation = call.text("activation", "none")
    if activation not in ("none", "silu", "swish"):
        raise call.wrong(f"has an unknown activation {activation!r}")

    def run(
        x: Tensor, w: Tensor, b: Tensor | None = None, past: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        reach = w.shape[2] - 1
        known = functional.pad(x, (reach, 0)) if past is None else torch.cat((past, x), dim=2)
        y = functional.conv1d(known, w, b, groups=x.shape[1])
        y = y if activation == "none" else functional.silu(y)
        return y, known[:, :, known.shape[2] - reach :]

    return run
