"""Along which axis does a value have its channels? Told by the layer that made it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.graph.reading import constant, given

_FIRST = frozenset(
    {
        "Conv",
        "ConvTranspose",
        "BatchNormalization",
        "InstanceNormalization",
        "GroupNormalization",
        "MaxPool",
        "AveragePool",
        "GlobalAveragePool",
        "GlobalMaxPool",
    }
)
"""Operators whose outputs are (N, C, …)."""
_LAST = frozenset({"MatMul", "Gemm", "LayerNormalization", "RMSNormalization", "SkipLayerNormalization"})
"""Operators whose outputs have their channels last."""
_WEIGHT_AXES = {"Conv": 0, "BatchNormalization": 0, "LayerNormalization": 0, "MatMul": -1}
"""Of which axis of their second input the length is the number of channels."""
_FARTHEST = 20


@dataclass(frozen=True)
class Channels:
    """The axis from the end, so that it holds for a constant that is broadcast, and how many they are."""

    axis: int
    size: int

    def along(self, numbers: Array) -> Array:
        """One number a channel, shaped to meet values elementwise."""
        return numbers.reshape([-1, *[1] * (-self.axis - 1)])

    def rows(self, values: Array) -> Array:
        """Values as (positions, channels), in double precision."""
        return np.moveaxis(values, self.axis, -1).reshape(-1, self.size).astype(np.float64)


WHOLE = Channels(0, 1)
"""For values of which it is not known where their channels are: one number for all."""


def channels_of(value: ir.Value, rank: int) -> Channels | None:
    """Where a value of this rank has its channels; None where it cannot be told, or their number varies."""
    found = _axis(value, rank, _FARTHEST)
    axis = found[0] if found else (1 if rank in {4, 5} else rank - 1)
    size = found[1] if found else None
    if size is None and value.shape is not None and len(value.shape) == rank:
        dimension = value.shape[axis]
        size = dimension if isinstance(dimension, int) else None
    return Channels(axis - rank, size) if size is not None and axis > 0 else None


def _axis(value: ir.Value | None, rank: int, far: int) -> tuple[int, int | None] | None:
    """The axis, and the length where a weight tells it."""
    node = value.producer() if value is not None else None
    if node is None or far == 0 or rank < 2:
        return None
    if node.op_type in _FIRST or node.op_type in _LAST:
        weight = constant(given(node, 1))
        axis = _WEIGHT_AXES.get(node.op_type)
        size = None if weight is None or axis is None or not weight.ndim else weight.shape[axis]
        return (1 if node.op_type in _FIRST else rank - 1), size
    if node.op_type == "Transpose":
        order = list(node.attributes.get_ints("perm", list(range(rank))[::-1]))
        found = _axis(given(node, 0), rank, far - 1)
        return None if found is None or len(order) != rank else (order.index(found[0]), found[1])
    if node.op_type in {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Gather", "Concat", "Split"}:
        return None
    source = next((v for v in node.inputs if v is not None and constant(v) is None), None)
    return _axis(source, rank, far - 1)
