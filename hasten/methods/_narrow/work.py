"""Narrowing a graph, from finding what can go to making up for it: what the pruning methods share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from hasten.core.data import Array, Calibration
from hasten.core.errors import MethodError
from hasten.core.record import Site, Skip
from hasten.graph import Graph
from hasten.graph.coupling import Coupling, Side, Width, couple, shrink
from hasten.graph.coupling.cost import Costs, Counts, Sizes, Tally
from hasten.graph.shapes import observed_shapes
from hasten.methods import Change, Context, Times
from hasten.methods._narrow import nested
from hasten.methods._narrow.choose import Chooser, Limits
from hasten.methods._narrow.readers import Read, covariances, reads
from hasten.methods._narrow.refit import predicted, ready, refit
from hasten.methods._narrow.worth import Importance, Worth
from hasten.methods._observe.outputs import Outputs
from hasten.methods._observe.samples import apart
from hasten.numerics.removal import Order
from hasten.numerics.rounding import Moments

Scope: TypeAlias = Literal["global", "local"]
Counted: TypeAlias = Literal["macs", "parameters", "units"]
_TRIED = (0.25, 0.5, 0.75)
"""Shares of a width's units without which the model is tried, to learn how much it needs them."""
_RUINED = 1.0
"""The outputs' error, over their variance, at which more need not be tried: a constant does as well."""
_JUDGES = 32
"""Samples that this is judged by; nothing is solved for them until it is decided."""
_NOUNS = {"macs": "MACs", "parameters": "parameters"}
_UNREACHED = 0.02
"""More that is left than was asked for, which whole blocks alone do not explain."""


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What is to become narrower, and how far: see the parameters of ``prune_channels`` and ``prune_heads``.

    attended: heads, or channels. left: share of what ``by`` names that is left at most. times: of layers;
    where given they count in place of multiply-accumulates. latency: what all layers take at most, in the
    unit of ``times``; where given it counts in place of ``left``.
    """

    attended: bool
    side: Side
    by: Counted
    left: float
    times: Times = field(default_factory=dict)
    latency: float | None = None
    widths: Mapping[str, int]
    importance: Importance
    scope: Scope
    align: int
    least: float
    fit: bool
    samples: int
    exclude: tuple[str, ...]


def narrow(graph: Graph, aim: Aim, context: Context) -> Change:
    """The graph with fewer of the units that the aim names.

    Raises MethodError without samples, for widths the graph does not have, and where it does not run.
    """
    return _opened(graph, aim, context).change()


@dataclass(frozen=True, eq=False)
class Chosen:
    """Units that can go best: ``gone`` has a flag for each.

    graph: as ``ready`` made it, which ``coupling`` is of. narrow: without these units, what is left made up
    for it. share: of what ``by`` names that it has.
    """

    graph: Graph
    coupling: Coupling
    gone: Array
    narrow: Graph
    share: float
    skipped: tuple[Skip, ...]


def choose(graph: Graph, aim: Aim, context: Context) -> Chosen:
    """The units that ``narrow`` would remove; raises what it raises."""
    return _opened(graph, aim, context).chosen()


@dataclass(frozen=True)
class Need:
    """How much a graph needs one width. units: all of them.

    removed: numbers of units without which what is left is whole blocks, from 0 to the most that may go;
    harms: the outputs' error without as many.
    """

    units: int
    removed: Sequence[int]
    harms: Sequence[float]


def needs(graph: Graph, aim: Aim, context: Context) -> dict[str, Need]:
    """What ``narrow`` would choose by, of each width; raises what it raises."""
    return _opened(graph, aim, context).needs()


@dataclass(frozen=True, eq=False)
class Ordered:
    """Widths whose units can go, each in an order. graph: as ``ready`` made it, which ``coupling`` is of."""

    graph: Graph
    coupling: Coupling
    orders: Mapping[str, Order]
    chooser: Chooser
    skipped: tuple[Skip, ...]


def ordered(graph: Graph, aim: Aim, context: Context) -> Ordered:
    """In which order ``narrow`` would remove units, however many; raises what it raises."""
    return _opened(graph, aim, context).ordered()


def _opened(graph: Graph, aim: Aim, context: Context) -> _Work:
    if context.calibration is None or not len(context.calibration):
        raise MethodError("there are no samples to tell what can go; give --data")
    return _Work(graph, aim, context.calibration.take(aim.samples), context)


@dataclass(frozen=True, eq=False)
class _Ranked:
    """Widths that may become narrower, with the order of their units and what is known of those who read."""

    widths: Sequence[Width]
    orders: Mapping[str, Order]
    seen: Mapping[tuple[str, int], Moments]
    costs: Tally
    chooser: Chooser


@dataclass(frozen=True, eq=False)
class _Decision:
    """fewer: the widths that lose units, of each ``removed`` so many in its order; gone: a flag a unit.

    left: the share that is left; asked: how much was to be left at most.
    """

    fewer: tuple[Width, ...]
    removed: Mapping[str, int]
    gone: Array
    orders: Mapping[str, Order]
    seen: Mapping[tuple[str, int], Moments]
    left: float
    asked: float


class _Work:
    """One application. original: what was given; graph: a copy in which every layer has a bias of its own."""

    def __init__(self, original: Graph, aim: Aim, samples: Calibration, context: Context) -> None:
        self._original = original
        self._graph = ready(original)
        self._aim = aim
        self._samples = samples
        self._judges, self._others = apart(samples, _JUDGES)
        self._context = context
        self._coupling = couple(self._graph, side=aim.side)
        self._found = reads(self._graph, self._coupling)
        self._skipped: list[Skip] = [] if aim.attended else list(self._coupling.fixed)

    def rank(self, samples: Calibration) -> _Ranked:
        """In which order the units of each width go, as these samples tell."""
        widths = self._open()
        read = [read for width in widths for read in self._found[width.name]]
        seen = covariances(self._graph, read, samples, self._context) if read else {}
        worth = Worth(self._graph, self._aim.importance, self._found, seen, self._context)
        orders = worth.orders(widths, samples)
        self._skipped += worth.skipped
        costs = self._costs()
        left = self._aim.left
        if self._aim.latency is not None:
            left = min(1.0, self._aim.latency / max(sum(costs.whole.values()), 1e-12))
        limits = Limits(left=left, align=self._aim.align, least=self._aim.least)
        return _Ranked(widths, orders, seen, costs, Chooser(self._coupling, costs, orders, limits))

    def ordered(self) -> Ordered:
        """What is known before it is decided how many go."""
        ranked = self.rank(self._samples)
        return Ordered(self._graph, self._coupling, ranked.orders, ranked.chooser, tuple(self._skipped))

    def needs(self) -> dict[str, Need]:
        """What each width is worth."""
        ranked = self.rank(self._others)
        harms = self._harms(ranked)
        found = {}
        for width in ranked.widths:
            if width.name in harms:
                steps = ranked.chooser.steps(width)
                found[width.name] = Need(len(width), steps, [float(harms[width.name][n]) for n in steps])
        return found

    def decide(self) -> _Decision:
        """Which units go."""
        weighed = not self._aim.widths and self._aim.scope == "global"
        ranked = self.rank(self._others if weighed else self._samples)
        orders, chooser = ranked.orders, ranked.chooser
        removed = self._removed(ranked)
        gone = chooser.gone(removed)
        for width in ranked.widths:
            if width.name in orders and not removed.get(width.name):
                self._skip(width, "the outputs need all of it more than others theirs")
        fewer = tuple(width for width in ranked.widths if removed.get(width.name))
        left = sum(ranked.costs.of(gone).values()) / max(chooser.total, 1e-12)
        return _Decision(fewer, removed, gone, orders, ranked.seen, left, chooser.asked)

    def chosen(self) -> Chosen:
        """What is decided, and what comes of it."""
        made = self.decide()
        graph = self._narrowed(made)
        return Chosen(self._graph, self._coupling, made.gone, graph, made.left, tuple(self._skipped))

    def change(self) -> Change:
        made = self.decide()
        if not made.gone.any():
            return Change(self._original, skipped=tuple(self._skipped))
        graph = self._narrowed(made)
        sites = tuple(self._site(width, made.removed, made.orders) for width in made.fewer)
        noun = "layers' times" if self._aim.times else _NOUNS.get(self._aim.by, self._units)
        note = f"{made.left:.1%} of the {noun} are left"
        if not self._aim.widths and made.left > made.asked + _UNREACHED:
            note += f", not {made.asked:.1%}: `least` and `align` leave nothing more to take"
        return Change(graph, sites, tuple(self._skipped), (note,), made.left)

    def _narrowed(self, made: _Decision) -> Graph:
        graph = self._without(made.gone, made.seen)
        if self._aim.fit:
            names = [part.layer for width in made.fewer for part in width.parts if part.role == "read"]
            refit(self._graph, graph, self._coupling, names, made.gone, self._samples, self._context)
        nested.renumber(graph, {w.name: np.flatnonzero(made.gone[w.units]).tolist() for w in made.fewer})
        return graph

    def _open(self) -> list[Width]:
        """The widths that may become narrower."""
        known = {width.name for width in self._coupling.widths if width.attended == self._aim.attended}
        unknown = sorted({*self._aim.widths, *self._aim.exclude} - known)
        if unknown:
            raise MethodError(
                f"no width begins at {unknown[0]!r}; those that can change begin at {sorted(known)}"
            )
        found = []
        for width in self._coupling.widths:
            if width.attended != self._aim.attended:
                continue
            if width.name in self._aim.exclude:
                self._skip(width, "excluded by the recipe")
            elif len(width) > 1:
                found.append(width)
        return found

    def _skip(self, width: Width, reason: str) -> None:
        self._skipped.append(Skip(name=width.name, op_type=width.parts[0].op_type, reason=reason))

    def _costs(self) -> Tally:
        if self._aim.by == "units":
            ours = [w for w in self._coupling.widths if w.attended == self._aim.attended]
            return Counts(ours, channels=not self._aim.attended)
        if self._aim.by == "parameters":
            return Sizes(self._graph, self._coupling)
        first = next(self._samples.batches_for(self._graph.inputs, self._context.batch))
        shapes = observed_shapes(self._graph, first.feeds(self._graph.inputs), threads=self._context.threads)
        try:
            return Costs(self._graph, self._coupling, shapes, self._aim.times)
        except ValueError as error:
            raise MethodError(f"times: {error}") from error

    def _removed(self, ranked: _Ranked) -> dict[str, int]:
        if self._aim.widths:
            return self._as_asked(ranked.orders)
        if self._aim.scope == "local":
            return ranked.chooser.evenly()
        return ranked.chooser.where_it_costs_least(self._harms(ranked))

    def _as_asked(self, orders: Mapping[str, Order]) -> dict[str, int]:
        removed = {}
        for width in self._coupling.widths:
            kept = self._aim.widths.get(width.name, len(width))
            if not 0 < kept <= len(width):
                raise MethodError(f"{width.name} has {len(width)} units; it cannot keep {kept}")
            if width.name in orders:
                removed[width.name] = min(len(width) - kept, len(orders[width.name].units))
        return removed

    def _harms(self, ranked: _Ranked) -> dict[str, Array]:
        """The outputs' error without the first so many units of each width alone, from 0 on."""
        outputs = Outputs(self._graph, self._judges, self._context)
        harms = {}
        for number, (name, order) in enumerate(ranked.orders.items()):
            counts, errors = [0], [0.0]
            for share in _TRIED:
                count = min(max(1, round(share * (len(order.units) + 1))), len(order.units))
                if count > counts[-1] and errors[-1] < _RUINED:
                    error = outputs.error(self._without(ranked.chooser.gone({name: count}), ranked.seen))
                    counts.append(count)
                    errors.append(max(error, errors[-1]))
            if counts[-1] < len(order.units):
                counts.append(len(order.units))
                errors.append(max(errors[-1], _RUINED))
            harms[name] = np.interp(np.arange(len(order.units) + 1), counts, errors)
            self._context.progress("measuring what needs its width most", (number + 1) / len(ranked.orders))
        return harms

    def _without(self, gone: Array, seen: Mapping[tuple[str, int], Moments]) -> Graph:
        """The graph without these units; what reads them does with what is kept as well as it can."""
        whole = self._graph
        if self._aim.fit:
            whole = predicted(whole, self._reads(), seen, gone)
        return shrink(whole, self._coupling, gone.nonzero()[0].tolist())

    def _reads(self) -> Sequence[Read]:
        """Every layer once for each axis of its weight, however many widths it reads."""
        every = (read for found in self._found.values() for read in found)
        return list({(read.name, read.part.axis): read for read in every}.values())

    @property
    def _units(self) -> str:
        """What a unit is called."""
        if not self._aim.attended:
            return "channels"
        return "heads" if self._aim.side == "outer" else "places in each head"

    def _site(self, width: Width, removed: Mapping[str, int], orders: Mapping[str, Order]) -> Site:
        count = removed[width.name]
        lost = f"; by {self._aim.importance} {orders[width.name].lost[count]:.2%} of their worth gone"
        what = f"{len(width) - count} of {len(width)} {self._units} left"
        what += ", a part of the supernet" if self._aim.importance == "supernet" else lost
        return Site(name=width.name, op_type=width.parts[0].op_type, what=what)
