"""Merge consecutive type conversions.

Algebra: Cast_b(Cast_a(x)) = Cast_b(x) when every value of x's type is also one of type a.

Check: the first cast only widens: to an integer type that holds all of x's integers, or to a floating-point
type with at least as many bits of fraction and of exponent.
"""

from __future__ import annotations

import onnx_ir as ir

from hasten.graph import Graph
from hasten.graph.editor import Editor, Findings

_INTEGER_BITS = {
    ir.DataType.BOOL: (0, 1),
    ir.DataType.INT8: (1, 7),
    ir.DataType.INT16: (1, 15),
    ir.DataType.INT32: (1, 31),
    ir.DataType.INT64: (1, 63),
    ir.DataType.UINT8: (0, 8),
    ir.DataType.UINT16: (0, 16),
    ir.DataType.UINT32: (0, 32),
    ir.DataType.UINT64: (0, 64),
}
"""Sign bits and bits of magnitude."""
_FLOAT_BITS = {
    ir.DataType.FLOAT16: (11, 5),
    ir.DataType.BFLOAT16: (8, 8),
    ir.DataType.FLOAT: (24, 8),
    ir.DataType.DOUBLE: (53, 11),
}
"""Bits of fraction, with the hidden one, and of exponent."""


def apply(graph: Graph) -> Findings:
    """Merge every pair, in place."""
    editor = Editor(graph, shapes=True)
    for node in editor.nodes("Cast"):
        y = node.inputs[0]
        before = y.producer() if y is not None else None
        if before is None or y is None or before.op_type != "Cast" or before.domain:
            continue
        x = before.inputs[0]
        if x is None or x.dtype is None or y.dtype is None or not widens(x.dtype, y.dtype):
            continue
        node.replace_input_with(0, x)
        editor.changed(node, "reads what the Cast before it only widened")
    return editor.findings


def widens(narrow: ir.DataType, wide: ir.DataType) -> bool:
    """Whether every value of the one type is a value of the other."""
    if narrow == wide:
        return True
    if narrow in _INTEGER_BITS and wide in _INTEGER_BITS:
        (sign, bits), (wide_sign, wide_bits) = _INTEGER_BITS[narrow], _INTEGER_BITS[wide]
        return sign <= wide_sign and bits <= wide_bits
    if narrow in _INTEGER_BITS and wide in _FLOAT_BITS:
        fraction, exponent = _FLOAT_BITS[wide]
        return _INTEGER_BITS[narrow][1] <= min(fraction, (1 << (exponent - 1)) - 1)
    if narrow in _FLOAT_BITS and wide in _FLOAT_BITS:
        return all(a <= b for a, b in zip(_FLOAT_BITS[narrow], _FLOAT_BITS[wide], strict=True))
    return False
