"""Shapes of the values inside a graph: inferred from the signature, or observed in one run.

Shapes stored in a model file are not trusted: exporters leave stale ones, and a wrong shape would license
a wrong rewrite. Both functions derive them anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from hasten.core.data import Array
from hasten.core.errors import MethodError
from hasten.graph.evaluate import Evaluator
from hasten.graph.graph import Graph


def infer(graph: Graph) -> Graph:
    """A copy whose values carry the shapes and types that follow from its inputs and weights.

    ONNX's shape inference with data propagation; large weights do not pass through it. Where it cannot
    tell (operators of other domains, data-dependent shapes) the shape is None. Raises MethodError for a
    graph that cannot even be serialized.
    """
    inferred = graph.copy()
    forget(inferred)
    annotate(inferred)
    return inferred


def forget(graph: Graph) -> None:
    """Drop, in place, the stored shapes of all inner values; inputs, outputs and weights keep theirs.

    A negative size in the signature, which some exporters write, becomes an unknown one.
    """
    for owner in graph.ir_model.graphs():
        for value in (*owner.inputs, *owner.outputs):
            if value.shape is not None and any(isinstance(d, int) and d < 0 for d in value.shape):
                value.shape = ir.Shape([None if isinstance(d, int) and d < 0 else d for d in value.shape])
        kept = set(owner.outputs)
        for node in owner:
            for value in node.outputs:
                if value not in kept:
                    value.shape = None


def annotate(graph: Graph) -> None:
    """Infer shapes and types in place; raises MethodError for a graph that cannot be serialized."""
    for owner in graph.ir_model.graphs():
        for value in owner.initializers.values():
            if value.const_value is not None:
                value.shape = ir.Shape(value.const_value.shape.numpy())
                value.type = ir.TensorType(value.const_value.dtype)
        for node in owner:
            if node.op_type == "Constant" and "value" in node.attributes:
                tensor = node.attributes["value"].as_tensor()
                node.outputs[0].shape = ir.Shape(tensor.shape.numpy())
                node.outputs[0].type = ir.TensorType(tensor.dtype)
    for _ in range(_RANK_ROUNDS):
        for owner, known in zip(graph.ir_model.graphs(), _inferred(graph), strict=False):
            for value in (v for node in owner for v in node.outputs if v.name in known):
                kind, shape = known[str(value.name)]
                value.type = value.type if kind is None else kind
                value.shape = value.shape if shape is None else shape
        if not _add_ranks(graph):
            break


def refresh(graph: Graph) -> None:
    """Forget and infer anew, in place, unless nothing changed since this was last done to the graph."""
    seen, now = graph.ir_model.meta.get(_SEEN), _state(graph)
    if seen is not None and len(seen) == len(now) and all(a is b for a, b in zip(seen, now, strict=True)):
        return
    forget(graph)
    annotate(graph)
    graph.ir_model.meta[_SEEN] = _state(graph)


_SEEN = "hasten.graph.shapes"


def _state(graph: Graph) -> list[object]:
    """Every object that inference depends on; of large weights the shape, so as not to keep them alive."""
    state: list[object] = []
    for owner in graph.ir_model.graphs():
        for value in (*owner.inputs, *owner.outputs):
            state += (value, value.shape, value.type)
        for value in owner.initializers.values():
            tensor = value.const_value
            small = tensor is not None and tensor.nbytes <= _PROPAGATED_BYTES
            state += (value, tensor) if small else (value, value.shape, value.type)
        for node in owner:
            state += (node, *node.inputs, *node.attributes.values())
    return state


_Known: TypeAlias = dict[str, tuple[ir.TypeProtocol | None, ir.Shape | None]]


def _inferred(graph: Graph) -> list[_Known]:
    """What ONNX infers of the values of each graph, subgraphs after it; nothing where it gives up.

    Large weights take part as inputs of their shape.
    """
    bare = graph.ir_model.clone()
    passes.LiftConstantsToInitializersPass(size_limit=_PROPAGATED_BYTES)(bare)
    for name, value in list(bare.graph.initializers.items()):
        if value.const_value is None or value.const_value.nbytes > _PROPAGATED_BYTES:
            del bare.graph.initializers[name]
            value.const_value = None
            if not value.is_graph_input():
                bare.graph.inputs.append(value)
    try:
        proto = ir.serde.serialize_model(bare)
    except (ir.serde.SerdeError, ValueError, TypeError) as error:
        raise MethodError(f"the graph cannot be written: {error}; check it with onnx.checker") from error
    try:
        found = onnx.shape_inference.infer_shapes(proto, strict_mode=False, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return []
    if next(iter(bare.graph.subgraphs()), None) is None:
        return [{info.name: _read(info.type) for info in (*found.graph.value_info, *found.graph.output)}]
    whole = ir.serde.deserialize_model(found)
    values = ([v for node in owner for v in node.outputs] for owner in whole.graphs())
    return [{str(v.name): (v.type, v.shape) for v in found_values} for found_values in values]


def _read(kind: onnx.TypeProto) -> tuple[ir.TypeProtocol | None, ir.Shape | None]:
    if kind.WhichOneof("value") is None:
        return None, None
    found = ir.serde.deserialize_type_proto_for_type(kind)
    return found, ir.serde.deserialize_type_proto_for_shape(kind)


_PROPAGATED_BYTES = 1000
"""Constants up to this size take part in shape computations; larger ones are data."""
_RANK_ROUNDS = 4


def _add_ranks(graph: Graph) -> bool:
    """Give a Reshape or ConstantOfShape to a computed target the rank that is the target's length."""
    added = False
    for owner in graph.ir_model.graphs():
        for node in owner:
            index = {"Reshape": 1, "ConstantOfShape": 0}.get(node.op_type)
            if index is None or node.domain or len(node.inputs) <= index or node.outputs[0].shape is not None:
                continue
            target = node.inputs[index]
            length = (
                target.shape[0] if target is not None and target.shape is not None and target.shape else None
            )
            if isinstance(length, int) and 0 < length <= _MOST_DIMENSIONS:
                node.outputs[0].shape = ir.Shape([None] * length)
                added = True
    return added


_MOST_DIMENSIONS = 64


def observed_shapes(
    graph: Graph, feeds: Mapping[str, Array], *, threads: int = 1
) -> dict[str, tuple[int, ...]]:
    """Actual shapes, by name, of all tensors of the main graph (inputs and weights included) in one run.

    Only the shapes leave the runtime, never the values, so this needs no more memory than an ordinary
    inference. Values inside subgraphs are not seen. Raises MethodError when the graph does not run.
    """
    probed = infer(graph)
    main = probed.ir_model.graph
    known = {
        name: tuple(v.const_value.shape.numpy())
        for name, v in graph.weights.items()
        if v.const_value is not None
    }
    known |= {name: tuple(array.shape) for name, array in feeds.items() if isinstance(array, np.ndarray)}
    values = [v for node in main for v in node.outputs if v.name and isinstance(v.type, ir.TensorType | None)]
    taken = {value.name for owner in probed.ir_model.graphs() for node in owner for value in node.outputs}
    taken |= {name for owner in probed.ir_model.graphs() for name in owner.initializers}
    probes: dict[str, str] = {}
    for value in values:
        probe = f"{value.name}.shape"
        while probe in taken:
            probe += "_"
        node = ir.node("Shape", [value], name=probe)
        node.outputs[0].name = probe
        node.outputs[0].type = ir.TensorType(ir.DataType.INT64)
        main.append(node)
        main.outputs.append(node.outputs[0])
        probes[str(value.name)] = probe
    if not probes:
        return known
    evaluator = Evaluator(probed, threads=threads, optimized=False)
    seen = evaluator.run(feeds, list(probes.values()))
    return known | {name: tuple(int(d) for d in seen[probe]) for name, probe in probes.items()}
