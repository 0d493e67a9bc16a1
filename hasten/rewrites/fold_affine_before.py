"""Fold constant factors and terms into the linear operators behind them.

Algebra: W·(s·x + t) + b = (W·s)·x + (b + W·t), per input channel; Paddle's learnable affine blocks and
batch normalization before a convolution are of this kind. Where zero padding mixes in, or a MatMul has no
bias to take W·t, only the factor moves: W·(s·x + t) = (W·s)·(x + t/s).

Check: every user of the value is a linear operator with constant weights of its own that takes it as its
input; the constants vary along its channel axis only; the folded weights are finite; s is not so small that
t/s would lose what it stands for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.graph import Graph
from hasten.graph.editor import Editor, Findings, fits, rounded
from hasten.graph.reading import constant, pinned, sole_user
from hasten.rewrites.affine import Affine, affine, source
from hasten.rewrites.linear import Linear, linear, per_channel

SMALLEST_FACTOR = 1e-4
"""Below this t/s may leave the range in which x is precise; a factor is dropped only where it is larger."""


@dataclass(frozen=True)
class _Fold:
    """A linear operator with the factor and term it shall take in, one number an input channel."""

    operator: Linear
    factor: Array
    term: Array


def apply(graph: Graph) -> Findings:
    """Fold everything that can be folded, in place."""
    editor = Editor(graph, shapes=True)
    for node in editor.nodes("Mul", "Div", "Add", "Sub", "BatchNormalization"):
        last = affine(node)
        if last is not None and _keeps_shape(last) and not pinned(node.outputs[0]) and node.outputs[0].uses():
            _fold(editor, last)
    return editor.findings


def _keeps_shape(item: Affine) -> bool:
    """Whether the value has the shape of what is made of it; without the node it would be smaller."""
    normalizes = item.node.op_type == "BatchNormalization"
    return normalizes or all(fits(array.shape, item.x) for array in (item.scale, item.shift))


def _fold(editor: Editor, last: Affine) -> None:
    operators = _users(last.node.outputs[0])
    if operators is None:
        return
    chain = _leading_to(last)
    folds = [fold for fold in (_total(operator, chain) for operator in operators) if fold is not None]
    if len(folds) == len(operators) and all(not np.any(f.term) or _takes_term(f) for f in folds):
        if _write(editor, folds, with_term=True):
            for item in chain:
                _drop(editor, item)
        return
    _fold_factor(editor, chain, operators)


def _users(value: ir.Value) -> list[Linear] | None:
    """The linear operators that use the value; None where something else does, or in another way."""
    found = []
    for use in value.uses():
        operator = linear(use.node) if use.idx == 0 else None
        if operator is None or operator.node.graph is not _home(value):
            return None
        found.append(operator)
    return found


def _home(value: ir.Value) -> ir.Graph | ir.Function | None:
    producer = value.producer()
    return None if producer is None else producer.graph


def _leading_to(last: Affine) -> list[Affine]:
    """The chain of affine nodes that ends there, in order."""
    chain = [last]
    while True:
        producer = chain[0].x.producer()
        before = affine(producer) if producer is not None else None
        if before is None or sole_user(chain[0].x) is not chain[0].node or not _keeps_shape(before):
            return chain
        chain.insert(0, before)


def _total(operator: Linear, chain: list[Affine]) -> _Fold | None:
    """What the chain amounts to per input channel of that operator."""
    factor, term = np.ones(operator.inputs), np.zeros(operator.inputs)
    for item in chain:
        rank = operator.rank if operator.takes_bias else _rank(chain[-1].node.outputs[0])
        scale = per_channel(item.scale, operator.inputs, operator.axis, rank)
        shift = per_channel(item.shift, operator.inputs, operator.axis, rank)
        if scale is None or shift is None:
            return None
        factor, term = factor * scale, term * scale + shift
    return _Fold(operator, factor, term)


def _rank(value: ir.Value) -> int | None:
    return None if value.shape is None else len(value.shape)


def _takes_term(fold: _Fold) -> bool:
    return fold.operator.takes_bias and not fold.operator.pads


def _write(editor: Editor, folds: list[_Fold], *, with_term: bool) -> bool:
    """Write all weights, or none where one of them would overflow its type."""
    made = [f.operator.scaled_inputs(f.factor, f.term if with_term else 0 * f.term) for f in folds]
    for fold, (weight, bias) in zip(folds, made, strict=True):
        original = constant(fold.operator.node.inputs[1])
        assert original is not None
        if rounded(weight, original.dtype) is None or rounded(bias, original.dtype) is None:
            editor.refused(fold.operator.node, "the folded weights exceed the range of their type")
            return False
    return all(fold.operator.write(editor, *arrays) for fold, arrays in zip(folds, made, strict=True))


def _fold_factor(editor: Editor, chain: list[Affine], operators: list[Linear]) -> None:
    """Let the operators take the factor alone: [.., Mul s, Add t] becomes [.., Add t/s]."""
    if len(chain) < 2:
        return
    scaling, adding = chain[-2:]
    if not scaling.only_scales or adding.node.op_type not in {"Add", "Sub"} or np.any(adding.scale != 1):
        return
    if np.any(np.abs(scaling.scale) < SMALLEST_FACTOR):
        return
    folds = [fold for fold in (_total(operator, [scaling]) for operator in operators) if fold is not None]
    index = 0 if constant(adding.node.inputs[0]) is not None else 1
    value = adding.node.inputs[index]
    original = constant(value)
    assert value is not None
    assert original is not None
    term = rounded(adding.shift / scaling.scale, original.dtype)
    if term is None or term.size != max(scaling.scale.size, adding.shift.size):
        return
    if len(folds) != len(operators) or not _write(editor, folds, with_term=False):
        return
    _drop(editor, scaling)
    rest = editor.constant(term, f"{value.name}.over_factor")
    made = editor.replace(adding.node, "Add", [source(adding), rest])
    editor.changed(made, "divided by the factor that the operators behind it took")


def _drop(editor: Editor, item: Affine) -> None:
    editor.changed(item.node, "folded into the weights of the operators behind it")
    if not editor.bypass(item.node, source(item)):
        raise AssertionError("the value of an inner node can always take its user's place")
