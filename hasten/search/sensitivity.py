"""How much harm does each layer do in each form? Read from a switchboard of the graph in these forms.

The damage of a choice of forms is the normalized error ‖y - ŷ‖² / ‖y‖² of the model's outputs, on calibration
samples. Errors of layers add up where they are small and independent.

These functions run in a child process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hasten.core.data import Array, Dataset, Roles
from hasten.core.layers import LayerError
from hasten.graph import Graph
from hasten.graph.evaluate import Evaluator
from hasten.graph.names import layer_name
from hasten.graph.switches import Switchboard
from hasten.numerics.knapsack import Option, cheapest_choice
from hasten.search.forms import LEFT

Arrays = Mapping[str, Array]
"""By the names of inputs or outputs."""

_SAMPLES = 24
"""Calibration samples that damage is measured on, at most: enough to rank layers, few enough to be quick."""
_FEWEST = 2
_CHANGED = "changed"
_ROUNDS = 6
"""How often the choice is made stricter until the error is as asked for: damages do not quite add up."""


class Reference:
    """Samples with the outputs that the unchanged model gives.

    A run is of one sample, or of as many as a model takes that takes no other number.
    """

    def __init__(self, graph: Graph, samples: Dataset, threads: int) -> None:
        evaluator = Evaluator(graph, threads=threads)
        feeds = [batch.feeds(graph.inputs) for batch in samples.batches_for(graph.inputs)]
        self._pairs = [(fed, evaluator.run(fed)) for fed in feeds]
        self.outputs = tuple(self._pairs[0][1])

    def damage(self, answer: Callable[[Arrays], Arrays], runs: int | None = None) -> float:
        """That of other outputs for these inputs: of the worst output, over the first ``runs``."""
        wrong = dict.fromkeys(self.outputs, 0.0)
        total = dict.fromkeys(self.outputs, 0.0)
        for feeds, expected in self._pairs[:runs]:
            got = answer(feeds)
            for name in self.outputs:
                if expected[name].dtype.kind == "f":
                    wrong[name] += _square(expected[name].astype(np.float64) - got[name])
                    total[name] += _square(expected[name])
        worst = max((wrong[name] / total[name] for name in self.outputs if total[name]), default=0.0)
        return worst if np.isfinite(worst) else float("inf")


class Bench:
    """A switchboard, opened, and samples with the outputs of the unchanged model."""

    def __init__(
        self,
        before: Graph,
        forms: Mapping[str, Graph],
        names: Mapping[str, Collection[str]],
        samples: Dataset,
        threads: int,
    ) -> None:
        self.board = Switchboard(before, forms, names)
        self.layers = tuple(self.board.layers)
        self._evaluator = self.board.open(threads=threads)
        self._reference = Reference(before, samples, threads)

    def all_in(self, *forms: str) -> dict[str, str]:
        """Every layer in the first of these forms that it can have."""
        found = {
            name: next((form for form in forms if form in switched.flags), None)
            for name, switched in self.board.layers.items()
        }
        return {name: form for name, form in found.items() if form is not None}

    def error(self, chosen: Mapping[str, str], runs: int | None = None) -> float:
        """The damage of layers in these forms, over the first ``runs``."""
        outputs = list(self._reference.outputs)
        return self._reference.damage(
            lambda feeds: self._evaluator.run(self.board.feeds(feeds, chosen), outputs), runs
        )

    def damages(self, time_limit_s: float) -> dict[str, dict[str, float]]:
        """The damage of each layer alone in each of its forms, on as many samples as the time allows."""
        began = time.monotonic()
        self.error({}, 1)
        self.error({}, 1)
        each_s = (time.monotonic() - began) / 2
        count = sum(len(switched.flags) for switched in self.board.layers.values())
        runs = min(_SAMPLES, max(_FEWEST, int(time_limit_s / max(each_s * count, 1e-6))))
        return {
            name: {form: self.error({name: form}, runs) for form in switched.flags}
            for name, switched in self.board.layers.items()
        }


def choose_in_child(
    graph: str,
    store: str | None,
    work: str,
    original: str,
    settings: dict[str, int],
    aim: dict[str, Any],
) -> dict[str, Any] | None:
    """The form of each layer for which the error falls to a fraction of what it is now, at the least cost.

    aim: ``forms``, the graph files in which layers are changed, by form; ``names``, of the layers that each
    form changed; ``now``, the forms that they have, each the first that it can; ``saves``, of each form what
    a layer in it saves against being left as it was; ``fraction``; ``time_limit_s``. None where no choice
    achieves it.
    """
    if store is None:
        return None
    samples = Roles.open(Path(store)).calibration.take(_SAMPLES)
    forms = {form: Graph.open(path) for form, path in aim["forms"].items()}
    bench = Bench(Graph.open(graph), forms, aim["names"], samples, settings["threads"])
    now = bench.all_in(*aim["now"])
    everything = bench.error(now)
    if not bench.layers or not everything:
        return None
    damages = bench.damages(aim["time_limit_s"])
    items = {name: _options(name, damages[name], aim["saves"]) for name in bench.layers}
    wanted = aim["fraction"] * everything
    alone = [items[name][form].weight for name, form in now.items()]
    allowed = aim["fraction"] * sum(damage for damage in alone if np.isfinite(damage))
    for _ in range(_ROUNDS):
        chosen = cheapest_choice(items, allowed)
        changed = {name: form for name, form in chosen.items() if form != LEFT}
        after = bench.error(changed)
        if after <= wanted or not changed:
            break
        allowed *= max(0.1, 0.8 * wanted / after)
    if not changed or after >= everything:
        return None
    worst_first = sorted(chosen, key=lambda name: -max(damages[name].values()))
    return {
        "forms": {name: chosen[name] for name in worst_first},
        "error_before": everything,
        "error_after": after,
    }


def damages_in_child(
    graph: str, store: str | None, work: str, original: str, settings: dict[str, int], changed: list[str]
) -> list[float | None]:
    """The damage of each changed graph as a whole; None where its outputs are no numbers, or without data."""
    if store is None:
        return [None] * len(changed)
    samples, threads = Roles.open(Path(store)).calibration.take(_SAMPLES), settings["threads"]
    reference = Reference(Graph.open(graph), samples, threads)
    found = [reference.damage(Evaluator(Graph.open(path), threads=threads).run) for path in changed]
    return [damage if np.isfinite(damage) else None for damage in found]


def _options(
    name: str, damages: Mapping[str, float], saves: Mapping[str, Mapping[str, float]]
) -> dict[str, Option]:
    """A layer's forms; of one that it is not known for what is saved is what it saves on average."""
    options = {}
    for form, damage in damages.items():
        known = saves.get(form, {})
        usual = float(np.mean(list(known.values()))) if known else 1.0
        options[form] = Option(damage, -known.get(name, usual))
    return {**options, LEFT: Option(0.0, 0.0)}


def errors_in_child(
    graph: str,
    store: str | None,
    work: str,
    original: str,
    settings: dict[str, int],
    changed: str,
    sites: dict[str, str],
) -> list[dict[str, Any]]:
    """Each changed layer's signal to noise, alone and with all others changed too, as ``LayerError`` values.

    sites: what was done, by the name of the layer.
    """
    if store is None:
        return []
    before = Graph.open(graph)
    board = Switchboard(before, {_CHANGED: Graph.open(changed)}, {_CHANGED: sites})
    inner = [name for s in board.layers.values() for name in (s.original, s.outputs[_CHANGED])]
    everything = dict.fromkeys(board.layers, _CHANGED)
    combined = board.open(inner, threads=settings["threads"])
    signal = dict.fromkeys(board.layers, 0.0)
    alone, together = dict(signal), dict(signal)
    for batch in Roles.open(Path(store)).calibration.take(_SAMPLES).batches_for(before.inputs):
        feeds = batch.feeds(before.inputs)
        kept = combined.run(board.feeds(feeds))
        spoilt = combined.run(board.feeds(feeds, everything))
        for name, switched in board.layers.items():
            expected = kept[switched.original].astype(np.float64)
            signal[name] += _square(expected)
            alone[name] += _square(expected - kept[switched.outputs[_CHANGED]])
            together[name] += _square(expected - spoilt[switched.outputs[_CHANGED]])
    operators = {layer_name(node): node.op_type for node in before.ir_model.graph}
    return [
        LayerError(
            name=name,
            op_type=operators[name],
            action=sites[name],
            sqnr_alone_db=_decibels(signal[name], alone[name]),
            sqnr_db=_decibels(signal[name], together[name]),
        ).model_dump()
        for name in board.layers
    ]


def _square(values: Array) -> float:
    return float(np.square(values.astype(np.float64)).sum())


def _decibels(signal: float, noise: float) -> float | None:
    """10 log₁₀ of the ratio; None where one of them is nothing or not finite."""
    if not (signal > 0 and noise > 0 and np.isfinite(signal) and np.isfinite(noise)):
        return None
    return float(10 * np.log10(signal / noise))
