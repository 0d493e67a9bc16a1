"""Finding what there is to change in a model, and strange values to change it to."""

from __future__ import annotations

from random import Random

import onnx

NAMES = (
    "", " ", "x", "y", "a/b", "../../etc/passwd", "\0", "\n\x1b[31mred\x1b[0m", "'; --", "%s%n{0}", "[bold]",
    "é\u202eabc", "名前", "\ufeff", "n" * 5000, "</script><script>", "None", "labels",
)  # fmt: skip
"""Names as no exporter writes them."""

SIZES = (
    0,
    -1,
    -(1 << 63),
    1,
    2,
    3,
    7,
    255,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    1 << 40,
    (1 << 62) + 1,
    (1 << 63) - 1,
)
"""Sizes and counts at every limit that an implementation may have."""


def graphs(model: onnx.ModelProto) -> list[onnx.GraphProto]:
    """The graph and all graphs inside it."""
    found, waiting = [], [model.graph]
    while waiting:
        graph = waiting.pop()
        found.append(graph)
        for node in graph.node:
            for attribute in node.attribute:
                waiting += [attribute.g] if attribute.HasField("g") else []
                waiting += attribute.graphs
    return found


def some_graph(rng: Random, model: onnx.ModelProto) -> onnx.GraphProto:
    """Any of them, most often the outermost."""
    return model.graph if rng.random() < 0.6 else rng.choice(graphs(model))


def some_node(rng: Random, model: onnx.ModelProto) -> onnx.NodeProto | None:
    """A node of a graph or of a function."""
    bodies = [*(graph.node for graph in graphs(model)), *(function.node for function in model.functions)]
    filled = [nodes for nodes in bodies if nodes]
    return rng.choice(rng.choice(filled)) if filled else None


def some_tensor(rng: Random, model: onnx.ModelProto) -> onnx.TensorProto | None:
    """A weight, or a tensor in an attribute."""
    found = [tensor for graph in graphs(model) for tensor in graph.initializer]
    for graph in graphs(model):
        for sparse in graph.sparse_initializer:
            found += [sparse.values, sparse.indices]
        found += [a.t for node in graph.node for a in node.attribute if a.HasField("t")]
    return rng.choice(found) if found else None


def some_attribute(rng: Random, model: onnx.ModelProto) -> onnx.AttributeProto | None:
    """An attribute of any node."""
    found = [a for graph in graphs(model) for node in graph.node for a in node.attribute]
    found += [a for function in model.functions for node in function.node for a in node.attribute]
    return rng.choice(found) if found else None


def value_names(graph: onnx.GraphProto) -> list[str]:
    """All names of values that a graph defines."""
    made = [name for node in graph.node for name in node.output]
    return [*made, *(v.name for v in graph.input), *(t.name for t in graph.initializer)]


def strange_name(rng: Random, model: onnx.ModelProto) -> str:
    """A name of nothing, or of something else in the model."""
    known = [name for graph in graphs(model) for name in value_names(graph)]
    return rng.choice(known) if known and rng.random() < 0.5 else rng.choice(NAMES)
