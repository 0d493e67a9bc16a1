"""Activations: functions of one tensor that stand between layers, and softmax with its relatives."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from hasten.bridge.operator import Call, Function, operator

_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "HardSwish": functional.hardswish,
    "Mish": functional.mish,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Softplus": functional.softplus,
    "Softsign": functional.softsign,
}
_SELU_ALPHA, _SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875


@operator(*_PLAIN)
def plain(call: Call) -> Function:
    """Activations without attributes."""
    return _PLAIN[call.op_type]


@operator("LeakyRelu")
def leaky_relu(call: Call) -> Function:
    """The positive part, and alpha times the negative part."""
    slope = call.real("alpha", 0.01)
    return lambda x: functional.leaky_relu(x, slope)


@operator("PRelu")
def prelu(call: Call) -> Function:
    """The positive part, and slope times the negative part; the slope broadcasts to x."""

    def run(x: Tensor, slope: Tensor) -> Tensor:
        count = slope.numel()
        by_channel = x.dim() >= 2 and slope.dim() == x.dim() - 1 and slope.shape[0] == count == x.shape[1]
        if x.is_floating_point() and (count == 1 or by_channel):
            return functional.prelu(x, slope.reshape(-1))
        return torch.where(x < 0, slope * x, x)

    return run


@operator("Elu")
def elu(call: Call) -> Function:
    """Positive part, and alpha · (eˣ - 1) of the negative part."""
    alpha = call.real("alpha", 1.0)
    return lambda x: functional.elu(x, alpha)


@operator("Celu")
def celu(call: Call) -> Function:
    """Positive part, and alpha · (exp(x / alpha) - 1) of the negative part."""
    alpha = call.real("alpha", 1.0)
    return lambda x: functional.celu(x, alpha)


@operator("Selu")
def selu(call: Call) -> Function:
    """Gamma times Elu."""
    alpha, gamma = call.real("alpha", _SELU_ALPHA), call.real("gamma", _SELU_GAMMA)
    if abs(alpha - _SELU_ALPHA) < 1e-6 and abs(gamma - _SELU_GAMMA) < 1e-6:
        return torch.selu
    return lambda x: gamma * functional.elu(x, alpha)


@operator("HardSigmoid")
def hard_sigmoid(call: Call) -> Function:
    """The line alpha · x + beta cut at 0 and 1."""
    alpha, beta = call.real("alpha", 0.2), call.real("beta", 0.5)
    if beta == 0.5 and abs(alpha - 1 / 6) < 1e-7:
        return functional.hardsigmoid
    return lambda x: torch.clamp(x * alpha + beta, 0.0, 1.0)


@operator("ThresholdedRelu")
def thresholded_relu(call: Call) -> Function:
    """X where it exceeds alpha, else 0."""
    alpha = call.real("alpha", 1.0)
    return lambda x: functional.threshold(x, alpha, 0.0)


@operator("Shrink")
def shrink(call: Call) -> Function:
    """Drawn towards zero by bias outside [-lambd, lambd], zero within."""
    bias, width = call.real("bias", 0.0), call.real("lambd", 0.5)

    def run(x: Tensor) -> Tensor:
        drawn = torch.where(x < -width, x + bias, torch.where(x > width, x - bias, 0))
        return drawn.to(x.dtype)

    return run


@operator("Gelu")
def gelu(call: Call) -> Function:
    """X · Φ(x), Φ the normal distribution's, or its approximation by tanh."""
    approximate = call.text("approximate", "none")
    return lambda x: functional.gelu(x, approximate=approximate)


@operator("Swish")
def swish(call: Call) -> Function:
    """X · sigmoid(alpha · x)."""
    alpha = call.real("alpha", 1.0)
    return functional.silu if alpha == 1.0 else lambda x: x * torch.sigmoid(alpha * x)


@operator("SwiGLU")
def swiglu(call: Call) -> Function:
    """Swish of the gate, times the value."""
    gate = swish(call)
    return lambda a, b: gate(a) * b


@operator("Softmax", "LogSoftmax", "Hardmax")
def flattened_softmax(call: Call) -> Function:
    """Before version 13: over all axes from ``axis`` on together, as if the tensor were a matrix."""
    axis = call.integer("axis", 1)
    function = _SOFTMAX[call.op_type]

    def run(x: Tensor) -> Tensor:
        first = axis % x.dim()
        if first == x.dim() - 1:
            return function(x, -1)
        return function(x.flatten(first), -1).reshape(x.shape)

    return run


@operator("Softmax", "LogSoftmax", "Hardmax", since=13)
def softmax(call: Call) -> Function:
    """Over one axis."""
    axis = call.integer("axis", -1)
    function = _SOFTMAX[call.op_type]
    return lambda x: function(x, axis)


def _hardmax(x: Tensor, axis: int) -> Tensor:
    first = torch.argmax(x, axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, first, 1)


_SOFTMAX: dict[str, Callable[[Tensor, int], Tensor]] = {
    "Hardmax": _hardmax,
    "LogSoftmax": torch.log_softmax,
    "Softmax": torch.softmax,
}
