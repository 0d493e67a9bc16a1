"""Which inputs and outputs of an operator may be 16-bit: read off the operator's schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir as ir


@dataclass(frozen=True)
class Slots:
    """The numbers of the inputs and outputs that are of a type which may be the 16-bit one.

    An output is counted when its type follows that of such an input.
    """

    inputs: frozenset[int]
    outputs: frozenset[int]


def slots(node: ir.Node, opset: int, type_text: str) -> Slots | None:
    """The slots of a node that may be ``type_text``; None for an operator that onnx does not know."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return None
    free = {t.type_param_str for t in schema.type_constraints if type_text in t.allowed_type_strs}
    inputs = {i: _type(schema.inputs, i) for i in range(len(node.inputs))}
    outputs = {i: _type(schema.outputs, i) for i in range(len(node.outputs))}
    bound = {kind for i, kind in inputs.items() if kind in free and _is_float(node.inputs[i])}
    return Slots(
        frozenset(i for i, kind in inputs.items() if kind in bound and _is_float(node.inputs[i])),
        frozenset(i for i, kind in outputs.items() if kind in bound),
    )


def _type(parameters: Sequence[Any], index: int) -> str:
    """The type of a formal parameter; the last one may be repeated."""
    return str(parameters[min(index, len(parameters) - 1)].type_str) if parameters else ""


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == ir.DataType.FLOAT
