"""How much harm does each changed layer do? Read from a switchboard of the graph before and after a method.

The damage of a set of layers is the normalized error ‖y - ŷ‖² / ‖y‖² of the model's outputs, on calibration
samples, when only these layers are changed. Errors of layers add up where they are small and independent.

These functions run in a child process.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hasten.core.data import Array, Dataset, Roles
from hasten.core.record import LayerError
from hasten.graph import Graph
from hasten.graph.evaluate import Evaluator
from hasten.graph.names import layer_name
from hasten.graph.switches import Switchboard
from hasten.numerics.knapsack import cheapest_cover

_SAMPLES = 24
"""Calibration samples that damage is measured on, at most: enough to rank layers, few enough to be quick."""
_FEWEST = 4
_ROUNDS = 6
"""How often the choice is made stricter until the error is as asked for: damages do not quite add up."""


class Bench:
    """A switchboard, opened, and samples with the outputs of the unchanged model."""

    def __init__(
        self, before: Graph, after: Graph, names: Iterable[str], samples: Dataset, threads: int
    ) -> None:
        self.board = Switchboard(before, after, names)
        self.layers = tuple(self.board.layers)
        self._evaluator = self.board.open(threads=threads)
        reference = Evaluator(before, threads=threads)
        self._feeds = [batch.feeds(before.inputs) for batch in samples.batches(1)]
        self._expected = [reference.run(feeds) for feeds in self._feeds]

    def error(self, on: Collection[str], samples: int | None = None) -> float:
        """The damage of a set of layers: of the worst output, over the first ``samples``."""
        taken = list(zip(self._feeds, self._expected, strict=True))[:samples]
        names = list(self._expected[0])
        wrong = dict.fromkeys(names, 0.0)
        total = dict.fromkeys(names, 0.0)
        for feeds, expected in taken:
            got = self._evaluator.run(self.board.feeds(feeds, on), names)
            for name in names:
                if expected[name].dtype.kind == "f":
                    wrong[name] += _square(expected[name].astype(np.float64) - got[name])
                    total[name] += _square(expected[name])
        worst = max((wrong[n] / total[n] for n in names if total[n]), default=0.0)
        return worst if np.isfinite(worst) else float("inf")

    def damages(self, time_limit_s: float) -> dict[str, float]:
        """The damage of each layer alone, on as many samples as the time allows."""
        began = time.monotonic()
        self.error(self.layers[:1], 1)
        self.error(self.layers[:1], 1)
        each_s = (time.monotonic() - began) / 2
        affordable = int(time_limit_s / max(each_s * len(self.layers), 1e-6))
        samples = min(_SAMPLES, max(_FEWEST, affordable))
        return {name: self.error((name,), samples) for name in self.layers}


def choose_in_child(
    graph: str,
    store: str | None,
    work: str,
    original: str,
    settings: dict[str, int],
    aim: dict[str, Any],
) -> dict[str, Any] | None:
    """The layers to leave unchanged so that the error falls to a fraction of itself at the least cost.

    aim: ``changed``, the graph file in which all ``names`` are changed; ``costs``, what leaving a layer as it
    was costs (equal where missing); ``fraction``; ``time_limit_s``. None where no choice achieves it.
    """
    if store is None:
        return None
    samples = Roles.open(Path(store)).calibration.take(_SAMPLES)
    bench = Bench(Graph.open(graph), Graph.open(aim["changed"]), aim["names"], samples, settings["threads"])
    everything = bench.error(bench.layers)
    if not bench.layers or not everything:
        return None
    damages = bench.damages(aim["time_limit_s"])
    # A layer whose time is not known costs as much as an average one.
    known: Mapping[str, float] = aim["costs"]
    usual = float(np.mean(list(known.values()))) if known else 1.0
    costs = {name: known.get(name, usual) for name in bench.layers}
    wanted = aim["fraction"] * everything
    allowed = aim["fraction"] * sum(d for d in damages.values() if np.isfinite(d))
    for _ in range(_ROUNDS):
        left = cheapest_cover(damages, costs, allowed)
        after = bench.error([name for name in bench.layers if name not in left])
        if after <= wanted or len(left) == len(bench.layers):
            break
        allowed *= max(0.1, 0.8 * wanted / after)
    if len(left) == len(bench.layers) or after >= everything:
        return None
    return {
        "layers": sorted(left, key=lambda name: -damages[name]),
        "error_before": everything,
        "error_after": after,
    }


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
    before, after = Graph.open(graph), Graph.open(changed)
    board = Switchboard(before, after, sites)
    inner = [name for s in board.layers.values() for name in (s.original, s.changed)]
    combined = board.open(inner, threads=settings["threads"])
    signal = dict.fromkeys(board.layers, 0.0)
    alone, together = dict(signal), dict(signal)
    for batch in Roles.open(Path(store)).calibration.take(_SAMPLES).batches(1):
        feeds = batch.feeds(before.inputs)
        kept = combined.run(board.feeds(feeds))
        spoilt = combined.run(board.feeds(feeds, board.layers))
        for name, switched in board.layers.items():
            expected = kept[switched.original].astype(np.float64)
            signal[name] += _square(expected)
            alone[name] += _square(expected - kept[switched.changed])
            together[name] += _square(expected - spoilt[switched.changed])
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
