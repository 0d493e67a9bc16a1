"""Recurrent layers: a hidden unit has a row in each gate's weights and a column in what reads the past."""

from __future__ import annotations

import onnx_ir as ir

from hasten.graph.coupling.axes import Axes, Rule, Stop, called
from hasten.graph.reading import constant, given

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
"""Blocks of rows in W and R; B has as many for each of them."""
_INITIAL_H, _INITIAL_C, _PEEPHOLES = 5, 6, 7


def _recurrent(axes: Axes, node: ir.Node) -> None:
    """X is [steps, batch, input]; W is [directions, gates · hidden, input], R the same with hidden inputs.

    A unit whose weights are zero stays zero with the default functions: tanh(0) = 0, and gates only scale.
    """
    if "activations" in node.attributes:
        raise Stop(f"{called(node)} has functions of its own")
    x, weight, recurrence = node.inputs[:3]
    assert x is not None
    assert weight is not None
    assert recurrence is not None
    if constant(weight) is None or constant(recurrence) is None:
        raise Stop(f"the weights of {called(node)} are computed")
    gates = GATES[node.op_type]
    hidden = axes.of(recurrence, 2)
    axes.tie(axes.of(x, 2), axes.of(weight, 2))
    axes.mark(node, weight, 2, "read")
    axes.fix(x, [0, 1], f"{called(node)} walks along it")
    for value in (weight, recurrence):
        axes.tie(axes.of(value, 1).reshape(gates, -1), hidden[None])
        axes.mark(node, value, 1, "made")
    axes.mark(node, recurrence, 2, "read")
    bias = given(node, 3)
    if bias is not None:
        axes.tie(axes.of(bias, 1).reshape(2 * gates, -1), hidden[None])
        axes.mark(node, bias, 1, "term")
    peepholes = given(node, _PEEPHOLES)
    if peepholes is not None:
        axes.tie(axes.of(peepholes, 1).reshape(3, -1), hidden[None])
        axes.mark(node, peepholes, 1, "term")
    for index in (_INITIAL_H, _INITIAL_C):
        begin = given(node, index)
        if begin is not None:
            axes.tie(axes.of(begin, 2), hidden)
            axes.mark(node, begin, 2, "term")
            if constant(begin) is None and not axes.vanishes(begin, 2):
                axes.fix(begin, None, f"{called(node)} begins with it")
    for place, out in enumerate(node.outputs):
        if out.name:
            axes.tie(axes.of(out, 3 if place == 0 else 2), hidden)
            axes.fix(out, range(3 if place == 0 else 2), f"{called(node)} walks along it")
            axes.vanish(out, -1, when=bias is None or constant(bias) is not None)


RULES: dict[str, Rule] = dict.fromkeys(GATES, _recurrent)
