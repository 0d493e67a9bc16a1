"""Several versions of a graph as one, with a switch for each layer: which form of it does how much harm?

A method changes a graph in many layers at once, and with other parameters in other ways: each is a form.
Here the unchanged graph gets beside each such layer its forms, reading the same values, and inputs that say
which of them the rest of the graph reads. So the model can be run with any layer in any form, without
applying the method again; and with all switches off the output of each form shows the layer's own error, on
the original's values.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.graph.emulate import emulated
from hasten.graph.evaluate import Evaluator
from hasten.graph.graph import Graph
from hasten.graph.names import layer_name
from hasten.graph.shapes import forget


@dataclass(frozen=True)
class Switched:
    """A layer with switches: the name of its output as it was, and by form those of the switch and output."""

    original: str
    flags: Mapping[str, str]
    outputs: Mapping[str, str]


class Switchboard:
    """``before``, in which each layer can be exchanged for the forms it has in other versions of the graph.

    forms: those versions, by name. names: of the nodes of ``before`` that each form changed. A layer can be
    switched to a form where a value of its output's name is computed there, through nodes without bodies,
    from values that exist in ``before``; where it was merged with what follows it, as a product is with its
    bias, it is the output of that. ``layers`` maps the names of those that can be switched to all their
    forms to their switches, in the graph's order. Arithmetic in bfloat16 is emulated.
    """

    def __init__(
        self, before: Graph, forms: Mapping[str, Graph], names: Mapping[str, Collection[str]]
    ) -> None:
        self.graph = before.copy()
        self.layers: dict[str, Switched] = {}
        self._main = self.graph.ir_model.graph
        self._current = {str(v.name): v for v in (*self._main.inputs, *self._main.initializers.values())}
        for node in self._main:
            self._current |= {str(v.name): v for v in node.outputs if v.name}
        self._known = frozenset(self._current) - frozenset(self._main.initializers)
        self._cloned: dict[ir.Value, ir.Value] = {}
        changed = {form: _values(emulated(graph)) for form, graph in forms.items()}
        all_names = frozenset().union(*names.values())
        for node in list(self._main):
            name = layer_name(node)
            wanted = {form: changed[form] for form in forms if name in names[form]}
            place = self._place(node, wanted.values(), all_names) if wanted else None
            if place is not None:
                self._switch(name, place, {form: made[str(place.name)] for form, made in wanted.items()})
        for graph in forms.values():
            for domain, version in graph.ir_model.opset_imports.items():
                self.graph.ir_model.opset_imports.setdefault(domain, version)
        self._main.sort()
        # What a form gives may be broadcast to another shape than what it stands for has.
        forget(self.graph)

    def open(self, inner: Collection[str] = (), *, threads: int = 1) -> Evaluator:
        """An evaluator of the combined graph, with inner values as further outputs."""
        return Evaluator(self.graph, list(inner), threads=threads)

    def feeds(self, feeds: Mapping[str, Array], chosen: Mapping[str, str] | None = None) -> dict[str, Array]:
        """The model's inputs, and the switches: layers in the forms chosen, all others as they were."""
        chosen = chosen or {}
        flags = {
            flag: np.asarray(chosen.get(name) == form)
            for name, switched in self.layers.items()
            for form, flag in switched.flags.items()
        }
        return {**feeds, **flags}

    def _place(
        self, node: ir.Node, versions: Collection[Mapping[str, ir.Value]], changed: Collection[str]
    ) -> ir.Value | None:
        """The first value from a node on that each version computes, through what it alone feeds.

        None where there is none before the next changed layer, or another layer is switched there.
        """
        taken = {switched.original for switched in self.layers.values()}
        while len(node.outputs) == 1:
            value = node.outputs[0]
            found = [version.get(str(value.name)) for version in versions]
            if all(made is not None and self._can_be_cloned(made) for made in found):
                return None if str(value.name) in taken else value
            uses = list(value.uses())
            if len(uses) != 1 or value.is_graph_output() or layer_name(uses[0].node) in changed:
                return None
            node = uses[0].node
        return None

    def _switch(self, layer: str, original: ir.Value, changed: Mapping[str, ir.Value]) -> None:
        made = {form: self._clone(value, form) for form, value in changed.items()}
        readers = list(original.uses())
        output, flags = original, {}
        for form, value in made.items():
            flag = ir.Value(
                name=f"switch.{len(self.layers)}.{form}",
                type=ir.TensorType(ir.DataType.BOOL),
                shape=ir.Shape([]),
            )
            self._main.inputs.append(flag)
            where = ir.node("Where", [flag, value, output], name=f"{flag.name}.where")
            output = where.outputs[0]
            output.name = f"{original.name}.switched.{form}"
            output.type, output.shape = original.type, original.shape
            self._main.append(where)
            flags[form] = str(flag.name)
        for use in readers:
            use.node.replace_input_with(use.idx, output)
        for i, value in enumerate(self._main.outputs):
            if value is original:
                self._main.outputs[i] = output
        name = str(original.name)
        if output.is_graph_output():
            # The model's outputs keep their names, whatever stands behind them.
            original.name, output.name = f"{name}.before", name
        self._current[name] = output
        outputs = {form: str(value.name) for form, value in made.items()}
        self.layers[layer] = Switched(str(original.name), flags, outputs)

    def _clone(self, value: ir.Value, form: str) -> ir.Value:
        """A form's value in the combined graph: what it is computed from, down to shared values."""
        if value in self._cloned:
            return self._cloned[value]
        node = value.producer()
        if node is None:
            made = ir.Value(
                name=f"{form}.{value.name}",
                type=value.type,
                shape=value.shape,
                const_value=value.const_value,
            )
            self._main.register_initializer(made)
            self._cloned[value] = made
            return made
        inputs = [None if given is None else self._given(given, form) for given in node.inputs]
        copy = ir.Node(
            node.domain,
            node.op_type,
            inputs,
            attributes=node.attributes.values(),
            num_outputs=len(node.outputs),
            name=f"{form}.{layer_name(node)}",
        )
        self._main.append(copy)
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.name, new.type, new.shape = f"{form}.{old.name}", old.type, old.shape
            self._cloned[old] = new
        return self._cloned[value]

    def _given(self, value: ir.Value, form: str) -> ir.Value:
        shared = str(value.name)
        return self._current[shared] if shared in self._known else self._clone(value, form)

    def _can_be_cloned(self, value: ir.Value) -> bool:
        return _can_be_cloned(value, self._known, set())


def _values(graph: Graph) -> dict[str, ir.Value]:
    """What the nodes of the main graph compute, by name."""
    return {str(v.name): v for node in graph.ir_model.graph for v in node.outputs if v.name}


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
