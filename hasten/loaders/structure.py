"""Is this ONNX graph well formed? The rules a runtime relies on, checked before any native code sees it.

Names are defined once (SSA), every value used is defined, there is no cycle, every operator has a definition.
Messages name the node. Source: the ONNX specification (IR.md, "Graphs" and "Names Within a Graph").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx
import onnx.defs

from hasten.core.errors import ModelError
from hasten.loaders.names import check_text, label, shown
from hasten.loaders.tensors import subgraphs

OLDEST_OPSET = 7
RUNTIME_DOMAINS = frozenset(
    {"com.microsoft", "com.microsoft.experimental", "com.microsoft.nchwc", "com.ms.internal.nhwc"}
)
"""Domains whose operators ONNX Runtime defines; it is asked about them when it opens the model."""

_MOST_NODES = 50_000
"""With functions that call others twice, a few hundred bytes can stand for any number of nodes."""

_CONSTANTS = frozenset(
    {"value", "sparse_value", "value_float", "value_floats", "value_int", "value_ints"}
    | {"value_string", "value_strings"}
)

_ATTRIBUTE_FIELDS = {
    onnx.AttributeProto.FLOAT: "f",
    onnx.AttributeProto.INT: "i",
    onnx.AttributeProto.STRING: "s",
    onnx.AttributeProto.TENSOR: "t",
    onnx.AttributeProto.GRAPH: "g",
    onnx.AttributeProto.SPARSE_TENSOR: "sparse_tensor",
    onnx.AttributeProto.TYPE_PROTO: "tp",
    onnx.AttributeProto.FLOATS: "floats",
    onnx.AttributeProto.INTS: "ints",
    onnx.AttributeProto.STRINGS: "strings",
    onnx.AttributeProto.TENSORS: "tensors",
    onnx.AttributeProto.GRAPHS: "graphs",
    onnx.AttributeProto.SPARSE_TENSORS: "sparse_tensors",
    onnx.AttributeProto.TYPE_PROTOS: "type_protos",
}
"""The field of an AttributeProto that holds the value, by its type."""

_ONNX_DOMAINS = frozenset(
    {"", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview", "ai.onnx.preview.training"}
)


def check_model(model: onnx.ModelProto) -> bool:
    """Whether all nodes stand in an order in which they can be computed; raises ModelError."""
    if not model.HasField("graph"):
        raise ModelError("it has no graph, so it is not an ONNX model")
    check_text(model)
    if model.ir_version > onnx.IR_VERSION:
        raise ModelError(
            f"it has IR version {model.ir_version}, newer than {onnx.IR_VERSION}, the newest known here; "
            "pip install --upgrade onnx onnxruntime, or export with an older version"
        )
    if not model.graph.output:
        raise ModelError("its graph has no outputs")
    functions = _functions(model)
    checker = _Checker(_opsets(model.opset_import), frozenset(functions))
    main_in_order, _ = checker.graph(model.graph, ())
    in_order = [main_in_order]
    for function in functions.values():
        inner = _Checker(_opsets(function.opset_import), frozenset(functions))
        in_order.append(inner.function(function))
    _check_growth(model.graph.node, functions, _callees_first(functions))
    return all(in_order)


_FunctionKey = tuple[str, str]


def _functions(model: onnx.ModelProto) -> dict[_FunctionKey, onnx.FunctionProto]:
    found: dict[_FunctionKey, onnx.FunctionProto] = {}
    seen: set[tuple[str, str, str]] = set()
    for function in model.functions:
        key = (function.domain, function.name, function.overload)
        if key in seen:
            raise ModelError(f"the function {shown(function.domain + '::' + function.name)} is defined twice")
        seen.add(key)
        found[function.domain, function.name] = function
    return found


def _opsets(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    opsets: dict[str, int] = {}
    newest = onnx.defs.onnx_opset_version()
    for entry in imports:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        if opsets.setdefault(domain, entry.version) != entry.version:
            raise ModelError(f"it imports two versions of the operator set {shown(domain or 'ai.onnx')}")
        if domain == "" and entry.version < OLDEST_OPSET:
            raise ModelError(
                f"it uses opset {entry.version}; {OLDEST_OPSET} is the oldest supported. "
                "Export it again with opset 11 or newer, or use onnx.version_converter"
            )
        if domain == "" and entry.version > newest:
            raise ModelError(
                f"it uses opset {entry.version}, newer than {newest}, the newest known here; "
                "pip install --upgrade onnx onnxruntime, or export with an older opset"
            )
    return opsets


@dataclass(frozen=True)
class _Checker:
    opsets: dict[str, int]
    functions: frozenset[_FunctionKey]

    def graph(self, graph: onnx.GraphProto, outer: tuple[set[str], ...]) -> tuple[bool, set[str]]:
        """Whether nodes are in order, and the names used here that an outer graph must define."""
        given: dict[str, str] = {}
        for value in graph.input:
            _define(given, value.name, "an input")
        weights: dict[str, str] = {}
        for tensor in graph.initializer:
            _define(weights, tensor.name, "weights")
        for sparse in graph.sparse_initializer:
            _define(weights, sparse.values.name, "weights")
        # Since IR version 3 an input may have a default of the same name among the initializers.
        return self._body(graph.node, given | weights, [o.name for o in graph.output], outer)

    def function(self, function: onnx.FunctionProto) -> bool:
        """Whether the nodes are in order."""
        given: dict[str, str] = {}
        for name in function.input:
            _define(given, name, "an input")
        return self._body(function.node, given, list(function.output), ())[0]

    def _body(
        self,
        nodes: Sequence[onnx.NodeProto],
        given: dict[str, str],
        outputs: Sequence[str],
        outer: tuple[set[str], ...],
    ) -> tuple[bool, set[str]]:
        producers: dict[str, int] = {}
        defined = dict(given)
        for i, node in enumerate(nodes):
            for name in node.output:
                if name:
                    _define(defined, name, label(node))
                    producers[name] = i
        scope = (set(defined), *outer)
        in_order = True
        captured: set[str] = set()
        needs: list[set[int]] = []
        for i, node in enumerate(nodes):
            self._check_operator(node)
            _check_attributes(node)
            used, inner_in_order = self._used(node, scope)
            in_order = in_order and inner_in_order
            missing = [name for name in used if not any(name in names for names in scope)]
            if missing:
                raise ModelError(
                    f"{label(node)} uses {shown(min(missing))}, which is not an input, not a weight and "
                    "no node's output; the file is incomplete, export it again"
                )
            captured |= used - scope[0]
            needs.append({producers[name] for name in used if name in producers})
            in_order = in_order and all(j < i for j in needs[-1])
        for name in outputs:
            if not any(name in names for names in scope):
                raise ModelError(f"the output {shown(name)} is made by no node")
        captured |= set(outputs) - scope[0]
        if not in_order:
            _check_cycles(nodes, needs)
        return in_order, captured

    def _used(self, node: onnx.NodeProto, scope: tuple[set[str], ...]) -> tuple[set[str], bool]:
        used = {name for name in node.input if name}
        in_order = True
        for attribute in node.attribute:
            for inner in subgraphs(attribute):
                inner_in_order, captured = self.graph(inner, scope)
                used |= captured
                in_order = in_order and inner_in_order
        return used, in_order

    def _check_operator(self, node: onnx.NodeProto) -> None:
        domain = "" if node.domain == "ai.onnx" else node.domain
        if (node.domain, node.op_type) in self.functions or (domain, node.op_type) in self.functions:
            return
        if domain not in self.opsets:
            raise ModelError(
                f"{label(node)} belongs to the operator set {shown(domain or 'ai.onnx')}, "
                "which the model does not import"
            )
        if domain in RUNTIME_DOMAINS:
            return
        if domain not in _ONNX_DOMAINS:
            raise ModelError(
                f"{label(node)} is of the domain {shown(domain)}: neither ONNX nor ONNX Runtime nor the "
                "model defines it; export with standard operators, or with the function's body in the model"
            )
        version = self.opsets[domain]
        try:
            schema = onnx.defs.get_schema(node.op_type, version, domain)
        except onnx.defs.SchemaError as error:
            raise ModelError(
                f"{label(node)}: ONNX has no operator {shown(node.op_type)} in opset {version} "
                f"of {shown(domain or 'ai.onnx')}"
            ) from error
        if node.op_type == "Constant" and domain == "":
            _check_constant(node)
        if schema.deprecated:
            raise ModelError(
                f"{label(node)}: the operator {shown(node.op_type)} no longer exists in opset {version}; "
                "export the model again"
            )


def _check_constant(node: onnx.NodeProto) -> None:
    given = [attribute.name for attribute in node.attribute]
    if len(given) != 1 or given[0] not in _CONSTANTS:
        raise ModelError(f"{label(node)} must have one value, it has the attributes {given}")


def _check_attributes(node: onnx.NodeProto) -> None:
    seen: set[str] = set()
    for attribute in node.attribute:
        where = f"attribute {shown(attribute.name)} of {label(node)}"
        if not attribute.name or attribute.name in seen:
            raise ModelError(f"{where} has no name, or that of another attribute")
        seen.add(attribute.name)
        field = _ATTRIBUTE_FIELDS.get(attribute.type)
        if field is None:
            raise ModelError(f"{where} has no type known to ONNX ({attribute.type})")
        filled = {f.name for f, _ in attribute.ListFields()} & set(_ATTRIBUTE_FIELDS.values())
        if filled - {field}:
            raise ModelError(f"{where} is said to be {field!r} and holds {min(filled - {field})!r}")


def _define(names: dict[str, str], name: str, what: str) -> None:
    if not name:
        raise ModelError(f"{what} of the graph has no name")
    if name in names:
        raise ModelError(
            f"{shown(name)} is defined twice, as {names[name]} and as {what}; names must be unique, "
            "export the model again"
        )
    names[name] = what


def _check_cycles(nodes: Sequence[onnx.NodeProto], needs: Sequence[set[int]]) -> None:
    """Kahn's algorithm; raises ModelError naming the nodes of one cycle."""
    waiting = [len(need) for need in needs]
    users: list[list[int]] = [[] for _ in nodes]
    for i, need in enumerate(needs):
        for j in need:
            users[j].append(i)
    ready = [i for i, count in enumerate(waiting) if count == 0]
    done = 0
    while ready:
        done += 1
        for user in users[ready.pop()]:
            waiting[user] -= 1
            if waiting[user] == 0:
                ready.append(user)
    if done == len(nodes):
        return
    # Whatever is left has a predecessor that is left too: walking back must come round.
    i = next(i for i, count in enumerate(waiting) if count)
    path: list[int] = []
    while i not in path:
        path.append(i)
        i = next(j for j in needs[i] if waiting[j])
    cycle = path[path.index(i) :][::-1]
    names = " -> ".join(label(nodes[j]) for j in cycle[:4]) + (" -> …" if len(cycle) > 4 else "")
    raise ModelError(f"the graph has a cycle: {names} needs its own result")


def _callees_first(functions: dict[_FunctionKey, onnx.FunctionProto]) -> list[_FunctionKey]:
    """The functions, each after those it calls; raises ModelError for one that calls itself in the end."""
    calls = {key: _called(function.node, functions) for key, function in functions.items()}
    finished: dict[_FunctionKey, None] = {}
    for start in functions:
        path: list[_FunctionKey] = []
        stack = [(start, False)]
        while stack:
            key, leaving = stack.pop()
            if leaving:
                finished[path.pop()] = None
            elif key in path:
                raise ModelError(f"the function {shown('::'.join(key))} calls itself")
            elif key not in finished:
                path.append(key)
                stack.append((key, True))
                stack.extend((callee, False) for callee in sorted(calls[key]))
    return list(finished)


def _check_growth(
    nodes: Iterable[onnx.NodeProto],
    functions: dict[_FunctionKey, onnx.FunctionProto],
    callees_first: Iterable[_FunctionKey],
) -> None:
    """Raise ModelError when calls put in place of their functions would make a graph beyond all measure."""
    sizes: dict[_FunctionKey, int] = {}
    for key in callees_first:
        sizes[key] = _size(functions[key].node, sizes)
    total = _size(nodes, sizes) if functions else 0
    if total > _MOST_NODES:
        raise ModelError(
            f"its functions call each other so often that the graph has {min(total, 1 << 62):.3g} nodes, "
            f"more than {_MOST_NODES}; export it without functions"
        )


def _size(nodes: Iterable[onnx.NodeProto], sizes: dict[_FunctionKey, int]) -> int:
    total = 0
    for node in nodes:
        total += sizes.get((node.domain, node.op_type), 1)
        total += sum(
            _size(inner.node, sizes) for attribute in node.attribute for inner in subgraphs(attribute)
        )
    return total


def _called(
    nodes: Iterable[onnx.NodeProto], functions: dict[_FunctionKey, onnx.FunctionProto]
) -> set[_FunctionKey]:
    found: set[_FunctionKey] = set()
    for node in nodes:
        if (node.domain, node.op_type) in functions:
            found.add((node.domain, node.op_type))
        for attribute in node.attribute:
            for inner in subgraphs(attribute):
                found |= _called(inner.node, functions)
    return found
