"""Compute at once what depends on constants alone.

Algebra: f(c) is a constant. The values come from the runtime that would compute them, so they are the same.

Check: the result must not make the file grow by more than ``GROWTH_BYTES`` beyond the constants it sets
free, and its size must be known before it is computed. Left alone: DequantizeLinear, and the widening Cast
of a weight stored in 16 bits, since these are how a compressed weight is meant to be stored; random
operators; control flow; other domains.
"""

from __future__ import annotations

from math import prod

import onnx
import onnx_ir as ir

from hasten.core.data import Array
from hasten.core.errors import MethodError
from hasten.graph import Graph
from hasten.graph.editor import Editor, Findings
from hasten.graph.evaluate import Evaluator

GROWTH_BYTES = 64 << 10
STORED_WEIGHT = 256
"""Elements from which a 16-bit constant is a compressed weight rather than an odd scalar."""

_KEPT = frozenset(
    {
        "Constant",
        "DequantizeLinear",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Bernoulli",
        "Multinomial",
        "Dropout",
        "If",
        "Loop",
        "Scan",
    }
)
_BOUNDED = {"NonZero": 64}
"""Operators whose result's size depends on values, and most bytes of it for an element of the input."""


def apply(graph: Graph) -> Findings:
    """Fold until nothing is left to fold, in place."""
    editor = Editor(graph)
    refused: set[ir.Node] = set()
    while True:
        ready = [node for node in editor.nodes() if node not in refused and _constant_inputs(node)]
        candidates = [node for node in ready if _worth(editor, node, refused)]
        refused.update(node for node in ready if node not in candidates)
        if not candidates:
            return editor.findings
        for node, arrays in _values(graph, candidates):
            if arrays is None:
                refused.add(node)
                editor.refused(node, "constant, but the runtime cannot compute it by itself")
            else:
                _substitute(editor, node, arrays)


def _constant_inputs(node: ir.Node) -> bool:
    if node.op_type in _KEPT or not node.outputs or any(v.is_graph_output() for v in node.outputs):
        return False
    if any(attribute.is_ref() for attribute in node.attributes.values()):
        return False
    inputs = [v for v in node.inputs if v is not None]
    return all(v.is_initializer() and v.const_value is not None and not v.is_graph_input() for v in inputs)


def _worth(editor: Editor, node: ir.Node, refused: set[ir.Node]) -> bool:
    """Whether the result is small enough; records why not, once."""
    if node in refused:
        return False
    inputs = {v: v.const_value for v in node.inputs if v is not None and v.const_value is not None}
    if node.op_type == "Cast" and _stored_in_16_bits(node):
        editor.refused(node, "it widens a weight that is stored in 16 bits")
        return False
    size = _result_bytes(editor, node)
    if size is None:
        editor.refused(node, "constant, but the size of its result is not known beforehand")
        return False
    freed = sum(tensor.nbytes for value, tensor in inputs.items() if len(value.uses()) == 1)
    if size - freed > GROWTH_BYTES:
        editor.refused(node, f"constant, but its result would add {(size - freed) / 2**20:.1f} MiB")
        return False
    return True


def _stored_in_16_bits(node: ir.Node) -> bool:
    x = node.inputs[0]
    narrow = x is not None and x.dtype in {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
    return narrow and x is not None and x.const_value is not None and x.const_value.size >= STORED_WEIGHT


def _result_bytes(editor: Editor, node: ir.Node) -> int | None:
    """Bytes of all results, from the operator's own shape inference with the constants' values."""
    version = editor.graph.opset
    tensors = {
        v.name or "": v.const_value for v in node.inputs if v is not None and v.const_value is not None
    }
    if node.op_type in _BOUNDED:
        return _BOUNDED[node.op_type] * sum(t.size for t in tensors.values())
    types = {
        name: onnx.helper.make_tensor_type_proto(int(t.dtype), t.shape.numpy()) for name, t in tensors.items()
    }
    small = {name: ir.serde.serialize_tensor(t) for name, t in tensors.items() if t.size <= 1024}
    try:
        schema = onnx.defs.get_schema(node.op_type, version, "")
        inferred = onnx.shape_inference.infer_node_outputs(
            schema,
            ir.serde.serialize_node(node),
            types,
            small,
            opset_imports=[onnx.helper.make_opsetid("", version)],
        )
    except (onnx.defs.SchemaError, onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return None
    total = 0
    for value in node.outputs:
        kind = inferred[value.name].tensor_type if value.name in inferred else None
        if kind is None or not kind.elem_type or not kind.HasField("shape"):
            return None
        if not all(d.HasField("dim_value") and d.dim_value >= 0 for d in kind.shape.dim):
            return None
        bits = ir.DataType(kind.elem_type)
        if bits.is_string():
            return None
        total += prod(d.dim_value for d in kind.shape.dim) * bits.bitwidth // 8
    return total


def _values(graph: Graph, nodes: list[ir.Node]) -> list[tuple[ir.Node, list[Array] | None]]:
    """What each node computes, or None where the runtime refuses; all in one session if possible."""
    try:
        return list(zip(nodes, _run(graph, nodes), strict=True))
    except MethodError:
        if len(nodes) == 1:
            return [(nodes[0], None)]
    return [pair for node in nodes for pair in _values(graph, [node])]


def _run(graph: Graph, nodes: list[ir.Node]) -> list[list[Array]]:
    weights: dict[ir.Value, ir.Value] = {}
    for value in (v for node in nodes for v in node.inputs if v is not None):
        if value not in weights:
            weights[value] = ir.Value(
                name=value.name, shape=value.shape, type=value.type, const_value=value.const_value
            )
    copies = []
    for number, node in enumerate(nodes):
        inputs = [None if v is None else weights[v] for v in node.inputs]
        copy = ir.Node(
            "", node.op_type, inputs, list(node.attributes.values()), num_outputs=len(node.outputs)
        )
        for index, value in enumerate(copy.outputs):
            value.name = f"folded.{number}.{index}"
        copies.append(copy)
    outputs = [value for copy in copies for value in copy.outputs]
    imports = {"": graph.opset}
    inner = ir.Graph([], outputs, nodes=copies, initializers=list(weights.values()), opset_imports=imports)
    model = ir.Model(inner, ir_version=graph.ir_model.ir_version)
    found = Evaluator(Graph(model), optimized=False).run({})
    return [[found[str(value.name)] for value in copy.outputs] for copy in copies]


def _substitute(editor: Editor, node: ir.Node, arrays: list[Array]) -> None:
    for value, array in zip(node.outputs, arrays, strict=True):
        if value.uses():
            name = value.name
            folded = editor.constant(array, f"{name}.folded")
            value.replace_all_uses_with(folded)
            value.name, folded.name = folded.name, name
    editor.changed(node, "computed: it depends on constants alone")
    unused = {v for v in node.inputs if v is not None and len(v.uses()) == 1 and not v.is_graph_output()}
    editor.remove(node)
    for value in unused:
        if not value.uses() and value.name and value.graph is not None:
            value.graph.initializers.pop(value.name)
