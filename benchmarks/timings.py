"""Versions of a model timed in the same rounds."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hasten
from hasten import data as data_room
from hasten import measuring, targets
from hasten.core.data import split
from hasten.core.layers import Kernel
from hasten.core.target import sums_saturate
from hasten.graph.cost import layer_costs
from hasten.measuring import Conditions, Subject, Timing
from hasten.numerics.latency import Time
from hasten.search.families import SLIM
from hasten.search.layers import times

OPENVINO_INT8: dict[str, Any] = {
    "rounding": "outputs",
    "layout": "openvino",
    "products": "convolutions" if sums_saturate() else "kept",
}
"""What `quantize_static` is told for OpenVINO: CPUs that do not multiply bytes have the better kernels for
convolutions."""
LAYOUTS = {"openvino": "openvino", "onnxruntime": "both"}
"""The `layout` of `quantize_static` for each runtime."""


def timed(
    graphs: Sequence[hasten.Graph],
    samples: Mapping[str, Any],
    target: str,
    threads: int,
    limit_s: float = Conditions.time_limit_s,
) -> list[Timing]:
    """The latency of each graph on a target, one sample at a time; speed-ups are over the first graph.

    limit_s: how long all of it may take. Raises TrialError for a graph that does not run there.
    """
    conditions = Conditions(threads=threads, time_limit_s=limit_s)
    with tempfile.TemporaryDirectory(prefix="hasten-timings-") as name:
        work, subjects = Path(name), []
        options = targets.options(target, {"threads": threads})
        for number, graph in enumerate(graphs):
            folder = work / str(number)
            folder.mkdir()
            artifact = targets.find(target).export(graph, folder, options)
            subjects.append(Subject(artifact, folder, str(number)))
        store, _ = data_room.ingest(dict(samples), graphs[0].inputs, work / "store", seed=0)
        timings = []
        for timing in measuring.time_interleaved(subjects, split(store, 0).selection, conditions):
            if not isinstance(timing, Timing):
                raise timing
            timings.append(timing)
    return timings


def kernels(
    graphs: Sequence[hasten.Graph], samples: Mapping[str, Any], target: str, threads: int
) -> list[tuple[Kernel, ...]]:
    """What a target executes of each graph for one sample, with times by the profiler, read in turns."""
    with tempfile.TemporaryDirectory(prefix="hasten-kernels-") as name:
        work, subjects = Path(name), []
        options = targets.options(target, {"threads": threads})
        for number, graph in enumerate(graphs):
            folder = work / str(number)
            folder.mkdir()
            subjects.append(Subject(targets.find(target).export(graph, folder, options), folder, str(number)))
        store, _ = data_room.ingest(dict(samples), graphs[0].inputs, work / "store", seed=0)
        selection = split(store, 0).selection
        return measuring.kernels(subjects, selection, Conditions(threads=threads), work / "kernels")


def layer_times(
    graph: hasten.Graph,
    samples: Mapping[str, Any],
    target: str,
    threads: int,
    behind: Sequence[hasten.Step] = (),
) -> dict[str, Time]:
    """What each layer takes on a target, in µs of the profiler, and what at about half of all widths.

    behind: what is done to the graph before it runs there.
    """
    one = {key: array[:1] for key, array in samples.items()}
    slim = hasten.apply(graph, hasten.Recipe(SLIM), samples, threads=threads).graph
    versions = [
        hasten.apply(each, hasten.Recipe(tuple(behind)), samples, threads=threads).graph if behind else each
        for each in (graph, slim)
    ]
    layers = [layer_costs(each, one) for each in (graph, slim)]
    seen = zip(layers, kernels(versions, samples, target, threads), strict=True)
    return times(*seen)


def ratio(timing: Timing) -> str:
    """How many times faster than the first, with its 95 % interval."""
    low, high = timing.speedup.ci95
    return f"{timing.speedup.median:.2f} ({low:.2f} to {high:.2f})"
