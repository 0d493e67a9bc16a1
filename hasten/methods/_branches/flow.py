"""Who is computed from whom, and what nothing reads any more once some inputs are cut off."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TypeAlias

import onnx_ir as ir

from hasten.graph import Graph

Use: TypeAlias = tuple[ir.Node, int]
"""A node of the main graph and the number of its input; -1 where a body inside it reads."""

FUSED = "SkipLayerNormalization"
"""ONNX Runtime's sum and normalization in one node; its fourth output is what the first normalizes."""
_NO_DATA = frozenset({"Shape", "Size"})
"""What these read only tells them its shape: nothing further on is computed from it."""


class Flow:
    """The main graph of a model, its nodes in an order in which they can be computed."""

    def __init__(self, graph: Graph) -> None:
        self.nodes = list(graph.ir_model.graph)
        self.uses: dict[ir.Value, list[Use]] = {}
        self._bits: dict[ir.Value, int] = {}
        self._before: dict[ir.Value, int] = {}
        for node in self.nodes:
            for value, index in _reads(node):
                self.uses.setdefault(value, []).append((node, index))
        for value in graph.ir_model.graph.inputs:
            self._before[value] = self._bit(value)
        for node in self.nodes:
            known = 0
            if node.op_type not in _NO_DATA:
                for value, _ in _reads(node):
                    known |= self._before.get(value, 0)
            if node.op_type == FUSED:
                known |= sum(self._bit(value) for value in node.outputs[3:])
            for value in node.outputs:
                self._before[value] = known | self._bit(value)

    def _bit(self, value: ir.Value) -> int:
        return self._bits.setdefault(value, 1 << len(self._bits))

    def computed_from(self, value: ir.Value, source: ir.Value) -> bool:
        """Whether the numbers of ``source`` go into those of ``value``."""
        return value is not source and bool(self._before.get(value, 0) & self._bits.get(source, 0))

    def have_a_common_source(self, one: ir.Value, other: ir.Value) -> bool:
        """Whether some value goes into both."""
        return bool(self._before.get(one, 0) & self._before.get(other, 0))

    def between(self, source: ir.Value, value: ir.Value) -> Iterator[ir.Node]:
        """The nodes through which ``source`` goes into ``value``."""
        for node in self.nodes:
            made = node.outputs[0]
            leads = made is value or self.computed_from(value, made)
            if leads and self.computed_from(made, source):
                yield node

    def sole_reader(self, value: ir.Value) -> Use | None:
        """The one node that reads the value, once, where the model does not give it out."""
        uses = self.uses.get(value, [])
        return uses[0] if len(uses) == 1 and not value.is_graph_output() else None

    def unread(self, cuts: Collection[Use]) -> list[ir.Node]:
        """The nodes that serve nothing else than these inputs."""
        gone: set[ir.Node] = set()
        found = []
        for node in reversed(self.nodes):
            uses = [use for value in node.outputs for use in self.uses.get(value, [])]
            if not uses or any(value.is_graph_output() for value in node.outputs):
                continue
            if all(use in cuts or use[0] in gone for use in uses):
                gone.add(node)
                found.append(node)
        return found[::-1]


def _reads(node: ir.Node) -> Iterator[tuple[ir.Value, int]]:
    for index, value in enumerate(node.inputs):
        if value is not None:
            yield value, index
    for attribute in node.attributes.values():
        for body in _bodies(attribute):
            yield from ((v, -1) for inner in body.all_nodes() for v in inner.inputs if v is not None)


def _bodies(attribute: ir.Attr) -> list[ir.Graph]:
    if attribute.type == ir.AttributeType.GRAPH:
        return [attribute.as_graph()]
    return list(attribute.as_graphs()) if attribute.type == ir.AttributeType.GRAPHS else []
