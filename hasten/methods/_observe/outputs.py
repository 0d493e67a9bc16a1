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
        for batch in samples.batches_for(graph.inputs, context.batch):
            feeds = batch.feeds(graph.inputs)
            self._seen.append((feeds, evaluator.run(feeds)))
        floats = [name for name in evaluator.output_names if self._is_float(name)]
        self._sizes = {name: self._size(name) for name in floats or evaluator.output_names}

    def error(self, graph: Graph) -> float:
        """Squared error over variance of the output that is worst off; infinite where it breaks.

        Only floats count where there are any; else it is the share that differs.
        """
        try:
            return self.wrong(Evaluator(graph, threads=self._threads).run)
        except MethodError:
            return float("inf")

    def wrong(self, answer: Callable[[dict[str, Array]], Mapping[str, Array]]) -> float:
        """The same of outputs that a function gives for the inputs."""
        wrong = dict.fromkeys(self._sizes, 0.0)
        for feeds, expected in self._seen:
            got = answer(feeds)
            for name in wrong:
                wrong[name] += _difference(expected[name], got[name])
        worst = max((error / self._sizes[name] for name, error in wrong.items()), default=0.0)
        return worst if np.isfinite(worst) else float("inf")

    def _is_float(self, name: str) -> bool:
        return all(seen[name].dtype.kind == "f" for _, seen in self._seen)

    def _size(self, name: str) -> float:
        """What the error is relative to: of floats what varies, of others how many they are."""
        values: Array = np.concatenate([seen[name].reshape(-1) for _, seen in self._seen])
        if values.dtype.kind != "f":
            return float(values.size) or 1.0
        values = values.astype(np.float64)
        return float(np.square(values - values.mean()).sum()) or 1.0


def broken(graph: Graph, changed: Graph, samples: Calibration, context: Context) -> str | None:
    """The first output that is finite for a batch of the samples and is not any more in the changed graph."""
    feeds = next(samples.batches_for(graph.inputs, context.batch)).feeds(graph.inputs)
    wanted = Evaluator(graph, threads=context.threads).run(feeds)
    for name, values in Evaluator(changed, threads=context.threads).run(feeds).items():
        if values.dtype.kind == "f" and np.isfinite(wanted[name]).all() and not np.isfinite(values).all():
            return name
    return None


def _difference(expected: Array, got: Array) -> float:
    if expected.shape != got.shape:
        return float("inf")
    if expected.dtype.kind != "f":
        return float(np.count_nonzero(expected != got))
    return float(np.square(got.astype(np.float64) - expected).sum())
