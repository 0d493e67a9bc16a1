"""Names of nodes: reports, recipes and other methods refer to a layer by its node's name."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from hasten.core.record import Skip
from hasten.graph.graph import Graph


def layer_name(node: ir.Node) -> str:
    """The node's own name, or one derived from its first named output, which every exporter sets."""
    if node.name:
        return node.name
    output = next((value.name for value in node.outputs if value.name), "")
    return f"{node.op_type}:{output}"


def skip(node: ir.Node, reason: str) -> Skip:
    """The record of a node that stays as it is."""
    return Skip(name=layer_name(node), op_type=node.op_type, reason=reason)


def name_nodes(graph: Graph) -> int:
    """Give every node, subgraphs included, a name of its own, in place; returns how many were renamed.

    A name that is present and unique stays. The first of several nodes of one name keeps it. Applying it
    twice changes nothing.
    """
    taken: set[str] = set()
    nodes = list(_nodes(graph))
    reserved = {node.name for node in nodes if node.name}
    renamed = 0
    for node in nodes:
        if node.name and node.name not in taken:
            taken.add(node.name)
            continue
        name = stem = layer_name(node)
        count = 1
        while name in taken or name in reserved:
            count += 1
            name = f"{stem}#{count}"
        node.name = name
        taken.add(name)
        renamed += 1
    return renamed


def _nodes(graph: Graph) -> Iterator[ir.Node]:
    for owner in graph.ir_model.graphs():
        yield from owner
