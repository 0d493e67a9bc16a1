"""The child's side: what ``hasten inspect`` asks of a model; here a crash is seen."""

from __future__ import annotations

from pathlib import Path

from hasten.core.errors import MethodError
from hasten.graph.cost import layer_costs, nonzero_parameters
from hasten.loaders.onnx import open_file
from hasten.search.facts import read_facts


def inspect(model: str) -> int:
    """The number of layers with a cost; anything raised but ModelError and MethodError is a fault."""
    graph, _ = open_file(Path(model))
    try:
        layers = layer_costs(graph)
    except MethodError:
        layers = ()
    assert read_facts(graph, layers).parameters == graph.parameters
    assert nonzero_parameters(graph) <= graph.parameters
    return len(layers)
