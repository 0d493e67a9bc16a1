"""Follows channels through a graph: who makes them, what lets their scales pass, who reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.graph import Graph
from hasten.graph.channels import NOTHING, Channels, Labels
from hasten.graph.names import layer_name
from hasten.graph.reading import constant, pinned
from hasten.graph.shapes import infer

_LARGEST = 1e30
"""Weights beyond leave no room for a scale in float32."""
Role: TypeAlias = Literal["weight", "factor", "term"]
_TOGETHER = frozenset({"Add", "Concat", "Div", "MatMul", "Max", "Min", "Mul", "Sub", "Sum"})
"""Operators whose rules look at all inputs; those of the others look at the first."""


class Stop(Exception):  # noqa: N818 - carries the reason why scales do not pass
    """Scales do not pass through a node."""


@dataclass(frozen=True, eq=False)
class Part:
    """A constant that takes scales in: divided by those of ``made`` and multiplied by those of ``read``.

    Both have the axes of the array. role: the ``weight`` of a linear layer; a ``factor`` that alone gives
    channels their size; a ``term``, or whatever else is divided along.
    """

    node: ir.Node
    index: int
    array: Array
    made: Labels
    read: Labels
    role: Role


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer that can multiply its weights by the scales of what it reads."""

    node: ir.Node
    value: ir.Value
    labels: Labels


Rule: TypeAlias = Callable[["Trace", ir.Node], "list[Labels | None]"]
"""From a node to the labels of its outputs (None: no scales); raises Stop where scales cannot pass."""


class Trace:
    """One walk through the main graph, in order. residuals: whether scales pass through sums of values."""

    def __init__(
        self, graph: Graph, rules: Mapping[str, Rule], exclude: frozenset[str], *, residuals: bool
    ) -> None:
        self.residuals = residuals
        self.channels = Channels("it meets values that no layer scales")
        self.parts: list[Part] = []
        self.readers: list[Reader] = []
        self.outputs: dict[ir.Node, Labels] = {}
        self._labels: dict[ir.Value, Labels] = {}
        self._shared: dict[ir.Value, list[Part]] = {}
        self._shapes = _shapes(graph)
        self._main = graph.ir_model.graph
        self.nodes = list(self._main)
        for node in self.nodes:
            self._visit(node, rules, exclude)
        self._close()

    def _visit(self, node: ir.Node, rules: Mapping[str, Rule], exclude: frozenset[str]) -> None:
        rule = rules.get(node.op_type) if node.domain == "" else None
        try:
            if layer_name(node) in exclude:
                raise Stop("excluded by the recipe")
            if rule is None:
                raise Stop(f"{_called(node)} does not let scales pass")
            made = rule(self, node)
            if node.op_type not in _TOGETHER:
                self._stop(node.inputs[1:], f"it controls {_called(node)}")
        except Stop as stop:
            self._stop(node.inputs, str(stop))
            return
        for value, labels in zip(node.outputs, made, strict=False):
            if labels is not None:
                self._labels[value] = labels
        if made and made[0] is not None:
            self.outputs[node] = made[0]

    def _stop(self, values: Sequence[ir.Value | None], reason: str) -> None:
        for value in values:
            labels = None if value is None else self._labels.get(value)
            if labels is not None:
                self.channels.fix(labels, reason)

    def _close(self) -> None:
        """What leaves the main graph, or shares a weight with what takes no scales in, stays as it is."""
        for value, labels in self._labels.items():
            if value.is_graph_output():
                self.channels.fix(labels, f"{value.name} is an output of the graph")
            if any(use.node.graph is not self._main for use in value.uses()):
                self.channels.fix(labels, "it is read inside the body of a loop or branch")
        for value, parts in self._shared.items():
            if len(value.uses()) > len(parts) or pinned(value):
                for part in parts:
                    self.channels.fix(part.made, f"something else reads its weight {value.name} too")
                    self.channels.fix(part.read, f"something else reads the weight {value.name} too")

    def labels(self, value: ir.Value | None) -> Labels | None:
        """The channels of a value; None where it has none."""
        return None if value is None else self._labels.get(value)

    def shape(self, value: ir.Value | None) -> tuple[int | None, ...] | None:
        """The lengths of its axes, None for those that are not known; None where not even the rank is."""
        if value is None:
            return None
        array = constant(value)
        return self._shapes.get(str(value.name)) if array is None else array.shape

    def number(self, value: ir.Value | None) -> Array | None:
        """The array behind a constant that can take scales in; None for anything else."""
        array = constant(value)
        if array is None or array.dtype not in (np.float32, np.float64) or not array.size:
            return None
        return array if np.abs(array).max() < _LARGEST else None

    def layer(self, node: ir.Node, array: Array, made: Labels, read: Labels) -> None:
        """The node's second input is a weight that makes and reads these channels."""
        value = node.inputs[1]
        assert value is not None
        part = Part(node, 1, array, made, read, "weight")
        for other in self._shared.setdefault(value, []):
            self.channels.same(made, other.made)
            self.channels.same(read, other.read)
        self._shared[value].append(part)
        self.parts.append(part)

    def divide(self, node: ir.Node, index: int, array: Array, labels: Labels, role: Role = "term") -> None:
        """The node's input of that number is a constant that is divided by the scales of these channels."""
        dims = max(array.ndim, *(labels.ndim - i for i, n in enumerate(labels.shape) if n > 1), 0)
        made = labels.reshape(labels.shape[labels.ndim - dims :]) if labels.ndim > dims else labels
        made = made.reshape((1,) * (dims - made.ndim) + made.shape)
        wide = array.reshape((1,) * (dims - array.ndim) + array.shape)
        self.parts.append(Part(node, index, wide, made, np.full((1,) * dims, NOTHING, np.intp), role))


def _called(node: ir.Node) -> str:
    return f"{node.op_type} {layer_name(node)}"


def _shapes(graph: Graph) -> dict[str, tuple[int | None, ...]]:
    main = infer(graph).ir_model.graph
    values = (*main.inputs, *(value for node in main for value in node.outputs))
    return {
        str(v.name): tuple(d if isinstance(d, int) else None for d in v.shape)
        for v in values
        if v.shape is not None
    }
