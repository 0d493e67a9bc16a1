"""Elementwise arithmetic of one, two or many tensors, with numpy's broadcasting."""

from __future__ import annotations

from collections.abc import Callable

import torch

from hasten.bridge.operator import Call, Function, operator

_UNARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Neg": torch.neg,
    "Relu": torch.relu,
}

_BINARY: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "Add": torch.add,
    "Mul": torch.mul,
    "Sub": torch.sub,
}


@operator(*_UNARY)
def unary(call: Call) -> Function:
    """Operators of one input."""
    return _UNARY[call.op_type]


@operator(*_BINARY)
def binary(call: Call) -> Function:
    """Operators of two inputs."""
    return _BINARY[call.op_type]
