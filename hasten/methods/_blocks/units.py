"""Learned numbers, each counted in a unit of its own.

Adam moves every number by about the learning rate, whatever its size; but the sizes of the channels of one
weight differ by factors of thousands where a batch normalization was folded into it. So in the graph that is
trained a learned tensor is

    value = start + unit · number

and what is learned is the number, 0 at first: for a weight in steps of its rounding or parts of its largest,
for a scale in shares of what it is.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from hasten.bridge.roles import LEARNED
from hasten.core.data import Array
from hasten.graph import Graph
from hasten.graph.editor import Editor

SUFFIX = ".number"


def count_in(graph: Graph, units: Mapping[str, Array]) -> None:
    """Let, in place, only the initializers named in ``units`` be learned, and these in their units."""
    editor = Editor(graph)
    before = list(graph.weights.items())
    for _, value in before:
        value.meta[LEARNED] = False
    for name, value in before:
        if name not in units or value.const_value is None:
            continue
        unit = units[name].astype(np.float32)
        number = editor.constant(np.zeros(value.const_value.numpy().shape, np.float32), f"{name}{SUFFIX}")
        scale = editor.constant(unit, f"{name}.unit")
        number.meta[LEARNED], scale.meta[LEARNED] = True, False
        moved = ir.node("Mul", [number, scale], name=editor.unique(f"{name}.moved"))
        total = ir.node("Add", [value, moved.outputs[0]], name=editor.unique(f"{name}.total"))
        for node in (moved, total):
            node.outputs[0].name = editor.unique(f"{node.name}.out")
        total.outputs[0].type, total.outputs[0].shape = value.type, value.shape
        for use in value.uses():
            if use.node is not total:
                use.node.replace_input_with(use.idx, total.outputs[0])
        first = next(iter(editor.main))
        editor.main.insert_before(first, [moved, total])


def learned(graph: Graph, trained: Graph, units: Mapping[str, Array]) -> dict[str, Array]:
    """The tensors that the numbers of a trained graph stand for, by name. graph: before ``count_in``."""
    found = {}
    for name, unit in units.items():
        start, number = graph.weights.get(name), trained.weights.get(f"{name}{SUFFIX}")
        if start is not None and start.const_value is not None and number is not None:
            assert number.const_value is not None
            found[name] = (start.const_value.numpy() + unit * number.const_value.numpy()).astype(np.float32)
    return found
