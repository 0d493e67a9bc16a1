"""Weights stored in 16 bits and widened when the model is loaded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from hasten.core.record import Site, Skip
from hasten.graph.editor import Editor
from hasten.graph.names import layer_name
from hasten.graph.reading import constant, pinned
from hasten.methods._cast.precision import Precision

SMALLEST = 256
"""Tensors of fewer elements are left: the node that widens one takes as many bytes as it would save."""

_SCALED = frozenset({"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul"})


def cast_weights(editor: Editor, precision: Precision, exclude: frozenset[str]) -> list[str]:
    """Store each large float32 weight in 16 bits, with a Cast to float32 in front of those who use it.

    Returns the names it looked at; sites and skips go to the editor's findings.
    """
    first = next(iter(editor.main), None)
    looked_at = []
    for name, value in list(editor.graph.weights.items()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < SMALLEST or first is None:
            continue
        users = value.consumers()
        if not users:
            continue
        layers = [layer_name(node) for node in users]
        looked_at += [name, *layers]
        op_type = users[0].op_type
        reason = "excluded by the recipe" if exclude & {name, *layers} else _obstacle(value, users, precision)
        if reason is not None:
            editor.findings.skipped.append(Skip(name=name, op_type=op_type, reason=reason))
            continue
        stored = editor.constant(precision.convert(tensor.numpy()), f"{name}.{precision.name}")
        wide = editor.insert(first, "Cast", [stored], {"to": int(ir.DataType.FLOAT)}, name=f"{name}.float32")
        wide.shape, wide.type = value.shape, value.type
        value.replace_all_uses_with(wide)
        del editor.main.initializers[name]
        what = f"{precision.name} weights of {', '.join(dict.fromkeys(layers))}, computed in float32"
        editor.findings.sites.append(Site(name=name, op_type=op_type, what=what))
    return looked_at


def _obstacle(value: ir.Value, users: Sequence[ir.Node], precision: Precision) -> str | None:
    array = constant(value)
    if array is None or pinned(value):
        return "it is an input or an output of the model"
    if any(node.op_type in _SCALED for node in users):
        return "it scales a quantized tensor"
    lost = precision.loss(np.asarray(array))
    return None if lost is None else f"it {lost}"
