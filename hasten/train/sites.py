"""What did a training change in a graph? Every weight that is not what it was, and why the others are."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from hasten.bridge.write_back import stored
from hasten.core.data import Array
from hasten.core.record import Site, Skip
from hasten.graph import Graph
from hasten.train.history import Fitted


def changed(before: Graph, fitted: Fitted) -> tuple[tuple[Site, ...], tuple[Skip, ...]]:
    """Weights that were trained, and the weights left with the reason."""
    assert fitted.graph is not None
    readers = _readers(before)
    arrays = [_arrays(graph, fitted.trained) for graph in (before, fitted.graph)]
    sites, skipped = [], []
    for name in fitted.trained:
        old, new = (each.get(name) for each in arrays)
        op_type = readers.get(name, "Constant")
        if old is None or new is None or not np.array_equal(old, new, equal_nan=True):
            sites.append(Site(name=name, op_type=op_type, what=_how_far(old, new)))
        else:
            reason = "no gradient reached it" if fitted.best_step else "no step made the model better"
            skipped.append(Skip(name=name, op_type=op_type, reason=reason))
    skipped += [
        Skip(name=n, op_type=readers.get(n, "Constant"), reason=why) for n, why in fitted.frozen.items()
    ]
    return tuple(sites), tuple(skipped)


def _how_far(old: Array | None, new: Array | None) -> str:
    if old is None or new is None or not np.any(old):
        return "trained"
    apart = np.linalg.norm(new.astype(np.float64) - old) / np.linalg.norm(old.astype(np.float64))
    return f"trained, changed by {apart:.2%} of its norm"


def _readers(graph: Graph) -> dict[str, str]:
    """The operator that reads each weight first, by the weight's name."""
    found: dict[str, str] = {}
    for owner in graph.ir_model.graphs():
        for node in owner:
            for value in node.inputs:
                if value is not None and value.name:
                    found.setdefault(value.name, node.op_type)
    return found


def _arrays(graph: Graph, names: Collection[str]) -> dict[str, Array]:
    """What is stored under these names, in the graph, its subgraphs and nodes."""
    found = stored(graph.ir_model)
    tensors = {name: found[name].tensor for name in names if name in found}
    return {name: tensor.numpy() for name, tensor in tensors.items() if tensor is not None}
