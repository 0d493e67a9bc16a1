"""Facts about a graph from which candidates are derived, and with which a missing gain is explained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from hasten.core.layers import LayerCost
from hasten.graph import Graph

RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_QUANTIZED = frozenset(
    {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "MatMulInteger", "ConvInteger"}
)


@dataclass(frozen=True, kw_only=True)
class GraphFacts:
    """What the search knows about a model.

    convolutions, products: layers with constant weights; products are MatMul and Gemm. grouped: those of the
        convolutions that work in groups of channels.
    product_share: part of the model's multiply-accumulates in products and recurrent layers, or None when
        the cost is unknown.
    reuse: multiply-accumulates for each parameter in an inference of one sample, or None when the cost is
        unknown.
    dynamic: names of inputs with a dimension that is not fixed.
    """

    operators: Counter[str]
    convolutions: int
    grouped: int
    products: int
    recurrent: int
    product_share: float | None
    reuse: float | None
    quantized: bool
    dynamic: tuple[str, ...]
    float_dtype: str
    parameters: int

    @property
    def weighted_layers(self) -> int:
        """Layers that integer kernels could compute."""
        return self.convolutions + self.products


def read_facts(graph: Graph, layers: Sequence[LayerCost]) -> GraphFacts:
    """Read the facts off a graph; ``layers`` is what each of them costs, empty when that is unknown."""
    total = sum(layer.macs for layer in layers)
    in_products = sum(layer.macs for layer in layers if layer.op_type in {"MatMul", "Gemm", *RECURRENT})
    operators: Counter[str] = Counter()
    convolutions = grouped = products = 0
    for node in ir.traversal.RecursiveGraphIterator(graph.ir_model.graph):
        operators[node.op_type] += 1
        constant = len(node.inputs) > 1 and node.inputs[1] is not None and _is_constant(node.inputs[1])
        if node.op_type in {"Conv", "ConvTranspose"} and constant:
            convolutions += 1
            grouped += node.attributes.get_int("group", 1) > 1
        elif node.op_type in {"MatMul", "Gemm"} and constant:
            products += 1
    floats = Counter(
        v.dtype.name.lower()
        for v in graph.weights.values()
        if v.dtype is not None and v.dtype.is_floating_point()
    )
    return GraphFacts(
        operators=operators,
        convolutions=convolutions,
        grouped=grouped,
        products=products,
        recurrent=sum(operators[op] for op in RECURRENT),
        product_share=in_products / total if total else None,
        reuse=total / graph.parameters if total and graph.parameters else None,
        quantized=any(operators[op] for op in _QUANTIZED),
        dynamic=tuple(spec.name for spec in graph.inputs if spec.is_dynamic),
        float_dtype=floats.most_common(1)[0][0] if floats else "none",
        parameters=graph.parameters,
    )


def _is_constant(value: ir.Value) -> bool:
    """Whether a value is a stored tensor, or computed from stored tensors by a shape-only operator."""
    if value.is_initializer() or value.const_value is not None:
        return True
    node = value.producer()
    shape_only = {"Constant", "Transpose", "Reshape", "Identity", "Cast", "DequantizeLinear"}
    if node is None or node.op_type not in shape_only:
        return False
    return all(v is None or _is_constant(v) for v in node.inputs)
