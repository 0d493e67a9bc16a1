"""The order in which a supernet was trained to do without its units, kept in the model's metadata.

So it is still known when the model comes back from a file, and a pruning finds the parts that were trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from hasten.graph import Graph

_KEY = "hasten.supernet"


def remember(graph: Graph, orders: Mapping[str, Sequence[int]]) -> None:
    """Keep the numbers of the units of each width that may go, in this order."""
    graph.ir_model.metadata_props[_KEY] = json.dumps({name: list(units) for name, units in orders.items()})


def remembered(graph: Graph) -> dict[str, list[int]]:
    """What was kept; nothing for a model that is no supernet."""
    return dict(json.loads(graph.ir_model.metadata_props.get(_KEY, "{}")))


def forget(graph: Graph, gone: Mapping[str, Sequence[int]]) -> None:
    """Number the units anew in a graph that has lost these of some widths."""
    orders = remembered(graph)
    for name in orders.keys() & gone.keys():
        left = [unit for unit in orders[name] if unit not in set(gone[name])]
        orders[name] = [unit - sum(other < unit for other in gone[name]) for unit in left]
    if orders:
        remember(graph, orders)
