"""What a graph costs without some of its units, known without building it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hasten.graph.coupling.coupling import Coupling, Width
from hasten.graph.graph import Graph
from hasten.graph.macs import COUNTERS, moved
from hasten.graph.names import layer_name
from hasten.numerics.latency import LatencyModel, Time, Work

Gone = NDArray[np.bool_]


@dataclass(frozen=True)
class Substitute:
    """Operators that stand for a layer.

    macs, weights: the multiply-accumulates and the numbers in weights that they have, over the layer's.
    between: numbers that each makes for the next. operators: how many they are.
    """

    macs: float
    weights: float
    between: float
    operators: int


class Tally(ABC):
    """What is counted of a graph, in parts by name. whole: of each with all units."""

    whole: Mapping[str, float]

    @abstractmethod
    def of(self, gone: Gone, names: Iterable[str] | None = None) -> dict[str, float]:
        """Of these parts (None: all) without the units flagged in ``gone``."""

    @abstractmethod
    def touched(self, width: Width) -> frozenset[str]:
        """The parts that depend on how many units of this width there are."""


class Counts(Tally):
    """How many units each of these widths has left; or ``channels``, of which a unit may be a whole group."""

    def __init__(self, widths: Iterable[Width], *, channels: bool = False) -> None:
        self._widths = {width.name: width for width in widths}
        self._each = {name: width.breadth if channels else 1 for name, width in self._widths.items()}
        self.whole = {name: len(width) * self._each[name] for name, width in self._widths.items()}

    def of(self, gone: Gone, names: Iterable[str] | None = None) -> dict[str, float]:
        """Of these widths."""
        wanted = self._widths if names is None else names
        return {name: int((~gone[self._widths[name].units]).sum()) * self._each[name] for name in wanted}

    def touched(self, width: Width) -> frozenset[str]:
        """The width itself."""
        return frozenset({width.name})


class Sizes(Tally):
    """How many numbers each of a graph's stored tensors has left."""

    def __init__(self, graph: Graph, coupling: Coupling) -> None:
        stored = graph.weights.items()
        self._shapes = {name: tuple(value.shape.numpy()) for name, value in stored if value.shape is not None}
        self._axes = coupling.axes
        self.whole = self.of(np.zeros(coupling.count, dtype=bool))

    def of(self, gone: Gone, names: Iterable[str] | None = None) -> dict[str, float]:
        """The numbers in these tensors."""
        wanted = self._shapes if names is None else names
        return {name: prod(_left(self._shapes[name], self._axes.get(name), gone)) for name in wanted}

    def touched(self, width: Width) -> frozenset[str]:
        """Those in which its units lie."""
        return frozenset(part.weight for part in width.parts)


class Costs(Tally):
    """Multiply-accumulates of each layer. shapes: of all values, as observed in a run of the whole graph.

    coupling: None where no units go.
    times: of nodes, measured where the graph will run, in any unit. Where some are given, costs are times
    instead: of each node that has one, and of layers that have none as a model says that is fitted to the
    others (``hasten.numerics.latency``). How they fall with the units left is the model's too, made to
    meet what a layer took that was measured narrower. Raises ValueError for times of no node.
    """

    def __init__(
        self,
        graph: Graph,
        coupling: Coupling | None,
        shapes: Mapping[str, tuple[int, ...]],
        times: Mapping[str, Time] | None = None,
    ) -> None:
        self._shapes = shapes
        self._axes = {} if coupling is None else coupling.axes
        times = times or {}
        named = {layer_name(node): node for node in graph.ir_model.graph}
        self._nodes = {name: n for name, n in named.items() if n.op_type in COUNTERS or name in times}
        self._none = np.zeros(0 if coupling is None else coupling.count, dtype=bool)
        self._models = dict.fromkeys(self._nodes, LatencyModel(0.0, 1.0, 0.0))
        if times:
            self._fit(times)
        self.whole = self.of(self._none)

    def _fit(self, times: Mapping[str, Time]) -> None:
        works = {name: self._work(name, self._none) for name in self._nodes if name in times}
        if not works:
            raise ValueError(f"no layer is called {next(iter(times))!r}; they are {sorted(self._nodes)}")
        model = LatencyModel.fit(list(works.values()), [times[name] for name in works])
        self._models = dict.fromkeys(self._nodes, model)
        self._models |= {name: model.through(work, times[name]) for name, work in works.items()}

    def of(self, gone: Gone, names: Iterable[str] | None = None) -> dict[str, float]:
        """The costs of these layers."""
        wanted = self._nodes if names is None else names
        return {name: self._models[name].of(self._work(name, gone)) for name in wanted}

    def instead(self, name: str, other: Substitute, gone: Gone | None = None) -> float:
        """The cost of operators that do a layer's work differently."""
        gone = self._none if gone is None else gone
        work = self._work(name, gone)
        weight = prod(self._shape(gone, self._nodes[name].inputs[1]) or ())
        # What one operator makes, the next reads.
        numbers = work.moved + (other.weights - 1) * weight + 2 * other.between
        return self._models[name].of(Work(other.macs * work.macs, numbers, other.operators))

    def _work(self, name: str, gone: Gone) -> Work:
        node = self._nodes[name]
        shape = partial(self._shape, gone)
        count = COUNTERS.get(node.op_type)
        return Work(0 if count is None else count(node, shape), moved(node, shape))

    def _shape(self, gone: Gone, value: ir.Value | None) -> tuple[int, ...] | None:
        whole = None if value is None else self._shapes.get(str(value.name))
        if whole is None or value is None:
            return None
        return _left(whole, self._axes.get(str(value.name)), gone)

    def left(self, name: str, gone: Gone) -> tuple[float, ...]:
        """The share of each axis of a layer's weight, its second input, that is left."""
        weight = self._nodes[name].inputs[1]
        shapes = self._shape(self._none, weight), self._shape(gone, weight)
        return tuple(now / whole for whole, now in zip(shapes[0] or (), shapes[1] or (), strict=True))

    def touched(self, width: Width) -> frozenset[str]:
        """The layers whose cost depends on it."""
        gone = self._none.copy()
        gone[width.units] = True
        less = self.of(gone)
        return frozenset(name for name, cost in self.whole.items() if less[name] != cost)


def _left(
    shape: tuple[int, ...], axes: Sequence[NDArray[np.intp] | None] | None, gone: Gone
) -> tuple[int, ...]:
    """What is left of a shape. axes: as ``Coupling`` has them, None where none go."""
    known = (None,) * len(shape) if axes is None else axes
    return tuple(
        length if units is None or not len(units) else length - length // len(units) * int(gone[units].sum())
        for length, units in zip(shape, known, strict=True)
    )
