"""A graph with quantized weights as one that learns: floats behind roundings, counted in their steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.graph import Graph
from hasten.graph.reading import constant
from hasten.graph.shapes import infer
from hasten.methods._blocks.counterpart import distance
from hasten.methods._blocks.student import Moved
from hasten.methods._qat.fold import fold
from hasten.methods._qat.unfold import SUFFIX, Unfolded, array

_SAME = 0.3
"""The largest error, relative to the signal, of what is the original's but for rounded activations."""
_STEPS = 1.0
"""How far integers may be from the weight that they stand for, in steps (root of the mean square)."""
_MARGIN = 0.4
"""Of a step: how far from the middle of what rounds to the same integer a weight may start."""
_SCALE_SHARE = 1 / 30
"""Of itself: the unit of a scale. Where a weight moves a whole step, its scale moves by a thirtieth."""
_BIAS_LEVELS = 128
"""Of the bias's own scale: its unit, a step of a weight times about what an activation is at most."""


class Rounded:
    """A quantized graph that learns (``Student``), its integers as floats."""

    same = _SAME

    def __init__(self, unfolded: Unfolded) -> None:
        self._quantized = unfolded.quantized
        self._unfolded = unfolded
        self.graph = infer(unfolded.graph)
        self.layers: Sequence[str] = [weight.floats for weight in unfolded.weights]

    def likened(self, original: Graph) -> Graph:
        """The graph with the original's weights in the places of its rounded ones."""
        graph = self._unfolded.graph.copy()
        for name, weight in self.originals(original).items():
            value = graph.weights[name]
            value.const_value = ir.tensor(weight, name=name)
            for use in value.uses():
                if use.node.op_type == "QuantizeLinear":
                    for reader in use.node.outputs[0].uses():
                        reader.node.outputs[0].replace_all_uses_with(value)
        return graph

    def begin(self, original: Graph, feeds: Mapping[str, Array], threads: int) -> dict[str, Array]:
        """Let each weight start where it rounds to its integer, on the side of the original's weight.

        So the graph computes at first what the quantized one does, and what was hard to round turns over
        easily.
        """
        originals = self.originals(original)
        for weight in self._unfolded.weights:
            if weight.floats not in originals:
                continue
            shape = originals[weight.floats].shape
            scale = weight.spread(array(self._quantized, weight.scale), shape)
            levels = array(self._quantized, weight.integers).astype(np.float32)
            if weight.zero_point is not None:
                levels = levels - weight.spread(
                    array(self._quantized, weight.zero_point).astype(np.float32), shape
                )
            offset = np.clip(originals[weight.floats] / scale - levels, -_MARGIN, _MARGIN)
            start = ((levels + offset) * scale).astype(np.float32)
            self.graph.weights[weight.floats].const_value = ir.tensor(start, name=weight.floats)
        return self._units()

    def finished(self) -> Graph:
        """The quantized graph, with what was learned rounded into its integers."""
        return fold(self._unfolded, self.graph)

    def moved(self, finished: Graph) -> Iterator[Moved]:
        """Every layer with a quantized weight, and how many of its integers moved."""
        op_types = {node.name: node.op_type for node in self._quantized.ir_model.graph}
        for weight in self._unfolded.weights:
            old, new = (array(graph, weight.integers) for graph in (self._quantized, finished))
            share = np.not_equal(old, new).mean()
            for layer in weight.layers:
                op_type = op_types.get(layer, "DequantizeLinear")
                yield Moved(layer, op_type, weight.floats, f"{share:.1%} of its integers moved")

    def originals(self, original: Graph) -> dict[str, Array]:
        """The original's weights and biases that were rounded, by their name in the unfolded graph."""
        found: dict[str, Array] = {}
        graph = self._unfolded.graph
        for weight in self._unfolded.weights:
            theirs = constant(original.weights.get(weight.integers.removesuffix(SUFFIX)))
            ours = array(graph, weight.floats)
            if theirs is None or theirs.dtype != np.float32 or theirs.shape != ours.shape:
                continue
            off = (theirs - ours) / weight.spread(array(graph, weight.scale), ours.shape)
            if float(np.sqrt(np.mean(np.square(off)))) < _STEPS:
                found[weight.floats] = theirs
        for bias in self._unfolded.biases:
            theirs = constant(original.weights.get(bias.integers.removesuffix(SUFFIX)))
            ours = array(graph, bias.floats)
            if theirs is None or theirs.size != ours.size:
                continue
            shaped = theirs.reshape(ours.shape).astype(np.float32)
            if distance(ours, shaped) < _SAME:
                found[bias.floats] = shaped
        return found

    def _units(self) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for weight in self._unfolded.weights:
            shape = array(self.graph, weight.floats).shape
            found[weight.floats] = weight.spread(array(self.graph, weight.scale), shape)
        for bias in self._unfolded.biases:
            shape = array(self.graph, bias.floats).shape
            found[bias.floats] = np.broadcast_to(_BIAS_LEVELS * array(self._quantized, bias.scale), shape)
        for name in self._unfolded.scales:
            found[name] = _SCALE_SHARE * array(self.graph, name)
        return found
