"""Tensors made from shapes and numbers."""

from __future__ import annotations

import math

import onnx_ir as ir
import torch
from torch import Tensor

from hasten.bridge.dtypes import carrier
from hasten.bridge.operator import Call, Function, operator
from hasten.bridge.ops.integers import reader


@operator("ConstantOfShape", host=(0,))
def constant_of_shape(call: Call) -> Function:
    """One value everywhere, in a given shape."""
    value = call.tensor("value").reshape(()) if call.given("value") else torch.tensor(0.0)
    shape_of = reader(call, 0)
    # A copy: an expanded tensor would share one element that no view may be taken of.
    return lambda shape: value.to(shape.device).expand(shape_of(shape)).clone()


@operator("Range", host=(0, 1, 2))
def range_of(call: Call) -> Function:
    """start, start + delta, start + 2 delta, ... before ``limit``; 16-bit floats are counted in 32."""
    wide = call.version < 27 or call.integer("stash_type", 1) == 1

    def run(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
        kind = start.dtype
        # Any of the three may have stayed on the CPU.
        device = next((v.device for v in (start, limit, delta) if v.device.type != "cpu"), start.device)
        narrow = kind in (torch.float16, torch.bfloat16)
        if narrow and wide:
            start, limit, delta = start.float(), limit.float(), delta.float()
        start, limit, delta = start.reshape(()), limit.reshape(()), delta.reshape(())
        step = delta.item()
        span = limit.item() - start.item()
        count = -(-span // step) if isinstance(step, int) else math.ceil(span / step)
        steps = torch.arange(max(int(count), 0), dtype=start.dtype, device=device)
        return (start + steps * delta).to(kind)

    return run


@operator("EyeLike")
def eye_like(call: Call) -> Function:
    """Ones on the k-th diagonal of a matrix of the input's shape."""
    diagonal = call.integer("k", 0)
    kind = carrier(ir.DataType(call.integer("dtype"))) if call.given("dtype") else None

    def run(x: Tensor) -> Tensor:
        rows, columns = x.shape
        row = torch.arange(rows, device=x.device).unsqueeze(1)
        return (row + diagonal == torch.arange(columns, device=x.device)).to(kind or x.dtype)

    return run
