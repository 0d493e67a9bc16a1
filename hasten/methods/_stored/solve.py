"""Linear codes whose ranges and rounding follow from an error: of weights, or of what a layer computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from hasten.core.data import Array
from hasten.methods._stored.weights import Weight
from hasten.numerics.affine import Grid, covering
from hasten.numerics.clipping import clipped
from hasten.numerics.rounding import Moments, round_columns

Range: TypeAlias = Literal["minmax", "mse", "outputs"]
Rounding: TypeAlias = Literal["nearest", "outputs"]


@dataclass(frozen=True)
class Codes:
    """A weight's codes, scales and zero points, in the form of its matrix."""

    codes: Array
    scale: Array
    zero: Array | None


@dataclass(frozen=True)
class Goal:
    """How ranges are chosen and weights rounded; the moments of what the layer reads, where that counts."""

    range: Range = "minmax"
    rounding: Rounding = "nearest"
    moments: Moments | None = None

    @property
    def what(self) -> str:
        """What is unusual about it, in words."""
        if self.moments is None and "outputs" in {self.range, self.rounding}:
            return ", rounded to the nearest (what its layer multiplies cannot be observed)"
        ranges = {"minmax": "", "mse": ", clipped for the weights", "outputs": ", clipped for the outputs"}
        return ranges[self.range] + (", rounded for the outputs" if self.rounding == "outputs" else "")


def linear_codes(weight: Weight, grid: Grid, group: int | None, goal: Goal) -> Codes:
    """Quantize a weight, symmetrically on a signed grid. group: weights of a channel that share a scale."""
    rounded = goal.rounding == "outputs" and goal.moments is not None
    if goal.range == "minmax" and not rounded:
        return _plain(weight, grid, group)
    rows = weight.matrix if weight.axis == 0 else np.ascontiguousarray(weight.matrix.T)
    layers = 1 if goal.moments is None else goal.moments.mean.shape[0]
    rows = rows.reshape(layers, -1, weight.depth)
    each = group or weight.depth
    if goal.range == "minmax":
        quantizer = covering(rows, grid, 2, each)
    else:
        by = goal.moments if goal.range == "outputs" else None
        quantizer = clipped(rows, grid, each, by)
    if rounded:
        assert goal.moments is not None
        scale, zero = (np.repeat(part, each, 2) for part in (quantizer.scale, quantizer.zero_point))
        codes = round_columns(rows, scale, grid.low, grid.high, goal.moments, zero).astype(grid.dtype)
    else:
        codes = quantizer.quantize(rows)

    def as_matrix(array: Array) -> Array:
        flat = array.reshape(-1, array.shape[-1])
        return flat if weight.axis == 0 else np.ascontiguousarray(flat.T)

    def as_parameter(array: Array) -> Array:
        return array.reshape(-1) if group is None else as_matrix(array)

    zero_point = None if grid.signed else as_parameter(quantizer.zero_point)
    return Codes(as_matrix(codes), as_parameter(quantizer.scale), zero_point)


def _plain(weight: Weight, grid: Grid, group: int | None) -> Codes:
    matrix = weight.matrix
    quantizer = covering(matrix, grid, weight.axis if group is None else 1 - weight.axis, group)
    zero_point = None if grid.signed else quantizer.zero_point
    return Codes(quantizer.quantize(matrix), quantizer.scale, zero_point)
