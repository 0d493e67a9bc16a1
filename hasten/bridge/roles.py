"""Which stored tensors are learned, and which are constants of the computation."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

LEARNED = "hasten.bridge.learned"
"""The mark, in a value's ``meta``, of an initializer to be learned (True) or not, whatever its use."""

_MASKS = 1e4
"""What is added to scores that are to count for nothing is at least as large, without its sign."""
_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})

_WEIGHT_OF: dict[str, frozenset[int]] = {
    "BatchNormalization": frozenset({1, 2}),
    "Conv": frozenset({1, 2}),
    "ConvTranspose": frozenset({1, 2}),
    "DeformConv": frozenset({1, 3}),
    "FusedConv": frozenset({1, 2}),
    "GRU": frozenset({1, 2, 3}),
    "Gemm": frozenset({0, 1, 2}),
    "GroupNormalization": frozenset({1, 2}),
    "InstanceNormalization": frozenset({1, 2}),
    "LSTM": frozenset({1, 2, 3, 7}),
    "LayerNormalization": frozenset({1, 2}),
    "MatMul": frozenset({0, 1}),
    "PRelu": frozenset({1}),
    "RMSNormalization": frozenset({1}),
    "RNN": frozenset({1, 2, 3}),
}
"""Operators whose inputs at these places are weights whatever their size."""

_CONSTANT_OF: dict[str, frozenset[int]] = {
    "BatchNormalization": frozenset({3, 4}),
    "Clip": frozenset({1, 2}),
    "DequantizeLinear": frozenset({1, 2}),
    "Dropout": frozenset({1}),
    "DynamicQuantizeMatMul": frozenset({2}),
    "GRU": frozenset({5}),
    "LSTM": frozenset({5, 6}),
    "MatMulIntegerToFloat": frozenset({2, 3}),
    "NegativeLogLikelihoodLoss": frozenset({2}),
    "Pad": frozenset({2}),
    "Pow": frozenset({1}),
    "QGemm": frozenset({1, 4, 7}),
    "QLinearConv": frozenset({1, 4, 6}),
    "QLinearMatMul": frozenset({1, 4, 6}),
    "QuantizeLinear": frozenset({1, 2}),
    "RNN": frozenset({5}),
    "Resize": frozenset({1, 2}),
    "STFT": frozenset({2}),
    "SoftmaxCrossEntropyLoss": frozenset({2}),
    "Upsample": frozenset({1}),
}
"""Operators whose inputs at these places are statistics, scales, bounds or states, never trained."""


def is_learned(value: ir.Value) -> bool:
    """Whether training changes this initializer.

    Floats of two elements and more are, and smaller ones where they are a layer's weight or bias; not what
    sets a range or holds statistics, in any of its uses, and no mask. One number in an arithmetic operator is
    part of the formula (the 0.5 of a GELU), not a weight. A method's mark (``LEARNED``) decides before all
    these.
    """
    tensor = value.const_value
    if tensor is None or tensor.dtype not in _FLOATS:
        return False
    asked = value.meta.get(LEARNED)
    if asked is not None:
        return bool(asked)
    uses = [(use.node.op_type, use.idx) for use in value.uses()]
    if any(index in _CONSTANT_OF.get(op_type, ()) for op_type, index in uses):
        return False
    if any(index in _WEIGHT_OF.get(op_type, ()) for op_type, index in uses):
        return True
    return tensor.size > 1 and not _is_mask(tensor)


def _is_mask(tensor: ir.TensorProtocol) -> bool:
    """Whether numbers are so large that what they are added to no longer counts."""
    numbers = tensor.numpy()
    return bool(numbers.size) and not bool(np.all(np.abs(numbers.astype(np.float32)) < _MASKS))


def is_scale(value: ir.Value) -> bool:
    """Whether values are rounded to multiples of this initializer."""
    return any(use.node.op_type == "QuantizeLinear" and use.idx == 1 for use in value.uses())


def constant_of(value: ir.Value) -> np.ndarray[Any, Any] | None:
    """The value of an initializer that no training changes, else None."""
    tensor = value.const_value
    if tensor is None or value.is_graph_input() or is_learned(value) or tensor.dtype == ir.DataType.STRING:
        return None
    return tensor.numpy()


def is_host_constant(value: ir.Value) -> bool:
    """Whether a weight is a number or a list of numbers that shapes are made of, rather than data."""
    tensor = value.const_value
    return (
        tensor is not None
        and tensor.dtype in (ir.DataType.INT64, ir.DataType.INT32)
        and len(tensor.shape) < 2
    )
