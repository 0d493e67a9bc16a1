"""Two versions of a graph as one, with a switch for each layer: which changed layer does how much harm?

A method changes a graph in many layers at once. Here the unchanged graph gets beside each such layer its
changed version, reading the same values, and an input that says which of the two the rest of the graph reads.
So the model can be run with any set of layers changed, without applying the method again; and with all
switches off the output of each changed version shows the layer's own error, on the original's values.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.graph.evaluate import Evaluator
from hasten.graph.graph import Graph
from hasten.graph.names import layer_name


@dataclass(frozen=True)
class Switched:
    """A layer with a switch: the input that turns it on, and the names of its original and changed output."""

    flag: str
    original: str
    changed: str


class Switchboard:
    """``before``, in which each layer that ``after`` changed can be exchanged for its changed version.

    names: of nodes of ``before`` that were changed. A layer has a switch where a value of its output's name
    exists in ``after`` and is computed there, through nodes without bodies, from values that exist in
    ``before``; ``layers`` maps the names of those to their switches, in the graph's order.
    """

    def __init__(self, before: Graph, after: Graph, names: Iterable[str]) -> None:
        self.graph = before.copy()
        self.layers: dict[str, Switched] = {}
        self._main = self.graph.ir_model.graph
        self._current = {str(v.name): v for v in (*self._main.inputs, *self._main.initializers.values())}
        for node in self._main:
            self._current |= {str(v.name): v for v in node.outputs if v.name}
        self._known = frozenset(self._current) - frozenset(self._main.initializers)
        self._cloned: dict[ir.Value, ir.Value] = {}
        self._flags: list[str] = []
        changed = {str(v.name): v for node in after.ir_model.graph for v in node.outputs if v.name}
        wanted = frozenset(names)
        for node in list(self._main):
            if layer_name(node) in wanted and len(node.outputs) == 1:
                found = changed.get(str(node.outputs[0].name))
                if found is not None and _can_be_cloned(found, self._known, set()):
                    self._switch(node, found)
        self.graph.ir_model.opset_imports.update(
            {d: v for d, v in after.ir_model.opset_imports.items() if d not in before.ir_model.opset_imports}
        )
        self._main.sort()

    def open(self, inner: Collection[str] = (), *, threads: int = 1) -> Evaluator:
        """An evaluator of the combined graph, with inner values as further outputs."""
        return Evaluator(self.graph, list(inner), threads=threads)

    def feeds(self, feeds: Mapping[str, Array], on: Collection[str] = ()) -> dict[str, Array]:
        """The model's inputs, and the switches with these layers changed and all others as they were."""
        flags = {s.flag: np.asarray(name in on) for name, s in self.layers.items()}
        return {**feeds, **flags}

    def _switch(self, node: ir.Node, changed: ir.Value) -> None:
        original = node.outputs[0]
        made = self._clone(changed)
        flag = ir.Value(
            name=f"switch.{len(self.layers)}", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([])
        )
        self._main.inputs.append(flag)
        chosen = ir.node("Where", [flag, made, original], name=f"switch.{len(self.layers)}.where")
        output = chosen.outputs[0]
        output.type, output.shape = original.type, original.shape
        self._main.append(chosen)
        readers = [use for use in original.uses() if use.node is not chosen]
        for use in readers:
            use.node.replace_input_with(use.idx, output)
        for i, value in enumerate(self._main.outputs):
            if value is original:
                self._main.outputs[i] = output
        name = str(original.name)
        output.name = f"{name}.switched"
        if output.is_graph_output():
            # The model's outputs keep their names, whatever stands behind them.
            original.name, output.name = f"{name}.before", name
        self._current[name] = output
        self.layers[layer_name(node)] = Switched(str(flag.name), str(original.name), str(made.name))

    def _clone(self, value: ir.Value) -> ir.Value:
        """The value of ``after`` in the combined graph: what it is computed from, down to shared values."""
        if value in self._cloned:
            return self._cloned[value]
        node = value.producer()
        if node is None:
            made = ir.Value(
                name=f"changed.{value.name}",
                type=value.type,
                shape=value.shape,
                const_value=value.const_value,
            )
            self._main.register_initializer(made)
            self._cloned[value] = made
            return made
        inputs = [None if given is None else self._given(given) for given in node.inputs]
        copy = ir.Node(
            node.domain,
            node.op_type,
            inputs,
            attributes=node.attributes.values(),
            num_outputs=len(node.outputs),
            name=f"changed.{layer_name(node)}",
        )
        self._main.append(copy)
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.name, new.type, new.shape = f"changed.{old.name}", old.type, old.shape
            self._cloned[old] = new
        return self._cloned[value]

    def _given(self, value: ir.Value) -> ir.Value:
        shared = str(value.name)
        return self._current[shared] if shared in self._known else self._clone(value)


def _can_be_cloned(value: ir.Value, known: Collection[str], seen: set[ir.Value]) -> bool:
    """Whether a value of the changed graph is made by plain nodes from shared values and constants."""
    node = value.producer()
    if node is None:
        return value.const_value is not None
    if any(_has_body(attribute) for attribute in node.attributes.values()):
        return False
    seen.add(value)
    return all(
        given is None or given in seen or str(given.name) in known or _can_be_cloned(given, known, seen)
        for given in node.inputs
    )


def _has_body(attribute: Any) -> bool:
    return attribute.type in {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}
