"""Weights as int8 constants of a graph, each stored once however many layers share it."""

from __future__ import annotations

import hashlib

import onnx_ir as ir

from hasten.core.data import Array
from hasten.graph.editor import Editor
from hasten.numerics.affine import Affine, Grid, slice_bounds, symmetric


class WeightStore:
    """Makes the int8 constants of one graph.

    grid: the integers used. per_channel: one scale for each slice along an axis, or one for the tensor.
    """

    def __init__(self, editor: Editor, grid: Grid, *, per_channel: bool) -> None:
        self._editor = editor
        self._grid = grid
        self._per_channel = per_channel
        self._made: dict[tuple[str, str, bytes], tuple[ir.Value, ir.Value]] = {}
        self._floats: dict[tuple[str, str, bytes, int], ir.Value] = {}

    def quantizer(self, array: Array, axis: int) -> Affine:
        """Symmetric, as large as the largest value of each slice along ``axis``, or of the tensor."""
        by = axis if self._per_channel else None
        return symmetric(slice_bounds(array, by), self._grid, by)

    def quantized(
        self, array: Array, axis: int, name: str, variant: str, *, keepdims: bool = False
    ) -> tuple[ir.Value, ir.Value]:
        """The integers and the scale, ``array ≈ integers · scale``, as constants.

        The scale has shape () or (n,) for the n slices along ``axis``; with ``keepdims`` it has the rank of
        the array. name, variant: what the array is, for those who ask for the same again.
        """
        key = (name, variant, _content(array))
        if key not in self._made:
            quantizer = self.quantizer(array, axis)
            scale = quantizer.scale
            if keepdims and self._per_channel:
                scale = scale.reshape([-1 if i == axis else 1 for i in range(array.ndim)])
            self._made[key] = (
                self._editor.constant(quantizer.quantize(array), f"{name}.int8"),
                self._editor.constant(scale, f"{name}.scale"),
            )
        return self._made[key]

    def dequantized(self, before: ir.Node, array: Array, axis: int, name: str, variant: str) -> ir.Value:
        """The float value of the stored integers, for use by ``before`` and later nodes of its graph."""
        key = (name, variant, _content(array), id(before.graph))
        if key not in self._floats:
            integers, scale = self.quantized(array, axis, name, variant)
            attributes = {"axis": axis} if self._per_channel else {}
            self._floats[key] = self._editor.insert(
                before, "DequantizeLinear", [integers, scale], attributes, name=f"{name}.float"
            )
        return self._floats[key]


def _content(array: Array) -> bytes:
    """Tells apart what has one name: subgraphs beside each other may use it for different tensors."""
    return hashlib.sha256(array.tobytes()).digest()
