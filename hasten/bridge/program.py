"""A graph compiled to steps: everything that can be decided before the first run is decided here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir

from hasten.bridge import fake_quant
from hasten.bridge import ops as _ops  # noqa: F401 - importing the families fills the table
from hasten.bridge.operator import Body, Call, Operator, Result, Scope, find
from hasten.bridge.placement import HOST_SOURCES, Leader, Moving, bringing, carried_states
from hasten.bridge.roles import constant_of, is_host_constant
from hasten.core.errors import ModelError


@dataclass(frozen=True)
class Step:
    """One node: ``function`` on the values in the slots ``inputs`` (-1: absent), results into ``outputs``.

    captured: slots its subgraphs read. spent: slots no later step reads, freed after this one. scoped: the
    function takes a ``Scope`` first.
    """

    function: Callable[..., Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    captured: tuple[int, ...]
    spent: tuple[int, ...]
    scoped: bool
    name: str


@dataclass(frozen=True)
class Program:
    """Steps over numbered slots. Values live in a list; a slot is emptied after its last use."""

    steps: tuple[Step, ...]
    size: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    captured: tuple[int, ...]
    results: tuple[Result, ...]

    def run(self, values: list[Any], scope: Scope) -> list[Any]:
        """Run all steps on a list whose input (and weight) slots are filled; returns the outputs."""
        for step in self.steps:
            given = [values[i] if i >= 0 else None for i in step.inputs]
            if step.scoped:
                outside = tuple([values[i] for i in step.captured])
                found = step.function(scope._replace(captured=outside), *given)
            else:
                found = step.function(*given)
            outputs = step.outputs
            if len(outputs) == 1 and not isinstance(found, tuple):
                if outputs[0] >= 0:
                    values[outputs[0]] = found
            else:
                for slot, value in zip(outputs, found, strict=False):
                    if slot >= 0:
                        values[slot] = value
            for slot in step.spent:
                values[slot] = None
        return [values[i] for i in self.outputs]

    def body(self) -> Body:
        """The program as a subgraph: inputs and captured values in, outputs out."""

        def run(given: Sequence[Any], scope: Scope) -> list[Any]:
            values: list[Any] = [None] * self.size
            for slot, value in zip(self.inputs, given, strict=True):
                values[slot] = value
            for slot, value in zip(self.captured, scope.captured, strict=True):
                values[slot] = value
            return self.run(values, scope)

        return Body(run, len(self.inputs), self.results)


def unsupported(model: ir.Model) -> list[ir.Node]:
    """The nodes, subgraphs included, whose operator the bridge lacks."""
    return [
        node
        for graph in model.graphs()
        for node in graph
        if find(node.domain, node.op_type, version_of(node, model.opset_imports)) is None
    ]


def version_of(node: ir.Node, imports: Mapping[str, int]) -> int:
    """The version of the operator set a node belongs to."""
    return node.version or imports.get(node.domain, imports.get("ai.onnx", 1) if not node.domain else 1)


def refuse_unsupported(model: ir.Model) -> None:
    """Raise ModelError naming every operator the bridge lacks and the first nodes that use it."""
    lacking: dict[str, list[str]] = {}
    for node in unsupported(model):
        version = version_of(node, model.opset_imports)
        label = f"{node.domain + '.' if node.domain else ''}{node.op_type} (version {version})"
        lacking.setdefault(label, []).append(node.name or "unnamed")
    if lacking:
        said = "; ".join(f"{label} at {', '.join(names[:3])}" for label, names in sorted(lacking.items()))
        raise ModelError(
            f"the bridge cannot train this graph: it lacks {said}; methods that need no gradients still work"
        )


class Compiler:
    """Compiles one graph level; subgraphs get a compiler each that captures from this one."""

    def __init__(
        self,
        graph: ir.Graph,
        imports: Mapping[str, int],
        outer: Compiler | None = None,
        hosted: Sequence[bool] = (),
    ) -> None:
        """Hosted: which of a subgraph's inputs live on the CPU."""
        self.graph = graph
        self.imports = imports
        self.outer = outer
        self.slots: dict[ir.Value, int] = {}
        self.host: set[ir.Value] = {v for v, hosts in zip(graph.inputs, hosted, strict=False) if hosts}
        self.captured: list[ir.Value] = []
        self.substitutes = fake_quant.substitutes(graph)

    def slot(self, value: ir.Value) -> int:
        """The slot of a value, one of an enclosing graph included."""
        if value not in self.slots:
            if self._is_outer(value):
                self.captured.append(value)
            self.slots[value] = len(self.slots)
        return self.slots[value]

    def _is_outer(self, value: ir.Value) -> bool:
        """Whether a value comes from outside this graph; a subgraph's own weights are the module's too."""
        if self.outer is None:
            return False
        producer = value.producer()
        return producer.graph is not self.graph if producer is not None else value not in self._inputs

    @property
    def _inputs(self) -> set[ir.Value]:
        return {v for v in self.graph.inputs if v.name not in self.graph.initializers}

    def is_host(self, value: ir.Value | None) -> bool:
        """Whether a value lives on the CPU wherever the module is: shapes, and what is computed from them."""
        if value is None:
            return False
        if value in self.host or is_host_constant(value):
            return True
        return self.outer is not None and self._is_outer(value) and self.outer.is_host(value)

    def compile(self) -> Program:
        """Return the program; raises ModelError for a node its factory refuses."""
        inputs = tuple(self.slot(v) for v in self.graph.inputs if v.name not in self.graph.initializers)
        drafts = [self._draft(node) for node in self.graph]
        outputs = tuple(self.slot(v) for v in self.graph.outputs)
        keep = set(outputs) | {self.slots[v] for v in self.captured}
        steps = tuple(_with_spent(drafts, keep))
        captured = tuple(self.slots[v] for v in self.captured)
        results = tuple(_result(v) for v in self.graph.outputs)
        return Program(steps, len(self.slots), inputs, outputs, captured, results)

    def _draft(self, node: ir.Node) -> Step:
        version = version_of(node, self.imports)
        row = find(node.domain, node.op_type, version)
        assert row is not None  # refuse_unsupported came first
        bodies, outside, kept = self._bodies(node)
        call = _call(node, version, bodies)
        factory = self.substitutes.get(node, row.factory)
        function = self._on_one_device(node, row, factory(call), outside, kept)
        return Step(
            function=function,
            inputs=tuple(-1 if v is None else self.slot(v) for v in node.inputs),
            outputs=tuple(self.slot(v) if _is_wanted(v) else -1 for v in node.outputs),
            captured=tuple(self.slot(v) for v in outside),
            spent=(),
            scoped=row.scoped,
            name=f"{node.name or 'unnamed'} ({node.op_type})",
        )

    def _bodies(self, node: ir.Node) -> tuple[dict[str, Body], list[ir.Value], set[int]]:
        """The node's subgraphs, compiled; the values they read from here; which inputs stay on the CPU.

        The values are in one order for all subgraphs.
        """
        graphs = {n: a.as_graph() for n, a in node.attributes.items() if a.type == ir.AttributeType.GRAPH}
        if not graphs:
            return {}, [], set()
        hosted = [self.is_host(v) for v in node.inputs]
        if node.op_type == "Loop":
            hosted[:2] = [True, True]
        fed = len(next(iter(graphs.values())).inputs)
        hosted, pairs = hosted[:fed], carried_states(node, fed)
        while True:
            compilers = {name: Compiler(graph, self.imports, self, hosted) for name, graph in graphs.items()}
            programs = {name: compiler.compile() for name, compiler in compilers.items()}
            # A state that starts on the CPU and comes back from the device is on the device from the start.
            leaving = [
                i for i, o in pairs if hosted[i] and not all(c.returns_host(o) for c in compilers.values())
            ]
            if not leaving:
                break
            for i in leaving:
                hosted[i] = False
        outside = list(dict.fromkeys(v for compiler in compilers.values() for v in compiler.captured))
        strays = self._place_outputs(node, list(compilers.values()), {o: hosted[i] for i, o in pairs})
        bodies = {}
        for name, program in programs.items():
            compiler = compilers[name]
            picks = tuple(outside.index(v) for v in compiler.captured)
            body = program.body()
            leader = _leader(hosted, [self.is_host(v) for v in compiler.captured])
            here = [o for o in strays if compiler.returns_host(o)]
            bodies[name] = _picking(bringing(body, here, leader) if here and leader else body, picks)
        return bodies, outside, {i for i, stays in enumerate(hosted) if stays}

    def returns_host(self, output: int) -> bool:
        """Whether an output of this graph lives on the CPU."""
        return self.is_host(self.graph.outputs[output])

    def _place_outputs(
        self, node: ir.Node, compilers: Sequence[Compiler], states: Mapping[int, bool]
    ) -> list[int]:
        """Note which of the node's outputs live on the CPU; returns the subgraph outputs that must not."""
        first = 1 if node.op_type == "Loop" else 0
        strays = []
        for i, value in enumerate(node.outputs, first):
            found = [compiler.returns_host(i) for compiler in compilers]
            if all(found) and states.get(i, True):
                self.host.add(value)
            elif any(found):
                strays.append(i)
        return strays

    def _on_one_device(
        self,
        node: ir.Node,
        row: Operator,
        function: Callable[..., Any],
        outside: Sequence[ir.Value],
        kept: set[int],
    ) -> Callable[..., Any]:
        """Bring inputs that live on the CPU to the others' device, where the operator computes on them.

        outside: what the node's subgraphs read from here. kept: inputs that stay on the CPU inside them.
        """
        hosted = [self.is_host(v) for v in node.inputs]
        bodiless = all(a.type != ir.AttributeType.GRAPH for a in node.attributes.values())
        if bodiless and (
            node.op_type in HOST_SOURCES
            or all(h or v is None for h, v in zip(hosted, node.inputs, strict=True))
        ):
            self.host.update(node.outputs)
            return function
        moved = [i for i, h in enumerate(hosted) if h and i not in row.host and i not in kept]
        absent = [v is None or h for v, h in zip(node.inputs, hosted, strict=True)]
        leader = _leader(absent, [self.is_host(v) for v in outside])
        if not moved or leader is None:
            return function
        return Moving(function, moved, leader, scoped=row.scoped)


def _leader(inputs_hosted: Sequence[bool], captured_hosted: Sequence[bool]) -> Leader | None:
    """The first value that lives where the module is; None when there is none."""
    for captured, hosted in ((False, inputs_hosted), (True, captured_hosted)):
        if not all(hosted):
            return Leader(hosted.index(False), captured=captured)
    return None


def _result(value: ir.Value) -> Result:
    if value.shape is None:
        return Result(value.dtype, None)
    return Result(value.dtype, tuple(n if isinstance(n, int) else None for n in value.shape))


def weights_of(model: ir.Model) -> list[ir.Value]:
    """All initializers, those of subgraphs included."""
    return [value for graph in model.graphs() for value in graph.initializers.values()]


def _picking(body: Body, picks: tuple[int, ...]) -> Body:
    def run(given: Sequence[Any], scope: Scope) -> list[Any]:
        return body(given, scope._replace(captured=tuple([scope.captured[i] for i in picks])))

    return Body(run, body.inputs, body.results)


def _is_wanted(value: ir.Value) -> bool:
    return bool(value.name) and (bool(value.uses()) or value.is_graph_output())


def _call(node: ir.Node, version: int, bodies: Mapping[str, Body]) -> Call:
    return Call(
        name=node.name or "unnamed",
        op_type=node.op_type,
        version=version,
        domain=node.domain,
        attributes=node.attributes,
        present=tuple(v is not None for v in node.inputs),
        constants=tuple(None if v is None else constant_of(v) for v in node.inputs),
        dtypes=tuple(None if v is None else v.dtype for v in node.inputs),
        output_dtypes=tuple(v.dtype for v in node.outputs),
        wanted=tuple(_is_wanted(v) for v in node.outputs),
        bodies=bodies,
    )


def _with_spent(drafts: Sequence[Step], keep: set[int]) -> Iterator[Step]:
    """The steps, each with the slots that no later one reads."""
    later = set(keep)
    backwards = []
    for step in reversed(drafts):
        read = {i for i in (*step.inputs, *step.captured, *step.outputs) if i >= 0}
        backwards.append((step, tuple(sorted(read - later))))
        later |= read
    for step, spent in reversed(backwards):
        yield replace(step, spent=spent)
