"""Which layers are to blame when a recipe loses too much quality?

The damage of a set of layers is the normalized error of the model's outputs, on calibration samples, when
the method is applied to these layers alone. Groups of layers are halved, the worst group first, until the
worst are single layers: with few culprits among N layers this takes in the order of log N applications
instead of N. Then the shortest list of culprits is sought without which the error is small enough.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hasten.core.data import Array, Roles
from hasten.core.errors import MethodError
from hasten.core.recipe import Recipe, Step
from hasten.search.build import Built, Workshop, method_context

_SAMPLES = 24
"""Calibration samples each application is judged on: enough to rank layers, few enough to be quick."""

if TYPE_CHECKING:
    from hasten.graph import Graph
    from hasten.methods import Context

Damage = Callable[[frozenset[str]], float]


@dataclass(frozen=True)
class Blame:
    """The layers to leave out, worst first, and the error before and after. runs: applications made."""

    layers: tuple[str, ...]
    error_before: float
    error_after: float
    runs: int


def rank(names: Sequence[str], damage: Damage, runs: int) -> list[tuple[str, float]]:
    """Single layers by their own damage, worst first, found by halving; at most about ``runs`` evaluations.

    Layers in groups that were never split are not listed: each is less harmful than those that are.
    """
    queue: list[tuple[float, int, tuple[str, ...]]] = []
    single: list[tuple[str, float]] = []
    made = 0

    def push(group: tuple[str, ...]) -> None:
        nonlocal made
        made += 1
        heapq.heappush(queue, (-damage(frozenset(group)), made, group))

    push(tuple(names))
    while queue:
        negative, _, group = heapq.heappop(queue)
        if len(group) == 1:
            single.append((group[0], -negative))
            continue
        if made + 2 > runs:
            break
        middle = len(group) // 2
        push(group[:middle])
        push(group[middle:])
    return sorted(single, key=lambda pair: -pair[1])


def shortest(ranked: Sequence[str], error_without: Callable[[int], float], allowed: float) -> int:
    """The smallest number of leading layers without which the error is at most ``allowed``, by bisection.

    Returns ``len(ranked)`` when even leaving out all of them is not enough.
    """
    low, high = 1, len(ranked)
    while low < high:
        middle = (low + high) // 2
        if error_without(middle) <= allowed:
            high = middle
        else:
            low = middle + 1
    return low


def find_blame(
    workshop: Workshop, recipe: Recipe, before: Built, fraction: float, time_limit_s: float
) -> Blame | None:
    """The layers to leave out of the recipe's last step so that the error falls to ``fraction`` of itself.

    before: the graph the last step is applied to. Returns None when no list of layers achieves it, or the
    method has no ``exclude``. Raises TrialError when the method fails.
    """
    answer = workshop.ask(
        "repair:blame_in_child",
        {
            **workshop.place(before),
            "aim": {
                "step": {recipe.steps[-1].method: dict(recipe.steps[-1].params)},
                "fraction": fraction,
                "time_limit_s": time_limit_s,
            },
        },
    )
    return Blame(**{**answer, "layers": tuple(answer["layers"])}) if answer else None


def blame_in_child(
    graph: str,
    store: str | None,
    work: str,
    original: str,
    settings: dict[str, int],
    aim: dict[str, Any],
) -> dict[str, Any] | None:
    """Child side of ``find_blame``; aim: the step, the fraction and the time limit."""
    from hasten.graph import Graph

    if store is None:
        return None
    context = method_context(Roles.open(Path(store)).calibration, work, original, settings)
    trial = _Bench(Graph.open(graph), Step.parse(aim["step"], "step"), context)
    time_limit_s: float = aim["time_limit_s"]
    names = trial.layers()
    deadline = time.monotonic() + time_limit_s
    everything = trial.error(frozenset())
    # An application costs about what this one did; half of the time goes to ranking.
    runs = max(4, min(4 * len(names), int(0.5 * time_limit_s / max(trial.seconds_each, 1e-3))))
    ranked = [name for name, _ in rank(names, lambda group: trial.error(frozenset(names) - group), runs)]
    if not ranked:
        return None
    count = shortest(
        ranked,
        lambda k: trial.error(frozenset(ranked[:k])) if time.monotonic() < deadline else 0.0,
        aim["fraction"] * everything,
    )
    after = trial.error(frozenset(ranked[:count]))
    if count == len(names) or after >= everything:
        return None
    return {"layers": ranked[:count], "error_before": everything, "error_after": after, "runs": trial.runs}


class _Bench:
    """Applies one step with differing ``exclude`` and compares the outputs with the unchanged graph's."""

    def __init__(self, graph: Graph, step: Step, context: Context) -> None:
        from hasten.graph.evaluate import Evaluator

        self._graph = graph
        self._step = step
        assert context.calibration is not None
        self._context = context
        self._feeds = [b.feeds(graph.inputs) for b in context.calibration.take(_SAMPLES).batches(1)]
        self._threads = context.threads
        evaluator = Evaluator(graph, threads=self._threads)
        self._expected = [evaluator.run(f) for f in self._feeds]
        self._known: dict[frozenset[str], float] = {}
        self._seconds = 0.0
        self.runs = 0

    @property
    def seconds_each(self) -> float:
        """Mean time of one application and its evaluation."""
        return self._seconds / max(self.runs, 1)

    def _apply(self, exclude: frozenset[str]) -> Any:
        from hasten.methods import apply

        given: Any = self._step.params.get("exclude") or []
        params = {**self._step.params, "exclude": sorted(exclude.union(given))}
        return apply(Recipe([Step(self._step.method, params)]), self._graph, self._context)

    def layers(self) -> list[str]:
        """The layers the step changes, in graph order."""
        return list(dict.fromkeys(site.name for site in self._apply(frozenset()).sites))

    def error(self, exclude: frozenset[str]) -> float:
        """Normalized error ‖y − ŷ‖² / ‖y‖² of the worst output, when ``exclude`` is left as it was."""
        from hasten.graph.evaluate import Evaluator

        if exclude not in self._known:
            began = time.monotonic()
            try:
                evaluator = Evaluator(self._apply(exclude).graph, threads=self._threads)
                got = [evaluator.run(f) for f in self._feeds]
                self._known[exclude] = max(_error(name, self._expected, got) for name in self._expected[0])
            except MethodError:
                self._known[exclude] = float("inf")
            self._seconds += time.monotonic() - began
            self.runs += 1
        return self._known[exclude]


def _error(name: str, expected: Sequence[Mapping[str, Array]], got: Sequence[Mapping[str, Array]]) -> float:
    wrong = total = 0.0
    for e, g in zip(expected, got, strict=True):
        if not np.issubdtype(e[name].dtype, np.floating):
            continue
        difference = e[name].astype(np.float64) - g[name].astype(np.float64)
        wrong += float(np.square(difference).sum())
        total += float(np.square(e[name].astype(np.float64)).sum())
    if not np.isfinite(wrong):
        return float("inf")
    return wrong / total if total else 0.0
