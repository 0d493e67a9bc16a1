"""Operators that are linear in their input with constant weights: what scaling and shifting do to them.

Conv, ConvTranspose, Gemm and MatMul with a constant matrix compute y = W·x + b. Then, per output channel,
s·y + t = (s·W)·x + (s·b + t), and per input channel, W·(s·x + t) + b = (W·s)·x + (b + W·t).
All arithmetic is in double precision, rounded once to the weight's type.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.graph.editor import Editor, rounded
from hasten.graph.reading import constant, given, rank


@dataclass(frozen=True)
class Linear:
    """A linear operator, with its weight and bias in double precision.

    outputs, inputs: channels. axis: the channel axis of its input and its output (-1: the last). rank: of its
    output, None when unknown. takes_bias: whether it has an input for a bias.
    """

    node: ir.Node
    weight: Array
    bias: Array | None
    outputs: int
    inputs: int
    axis: int
    rank: int | None
    takes_bias: bool

    def scaled_outputs(self, factor: Array, shift: Array) -> tuple[Array, Array]:
        """Weight and bias of the operator followed by y·factor + shift, one number an output channel."""
        bias = np.zeros(self.outputs) if self.bias is None else self.bias
        return self._times(self.weight, factor, output=True), bias * factor + shift

    def scaled_inputs(self, factor: Array, shift: Array) -> tuple[Array, Array]:
        """Weight and bias of the operator preceded by x·factor + shift, one number an input channel.

        The shift is right only where no padding mixes in (see ``pads``).
        """
        bias = np.zeros(self.outputs) if self.bias is None else self.bias
        if np.any(shift):
            bias = bias + self._summed(self._times(self.weight, shift, output=False))
        return self._times(self.weight, factor, output=False), bias

    @property
    def pads(self) -> bool:
        """Whether zeros that no input channel holds take part, at the borders of the image."""
        if self.node.op_type == "Conv":
            automatic = self.node.attributes.get_string("auto_pad", "NOTSET") not in {"NOTSET", "VALID"}
            return automatic or any(self.node.attributes.get_ints("pads", ()))
        return self.node.op_type == "ConvTranspose"

    def _times(self, weight: Array, factor: Array, *, output: bool) -> Array:
        shape = _grouped(self.node, weight, output=output)
        return (weight.reshape(shape.grouped) * factor.reshape(shape.factor)).reshape(weight.shape)

    def _summed(self, weight: Array) -> Array:
        if self.node.op_type == "Conv":
            return np.asarray(weight.sum(axis=tuple(range(1, weight.ndim))))
        return np.asarray(weight.sum(axis=1 if self.node.attributes.get_int("transB", 0) else 0))

    def write(self, editor: Editor, weight: Array, bias: Array) -> bool:
        """Put weight and bias into the node; False, with nothing changed, where they overflow their type."""
        original = constant(self.node.inputs[1])
        assert original is not None
        made, added = rounded(weight, original.dtype), rounded(bias, original.dtype)
        if made is None or added is None:
            return False
        editor.set_input(self.node, 1, made)
        if self.node.op_type == "Gemm":
            self.node.attributes.pop("alpha", None)
            self.node.attributes.pop("beta", None)
        if self.takes_bias and (self.bias is not None or np.any(added)):
            name = self.node.inputs[1].name if self.node.inputs[1] is not None else None
            existing = given(self.node, 2)
            editor.set_input(self.node, 2, added, existing.name if existing is not None else f"{name}.bias")
        return True


def per_channel(array: Array, channels: int, axis: int | None, rank: int | None) -> Array | None:
    """A constant that meets a value of that rank, as one number a channel.

    None where it varies along another axis than the channels' (None: unknown, so it may not vary at all), or
    would enlarge the value.
    """
    if array.ndim > (min(array.ndim, 1) if rank is None else rank):
        return None
    rank = array.ndim if rank is None else rank
    shape = (1,) * (rank - array.ndim) + array.shape
    channel = None if axis is None or not rank else axis % rank
    if any(size != 1 for i, size in enumerate(shape) if i != channel):
        return None
    flat = array.astype(np.float64).reshape(-1)
    return np.broadcast_to(flat, (channels,)) if flat.size in {1, channels} else None


@dataclass(frozen=True)
class _Grouping:
    grouped: tuple[int, ...]
    factor: tuple[int, ...]


def _grouped(node: ir.Node, weight: Array, *, output: bool) -> _Grouping:
    """Shapes in which a factor a channel multiplies a weight, groups told apart."""
    kernel, ones = weight.shape[2:], (1,) * (weight.ndim - 2)
    groups = node.attributes.get_int("group", 1)
    if node.op_type == "Conv":  # [M, C/g, *kernel]
        shape = (groups, weight.shape[0] // groups, weight.shape[1], *kernel)
        factor = (groups, shape[1], 1, *ones) if output else (groups, 1, shape[2], *ones)
        return _Grouping(shape, factor)
    if node.op_type == "ConvTranspose":  # [C, M/g, *kernel]
        shape = (groups, weight.shape[0] // groups, weight.shape[1], *kernel)
        factor = (groups, 1, shape[2], *ones) if output else (groups, shape[1], 1, *ones)
        return _Grouping(shape, factor)
    rows_are_outputs = node.op_type == "Gemm" and bool(node.attributes.get_int("transB", 0))
    return _Grouping(weight.shape, (-1, 1) if rows_are_outputs == output else (1, -1))


def linear(node: ir.Node) -> Linear | None:
    """The node as a linear operator; None where it is none, or its weights are not its own constants."""
    weight = constant(given(node, 1))
    if node.domain or weight is None or not _is_real(weight):
        return None
    value = node.inputs[1]
    if value is None or len(value.uses()) != 1:
        return None
    if node.op_type in {"Conv", "ConvTranspose"}:
        return _convolution(node, weight.astype(np.float64))
    if node.op_type == "Gemm":
        return _gemm(node, weight.astype(np.float64))
    if node.op_type == "MatMul" and weight.ndim == 2:
        rows, columns = weight.shape
        dims = rank(node.outputs[0])
        return Linear(node, weight.astype(np.float64), None, columns, rows, -1, dims, takes_bias=False)
    return None


def _convolution(node: ir.Node, weight: Array) -> Linear | None:
    groups = node.attributes.get_int("group", 1)
    bias = constant(given(node, 2))
    if (
        weight.ndim < 3
        or groups < 1
        or weight.shape[0] % groups
        or (bias is None and given(node, 2) is not None)
    ):
        return None
    first, second = weight.shape[0], weight.shape[1] * groups
    outputs, inputs = (first, second) if node.op_type == "Conv" else (second, first)
    real = None if bias is None else bias.astype(np.float64)
    return Linear(node, weight, real, outputs, inputs, 1, weight.ndim, takes_bias=True)


def _gemm(node: ir.Node, weight: Array) -> Linear | None:
    """With alpha and beta multiplied into weight and bias."""
    attributes = node.attributes
    if weight.ndim != 2 or attributes.get_int("transA", 0) != 0:
        return None
    outputs, inputs = weight.shape if attributes.get_int("transB", 0) else weight.shape[::-1]
    bias = constant(given(node, 2))
    if bias is None and given(node, 2) is not None:
        return None
    if bias is not None:
        if bias.ndim > 2 or (bias.ndim == 2 and bias.shape[0] != 1) or bias.size not in {1, outputs}:
            return None
        flat = bias.astype(np.float64).reshape(-1) * attributes.get_float("beta", 1.0)
        bias = np.broadcast_to(flat, (outputs,))
    scaled = weight * attributes.get_float("alpha", 1.0)
    return Linear(node, scaled, bias, outputs, inputs, 1, 2, takes_bias=True)


def _is_real(array: Array) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"
