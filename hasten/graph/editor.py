"""Editing a graph safely: values bypassed, nodes replaced, names kept unique.

Every change of a graph goes through an ``Editor``, which also collects what it changed and what it refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.core.record import Site, Skip
from hasten.graph import Graph
from hasten.graph.names import layer_name, skip
from hasten.graph.reading import pinned
from hasten.graph.shapes import refresh

Attributes: TypeAlias = Mapping[str, int | float | str | Sequence[int] | Sequence[float] | ir.TensorProtocol]


@dataclass
class Findings:
    """What a rewrite changed, and what it looked at and left with the reason."""

    sites: list[Site] = field(default_factory=list)
    skipped: list[Skip] = field(default_factory=list)


class Editor:
    """A graph under change. ``shapes``: whether the rewrite reads shapes, which are then inferred anew."""

    def __init__(self, graph: Graph, *, shapes: bool = False) -> None:
        self.graph = graph
        self.main = graph.ir_model.graph
        self.findings = Findings()
        self._names = _names(graph)
        if shapes:
            refresh(graph)

    def nodes(self, *op_types: str, domain: str = "") -> Iterator[ir.Node]:
        """The nodes of these types (all types when none is named), in order, subgraphs included.

        Nodes may be removed and inserted while iterating; removed ones are not yielded any more, and
        inserted ones not yet.
        """
        snapshot = [node for owner in self.graph.ir_model.graphs() for node in owner]
        for node in snapshot:
            wanted = node.domain == domain and (not op_types or node.op_type in op_types)
            if wanted and node.graph is not None:
                yield node

    def changed(self, node: ir.Node, what: str) -> None:
        """Record that the rewrite changed this node."""
        self.findings.sites.append(Site(name=layer_name(node), op_type=node.op_type, what=what))

    def refused(self, node: ir.Node, reason: str) -> None:
        """Record that the rewrite looked at this node and left it."""
        self.findings.skipped.append(skip(node, reason))

    def unique(self, stem: str) -> str:
        """A value or node name that is not taken yet; taken from now on."""
        name, count = stem, 1
        while name in self._names:
            count += 1
            name = f"{stem}.{count}"
        self._names.add(name)
        return name

    def constant(self, array: Array, stem: str) -> ir.Value:
        """A new initializer of the main graph, which every subgraph sees."""
        name = self.unique(stem)
        tensor = ir.tensor(array, name=name)
        shape, kind = ir.Shape(array.shape), ir.TensorType(tensor.dtype)
        value = ir.Value(name=name, shape=shape, type=kind, const_value=tensor)
        self.main.register_initializer(value)
        return value

    def set_input(self, node: ir.Node, index: int, array: Array, stem: str | None = None) -> None:
        """Make the input of that number a constant, keeping the name of a weight only this node uses."""
        old = node.inputs[index] if index < len(node.inputs) else None
        if old is not None and old.is_initializer() and len(old.uses()) == 1 and not pinned(old):
            old.const_value = ir.tensor(array, name=old.name)
            old.shape = ir.Shape(array.shape)
            old.type = ir.TensorType(old.const_value.dtype)
            return
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        if stem is None:
            stem = old.name if old is not None and old.name else f"{layer_name(node)}.{index}"
        node.replace_input_with(index, self.constant(array, stem))

    def insert(
        self,
        before: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Attributes | None = None,
        *,
        name: str | None = None,
    ) -> ir.Value:
        """Insert a node of one output before another one, in the same graph; returns its output."""
        label = self.unique(name or f"{layer_name(before)}.{op_type}")
        node = ir.node(op_type, list(inputs), dict(attributes or {}), name=label)
        node.outputs[0].name = self.unique(f"{label}.out")
        assert before.graph is not None
        before.graph.insert_before(before, node)
        return node.outputs[0]

    def bypass(self, node: ir.Node, value: ir.Value) -> bool:
        """Let ``value`` take the place of the node's first output and remove the node.

        An output of a graph keeps its name. Returns False, and changes nothing, where that would leave a
        graph with an input, an initializer, a foreign value or one value twice among its outputs.
        """
        old = node.outputs[0]
        if old.is_graph_output():
            producer = value.producer()
            if producer is None or producer.graph is not node.graph or value.is_graph_output():
                return False
            name, old.name = old.name, self.unique(f"{old.name}.replaced")
            value.name = name
            value.shape, value.type = old.shape, old.type
        old.replace_all_uses_with(value, replace_graph_outputs=True)
        self.remove(node)
        return True

    def remove(self, node: ir.Node) -> None:
        """Remove a node whose outputs nobody uses."""
        assert node.graph is not None
        node.graph.remove(node, safe=True)

    def replace(
        self,
        node: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Attributes | None = None,
        *,
        name: str | None = None,
    ) -> ir.Node:
        """Put a node of another type in a node's place; its first output takes over all uses and the name.

        The new node is called ``name``, or as the old one, so that whoever refers to the layer finds it.
        """
        output = self.insert(node, op_type, inputs, attributes, name=f"{layer_name(node)}.new")
        made = output.producer()
        assert made is not None
        label = name or node.name
        old = node.outputs[0]
        output.shape, output.type = old.shape, old.type
        if not self.bypass(node, output):
            raise AssertionError("a fresh output can always take the place of an old one")
        if not output.is_graph_output():
            output.name = old.name
        made.name = label
        return made


def _names(graph: Graph) -> set[str]:
    names: set[str] = set()
    for owner in graph.ir_model.graphs():
        names.update(v.name for v in (*owner.inputs, *owner.initializers.values()) if v.name)
        for node in owner:
            names.update(v.name for v in node.outputs if v.name)
            if node.name:
                names.add(node.name)
    return names


def fits(shape: tuple[int, ...], x: ir.Value) -> bool:
    """Whether a constant of that shape, met elementwise, leaves the shape of x as it is."""
    if not shape:
        return True
    if x.shape is None or len(shape) > len(x.shape):
        return False
    tail = list(x.shape)[len(x.shape) - len(shape) :]
    return all(want in {1, have} for want, have in zip(shape, tail, strict=True))


def is_float(value: ir.Value | None) -> bool:
    """Whether the value is known to be floating-point."""
    return value is not None and value.dtype is not None and value.dtype.is_floating_point()


def rounded(array: Array, dtype: np.dtype[Any]) -> Array | None:
    """A result of double-precision arithmetic in the type of the original; None where it overflows."""
    with np.errstate(over="ignore"):
        made = np.asarray(array).astype(dtype)
    return made if np.isfinite(made).all() else None
