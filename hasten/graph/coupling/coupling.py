"""The analysis: walks the graph once, lets the rules tie axes together, and names what is free to go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import onnx_ir.passes.common as passes
from numpy.typing import NDArray

from hasten.core.record import Skip
from hasten.graph.channels import Resolved
from hasten.graph.coupling import attention, elementwise, linear, moving, normal, recurrent, reshape
from hasten.graph.coupling.axes import Axes, Mark, Role, Rule, Side, Stop, called
from hasten.graph.graph import Graph
from hasten.graph.macs import COUNTERS
from hasten.graph.names import layer_name, name_nodes
from hasten.graph.reading import constant

RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **linear.RULES,
    **moving.RULES,
    **reshape.RULES,
    **normal.RULES,
    **recurrent.RULES,
    **attention.RULES,
}
"""By operator of the ONNX domain."""
_OPAQUE = frozenset({"Constant"})


@dataclass(frozen=True, eq=False)
class Part:
    """An axis of a stored tensor along which entries of units lie.

    layer, op_type: of the node that reads the tensor, its input ``index``. units: the unit of each entry, 0
    for none. role: see ``Mark``.
    """

    layer: str
    op_type: str
    index: int
    weight: str
    axis: int
    role: Role
    units: NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Width:
    """The units that lie along the same axes everywhere: one number that can be chosen, how many there are.

    name: of the first layer that makes them. units: their numbers, in the order of that layer's outputs.
    attended: they are heads of attention, or places inside heads.
    """

    name: str
    units: NDArray[np.intp]
    parts: tuple[Part, ...]
    attended: bool

    def __len__(self) -> int:
        return len(self.units)

    @cached_property
    def breadth(self) -> int:
        """How many entries of an axis go with a unit, where they are fewest: as many as a group has."""
        counts = (np.bincount(part.units, minlength=self.units.max() + 1)[self.units] for part in self.parts)
        return int(min(count.min() for count in counts))


@dataclass(frozen=True, eq=False)
class Coupling:
    """What is free to go, and of the layers whose outputs have to stay the reason.

    axes: by the name of each value, the unit of each entry along each axis. Of an axis whose length is not
    known None, or the units that come again and again along it.
    """

    widths: tuple[Width, ...]
    fixed: tuple[Skip, ...]
    axes: Mapping[str, tuple[NDArray[np.intp] | None, ...]]
    count: int
    """Numbers of units lie below this; 0 is none."""

    def width(self, name: str) -> Width | None:
        """The width that begins at this layer."""
        return next((width for width in self.widths if width.name == name), None)


def prepare(graph: Graph) -> Graph:
    """A copy as ``couple`` wants it: named nodes, constants among the initializers."""
    made = graph.copy()
    name_nodes(made)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(made.ir_model)
    return made


def couple(graph: Graph, *, side: Side = "outer") -> Coupling:
    """Find the units of a graph that ``prepare`` made.

    side: ``outer`` removes whole attention heads, ``inner`` the same place in each. Raises MethodError for a
    graph whose shapes cannot be inferred.
    """
    axes = Axes(graph, side)
    main = graph.ir_model.graph
    for node in main:
        rule = RULES.get(node.op_type) if node.domain == "" else None
        try:
            if rule is None:
                raise Stop(f"{called(node)} has no rule")
            rule(axes, node)
        except Stop as stop:
            if node.op_type in COUNTERS:
                axes.refuse(node, str(stop))
            for value in (*node.inputs, *node.outputs):
                axes.fix(value, None, str(stop))
        axes.done()
    for value in (*main.inputs, *main.outputs):
        axes.fix(value, None, f"{value.name} is an {'input' if value.is_graph_input() else 'output'}")
    for value in chain(main.inputs, main.initializers.values(), *(node.outputs for node in main)):
        if any(use.node.graph is not main for use in value.uses()):
            axes.fix(value, None, "it is read inside the body of a loop or branch")
    return _named(axes, axes.resolve())


def _named(axes: Axes, resolved: Resolved) -> Coupling:
    numbers = {
        str(value.name): tuple(None if labels is None else resolved.numbers(labels) for labels in all_labels)
        for value, all_labels in axes.values()
    }
    parts = [_part(mark, numbers) for mark in axes.marks]
    where_seen = _seen(numbers, resolved.count)
    holds: dict[int, list[int]] = {}
    for index, part in enumerate(parts):
        for unit in np.unique(part.units[part.units > 0]).tolist():
            holds.setdefault(unit, []).append(index)
    groups: dict[tuple[tuple[int, ...], int], list[int]] = {}
    for unit, where in holds.items():
        if any(parts[i].role == "made" for i in where):
            groups.setdefault((tuple(where), where_seen[unit]), []).append(unit)
    attended = set(np.unique(resolved.numbers(axes.attended)).tolist())
    widths, taken = [], set()
    for (together, _), units in sorted(groups.items(), key=lambda group: (group[0][0], group[1])):
        first = next(parts[i] for i in together if parts[i].role == "made")
        name, count = first.layer, 1
        while name in taken:
            count += 1
            name = f"{first.layer}#{count}"
        taken.add(name)
        ordered = [unit for unit in dict.fromkeys(first.units.tolist()) if unit in set(units)]
        own = tuple(parts[i] for i in together)
        widths.append(Width(name, np.array(ordered, np.intp), own, bool(attended & set(units))))
    return Coupling(tuple(widths), tuple(_fixed(axes, resolved)), numbers, resolved.count)


def _seen(numbers: Mapping[str, tuple[NDArray[np.intp] | None, ...]], count: int) -> list[int]:
    """A number of each unit that is the same for those that lie along the same axes of all values.

    So no axis loses all its entries while each width keeps some.
    """
    draw = np.random.default_rng(0)
    seen = np.zeros(count, np.uint64)
    for axes in numbers.values():
        for units in axes:
            if units is not None and units.any():
                seen[np.unique(units)] ^= draw.integers(1 << 63, dtype=np.uint64)
    return [int(number) for number in seen]


def _part(mark: Mark, numbers: Mapping[str, tuple[NDArray[np.intp] | None, ...]]) -> Part:
    units = numbers[str(mark.value.name)][mark.axis]
    assert units is not None
    index = next(i for i, value in enumerate(mark.node.inputs) if value is mark.value)
    layer = layer_name(mark.node)
    return Part(layer, mark.node.op_type, index, str(mark.value.name), mark.axis, mark.role, units)


def _fixed(axes: Axes, resolved: Resolved) -> list[Skip]:
    """Every layer that makes channels of which none can go, once, with the first reason found."""
    found: dict[str, Skip] = {}
    for skip in axes.refused:
        found.setdefault(skip.name, skip)
    for mark in axes.marks:
        if mark.role != "made" or constant(mark.value) is None:
            continue
        reason = resolved.reason(axes.of(mark.value, mark.axis))
        name = layer_name(mark.node)
        if reason is not None:
            found.setdefault(name, Skip(name=name, op_type=mark.node.op_type, reason=reason))
    return list(found.values())
