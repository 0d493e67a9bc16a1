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

    def of(self, gone: Gone, names: frozenset[str] | None = None) -> dict[str, int]:
        """The units of these widths (None: all) without those flagged in ``gone``."""
        wanted = self._widths.keys() if names is None else names
        return {name: int((~gone[self._widths[name].units]).sum()) for name in wanted}

    def touched(self, width: Width) -> frozenset[str]:
        """The width itself."""
        return frozenset({width.name})


class Costs:
    """Multiply-accumulates of each layer. shapes: of all values, as observed in a run of the whole graph."""

    def __init__(self, graph: Graph, coupling: Coupling, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._shapes = shapes
        self._axes = coupling.axes
        self._nodes = {layer_name(n): n for n in graph.ir_model.graph if n.op_type in COUNTERS}
        self._none = np.zeros(coupling.count, dtype=bool)
        self.whole = self.of(self._none)

    def of(self, gone: Gone, layers: frozenset[str] | None = None) -> dict[str, int]:
        """The MACs of these layers (None: all) without the units flagged in ``gone``."""

        def shape(value: ir.Value | None) -> tuple[int, ...] | None:
            whole = None if value is None else self._shapes.get(str(value.name))
            if whole is None or value is None:
                return None
            known = self._axes.get(str(value.name), (None,) * len(whole))
            return tuple(
                length if units is None else length - int(gone[units].sum())
                for length, units in zip(whole, known, strict=True)
            )

        names = self._nodes.keys() if layers is None else layers
        return {name: COUNTERS[self._nodes[name].op_type](self._nodes[name], shape) for name in names}

    def touched(self, width: Width) -> frozenset[str]:
        """The layers whose cost depends on how many units of this width there are."""
        gone = self._none.copy()
        gone[width.units] = True
        less = self.of(gone)
        return frozenset(name for name, macs in self.whole.items() if less[name] != macs)
