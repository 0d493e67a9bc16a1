"""What a whole choice costs: every layer at its width, its rank, and gone with its branch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from hasten.core.errors import MethodError
from hasten.graph import Graph
from hasten.graph.coupling import Coupling, couple
from hasten.graph.coupling.cost import Costs, Gone, Substitute
from hasten.graph.shapes import observed_shapes
from hasten.methods import Context, Times
from hasten.methods._narrow.refit import ready
from hasten.methods._structure.decisions import Choice, Decision


class Prices:
    """Costs of choices. A layer's cost depends on few decisions, so what was once computed is kept."""

    def __init__(self, decisions: Sequence[Decision], coupling: Coupling, costs: Costs) -> None:
        self._decisions = decisions
        self._costs = costs
        self._count = coupling.count
        self._widths = {width.name: width for width in coupling.widths}
        self.touched = [self._layers(decision) for decision in decisions]
        self._on: dict[str, list[int]] = {name: [] for name in costs.whole}
        for number, layers in enumerate(self.touched):
            for name in layers:
                self._on[name].append(number)
        self._known: dict[tuple[str, Choice], float] = {}
        self.whole = sum(costs.whole.values())

    @classmethod
    def of_graph(
        cls,
        graph: Graph,
        decisions: Sequence[Decision],
        context: Context,
        times: Times | None = None,
    ) -> Prices:
        """Prices at the shapes of the first calibration sample; times: as of ``Costs``.

        Raises MethodError for times of no layer.
        """
        assert context.calibration is not None
        whole = ready(graph)
        feeds = next(context.calibration.batches_for(whole.inputs, context.batch)).feeds(whole.inputs)
        coupling, shapes = couple(whole), observed_shapes(whole, feeds, threads=context.threads)
        try:
            return cls(decisions, coupling, Costs(whole, coupling, shapes, times))
        except ValueError as error:
            raise MethodError(f"times: {error}") from error

    def _layers(self, decision: Decision) -> frozenset[str]:
        if decision.kind in {"channels", "heads"}:
            return self._costs.touched(self._widths[decision.name])
        names = decision.nodes if decision.kind == "branches" else (decision.name,)
        return frozenset(names) & self._costs.whole.keys()

    def of(self, choice: Choice, layers: Iterable[str] | None = None) -> float:
        """The cost of these layers (None: all)."""
        return sum(self._layer(name, choice) for name in (self._on if layers is None else layers))

    def _layer(self, name: str, choice: Choice) -> float:
        key = name, tuple(choice[number] for number in self._on[name])
        if key not in self._known:
            self._known[key] = self._computed(name, choice)
        return self._known[key]

    def _computed(self, name: str, choice: Choice) -> float:
        gone = np.zeros(self._count, dtype=bool)
        rank: tuple[Decision, int] | None = None
        narrowed = 1.0
        for number in self._on[name]:
            decision, option = self._decisions[number], choice[number]
            if not option:
                continue
            if decision.kind == "branches":
                return 0.0
            if decision.kind == "ranks":
                rank = decision, option
            elif decision.kind == "bits":
                narrowed = decision.shares[option]
            else:
                # A cost depends on how many units are gone, not on which.
                units = self._widths[decision.name].units
                gone[units[decision.values[option] :]] = True
        whole = self._costs.of(gone, [name])[name]
        return narrowed * (whole if rank is None else min(whole, self._factored(gone, *rank)))

    def _factored(self, gone: Gone, decision: Decision, option: int) -> float:
        """What two factors cost in the place of the narrower layer; where that is more, it stays one."""
        left = self._costs.left(decision.name, gone)
        made, read = left[decision.axis], left[1 - decision.axis]
        factors = decision.factors[option - 1]
        macs, weights = (
            (first * read + last * made) / (read * made) for first, last in (factors.macs, factors.weights)
        )
        return self._costs.instead(decision.name, Substitute(macs, weights, factors.between, 2), gone)
