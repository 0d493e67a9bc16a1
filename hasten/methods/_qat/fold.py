"""Back to integers: what was learned is rounded into the graph it came from."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.graph import Graph
from hasten.methods._qat.unfold import Unfolded, array

_SMALLEST_SHARE = 1e-3
"""Of what it was, the least a learned scale may become: it must stay positive."""


def fold(unfolded: Unfolded, trained: Graph) -> Graph:
    """The quantized graph with the weights, scales and biases that were learned."""
    quantized = unfolded.quantized
    changed = quantized.copy()
    stand_ins = {w.floats for w in unfolded.weights} | {b.floats for b in unfolded.biases}
    for name, value in trained.weights.items():
        if name in changed.weights and name not in stand_ins and name not in unfolded.scales:
            changed.weights[name].const_value = value.const_value
    for name in unfolded.scales:
        before, learned = array(quantized, name), array(trained, name)
        _put(changed, name, np.maximum(learned, _SMALLEST_SHARE * before).astype(np.float32))
    for weight in unfolded.weights:
        _put(changed, weight.integers, weight.rounded(array(trained, weight.floats), changed))
    for bias in unfolded.biases:
        ratio = (
            array(quantized, bias.scale) / array(quantized, bias.weight)
            if bias.activation is None
            else array(changed, bias.activation)
        )
        scale = (array(changed, bias.weight) * ratio).astype(np.float32)
        integers = np.rint(array(trained, bias.floats).astype(np.float64) / scale.astype(np.float64))
        limit = np.iinfo(np.int32)
        _put(changed, bias.scale, scale)
        _put(changed, bias.integers, np.clip(integers, limit.min, limit.max).astype(np.int32))
    return changed


def _put(graph: Graph, name: str, numbers: Array) -> None:
    graph.weights[name].const_value = ir.tensor(numbers, name=name)
