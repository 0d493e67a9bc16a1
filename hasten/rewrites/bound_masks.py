"""Bring the "minus infinity" of attention masks within the range of bfloat16.

Algebra: softmax(x + c·(1-m)) = softmax(x + d·(1-m)) for any c, d so low that the exponential of the masked
scores is zero. Exporters write c = -3.4028·10³⁸, the lowest float32, which a runtime that computes in
bfloat16 rounds to minus infinity; infinity times the zeros of an unmasked row is NaN, and so is the model's
answer. The lowest bfloat16, d = -3.3895·10³⁸, masks as well.

Check: c is a finite float32 constant beyond the range of bfloat16; whatever is computed from it by adding,
multiplying, choosing and moving alone ends in a Softmax.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hasten.graph import Graph
from hasten.graph.editor import Editor, Findings
from hasten.graph.reading import constant

_LARGEST = (2 - 2.0**-7) * 2.0**127
"""The largest bfloat16: seven bits of fraction, the exponents of float32."""
_CARRIERS = frozenset(
    {"Add", "Cast", "Concat", "Expand", "Mul", "Reshape", "Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze"}
    | {"Where"}
)
_DEEPEST = 12
"""Operators between the constant and the Softmax; masks are made in fewer."""


def apply(graph: Graph) -> Findings:
    """Bound the constants of all masks, in place."""
    editor = Editor(graph)
    for node in editor.nodes("Add", "Mul", "Sub", "Where"):
        for index, value in enumerate(node.inputs):
            array = constant(value)
            if array is None or array.dtype != np.float32 or not _beyond(array):
                continue
            if _ends_in_softmax(node.outputs[0], _DEEPEST):
                editor.set_input(node, index, np.clip(array, -_LARGEST, _LARGEST))
                editor.changed(node, "its mask's constant is one that bfloat16 has too")
    return editor.findings


def _beyond(array: np.ndarray) -> bool:
    return bool(np.isfinite(array).all() and array.size and np.abs(array).max() > _LARGEST)


def _ends_in_softmax(value: ir.Value, depth: int) -> bool:
    users = [use.node for use in value.uses()]
    if not users or value.is_graph_output() or depth == 0:
        return False
    return all(
        not user.domain
        and (
            user.op_type == "Softmax"
            or (user.op_type in _CARRIERS and _ends_in_softmax(user.outputs[0], depth - 1))
        )
        for user in users
    )
