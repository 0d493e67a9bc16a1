"""Which weights are pushed towards zero together: those of a channel or head, or single ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hasten.core.data import Array
from hasten.core.errors import MethodError
from hasten.core.record import Skip
from hasten.graph import Graph
from hasten.graph.coupling import Coupling, Width
from hasten.graph.layer import OPERATORS
from hasten.graph.names import layer_name
from hasten.graph.reading import constant, given
from hasten.numerics.sparsity import all_but_smallest


@dataclass(frozen=True, eq=False)
class Member:
    """Part of a stored tensor's entries along an axis, with the group of each; -1: it is in none.

    squares: of each entry's weights at the start, summed.
    """

    weight: str
    axis: int
    groups: NDArray[np.intp]
    squares: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pushed:
    """A width with some of its units: ``of`` so many these ``groups`` are pushed."""

    name: str
    op_type: str
    of: int
    groups: NDArray[np.intp]


def by_unit(graph: Graph, coupling: Coupling, gone: Array) -> tuple[list[Pushed], list[Member]]:
    """The groups of the channels or heads flagged in ``gone``; ``coupling`` is of this graph."""
    group = np.full(coupling.count, -1, np.intp)
    pushed, count = [], 0
    for width in coupling.widths:
        units = width.units[gone[width.units]]
        if len(units):
            numbers = np.arange(count, count + len(units))
            group[units] = numbers
            count += len(units)
            pushed.append(Pushed(width.name, width.parts[0].op_type, len(width), numbers))
    return pushed, _members(graph, coupling.widths, group)


def taken_over(graph: Graph, coupling: Coupling, gone: Array, narrow: Graph) -> dict[str, Array]:
    """What is added to weights for what is kept to stand in for what goes, by name, of the weight's shape.

    narrow: the graph without what goes, in which what is kept stands in for it. Weights that several layers
    read stay.
    """
    before = {layer_name(node): node for node in graph.ir_model.graph}
    found = {}
    for node in narrow.ir_model.graph:
        own = before.get(layer_name(node))
        for index, value in enumerate(node.inputs if own is not None else ()):
            weight = None if own is None else given(own, index)
            old, new = constant(weight), constant(value)
            if weight is None or old is None or new is None or len(weight.uses()) > 1:
                continue
            axes = coupling.axes.get(str(weight.name), (None,) * old.ndim)
            added = _added(old, new, [None if units is None else ~gone[units] for units in axes])
            if added is not None and added.any():
                found[str(weight.name)] = added
    return found


def _added(old: Array, new: Array, kept: Sequence[NDArray[np.bool_] | None]) -> Array | None:
    """What leads from ``old`` to ``new``, which has along each axis what is ``kept`` (None: all) of it."""
    places = [
        np.arange(length) if keep is None else np.flatnonzero(keep)
        for length, keep in zip(old.shape, kept, strict=True)
    ]
    if old.dtype.kind != "f" or not old.ndim or tuple(map(len, places)) != new.shape:
        return None
    added = np.zeros_like(old)
    added[np.ix_(*places)] = new - old[np.ix_(*places)]
    return added


def _members(graph: Graph, widths: Sequence[Width], group: NDArray[np.intp]) -> list[Member]:
    found: dict[tuple[str, int], Member] = {}
    for part in (part for width in widths for part in width.parts):
        groups = group[part.units]
        array = constant(graph.weights[part.weight])
        if (part.weight, part.axis) in found or not (groups >= 0).any() or array is None:
            continue
        if array.dtype.kind == "f":
            rows = np.moveaxis(array, part.axis, 0).reshape(len(groups), -1).astype(np.float64)
            member = Member(part.weight, part.axis, groups, np.square(rows).sum(axis=1))
            found[part.weight, part.axis] = member
    return list(found.values())


@dataclass(frozen=True, eq=False)
class Small:
    """A layer's weights of which the smallest are pushed: ``start`` is |w| of these, 0 elsewhere."""

    layer: str
    op_type: str
    weight: str
    start: NDArray[np.float32]


def smallest(graph: Graph, left: float, exclude: Sequence[str]) -> tuple[list[Small], list[Skip]]:
    """Of each convolution and product all weights but the largest ``left`` of them.

    Raises MethodError for names in ``exclude`` that no layer has.
    """
    unknown = sorted(set(exclude) - {layer_name(node) for node in graph.ir_model.graph})
    if unknown:
        raise MethodError(f"no layer is called {unknown[0]!r}")
    found: dict[str, Small] = {}
    skipped = []
    for node in graph.ir_model.graph:
        name = layer_name(node)
        if node.domain or node.op_type not in OPERATORS:
            continue
        value = given(node, 1)
        if constant(value) is None and node.op_type == "MatMul":
            value = given(node, 0)
        array = constant(value)
        if value is None or array is None or array.dtype != np.float32:
            skipped.append(Skip(name=name, op_type=node.op_type, reason="its weight is no constant float32"))
        elif name in exclude:
            skipped.append(Skip(name=name, op_type=node.op_type, reason="excluded by the recipe"))
        elif str(value.name) not in found:
            sizes = np.abs(array)
            kept = all_but_smallest(sizes, round((1 - left) * array.size))
            found[str(value.name)] = Small(name, node.op_type, str(value.name), np.where(kept, 0, sizes))
    return list(found.values()), skipped
