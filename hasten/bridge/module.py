"""The module: a graph's program and its weights, as torch knows them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as passes
import torch
from torch import nn

from hasten.bridge.dtypes import from_numpy
from hasten.bridge.fuse import fuse_gelu
from hasten.bridge.operator import Scope
from hasten.bridge.program import Compiler, Program, refuse_unsupported, weights_of
from hasten.bridge.roles import is_host_constant, is_learned, is_scale
from hasten.bridge.write_back import write_back
from hasten.core.errors import ModelError
from hasten.graph import Graph


class GraphModule(nn.Module):
    """An ONNX graph as a differentiable module.

    ``forward`` takes the graph's inputs in their order (or by name) and returns its output, or a tuple of
    outputs. Parameters and buffers have the initializers' names: dots in a name become levels of modules, as
    in a module's own ``state_dict``. What is learned is a parameter (``roles.is_learned``), all else a
    buffer. In training mode, dropout drops and batch normalization learns its statistics. What nodes with a
    ``seed`` draw follows from it and from ``drawn``, how often each has drawn.
    """

    def __init__(self, graph: Graph, inner: Sequence[str] = ()) -> None:
        """Compile the graph; raises ModelError when it holds an operator the bridge lacks.

        inner: names of inner values returned after the outputs, in this order.
        """
        super().__init__()
        if graph.ir_model.functions:
            # A weight inside a function belongs to every call of it; inlined, each has its own name.
            graph = graph.copy()
            passes.InlinePass()(graph.ir_model)
        graph = _with_own_names(graph)
        model = _prepared(graph, inner)
        refuse_unsupported(model)
        compiler = Compiler(model.graph, model.opset_imports)
        self.graph = graph
        self.program: Program = compiler.compile()
        self.input_names = tuple(spec.name for spec in graph.inputs)
        self.output_names = tuple(str(v.name) for v in model.graph.outputs)
        self.scales: set[str] = set()
        self.drawn: dict[str, int] = {}
        self._fixed: list[tuple[int, torch.Tensor]] = []
        self._sources: list[tuple[int, nn.Module, str, str, str]] = []
        self._masks: Mapping[str, torch.Tensor] = {}
        for value in weights_of(model):
            if value in compiler.slots:
                self._hold(value, compiler.slots[value])

    def _hold(self, value: ir.Value, slot: int) -> None:
        tensor = value.const_value
        if tensor is None:
            raise ModelError(f"the weight {value.name!r} has no value; the model file is incomplete")
        held = from_numpy(tensor.numpy())
        if is_host_constant(value):
            # Shapes and axes are read as Python numbers: on an accelerator every read would wait for it.
            self._fixed.append((slot, held))
            return
        scope, key = self._scope(str(value.name))
        if is_learned(value):
            scope._parameters[key] = nn.Parameter(held)
            if is_scale(value):
                self.scales.add(str(value.name))
            self._sources.append((slot, scope, "_parameters", key, str(value.name)))
        else:
            scope._buffers[key] = held
            self._sources.append((slot, scope, "_buffers", key, str(value.name)))

    def _scope(self, name: str) -> tuple[nn.Module, str]:
        """The module that holds a name and the last part of it; levels are made as they are met.

        Entered by hand: a name in a graph may be one that an attribute of a module may not ("type").
        """
        *levels, key = name.split(".")
        scope: nn.Module = self
        for level in levels:
            scope = scope._modules.setdefault(level, nn.Module())  # type: ignore[assignment]
        return scope, key

    def forward(self, *inputs: torch.Tensor, **named: torch.Tensor) -> Any:
        """Run the graph; returns its output, or a tuple when it has several.

        Raises TypeError when the inputs are not exactly the graph's.
        """
        if named:
            inputs = (
                *inputs,
                *(named.pop(name) for name in self.input_names[len(inputs) :] if name in named),
            )
        if named or len(inputs) != len(self.input_names):
            raise TypeError(f"this graph takes the inputs {', '.join(self.input_names)}")
        values: list[Any] = [None] * self.program.size
        for slot, constant in self._fixed:
            values[slot] = constant
        for slot, scope, store, key, name in self._sources:
            # The dictionaries are asked for anew: torch.export leaves others in a module than it found.
            weight, mask = getattr(scope, store)[key], self._masks.get(name)
            values[slot] = weight if mask is None else weight * mask
        for slot, value in zip(self.program.inputs, inputs, strict=True):
            values[slot] = value
        found = self.program.run(values, Scope(self.training, self.drawn))
        return found[0] if len(found) == 1 else tuple(found)

    @contextmanager
    def masked(self, masks: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """Meanwhile ``forward`` reads weights times these masks, by name; gradients reach the weights."""
        self._masks = masks
        try:
            yield
        finally:
            self._masks = {}

    def to_graph(self) -> Graph:
        """The graph with this module's weights: a copy in which every changed initializer is replaced."""
        return write_back(self.graph, self.state_dict())


def to_torch(graph: Graph, inner: Sequence[str] = ()) -> GraphModule:
    """Make a module of a graph; see ``GraphModule``."""
    return GraphModule(graph, inner)


def _with_own_names(graph: Graph) -> Graph:
    """The graph, or a copy in which each stored tensor has a name of its own.

    Subgraphs that lie beside each other may use the same name for different tensors.
    """
    stored = _stored_names(graph.ir_model)
    if len(set(stored)) == len(stored):
        return graph
    graph = graph.copy()
    taken = {str(v.name) for g in graph.ir_model.graphs() for node in g for v in node.outputs} | set(stored)
    met: set[str] = set()
    for level in graph.ir_model.graphs():
        constants = [node.outputs[0] for node in level if node.op_type == "Constant"]
        for value in (*level.initializers.values(), *constants):
            name = str(value.name)
            if name in met:
                numbers = itertools.count(2)
                value.name = next(n for i in numbers if (n := f"{name}_{i}") not in taken)
                taken.add(value.name)
            met.add(name)
    return graph


def _stored_names(model: ir.Model) -> list[str]:
    """The names of initializers and of what Constant nodes hold, as often as they are used."""
    return [
        str(value.name)
        for graph in model.graphs()
        for value in (
            *graph.initializers.values(),
            *(node.outputs[0] for node in graph if node.op_type == "Constant"),
        )
    ]


def _prepared(graph: Graph, inner: Sequence[str]) -> ir.Model:
    """A copy ready to compile: constants among the weights, nodes in order."""
    model = graph.copy().ir_model
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.TopologicalSortPass()(model)
    values = {value.name: value for node in model.graph for value in node.outputs}
    for name in inner:
        if name not in values:
            raise ModelError(f"the graph has no value {name!r}")
        model.graph.outputs.append(values[name])
    fuse_gelu(model)
    return model
