"""How far are the outputs of a changed graph from those of the graph it was made of?"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from hasten.core.data import Array, Calibration
from hasten.core.errors import MethodError
from hasten.graph import Graph
from hasten.graph.evaluate import Evaluator
from hasten.methods import Context


class Outputs:
    """The outputs of a graph on samples, which are kept, and the error of other graphs against them."""

    def __init__(self, graph: Graph, samples: Calibration, context: Context) -> None:
        self._threads = context.threads
        evaluator = Evaluator(graph, threads=self._threads)
        self._seen = []
        for batch in samples.batches(context.batch):
            feeds = batch.feeds(graph.inputs)
            self._seen.append((feeds, evaluator.run(feeds)))

    def error(self, graph: Graph) -> float:
        """Squared error over variance of the float output that is worst off; infinite where it breaks."""
        try:
            return self.wrong(Evaluator(graph, threads=self._threads).run)
        except MethodError:
            return float("inf")

    def wrong(self, answer: Callable[[dict[str, Array]], Mapping[str, Array]]) -> float:
        """The same of outputs that a function gives for the inputs."""
        wrong: dict[str, float] = {}
        for feeds, expected in self._seen:
            got = answer(feeds)
            for name, values in expected.items():
                if values.dtype.kind == "f":
                    difference = got[name].astype(np.float64) - values
                    wrong[name] = wrong.get(name, 0.0) + float(np.square(difference).sum())
        worst = max((error / self._variance(name) for name, error in wrong.items()), default=0.0)
        return worst if np.isfinite(worst) else float("inf")

    def _variance(self, name: str) -> float:
        values: Array = np.concatenate([seen[name].reshape(-1) for _, seen in self._seen]).astype(np.float64)
        return float(np.square(values - values.mean()).sum()) or 1.0
