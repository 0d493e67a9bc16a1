"""Nodes that together are one torch function, made one node before the graph is compiled.

GELU as it is exported, x · 0.5 · (1 + erf(x / √2)) in five nodes (Hendrycks and Gimpel 2016), becomes Gelu:
one pass over memory in place of five, and fewer on the way back too. Only the module's own copy of the graph
is changed; what is written back keeps its nodes.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from hasten.bridge.roles import constant_of

_SLACK = 2e-4
"""By how much a stored constant may differ from √2, relatively: float16 rounds it by 1e-4."""


def fuse_gelu(model: ir.Model) -> int:
    """Replace every GELU written with Erf by one node, in place; returns how many were found."""
    found = 0
    for graph in model.graphs():
        for node in list(graph):
            last = _last_of_gelu(node) if node.op_type == "Erf" and not node.domain else None
            if last is not None:
                _replace(graph, node, last)
                found += 1
    return found


def _last_of_gelu(erf: ir.Node) -> ir.Node | None:
    """The node whose output is the GELU of what the Erf node's divided input is, if there is one."""
    x = _argument(erf)
    plus = _only_user(erf, "Add")
    if x is None or plus is None or not _is_number(_other(plus, erf.outputs[0]), 1.0):
        return None
    product = _only_user(plus, "Mul")
    if product is None:
        return None
    factor = _other(product, plus.outputs[0])
    if _is_half_of(factor, x):
        return product
    last = _only_user(product, "Mul")
    if last is None:
        return None
    remaining = _other(last, product.outputs[0])
    halved_first = _is_number(factor, 0.5) and remaining is x
    halved_last = factor is x and _is_number(remaining, 0.5)
    return last if halved_first or halved_last else None


def _argument(erf: ir.Node) -> ir.Value | None:
    """The x of Erf(x / √2)."""
    scaled = erf.inputs[0].producer() if erf.inputs[0] is not None else None
    if scaled is None or len(scaled.inputs) != 2:
        return None
    x, by = scaled.inputs
    if scaled.op_type == "Div" and _is_number(by, math.sqrt(2)):
        return x
    if scaled.op_type == "Mul":
        for one, other in ((x, by), (by, x)):
            if _is_number(other, math.sqrt(0.5)):
                return one
    return None


def _only_user(node: ir.Node, op_type: str) -> ir.Node | None:
    """The one node that reads a node's output, if it is of this type and nothing else reads it."""
    value = node.outputs[0]
    uses = value.uses()
    if value.is_graph_output() or len(uses) != 1:
        return None
    user = next(iter(uses)).node
    return user if user.op_type == op_type and not user.domain and user.graph is node.graph else None


def _other(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """The other operand of a node of two."""
    first, second = node.inputs
    return second if first is value else first


def _is_number(value: ir.Value | None, number: float) -> bool:
    array = None if value is None else constant_of(value)
    return array is not None and array.size == 1 and math.isclose(array.item(), number, rel_tol=_SLACK)


def _is_half_of(value: ir.Value | None, x: ir.Value) -> bool:
    """Whether a value is x · 0.5."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Mul" or x not in node.inputs:
        return False
    return _is_number(_other(node, x), 0.5)


def _replace(graph: ir.Graph, erf: ir.Node, last: ir.Node) -> None:
    old = last.outputs[0]
    gelu = ir.node("Gelu", [_argument(erf)], name=last.name)
    new = gelu.outputs[0]
    new.name, new.type, new.shape = old.name, old.type, old.shape
    graph.insert_after(last, gelu)
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    _remove_unread(graph, last)


def _remove_unread(graph: ir.Graph, node: ir.Node) -> None:
    """Remove a node and, after it, those that only it read."""
    if any(value.uses() or value.is_graph_output() for value in node.outputs):
        return
    producers = [value.producer() for value in node.inputs if value is not None]
    graph.remove(node, safe=True)
    for producer in dict.fromkeys(producers):
        if producer is not None and producer.graph is graph:
            _remove_unread(graph, producer)
