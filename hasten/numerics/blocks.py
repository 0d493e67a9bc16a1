"""Parameters that a tensor, each slice along an axis, or each block of values along an axis has of its own.

Three shapes of a parameter for a tensor of shape (d0, …, dn):

- (): one for the whole tensor;
- (d_axis,): one for each slice along ``axis`` (per channel);
- (d0, …, ⌈d_axis / group⌉, …, dn): one for each run of ``group`` values along ``axis``; the last run may be
  shorter.

Source: ONNX operator specification, QuantizeLinear-21 (per-tensor, per-axis and blocked quantization).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def spread(
    parameter: NDArray[Any], shape: tuple[int, ...], axis: int | None = None, group: int | None = None
) -> NDArray[Any]:
    """The parameter in a form that broadcasts with a tensor of ``shape``."""
    if axis is None:
        return parameter
    if group is not None:
        return np.repeat(parameter, group, axis).take(np.arange(shape[axis]), axis)
    wanted = [1] * len(shape)
    wanted[axis] = -1
    return parameter.reshape(wanted)


def extremes_of(
    x: ArrayLike, axis: int | None = None, group: int | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The smallest and the largest value of the tensor, of each slice or of each block; 0 of nothing."""
    values = np.asarray(x, dtype=np.float32)
    if axis is None:
        empty = not values.size
        zero = np.zeros((), dtype=np.float32)
        return (zero, zero) if empty else (np.asarray(values.min()), np.asarray(values.max()))
    if group is not None:
        starts = np.arange(0, values.shape[axis], group)
        low, high = (f.reduceat(values, starts, axis=axis) for f in (np.minimum, np.maximum))
        return low, high
    others = tuple(i for i in range(values.ndim) if i != axis % values.ndim)
    if not values.size:
        zeros = np.zeros(values.shape[axis], dtype=np.float32)
        return zeros, zeros
    return values.min(axis=others), values.max(axis=others)


def largest_of(x: ArrayLike, axis: int | None = None, group: int | None = None) -> NDArray[np.float32]:
    """The largest absolute value of the tensor, of each slice or of each block; 0 of nothing."""
    low, high = extremes_of(x, axis, group)
    return np.asarray(np.maximum(np.abs(low), np.abs(high)))
