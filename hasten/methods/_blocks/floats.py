"""A graph of floats whose structure changed as one that learns: layers, biases and normalizations.

Its weights have no steps of rounding, so each channel's largest number is counted as four units: the same
learning rate then means about the same as for weights of few bits. An offset is counted in quarters of what
it is added to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from hasten.core.data import Array
from hasten.graph import Graph
from hasten.graph.evaluate import Evaluator
from hasten.graph.layer import OPERATORS
from hasten.graph.names import layer_name, name_nodes
from hasten.graph.reading import constant, given, rank
from hasten.graph.shapes import infer
from hasten.methods._blocks.cuts import layers_of
from hasten.methods._blocks.student import Moved

_SAME = 0.9
"""The largest error, relative to the signal, of what is the original's but for a change of structure."""
_LEVELS = 4
"""Units that the largest number of a channel is counted as."""

_NORMS = frozenset(
    {
        "BatchNormalization",
        "GroupNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "RMSNormalization",
    }
)
_SECOND_AXIS = frozenset(
    {"BatchNormalization", "Conv", "ConvTranspose", "GroupNormalization", "InstanceNormalization"}
)
"""Operators whose offsets lie along the second axis of what they compute; others' broadcast from the last."""


@dataclass(frozen=True)
class _Use:
    """What an initializer is to a node that reads it. channel: a weight's axis that outputs lie along."""

    role: Literal["weight", "scale", "offset"]
    node: ir.Node
    channel: int = 0


class Floats:
    """A graph of floats that learns (``Student``)."""

    same = _SAME

    def __init__(self, graph: Graph) -> None:
        self._given = graph.copy()
        name_nodes(self._given)
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(self._given.ir_model)
        self.graph = infer(self._given)
        self._uses = dict(_learned(self.graph))
        self.layers: Sequence[str] = [name for name, use in self._uses.items() if use.role == "weight"]

    def likened(self, original: Graph) -> Graph:
        """The graph as it is: what it lost cannot be put back."""
        return self.graph

    def begin(self, original: Graph, feeds: Mapping[str, Array], threads: int) -> dict[str, Array]:
        """The units; every tensor starts as it is."""
        offsets = {name: use for name, use in self._uses.items() if use.role == "offset"}
        names = list(dict.fromkeys(str(use.node.outputs[0].name) for use in offsets.values()))
        seen = Evaluator(self.graph, names, threads=threads).run(feeds)
        units: dict[str, Array] = {}
        for name, use in self._uses.items():
            array = _array(self.graph, name)
            if use.role == "offset":
                units[name] = _strength(seen[str(use.node.outputs[0].name)], array, use.node) / _LEVELS
            else:
                units[name] = _largest(array, use) / _LEVELS
        return units

    def finished(self) -> Graph:
        """The graph with the tensors that were learned."""
        changed = self._given.copy()
        for name in self._uses:
            changed.weights[name].const_value = self.graph.weights[name].const_value
        return changed

    def moved(self, finished: Graph) -> Iterator[Moved]:
        """Every layer, and how far its weight moved."""
        for name in self.layers:
            old, new = (_array(graph, name).astype(np.float64) for graph in (self._given, finished))
            share = np.linalg.norm(new - old) / max(np.linalg.norm(old), np.finfo(np.float64).tiny)
            for node in layers_of(self._given, [name]):
                yield Moved(layer_name(node), node.op_type, name, f"its weight moved by {share:.1%}")


def _learned(graph: Graph) -> Iterator[tuple[str, _Use]]:
    """The initializers that are nothing but weights, scales and offsets, in the main graph."""
    main = graph.ir_model.graph
    for name, value in graph.weights.items():
        array = constant(value)
        if array is None or array.dtype != np.float32 or value.is_graph_output():
            continue
        uses = [_use(use.node, use.idx, array) if use.node.graph is main else None for use in value.uses()]
        if uses and uses[0] is not None and None not in uses:
            yield name, uses[0]


def _use(node: ir.Node, index: int, array: Array) -> _Use | None:
    """What a constant is at this input of a node; None where it is part of a formula."""
    op_type = "" if node.domain else node.op_type
    channel = _channel(node, index, array) if op_type in OPERATORS else None
    if channel is not None:
        return _Use("weight", node, channel)
    scales = op_type in _NORMS and index == 1
    offsets = index == 2 and (op_type in _NORMS or op_type in OPERATORS)
    if op_type in {"Add", "Mul", "Sub"} and _of_channels(array, node, index):
        scales, offsets = op_type == "Mul", op_type != "Mul"
    if scales or offsets:
        return _Use("scale" if scales else "offset", node)
    return None


def _channel(node: ir.Node, index: int, array: Array) -> int | None:
    """The axis of a layer's weight that its outputs lie along; None for what is no weight."""
    if index > 1 or array.ndim < 2:
        return None
    if node.op_type == "MatMul":
        return array.ndim - (1 if index else 2)
    if node.op_type == "Gemm":
        turned = node.attributes.get_int("transB" if index else "transA", 0)
        return 1 - turned if index else turned
    return (0 if node.op_type == "Conv" else 1) if index else None


def _of_channels(array: Array, node: ir.Node, index: int) -> bool:
    """Whether a constant has a number for each channel of what it meets, and for nothing else.

    Channels are the last axis, or of pictures the third from the last; a constant with further axes of length
    one, such as a mask for scores of attention, is taken for neither.
    """
    other = given(node, 1 - index)
    axes = [axis - array.ndim for axis, size in enumerate(array.shape) if size > 1]
    if len(axes) != 1 or constant(other) is not None:
        return False
    known = rank(other)
    if known is None or known < array.ndim:
        return False
    return (axes == [-1] and array.ndim < 4) or (axes == [-3] and known == 4)


def _largest(array: Array, use: _Use) -> Array:
    """The largest number of each channel, in a shape that broadcasts; none where a weight is zero.

    So a weight that was pruned stays away.
    """
    sizes = np.abs(array)
    if use.role == "scale":
        return sizes
    others = tuple(axis for axis in range(array.ndim) if axis != use.channel)
    largest = sizes.max(axis=others, keepdims=True, initial=0)
    return largest if array.all() else np.where(array == 0, np.float32(0), largest)


def _strength(values: Array, offset: Array, node: ir.Node) -> Array:
    """The root of the mean square of what each number of an offset is added to, in the offset's shape."""
    shape = offset.shape
    if node.op_type in _SECOND_AXIS:
        shape = (offset.size, *[1] * (values.ndim - 2))
    shape = (1,) * (values.ndim - len(shape)) + shape
    squares = np.square(values, dtype=np.float64)
    if any(mine not in {1, theirs} for mine, theirs in zip(shape, values.shape, strict=True)):
        return np.full(offset.shape, np.sqrt(squares.mean()), np.float32)
    axes = tuple(axis for axis, size in enumerate(shape) if size == 1)
    means = np.broadcast_to(squares.mean(axis=axes, keepdims=True), shape)
    return np.asarray(np.sqrt(means).reshape(offset.shape), np.float32)


def _array(graph: Graph, name: str) -> Array:
    tensor = graph.weights[name].const_value
    assert tensor is not None
    return tensor.numpy()
