"""What a model is made of, what could be done to it here, and why not the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hasten import loaders
from hasten.core.errors import MethodError
from hasten.core.layers import LayerCost
from hasten.core.measurement import Record
from hasten.core.record import Considered
from hasten.core.target import usable_cores
from hasten.graph.cost import layer_costs, nonzero_parameters
from hasten.search.advise import advise
from hasten.search.facts import read_facts
from hasten.search.machine import usable_targets


class Inspection(Record):
    """The answer of ``hasten inspect``.

    macs: at batch 1 where shapes are known; None when no layer's is. advice: for latency, the default.
    """

    source: str
    format: str
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operators: dict[str, int]
    parameters: int
    nonzero_parameters: int
    macs: int | None
    layers: tuple[LayerCost, ...]
    advice: tuple[Considered, ...]
    notes: tuple[str, ...]


def inspect(model: Any, inputs: tuple[str, ...], shapes: Mapping[str, tuple[int, ...]]) -> Inspection:
    """Read a model and derive what the search would try with data; raises ModelError."""
    loaded = loaders.read(model, inputs=inputs, shapes=shapes)
    graph = loaded.graph
    notes = list(loaded.notes)
    try:
        layers = layer_costs(graph)
    except MethodError as error:
        layers = ()
        notes.append(f"cost per layer is unknown: {error}")
    facts = read_facts(graph, layers)
    if facts.dynamic:
        notes.append(f"dynamic dimensions count as 1; fix them with --shape ({', '.join(facts.dynamic)})")
    advice = advise(facts, usable_targets("cpu"), usable_cores(), has_data=True, objective="latency")
    return Inspection(
        source=loaded.source,
        format=loaded.format,
        opset=graph.opset,
        inputs=tuple(map(str, graph.inputs)),
        outputs=tuple(map(str, graph.outputs)),
        operators=dict(facts.operators.most_common()),
        parameters=graph.parameters,
        nonzero_parameters=nonzero_parameters(graph),
        macs=sum(layer.macs for layer in layers) if layers else None,
        layers=layers,
        advice=advice.considered,
        notes=tuple(notes),
    )
