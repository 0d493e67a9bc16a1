"""Attention as one operator: whole heads, where queries, keys and values have as many."""

from __future__ import annotations

import onnx_ir as ir

from hasten.graph.channels import Labels
from hasten.graph.coupling.axes import Axes, Rule, Stop, called, used
from hasten.graph.reading import given


def _attention(axes: Axes, node: ir.Node) -> None:
    """Queries, keys and values are [batch, heads, length, size], or [batch, length, heads · size]."""
    query, key, value = (given(node, i) for i in range(3))
    if query is None or key is None or value is None or any(given(node, i) for i in (4, 5)):
        raise Stop(f"{called(node)} keeps a past")
    if any(used(output) for output in node.outputs[1:]):
        raise Stop(f"{called(node)} also gives what it has seen")
    heads = [_heads(axes, node, each, i) for i, each in enumerate((query, key, value))]
    counts = {len(labels) for labels in heads}
    if len(counts) > 1:
        raise Stop(f"{called(node)} shares keys between heads")
    for labels in (*heads[1:], _heads(axes, node, node.outputs[0], 0)):
        axes.tie(heads[0], labels)
    axes.attend(heads[0])
    mask = given(node, 3)
    if mask is not None:
        _masked(axes, node, mask, heads[0])
    along = 1 if len(axes.shape(value)) == _RANK else 2
    axes.vanish(node.outputs[0], along, when=axes.vanishes(value, along))


_RANK = 4


def _masked(axes: Axes, node: ir.Node, mask: ir.Value, heads: Labels) -> None:
    """A mask is broadcast to [batch, heads, length, length]."""
    of_heads = len(axes.shape(mask)) - 3
    others = [axis for axis in range(len(axes.shape(mask))) if axis != of_heads]
    axes.fix(mask, others, f"{called(node)} reads it at each position")
    if of_heads >= 0 and axes.shape(mask)[of_heads] != 1:
        axes.tie(axes.of(mask, of_heads), heads)


def _heads(axes: Axes, node: ir.Node, value: ir.Value, index: int) -> Labels:
    """The numbers of the heads; of what lies inside them each is tied to its head's."""
    rank = len(axes.shape(value))
    axes.fix(value, [0, 2] if rank == _RANK else [0, 1], f"{called(node)} reads it at each position")
    if rank == _RANK:
        axes.fix(value, [3], f"{called(node)} compares whole heads")
        return axes.of(value, 1)
    count = node.attributes.get_int("q_num_heads" if index == 0 else "kv_num_heads", 0)
    labels = axes.of(value, 2)
    if count < 1 or len(labels) % count:
        raise Stop(f"{called(node)} does not say how many heads there are")
    inside = labels.reshape(count, -1)
    axes.tie(inside, inside[:, :1])
    return inside[:, 0]


RULES: dict[str, Rule] = {"Attention": _attention}
