"""Merge consecutive slices along different axes.

Algebra: Slice_b(Slice_a(x)) = Slice_{a,b}(x) when a and b cut different axes: each axis is cut on its own.

Check: constant bounds and axes, the axes counted from the front; nothing else uses the value in between.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hasten.graph import Graph
from hasten.graph.editor import Editor, Findings
from hasten.graph.reading import given, integers, rank, sole_user


@dataclass(frozen=True)
class _Cut:
    starts: list[int]
    ends: list[int]
    axes: list[int]
    steps: list[int]


def apply(graph: Graph) -> Findings:
    """Merge every pair, in place."""
    editor = Editor(graph, shapes=True)
    for node in editor.nodes("Slice"):
        y = node.inputs[0]
        before = y.producer() if y is not None else None
        if (
            y is None
            or before is None
            or before.op_type != "Slice"
            or before.domain
            or sole_user(y) is not node
        ):
            continue
        first, second = _cut(before), _cut(node)
        if first is None or second is None or set(first.axes) & set(second.axes):
            continue
        parts = [
            (first.starts + second.starts, "starts"),
            (first.ends + second.ends, "ends"),
            (first.axes + second.axes, "axes"),
            (first.steps + second.steps, "steps"),
        ]
        stem = node.outputs[0].name
        inputs = [editor.constant(np.asarray(p, dtype=np.int64), f"{stem}.{what}") for p, what in parts]
        made = editor.replace(node, "Slice", [before.inputs[0], *inputs])
        editor.changed(made, "merged with the Slice before it")
        editor.remove(before)
    return editor.findings


def _cut(node: ir.Node) -> _Cut | None:
    dims, starts, ends = rank(node.inputs[0]), integers(given(node, 1)), integers(given(node, 2))
    if dims is None or starts is None or ends is None:
        return None
    axes = integers(given(node, 3)) if given(node, 3) is not None else list(range(len(starts)))
    steps = integers(given(node, 4)) if given(node, 4) is not None else [1] * len(starts)
    if axes is None or steps is None:
        return None
    return _Cut(starts, ends, [a % dims for a in axes], steps)
