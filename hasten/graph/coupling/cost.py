"""What a graph costs without some of its units, known without building it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hasten.graph.coupling.coupling import Coupling, Width
from hasten.graph.graph import Graph
from hasten.graph.macs import COUNTERS
from hasten.graph.names import layer_name

Gone = NDArray[np.bool_]


class Counts:
    """How many units each of these widths has left."""

    def __init__(self, widths: Iterable[Width]) -> None:
        self._widths = {width.name: width for width in widths}
        self.whole = {name: len(width) for name, width in self._widths.items()}

    def of(self, gone: Gone, names: frozenset[str] | None = None) -> dict[str, float]:
        """The units of these widths (None: all) without those flagged in ``gone``."""
        wanted = self._widths.keys() if names is None else names
        return {name: int((~gone[self._widths[name].units]).sum()) for name in wanted}

    def touched(self, width: Width) -> frozenset[str]:
        """The width itself."""
        return frozenset({width.name})


class Costs:
    """Multiply-accumulates of each layer. shapes: of all values, as observed in a run of the whole graph.

    times: of layers, measured where the graph will run, in any unit. Where some are given, a layer's cost is
    its time instead, which falls with its multiply-accumulates; what a layer without a time would take is
    told by the others.
    """

    def __init__(
        self,
        graph: Graph,
        coupling: Coupling,
        shapes: Mapping[str, tuple[int, ...]],
        times: Mapping[str, float] | None = None,
    ) -> None:
        self._shapes = shapes
        self._axes = coupling.axes
        self._nodes = {layer_name(n): n for n in graph.ir_model.graph if n.op_type in COUNTERS}
        self._none = np.zeros(coupling.count, dtype=bool)
        self._prices = dict.fromkeys(self._nodes, 1.0)
        if times:
            self._prices = self._priced(times)
        self.whole = self.of(self._none)

    def _priced(self, times: Mapping[str, float]) -> dict[str, float]:
        """The time of a multiply-accumulate in each layer."""
        macs = self._macs(self._none, self._nodes.keys())
        known = [name for name, count in macs.items() if count and name in times]
        if not known:
            raise ValueError(f"no layer is called {next(iter(times))!r}; they are {sorted(macs)}")
        usual = sum(times[name] for name in known) / sum(macs[name] for name in known)
        return {name: times[name] / macs[name] if name in known else usual for name in macs}

    def of(self, gone: Gone, layers: frozenset[str] | None = None) -> dict[str, float]:
        """The costs of these layers (None: all) without the units flagged in ``gone``."""
        names = self._nodes.keys() if layers is None else layers
        return {name: macs * self._prices[name] for name, macs in self._macs(gone, names).items()}

    def _macs(self, gone: Gone, layers: Iterable[str]) -> dict[str, int]:

        def shape(value: ir.Value | None) -> tuple[int, ...] | None:
            whole = None if value is None else self._shapes.get(str(value.name))
            if whole is None or value is None:
                return None
            known = self._axes.get(str(value.name), (None,) * len(whole))
            return tuple(
                length if units is None else length - int(gone[units].sum())
                for length, units in zip(whole, known, strict=True)
            )

        return {name: COUNTERS[self._nodes[name].op_type](self._nodes[name], shape) for name in layers}

    def touched(self, width: Width) -> frozenset[str]:
        """The layers whose cost depends on how many units of this width there are."""
        gone = self._none.copy()
        gone[width.units] = True
        less = self.of(gone)
        return frozenset(name for name, cost in self.whole.items() if less[name] != cost)
