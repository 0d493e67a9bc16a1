"""What operators in a layer's place take, where the times of layers are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hasten.core.errors import MethodError
from hasten.graph import Graph
from hasten.graph.coupling.cost import Costs, Substitute
from hasten.methods import Times
from hasten.methods._factors.forms import Cost


class Clock:
    """Times of a graph's layers. shapes: of all values in one inference; times: of layers, see ``Costs``.

    Raises MethodError for times of no layer.
    """

    def __init__(self, graph: Graph, shapes: Mapping[str, tuple[int, ...]], times: Times) -> None:
        if not shapes:
            raise MethodError("times say nothing of a model that cannot be run; give --data")
        try:
            self._costs = Costs(graph, None, shapes, times)
        except ValueError as error:
            raise MethodError(f"times: {error}") from error
        self.total = sum(self._costs.whole.values())

    def of(self, layer: str) -> Callable[[Cost, Cost], float]:
        """The time of what costs so much in place of this layer, which costs the second."""

        def time(cost: Cost, whole: Cost) -> float:
            macs, weights = cost.macs / whole.macs, cost.parameters / whole.parameters
            other = Substitute(macs, weights, cost.made - whole.made, cost.operators)
            return self._costs.instead(layer, other)

        return time
