"""Merge runs of multiplications, divisions, additions and subtractions by constants.

Algebra: s₂·(s₁·x + t₁) + t₂ = (s₁s₂)·x + (s₂t₁ + t₂): any run is one Mul and one Add, or only one of them.

Check: nothing else uses the values in between; no constant enlarges x by broadcasting; the merged ones are no
larger than the largest of the run (a row and a column must not become a matrix) and finite; fewer nodes
remain than before.
"""

from __future__ import annotations

import numpy as np

from hasten.core.data import Array
from hasten.graph import Graph
from hasten.graph.editor import Editor, Findings, fits, rounded
from hasten.graph.names import layer_name
from hasten.graph.reading import constant
from hasten.rewrites.affine import Affine, affine, next_affine, source

_ELEMENTWISE = ("Mul", "Div", "Add", "Sub")
_CANCELS = 2.0**10
"""Of what is added in the end: numbers that on the way are larger round off what matters."""


def apply(graph: Graph) -> Findings:
    """Merge every run, in place."""
    editor = Editor(graph, shapes=True)
    for node in editor.nodes(*_ELEMENTWISE):
        first = affine(node)
        if first is not None and not _continues(first):
            _merge(editor, _run(first))
    return editor.findings


def _continues(item: Affine) -> bool:
    """Whether the node is not the first of its run."""
    producer = item.x.producer()
    before = affine(producer) if producer is not None and producer.op_type in _ELEMENTWISE else None
    following = next_affine(item.x) if before is not None else None
    return following is not None and following.node is item.node


def _run(first: Affine) -> list[Affine]:
    run = [first]
    while (item := next_affine(run[-1].node.outputs[0])) is not None and item.node.op_type in _ELEMENTWISE:
        run.append(item)
    return run


def _merge(editor: Editor, run: list[Affine]) -> None:
    scale, shift, largest_shift = np.ones(()), np.zeros(()), 0.0
    for item in run:
        scale, shift = scale * item.scale, shift * item.scale + item.shift
        largest_shift = max(largest_shift, float(np.abs(shift).max(initial=0.0)))
    if largest_shift > _CANCELS * max(1.0, float(np.abs(shift).max(initial=0.0))):
        return  # what is added and taken away again rounds: x + 1.5 * 2**23 - 1.5 * 2**23 is an integer
    needed = int(np.any(scale != 1)) + int(np.any(shift != 0))
    largest = max(max(item.scale.size, item.shift.size) for item in run)
    dtype = _dtype(run[0])
    if dtype is None or needed >= len(run) or max(scale.size, shift.size) > largest:
        return
    factor, term = rounded(_least(scale), dtype), rounded(_least(shift), dtype)
    kept = all(fits(array.shape, run[0].x) for item in run for array in (item.scale, item.shift))
    if not kept or factor is None or term is None:
        return
    last = run[-1].node
    value = source(run[0])
    if needed == 2:
        made = editor.constant(factor, f"{layer_name(last)}.factor")
        value = editor.insert(last, "Mul", [value, made], name=layer_name(run[0].node) + ".merged")
    for item in run[:-1]:
        editor.changed(item.node, "merged with the arithmetic behind it")
    if np.any(shift != 0):
        editor.replace(last, "Add", [value, editor.constant(term, f"{layer_name(last)}.term")])
    else:
        editor.replace(last, "Mul", [value, editor.constant(factor, f"{layer_name(last)}.factor")])
    for item in reversed(run[:-1]):
        editor.remove(item.node)


def _least(array: Array) -> Array:
    """A constant full of one number as that one number."""
    first = array.reshape(-1)[:1]
    return first.reshape(()) if array.size and bool(np.all(array == first)) else array


def _dtype(item: Affine) -> np.dtype[np.generic] | None:
    for value in item.node.inputs:
        array = constant(value)
        if array is not None:
            return array.dtype
    return None
