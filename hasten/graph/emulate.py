"""bfloat16 arithmetic for an evaluator that has no kernels for it: float32, rounded after every operator.

Hardware multiplies numbers of bfloat16 exactly, sums in float32 and rounds the sum once. Operators of float32
between values that are rounded give the same, to the order of the sums.

Source: Kalamkar et al. 2019, "A Study of BFLOAT16 for Deep Learning Training", section 3, which emulates it
so.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hasten.graph.graph import Graph

_NARROW, _WIDE = ir.DataType.BFLOAT16, ir.DataType.FLOAT


def emulated(graph: Graph) -> Graph:
    """The graph with bfloat16 emulated; itself where its main graph computes nothing in it.

    Inner values keep their names, and hold float32 afterwards. Values must carry their types. A graph with
    an input or output of bfloat16 is left as it is: its signature would change.
    """
    main = graph.ir_model.graph
    pinned = (*main.inputs, *main.outputs)
    computes = any(node.op_type != "Cast" and _touches(node) for node in main)
    if not computes or any(value.dtype == _NARROW for value in pinned):
        return graph
    made = graph.copy()
    _Widening(made.ir_model.graph).run()
    return made


def _touches(node: ir.Node) -> bool:
    return any(value is not None and value.dtype == _NARROW for value in (*node.inputs, *node.outputs))


class _Widening:
    """Works on a graph in place."""

    def __init__(self, main: ir.Graph) -> None:
        self._main = main

    def run(self) -> None:
        """Widen stored values, then round what nodes read and make."""
        for value in self._main.initializers.values():
            if value.dtype == _NARROW and value.const_value is not None:
                wide = value.const_value.numpy().astype(np.float32)
                value.const_value, value.type = ir.tensor(wide, name=value.name), ir.TensorType(_WIDE)
        nodes = [node for node in self._main if _touches(node)]
        read = [
            (node, i, value)
            for node in nodes
            for i, value in enumerate(node.inputs)
            if node.op_type != "Cast" and value is not None and value.dtype == _NARROW
        ]
        for node in nodes:
            for value in node.outputs:
                if value.dtype == _NARROW:
                    self._round_output(node, value)
        for node, index, value in read:
            self._round_input(node, index, str(value.name))

    def _round_output(self, node: ir.Node, value: ir.Value) -> None:
        """Let all who read the value read it rounded, in float32, under its name."""
        name, readers = str(value.name), list(value.uses())
        if node.op_type == "Cast":
            value.name = f"{name}.rounded"
            wide = self._cast(node, value, _WIDE, name)
        else:
            value.name, value.type = f"{name}.exact", ir.TensorType(_WIDE)
            wide = self._rounded(node, value, name)
        for use in readers:
            use.node.replace_input_with(use.idx, wide)

    def _round_input(self, node: ir.Node, index: int, name: str) -> None:
        """Let a node round what it reads: nothing changes, unless it is put where that is not rounded yet."""
        value = node.inputs[index]
        assert value is not None
        producer = value.producer()
        if producer is not None:
            label = f"{name}.read.{node.name or node.outputs[0].name}.{index}"
            node.replace_input_with(index, self._rounded(producer, value, label))

    def _rounded(self, after: ir.Node, value: ir.Value, name: str) -> ir.Value:
        narrow = self._cast(after, value, _NARROW, f"{name}.rounded")
        producer = narrow.producer()
        assert producer is not None
        return self._cast(producer, narrow, _WIDE, name)

    def _cast(self, after: ir.Node, value: ir.Value, to: ir.DataType, name: str) -> ir.Value:
        node = ir.node("Cast", [value], {"to": int(to)}, name=f"{name}.cast")
        made = node.outputs[0]
        made.name, made.shape, made.type = name, value.shape, ir.TensorType(to)
        self._main.insert_after(after, node)
        return made
