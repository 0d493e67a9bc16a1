"""Factors put into the graph in place of a layer's weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.graph.editor import Editor
from hasten.methods._factors.forms import Factor, composed
from hasten.methods._factors.layers import Factorable

_NAMES: Mapping[int, Sequence[str]] = {1: (), 2: ("first",), 3: ("first", "core")}
_SUFFIXES = tuple(f".{part}" for parts in _NAMES.values() for part in parts)
_WINDOW = ("auto_pad", "dilations", "kernel_shape", "pads", "strides")


def write(editor: Editor, layer: Factorable, factors: Sequence[Factor], mean: Array | None = None) -> None:
    """Insert a node for each factor but the last, which stays where the layer is, with its name and bias.

    mean: of what the layer reads, (inputs,) or of each output (outputs, inputs), for which the bias then
    keeps the mean of its outputs.
    """
    node, value = layer.node, layer.activation
    windows = [_window(layer, factor) for factor in factors]
    stem = str(node.inputs[1].name) if node.inputs[1] is not None else layer.name
    for part, factor, window in zip(_NAMES[len(factors)], factors[:-1], windows[:-1], strict=True):
        weight = factor.rows if layer.kernel else factor.rows.T
        stored = editor.constant(_stored(layer, weight), f"{stem}.{part}")
        op_type = "Conv" if layer.kernel else "MatMul"
        if factor.copies > 1:
            value = editor.insert(
                node, "Concat", [value] * factor.copies, {"axis": 1}, name=f"{layer.name}.copies"
            )
            value.type = ir.TensorType(ir.DataType.from_numpy(layer.array.dtype))
        value = editor.insert(node, op_type, [value, stored], window, name=f"{layer.name}.{part}")
        value.type = ir.TensorType(ir.DataType.from_numpy(layer.array.dtype))
    node.replace_input_with(0, value)
    last = factors[-1].rows if layer.axis == 0 else factors[-1].rows.T
    editor.set_input(node, 1, _stored(layer, last), stem)
    node.attributes.pop("alpha", None)
    for name in _WINDOW if layer.kernel else ():
        node.attributes.pop(name, None)
    for name, given in windows[-1].items():
        node.attributes[name] = _attribute(name, given)

    if mean is not None and layer.bias is not None:
        layer.bias.shift(editor, ((layer.rows - composed(factors)) * mean).sum(axis=1) / layer.factor)


def factored_from(name: str) -> str:
    """The name of the layer that a layer of this name is a factor of: its own where it is none."""
    return next((name.removesuffix(s) for s in _SUFFIXES if name.endswith(s)), name)


def _attribute(name: str, given: str | int | list[int]) -> ir.Attr:
    if isinstance(given, str):
        return ir.AttrString(name, given)
    return ir.AttrInt64(name, given) if isinstance(given, int) else ir.AttrInt64s(name, given)


def _stored(layer: Factorable, weight: Array) -> Array:
    return np.ascontiguousarray(weight.astype(layer.array.dtype))


def _window(layer: Factorable, factor: Factor) -> dict[str, str | int | list[int]]:
    """The attributes of a convolution: those of the layer along the axes that the factor reaches along."""
    if not layer.kernel:
        return {}
    attributes, axes = layer.node.attributes, len(layer.kernel)

    def along(name: str, default: int) -> list[int]:
        given = attributes.get_ints(name, [default] * axes)
        return [given[axis] if axis in factor.axes else default for axis in range(axes)]

    made: dict[str, str | int | list[int]] = {
        "kernel_shape": list(factor.rows.shape[2:]),
        "strides": along("strides", 1),
        "dilations": along("dilations", 1),
    }
    automatic = attributes.get_string("auto_pad", "NOTSET")
    if automatic != "NOTSET" and factor.axes:
        return {**made, "auto_pad": automatic}
    pads = attributes.get_ints("pads", [0] * (2 * axes))
    made["pads"] = [pads[i] if i % axes in factor.axes else 0 for i in range(2 * axes)]
    return made | dict(factor.window)
