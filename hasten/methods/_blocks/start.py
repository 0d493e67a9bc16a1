"""What is learned of a block, where it starts from, and the unit that each number is counted in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.graph import Graph
from hasten.methods._qat.unfold import Unfolded

_MARGIN = 0.4
"""Of a step: how far from the middle of what rounds to the same integer a weight may start."""
_SCALE_SHARE = 1 / 30
"""Of itself: the unit of a scale. Where a weight moves a whole step, its scale moves by a thirtieth."""
_BIAS_LEVELS = 128
"""Of the bias's own scale: its unit, a step of a weight times about what an activation is at most."""


def place_weights(graph: Graph, quantized: Graph, unfolded: Unfolded, originals: Mapping[str, Array]) -> None:
    """Let, in place, each weight start where it rounds to its integer, on the side of the original's weight.

    So the graph computes at first what the quantized one does, and what was hard to round turns over easily.
    """
    for weight in unfolded.weights:
        if weight.floats not in originals:
            continue
        scale = along(_array(quantized, weight.scale), weight.axis, originals[weight.floats].ndim)
        levels = _array(quantized, weight.integers).astype(np.float32)
        if weight.zero_point is not None:
            zero = _array(quantized, weight.zero_point).astype(np.float32)
            levels = levels - along(zero, weight.axis, levels.ndim)
        offset = np.clip(originals[weight.floats] / scale - levels, -_MARGIN, _MARGIN)
        start = ((levels + offset) * scale).astype(np.float32)
        graph.weights[weight.floats].const_value = ir.tensor(start, name=weight.floats)


def units_of(graph: Graph, quantized: Graph, unfolded: Unfolded) -> dict[str, Array]:
    """The unit of every tensor to be learned, by name; graph: as it stands, quantized: as it was given."""
    found: dict[str, Array] = {}
    for weight in unfolded.weights:
        scale = _array(graph, weight.scale)
        found[weight.floats] = along(scale, weight.axis, _array(graph, weight.floats).ndim)
    for bias in unfolded.biases:
        shape = _array(graph, bias.floats).shape
        found[bias.floats] = np.broadcast_to(_BIAS_LEVELS * _array(quantized, bias.scale), shape)
    for name in unfolded.scales:
        found[name] = _SCALE_SHARE * _array(graph, name)
    return found


def in_one_block(units: Mapping[str, Array], blocks: Iterable[Graph]) -> dict[str, Array]:
    """The tensors that no two blocks read: what one block learns must not change another."""
    used = [name for block in blocks for name in block.weights]
    return {name: unit for name, unit in units.items() if used.count(name) == 1}


def size_of(graph: Graph, name: str) -> int:
    """Elements of an initializer."""
    return _array(graph, name).size


def along(numbers: Array, axis: int, ndim: int) -> Array:
    """One number, or one for each index along an axis, in a shape that broadcasts."""
    if numbers.size == 1:
        return numbers.reshape(())
    return numbers.reshape([-1 if i == axis % ndim else 1 for i in range(ndim)])


def _array(graph: Graph, name: str) -> Array:
    tensor = graph.weights[name].const_value
    assert tensor is not None
    return tensor.numpy()
