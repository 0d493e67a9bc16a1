"""Linear quantization: which values a type holds, and which scale belongs to which element.

A scale is one number, one per index of an axis, or one per block of an axis; ``spread`` brings each of these
to a shape that broadcasts to the tensor (ONNX, QuantizeLinear).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import Tensor

from hasten.bridge.conversion import FLOAT4_MAX, conversion
from hasten.bridge.dtypes import CARRIERS, carrier
from hasten.bridge.operator import Call

_T = ir.DataType

INTEGER_RANGES: dict[ir.DataType, tuple[int, int]] = {
    _T.INT2: (-2, 1),
    _T.INT4: (-8, 7),
    _T.INT8: (-128, 127),
    _T.INT16: (-32768, 32767),
    _T.UINT2: (0, 3),
    _T.UINT4: (0, 15),
    _T.UINT8: (0, 255),
    _T.UINT16: (0, 65535),
}
_FLOATS = (_T.FLOAT8E4M3FN, _T.FLOAT8E4M3FNUZ, _T.FLOAT8E5M2, _T.FLOAT8E5M2FNUZ, _T.FLOAT4E2M1)


@dataclass(frozen=True)
class Grid:
    """The values that a quantized type holds: the integers from low to high, or those of a small float."""

    dtype: ir.DataType
    low: float
    high: float
    integral: bool
    convert: Callable[[Tensor], Tensor]

    @staticmethod
    def of(dtype: ir.DataType, saturate: bool = True) -> Grid | None:
        """The grid of an element type; None for one that nothing is quantized to."""
        if dtype in INTEGER_RANGES:
            target = carrier(dtype)
            return Grid(dtype, *INTEGER_RANGES[dtype], integral=True, convert=lambda x: x.to(target))
        if dtype not in _FLOATS:
            return None
        largest = FLOAT4_MAX if dtype == _T.FLOAT4E2M1 else torch.finfo(carrier(dtype)).max
        return Grid(dtype, -largest, largest, integral=False, convert=conversion(dtype, saturate))


@dataclass(frozen=True)
class Granularity:
    """How scales lie along the tensor: the axis, and the size of a block of it (0: not in blocks)."""

    axis: int = 1
    block_size: int = 0

    @staticmethod
    def of(call: Call) -> Granularity:
        """As the node's attributes say."""
        return Granularity(call.integer("axis", 1), call.integer("block_size", 0))

    def spread(self, scale: Tensor, x: Tensor) -> Tensor:
        """A scale or zero point in a shape that broadcasts to x."""
        if scale.dim() == 0 or (scale.dim() == 1 and scale.shape[0] == 1 and not self.block_size):
            return scale.reshape(())
        if scale.dim() == 1 and not (self.block_size and x.dim() == 1):
            shape = [1] * x.dim()
            shape[self.axis] = -1
            return scale.reshape(shape)
        count = x.shape[self.axis]
        size = self.block_size or -(-count // scale.shape[self.axis])
        return scale.repeat_interleave(size, self.axis).narrow(self.axis, 0, count)


def grid_of(call: Call, zero_point: int = 2) -> Grid | None:
    """The grid a node quantizes to: ``output_dtype``, the zero point's type, or uint8.

    None when a zero point is given whose type is not known yet. Raises ModelError for a type that is no
    quantized one.
    """
    saturate = bool(call.integer("saturate", 1))
    dtype = ir.DataType(call.integer("output_dtype", 0))
    if dtype == _T.UNDEFINED and call.has(zero_point):
        known = call.dtypes[zero_point]
        if known is None:
            return None
        dtype = known
    grid = Grid.of(_T.UINT8 if dtype == _T.UNDEFINED else dtype, saturate)
    if grid is None:
        raise call.wrong(f"quantizes to {dtype.name.lower()}, which is no quantized type")
    return grid


def carried_grid(dtype: torch.dtype) -> Grid:
    """The grid of a torch dtype, for a zero point whose ONNX type is not known when compiling."""
    for element, carried in CARRIERS.items():
        grid = Grid.of(element) if carried == dtype and element.bitwidth >= 8 else None
        if grid is not None:
            return grid
    raise TypeError(f"nothing is quantized to {dtype}")


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor | None, grid: Grid) -> Tensor:
    """saturate(round(x / scale) + zero point), halves to even; scale and zero point broadcast to x."""
    ratio = x / scale
    if not grid.integral:
        return grid.convert(ratio if zero_point is None else ratio + zero_point.to(ratio.dtype))
    level = torch.round(ratio if ratio.element_size() >= 4 else ratio.to(torch.float32))
    level = level if zero_point is None else level + zero_point.to(level.dtype)
    return grid.convert(level.clamp(grid.low, grid.high))


def dequantize(q: Tensor, scale: Tensor, zero_point: Tensor | None, dtype: torch.dtype) -> Tensor:
    """(q - zero point) · scale in the dtype; scale and zero point broadcast to q."""
    if zero_point is None:
        return q.to(dtype) * scale.to(dtype)
    if q.dtype == torch.int32:
        # The difference of two of these is exact as an integer only.
        return (q - zero_point).to(dtype) * scale.to(dtype)
    return (q.to(torch.float32) - zero_point.to(torch.float32)).to(dtype) * scale.to(dtype)
