"""Times of layers on an imagined machine: so much to begin, for a multiply-accumulate, for a number moved."""

from __future__ import annotations

from math import prod

import numpy as np

from hasten.graph import Graph
from hasten.graph.macs import COUNTERS
from hasten.graph.names import layer_name, name_nodes
from hasten.graph.shapes import observed_shapes

OVERHEAD, PER_MAC, PER_MOVED = 2.0, 1e-4, 1e-3


def times_of(
    graph: Graph, feeds: dict[str, np.ndarray], overhead: float = OVERHEAD, per_mac: float = PER_MAC
) -> dict[str, float]:
    """What each layer takes."""
    named = graph.copy()
    name_nodes(named)
    shapes = observed_shapes(named, feeds)

    def shape(value):
        return None if value is None else shapes.get(str(value.name))

    found = {}
    for node in named.ir_model.graph:
        count = COUNTERS.get(node.op_type)
        if count is not None:
            moved = sum(prod(s) for v in (*node.inputs, *node.outputs) if (s := shape(v)) is not None)
            found[layer_name(node)] = overhead + per_mac * count(node, shape) + PER_MOVED * moved
    return found
