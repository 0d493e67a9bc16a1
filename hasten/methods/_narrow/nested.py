"""The order in which a supernet was trained to do without its units, kept in the model's metadata.

So it is still known when the model comes back from a file, and a pruning finds the parts that were trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import TypeAdapter, ValidationError

from hasten.graph import Graph

_KEY = "hasten.supernet"
_ORDERS = TypeAdapter(dict[str, list[int]])


def remember(graph: Graph, orders: Mapping[str, Sequence[int]]) -> None:
    """Keep the numbers of the units of each width that may go, in this order."""
    kept = {name: list(units) for name, units in orders.items()}
    graph.ir_model.metadata_props[_KEY] = _ORDERS.dump_json(kept).decode()


def remembered(graph: Graph) -> dict[str, list[int]]:
    """What was kept; nothing for a model that is no supernet, or whose metadata cannot be read."""
    try:
        return _ORDERS.validate_json(graph.ir_model.metadata_props.get(_KEY, "{}"))
    except ValidationError:
        return {}


def fits(units: Sequence[int], width: int) -> bool:
    """Whether a width of so many units can lose these; a file may say anything."""
    return len(set(units)) == len(units) < width and all(0 <= unit < width for unit in units)


def renumber(graph: Graph, gone: Mapping[str, Sequence[int]]) -> None:
    """Number the units anew in a graph that has lost these of some widths."""
    orders = remembered(graph)
    for name in orders.keys() & gone.keys():
        away = set(gone[name])
        left = [unit for unit in orders[name] if unit not in away]
        orders[name] = [unit - sum(other < unit for other in away) for unit in left]
    if orders:
        remember(graph, orders)
