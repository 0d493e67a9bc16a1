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
from hasten.core.record import Kernel
from hasten.core.target import sums_saturate
from hasten.graph.cost import layer_costs
from hasten.measuring import Conditions, Subject, Timing
from hasten.search.layers import shared_us

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


def kernels(graph: hasten.Graph, samples: Mapping[str, Any], target: str, threads: int) -> tuple[Kernel, ...]:
    """What a target executes for one sample, each with its time by the profiler."""
    with tempfile.TemporaryDirectory(prefix="hasten-kernels-") as name:
        work = Path(name)
        options = targets.options(target, {"threads": threads})
        subject = Subject(targets.find(target).export(graph, work, options), work, "kernels")
        store, _ = data_room.ingest(dict(samples), graph.inputs, work / "store", seed=0)
        selection = split(store, 0).selection
        return measuring.kernels(subject, selection, Conditions(threads=threads), work / "kernels")


def layer_times(
    graph: hasten.Graph, whole: hasten.Graph, samples: Mapping[str, Any], target: str, threads: int
) -> dict[str, float]:
    """What each layer takes on a target, in µs, of the profiler; whole: the graph that has the layers."""
    one = {key: array[:1] for key, array in samples.items()}
    macs = {layer.name: layer.macs for layer in layer_costs(whole, one)}
    return shared_us(kernels(graph, samples, target, threads), macs)


def ratio(timing: Timing) -> str:
    """How many times faster than the first, with its 95 % interval."""
    low, high = timing.speedup.ci95
    return f"{timing.speedup.median:.2f} ({low:.2f} to {high:.2f})"
