"""Fold batch normalization and constant factors and terms into the linear operator before them.

Algebra: s·(W·x + b) + t = (s·W)·x + (s·b + t), per output channel. Batch normalization in inference is the
case s = γ/√(σ²+ε), t = β - μ·s (Ioffe & Szegedy 2015, algorithm 2). It commutes with operators that only
move values: s·Transpose(W·x + b) = Transpose((s·W)·x + s·b).

Check: the linear operator (Conv, ConvTranspose, Gemm, MatMul) has constant weights of its own; nothing else
uses the values in between; the constants vary along the channel axis only, wherever that has moved, and not
at all behind a Reshape that may have split it; the folded weights are finite. A MatMul has no bias: terms
right after it are gathered into one Add.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.graph import Graph
from hasten.graph.editor import Editor, Findings, rounded
from hasten.graph.layer import OPERATORS
from hasten.graph.names import layer_name
from hasten.graph.reading import constant, sole_user
from hasten.rewrites.affine import Affine, next_affine, source
from hasten.rewrites.linear import Linear, linear, per_channel
from hasten.rewrites.place import Place


def apply(graph: Graph) -> Findings:
    """Fold everything that can be folded, in place."""
    editor = Editor(graph, shapes=True)
    for node in editor.nodes(*OPERATORS):
        operator = linear(node)
        if operator is not None:
            _fold(editor, operator)
    for node in editor.nodes("BatchNormalization"):
        editor.refused(node, _why(node))
    return editor.findings


def _fold(editor: Editor, operator: Linear) -> None:
    chain, scale, shift = _following(operator)
    if not operator.takes_bias:
        _fold_without_bias(editor, operator, chain, (scale, shift))
        return
    if not chain:
        return
    if not operator.write(editor, *operator.scaled_outputs(scale, shift)):
        editor.refused(operator.node, "the folded weights exceed the range of their type")
        return
    for item in chain:
        _drop(editor, item, operator.node)


def _following(operator: Linear) -> tuple[list[Affine], Array, Array]:
    """The affine nodes that follow, and what they amount to per output channel."""
    chain: list[Affine] = []
    scale, shift = np.ones(operator.outputs), np.zeros(operator.outputs)
    value, place, moved = operator.node.outputs[0], Place(operator.axis, operator.rank), False
    while True:
        item = next_affine(value)
        if item is None:
            user = sole_user(value)
            further = None if user is None else place.after(user, value)
            if user is None or further is None:
                return chain, scale, shift
            value, place, moved = user.outputs[0], further, True
            continue
        factor = per_channel(item.scale, operator.outputs, place.axis, place.rank)
        term = per_channel(item.shift, operator.outputs, place.axis, place.rank)
        if factor is None or term is None or (moved and not operator.takes_bias and np.any(term)):
            return chain, scale, shift
        scale, shift = scale * factor, shift * factor + term
        chain.append(item)
        value = item.node.outputs[0]


def _drop(editor: Editor, item: Affine, into: ir.Node) -> None:
    editor.changed(item.node, f"folded into the {into.op_type} before it")
    if not editor.bypass(item.node, source(item)):
        raise AssertionError("the value of an inner node can always take its user's place")


def _fold_without_bias(
    editor: Editor, operator: Linear, chain: list[Affine], total: tuple[Array, Array]
) -> None:
    scale, shift = total
    keeper = next((item for item in chain if not item.only_scales), None)
    dropped = [item for item in chain if item is not keeper]
    if not dropped and (keeper is None or keeper.node.op_type in {"Add", "Sub"}):
        return
    weight, _ = operator.scaled_outputs(scale, np.zeros(operator.outputs))
    original = constant(operator.node.inputs[1])
    assert original is not None
    term = rounded(shift, original.dtype)
    if term is None or not operator.write(editor, weight, np.zeros(operator.outputs)):
        editor.refused(operator.node, "the folded weights exceed the range of their type")
        return
    for item in dropped:
        _drop(editor, item, operator.node)
    if keeper is not None:
        bias = editor.constant(term, f"{layer_name(operator.node)}.bias")
        made = editor.replace(keeper.node, "Add", [source(keeper), bias])
        editor.changed(made, "took in the terms and factors around it")


def _why(node: ir.Node) -> str:
    """Why a batch normalization stays."""
    x = node.inputs[0]
    producer = x.producer() if x is not None else None
    if any(constant(value) is None for value in node.inputs[1:]):
        return "its parameters are not constants"
    if producer is None or producer.op_type not in OPERATORS:
        return "no linear operator stands right before it"
    if x is not None and sole_user(x) is None:
        return "something else uses the value it normalizes"
    return f"the weights of {producer.op_type} {producer.name} are not constants of its own"
