"""Normalizations: of the batch, an instance, groups, a layer, the root mean square, neighbouring channels."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from hasten.bridge.dtypes import carrier
from hasten.bridge.operator import Call, Function, Scope, operator


@operator("BatchNormalization", scoped=True)
def batch_normalization(call: Call) -> Function:
    """Formula: y = scale · (x - mean) / sqrt(var + epsilon) + bias, by channel.

    A node in inference mode takes the stored statistics; while the module trains it takes the batch's and
    moves the stored ones towards them, as the layer it was exported from did. A node in training mode
    (``training_mode``, or before version 14 one whose other outputs are read) returns them.
    """
    epsilon, keep = call.real("epsilon", 1e-5), call.real("momentum", 0.9)
    if call.integer("training_mode", 0) or (call.version < 14 and any(call.wanted[1:])):
        return _batch_training(epsilon, keep, call.version)
    if call.constant(3) is None or call.constant(4) is None:
        # Statistics that another node computes have no place to be learned in, but gradients flow into them.
        return lambda scope, x, scale, bias, mean, var: _normalized(x, scale, bias, mean, var, epsilon)
    mixed = len({dtype for dtype in call.dtypes if dtype is not None}) > 1

    def run(scope: Scope, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        if x.dim() == 1:
            # A vector is one channel (ONNX, BatchNormalization).
            return run(scope, x[:, None], scale, bias, mean, var)[:, 0]
        # One number a channel, as a last batch of one sample may leave, has no variance.
        trains = scope.training and x.numel() > x.shape[1]
        if mixed:
            wide = torch.promote_types(torch.float32, mean.dtype)
            scale, bias = scale.to(wide), bias.to(wide)
            y = functional.batch_norm(x.to(wide), mean, var, scale, bias, trains, 1 - keep, epsilon)
            return y.to(x.dtype)
        return functional.batch_norm(x, mean, var, scale, bias, trains, 1 - keep, epsilon)

    return run


def _normalized(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, epsilon: float) -> Tensor:
    shape = (-1, *(1,) * (x.dim() - 2))
    factor = (scale * torch.rsqrt(var + epsilon)).reshape(shape)
    return ((x - mean.reshape(shape)) * factor + bias.reshape(shape)).to(x.dtype)


def _batch_training(epsilon: float, keep: float, version: int) -> Function:
    """The output, then the running mean and variance (variance of the population, not the sample)."""

    def run(
        scope: Scope, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor
    ) -> tuple[Tensor, ...]:
        axes = [i for i in range(x.dim()) if i != 1]
        found_var, found_mean = torch.var_mean(x, axes, correction=0)
        y = _normalized(x, scale, bias, found_mean, found_var, epsilon)
        new_mean = mean * keep + found_mean.to(mean.dtype) * (1 - keep)
        new_var = var * keep + found_var.to(var.dtype) * (1 - keep)
        saved = (found_mean, found_var) if version < 14 else ()
        return (y, new_mean, new_var, *saved)

    return run


@operator("InstanceNormalization")
def instance_normalization(call: Call) -> Function:
    """Formula: y = scale · (x - mean) / sqrt(var + epsilon) + bias, by sample and channel."""
    epsilon = call.real("epsilon", 1e-5)
    return lambda x, scale, bias: torch.instance_norm(
        x, scale, bias, None, None, True, 0.0, epsilon, torch.backends.cudnn.enabled
    )


@operator("GroupNormalization")
def group_normalization(call: Call) -> Function:
    """As InstanceNormalization over groups of channels; before version 21 scale and bias are per group."""
    epsilon, groups = call.real("epsilon", 1e-5), call.integer("num_groups")
    per_group = call.version < 21

    def run(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        if per_group:
            share = x.shape[1] // groups
            scale, bias = scale.repeat_interleave(share), bias.repeat_interleave(share)
        return torch.group_norm(x, groups, scale, bias, epsilon, torch.backends.cudnn.enabled)

    return run


@operator("LayerNormalization")
def layer_normalization(call: Call) -> Function:
    """Formula: y = scale · (x - mean) / sqrt(var + epsilon) + bias over the axes from ``axis`` on."""
    axis, epsilon = call.integer("axis", -1), call.real("epsilon", 1e-5)
    if any(call.wanted[1:]):
        return _layer_with_statistics(axis, epsilon, call.integer("stash_type", 1))

    def run(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        shape = x.shape[axis:]
        if scale.shape == shape and (bias is None or bias.shape == shape):
            return torch.layer_norm(x, shape, scale, bias, epsilon)
        y = torch.layer_norm(x, shape, None, None, epsilon) * scale
        return y if bias is None else y + bias

    return run


def _layer_with_statistics(axis: int, epsilon: float, stash: int) -> Function:
    """The output, then mean and 1 / sqrt(var + epsilon) in the element type ``stash``."""
    stashed = carrier(ir.DataType(stash))

    def run(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        axes = tuple(range(axis % x.dim(), x.dim()))
        wide = x.to(torch.promote_types(x.dtype, stashed))
        var, mean = torch.var_mean(wide, axes, correction=0, keepdim=True)
        inverse = torch.rsqrt(var + epsilon)
        y = ((wide - mean) * inverse).to(x.dtype) * scale
        return y if bias is None else y + bias, mean.to(stashed), inverse.to(stashed)

    return run


@operator("RMSNormalization")
def rms_normalization(call: Call) -> Function:
    """Formula: y = scale · x / sqrt(mean(x²) + epsilon) over the axes from ``axis`` on."""
    axis, epsilon = call.integer("axis", -1), call.real("epsilon", 1e-5)

    def run(x: Tensor, scale: Tensor) -> Tensor:
        shape: Sequence[int] = x.shape[axis:]
        if scale.shape == shape and scale.dtype == x.dtype:
            return torch.rms_norm(x, shape, scale, epsilon)
        return (torch.rms_norm(x, shape, None, epsilon) * scale).to(scale.dtype)

    return run


@operator("LRN")
def lrn(call: Call) -> Function:
    """Formula: y = x / (bias + alpha / size · sum of x² over ``size`` neighbouring channels)^beta."""
    alpha, beta, bias = call.real("alpha", 1e-4), call.real("beta", 0.75), call.real("bias", 1.0)
    size = call.integer("size")
    sides = ((size - 1) // 2, size // 2)

    def run(x: Tensor) -> Tensor:
        squares = functional.pad((x * x).reshape(x.shape[0], 1, x.shape[1], -1), (0, 0, *sides))
        mean = functional.avg_pool2d(squares, (size, 1), 1).reshape(x.shape)
        return x / (bias + alpha * mean) ** beta

    return run
