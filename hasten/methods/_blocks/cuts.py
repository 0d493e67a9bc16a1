"""Where everything passes through one value: there a graph can be taken apart and trained piece by piece.

A value *depends* when a layer that learns or a rounding lies before it; masks and positions, which do not,
are computed from the model's inputs in every block that reads them, as in the original model. The graph can
be cut at a value where it is the only one that depends and is read further on: an articulation point of the
flow of data. A weight that layers share must lie in one block, since it can have one value only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import onnx_ir as ir

from hasten.graph import Graph

_PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True)
class Passage:
    """A value that everything passes through, and how many layers that learn lie before it."""

    name: str
    layers: int


def passages(graph: Graph, weights: Collection[str]) -> list[Passage]:
    """The float values to cut at, in order. weights: names of the initializers that make a layer."""
    main = graph.ir_model.graph
    nodes = list(main)
    place = {node: i for i, node in enumerate(nodes)}
    ends = _last_uses(main, place)
    readers = _readers(nodes, weights)
    layers = {i for found in readers.values() for i in found}
    shared = [(min(found), max(found)) for found in readers.values() if len(found) > 1]
    dependent: set[ir.Value] = set()
    live: set[ir.Value] = set()
    passed: list[Passage] = []
    count = 0
    for i, node in enumerate(nodes):
        count += i in layers
        if i in layers or _rounds(node) or any(v in dependent for v in _read(node)):
            dependent.update(node.outputs)
            live.update(v for v in node.outputs if ends.get(v, -1) > i)
        live = {v for v in live if ends[v] > i}
        if len(live) == 1 and node.outputs[0] in live and not any(a <= i < b for a, b in shared):
            value = node.outputs[0]
            if value.dtype == ir.DataType.FLOAT and not value.is_graph_output():
                passed.append(Passage(str(value.name), count))
    return passed


def choose(found: Iterable[Passage], fit: Collection[str], layers: int, total: int) -> list[str]:
    """The values to cut at: at least ``layers`` layers in every block, one at least in the last.

    Of several with as many layers before them the last is taken: what an activation function or the rounding
    of a value cuts off is no error of the layer's. fit: names that may be taken; total: layers of the graph.
    """
    last = {p.layers: p.name for p in found if p.name in fit and p.layers < total}
    chosen: list[str] = []
    before = 0
    for count, name in sorted(last.items()):
        if count - before >= layers:
            chosen.append(name)
            before = count
    return chosen


def layers_of(graph: Graph, weights: Collection[str]) -> list[ir.Node]:
    """The nodes that read these weights, in order."""
    nodes = list(graph.ir_model.graph)
    places = {i for found in _readers(nodes, weights).values() for i in found}
    return [nodes[i] for i in sorted(places)]


def _readers(nodes: list[ir.Node], weights: Collection[str]) -> dict[str, list[int]]:
    """The places of the layers that read each weight."""
    found: dict[str, list[int]] = {}
    for i, node in enumerate(nodes):
        if node.op_type in _PAIR:
            continue
        for value in _read(node):
            origin = _origin(value)
            if origin is not None and origin.name in weights:
                found.setdefault(str(origin.name), []).append(i)
    return found


def _origin(value: ir.Value | None) -> ir.Value | None:
    """The initializer that a value is, or is the rounded form of; None for what is computed."""
    while value is not None and not value.is_initializer():
        producer = value.producer()
        if producer is None or producer.op_type not in _PAIR:
            return None
        value = producer.inputs[0]
    return value


def _rounds(node: ir.Node) -> bool:
    """Whether a node rounds what is computed, or decodes what was looked up in a rounded table."""
    return node.op_type in _PAIR and _origin(node.inputs[0]) is None


def _last_uses(main: ir.Graph, place: dict[ir.Node, int]) -> dict[ir.Value, int]:
    """The place of the last node that reads each value; beyond the last where the model gives it out."""
    ends: dict[ir.Value, int] = {}
    for node, i in place.items():
        for value in _read(node):
            ends[value] = i
    return ends | dict.fromkeys(main.outputs, len(place))


def _read(node: ir.Node) -> list[ir.Value]:
    """What a node reads, its bodies included."""
    inside = [n for a in node.attributes.values() for g in _bodies(a) for n in g.all_nodes()]
    return [v for n in (node, *inside) for v in n.inputs if v is not None]


def _bodies(attribute: ir.Attr) -> list[ir.Graph]:
    if attribute.type == ir.AttributeType.GRAPH:
        return [attribute.as_graph()]
    return list(attribute.as_graphs()) if attribute.type == ir.AttributeType.GRAPHS else []
