"""Element types: which torch tensor carries which ONNX tensor.

Torch has no 4-bit or 2-bit integers and no 4-bit float: integers narrower than a byte are carried as int8 or
uint8, float4e2m1 as float32, each holding only values that the narrow type has.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import torch

from hasten.core.errors import ModelError

_T = ir.DataType

CARRIERS: dict[ir.DataType, torch.dtype] = {
    _T.FLOAT: torch.float32,
    _T.DOUBLE: torch.float64,
    _T.FLOAT16: torch.float16,
    _T.BFLOAT16: torch.bfloat16,
    _T.FLOAT8E4M3FN: torch.float8_e4m3fn,
    _T.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    _T.FLOAT8E5M2: torch.float8_e5m2,
    _T.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
    _T.FLOAT8E8M0: torch.float8_e8m0fnu,
    _T.FLOAT4E2M1: torch.float32,
    _T.INT2: torch.int8,
    _T.INT4: torch.int8,
    _T.INT8: torch.int8,
    _T.INT16: torch.int16,
    _T.INT32: torch.int32,
    _T.INT64: torch.int64,
    _T.UINT2: torch.uint8,
    _T.UINT4: torch.uint8,
    _T.UINT8: torch.uint8,
    _T.UINT16: torch.uint16,
    _T.UINT32: torch.uint32,
    _T.UINT64: torch.uint64,
    _T.BOOL: torch.bool,
    _T.COMPLEX64: torch.complex64,
    _T.COMPLEX128: torch.complex128,
}
"""The torch dtype that carries each ONNX element type; strings have none."""

_BY_BITS = {
    ml_dtypes.bfloat16: torch.bfloat16,
    ml_dtypes.float8_e4m3fn: torch.float8_e4m3fn,
    ml_dtypes.float8_e4m3fnuz: torch.float8_e4m3fnuz,
    ml_dtypes.float8_e5m2: torch.float8_e5m2,
    ml_dtypes.float8_e5m2fnuz: torch.float8_e5m2fnuz,
    ml_dtypes.float8_e8m0fnu: torch.float8_e8m0fnu,
}
"""Numpy's names for floats it has no own type for; the same bits in torch."""
_WIDENED: dict[Any, Any] = {
    ml_dtypes.int2: np.int8,
    ml_dtypes.int4: np.int8,
    ml_dtypes.uint2: np.uint8,
    ml_dtypes.uint4: np.uint8,
    ml_dtypes.float4_e2m1fn: np.float32,
}


def carrier(dtype: ir.DataType | int) -> torch.dtype:
    """The torch dtype that carries an ONNX element type; raises ModelError for strings."""
    try:
        return CARRIERS[ir.DataType(dtype)]
    except KeyError:
        raise ModelError(f"torch has no tensors of {ir.DataType(dtype).name.lower()}") from None


def from_numpy(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """A tensor of its own with the array's values; raises ModelError for dtypes torch cannot carry."""
    if array.dtype.kind in "OUS":
        raise ModelError("torch has no tensors of strings")
    if array.dtype.type in _WIDENED:
        array = array.astype(_WIDENED[array.dtype.type])
    # A copy in C order: torch would otherwise share memory that may be a read-only map of a file.
    own = np.array(array, order="C", copy=True)
    same_bits = _BY_BITS.get(own.dtype.type)
    if same_bits is not None:
        bits = own.view(np.int16 if own.itemsize == 2 else np.uint8)
        return torch.from_numpy(bits).view(same_bits)
    return torch.from_numpy(own)


def to_numpy(tensor: torch.Tensor, dtype: ir.DataType | None = None) -> np.ndarray[Any, Any]:
    """The tensor's values as an array; ``dtype`` says which ONNX type it carries, where that is narrower."""
    tensor = tensor.detach().cpu().contiguous()
    for numpy_type, torch_type in _BY_BITS.items():
        if tensor.dtype == torch_type:
            bits = tensor.view(torch.int16 if tensor.element_size() == 2 else torch.uint8)
            array: np.ndarray[Any, Any] = np.array(bits.numpy()).view(numpy_type)
            break
    else:
        array = np.array(tensor.numpy())
    narrow: np.ndarray[Any, Any] = array if dtype is None else array.astype(dtype.numpy(), copy=False)
    return narrow
