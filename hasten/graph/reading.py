"""Reading nodes: what an input is, who uses a value, the numbers behind constants."""

from __future__ import annotations

import onnx_ir as ir

from hasten.core.data import Array


def constant(value: ir.Value | None) -> Array | None:
    """The array behind an initializer that no caller can override; None for anything else."""
    if value is None or value.const_value is None or not value.is_initializer() or value.is_graph_input():
        return None
    if value.const_value.dtype.is_string():
        return None
    return value.const_value.numpy()


def scalar(value: ir.Value | None) -> float | None:
    """The number behind a constant of one element; None for anything else."""
    if value is None or value.const_value is None or value.const_value.size != 1:
        return None
    array = constant(value)
    return None if array is None else float(array.reshape(()))


def integers(value: ir.Value | None) -> list[int] | None:
    """The numbers behind a small integer constant; None for anything else."""
    array = constant(value)
    if array is None or array.dtype.kind not in "iu" or array.size > 1024:
        return None
    return [int(n) for n in array.reshape(-1)]


def pinned(value: ir.Value) -> bool:
    """Whether the value is part of a graph's signature."""
    return value.is_graph_input() or value.is_graph_output()


def sole_user(value: ir.Value) -> ir.Node | None:
    """The one node that uses the value, once, in the graph that makes it; None otherwise."""
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return None
    user = next(iter(uses)).node
    producer = value.producer()
    return user if producer is None or producer.graph is user.graph else None


def given(node: ir.Node, index: int) -> ir.Value | None:
    """The input of that number, or None when it is left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def rank(value: ir.Value | None) -> int | None:
    """The number of dimensions when it is known."""
    return None if value is None or value.shape is None else len(value.shape)


def axes_of(node: ir.Node) -> list[int] | None:
    """The axes of a Squeeze, Unsqueeze or reduction, an attribute in old opsets; None: unknown."""
    if "axes" in node.attributes:
        return list(node.attributes["axes"].as_ints())
    return integers(given(node, 1))
