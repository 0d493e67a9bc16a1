"""Carry out a plan: 16-bit nodes, with casts where they meet float32."""

from __future__ import annotations

import onnx_ir as ir

from hasten.graph.editor import Editor
from hasten.graph.reading import constant
from hasten.methods._cast.plan import Plan
from hasten.methods._cast.precision import Precision


def carry_out(editor: Editor, plan: Plan, precision: Precision) -> None:
    """Change the main graph in place; its inputs and outputs keep their names and types."""
    _Rewriter(editor, plan, precision).run()


class _Rewriter:
    """Keeps one narrow and one wide version of each value, made when first asked for."""

    def __init__(self, editor: Editor, plan: Plan, precision: Precision) -> None:
        self._editor = editor
        self._plan = plan
        self._precision = precision
        self._narrowed: dict[ir.Value, ir.Value] = {}

    def run(self) -> None:
        """Narrow the planned nodes, then widen what others and the outputs read."""
        changed = [
            node.outputs[i] for node, known in self._plan.narrow.items() for i in sorted(known.outputs)
        ]
        produced = set(changed)
        for node, known in self._plan.narrow.items():
            for index in sorted(known.inputs):
                value = node.inputs[index]
                if value is not None and value not in produced:
                    node.replace_input_with(index, self._narrow(value))
        for value in changed:
            value.type = ir.TensorType(self._precision.dtype)
            self._widen(value)

    def _narrow(self, value: ir.Value) -> ir.Value:
        if value not in self._narrowed:
            array = constant(value)
            if array is not None:
                stem = f"{value.name}.{self._precision.name}"
                made = self._editor.constant(self._precision.convert(array), stem)
            else:
                made = self._cast(value, self._precision.dtype)
            self._narrowed[value] = made
        return self._narrowed[value]

    def _widen(self, value: ir.Value) -> None:
        """Give float32 to everyone who expects it of a value that is narrow now."""
        uses = [u for u in value.uses() if not self._takes_narrow(u.node, u.idx)]
        if not uses and not value.is_graph_output():
            return
        wide = self._cast(value, ir.DataType.FLOAT)
        for use in uses:
            use.node.replace_input_with(use.idx, wide)
        if value.is_graph_output():
            outputs = self._editor.main.outputs
            places = [i for i, output in enumerate(outputs) if output is value]
            name = value.name
            value.name = self._editor.unique(f"{name}.{self._precision.name}")
            for i in places:
                outputs[i] = wide
            wide.name = name

    def _takes_narrow(self, node: ir.Node, index: int) -> bool:
        known = self._plan.narrow.get(node)
        return known is not None and index in known.inputs

    def _cast(self, value: ir.Value, to: ir.DataType) -> ir.Value:
        name = self._editor.unique(f"{value.name}.to.{to.name.lower()}")
        node = ir.node("Cast", [value], {"to": int(to)}, name=name)
        made = node.outputs[0]
        made.name = self._editor.unique(f"{name}.out")
        made.shape, made.type = value.shape, ir.TensorType(to)
        producer = value.producer()
        if producer is None:
            self._editor.main.insert_before(self._editor.main[0], node)
        else:
            self._editor.main.insert_after(producer, node)
        return made
