"""Constants that a layer's outputs are added to, which can keep their means when its weights change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.graph.editor import Editor
from hasten.graph.layer import stored
from hasten.graph.reading import constant, given, sole_user


@dataclass(frozen=True, eq=False)
class Bias:
    """Where the bias is: an input of the layer, or of the addition behind it.

    array: what is there, None where nothing is yet; one number may stand for all outputs. dtype: of what is
    put there. factor: what the operator multiplies it by, over what it multiplies its products by.
    """

    node: ir.Node
    index: int
    array: Array | None
    dtype: np.dtype[Any]
    factor: float = 1.0

    def shift(self, editor: Editor, by: Array) -> None:
        """Raise the mean of each output; by: (outputs,), in units of the products."""
        step = by / self.factor
        made = step if self.array is None else self.array.astype(np.float64) + step
        stem = f"{self.node.outputs[0].name}.bias"
        editor.set_input(self.node, self.index, made.astype(self.dtype), stem)


def find_bias(layer: ir.Node, outputs: int) -> Bias | None:
    """The bias of a layer of so many outputs; None where it would take another operator."""
    if layer.op_type == "MatMul":
        return _added(layer, outputs)
    factor = 1.0
    if layer.op_type == "Gemm":
        beta, alpha = (layer.attributes.get_float(name, 1.0) for name in ("beta", "alpha"))
        if not alpha or not beta:
            return None
        factor = beta / alpha
    value = given(layer, 2)
    if value is None:
        weight = stored(given(layer, 1))
        return None if weight is None else Bias(layer, 2, None, weight.dtype, factor)
    return _constant(layer, 2, outputs, factor)


def _added(layer: ir.Node, outputs: int) -> Bias | None:
    add = sole_user(layer.outputs[0])
    if add is None or add.domain or add.op_type != "Add":
        return None
    index = 0 if add.inputs[1] is layer.outputs[0] else 1
    return _constant(add, index, outputs, 1.0)


def _constant(node: ir.Node, index: int, outputs: int, factor: float) -> Bias | None:
    """A constant with one number for each output, along the last axis, or one for all."""
    array = constant(given(node, index))
    if array is None or array.dtype.kind != "f":
        return None
    if array.size != 1 and not array.size == array.shape[-1] == outputs:
        return None
    return Bias(node, index, array, array.dtype, factor)
