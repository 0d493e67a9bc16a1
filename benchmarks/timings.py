"""Versions of a model timed in the same rounds."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import hasten
from benchmarks.rounding import Case
from hasten import data as data_room
from hasten import measuring, targets
from hasten.core.data import split
from hasten.measuring import Conditions, Subject, Timing


def timed(known: Case, graphs: Sequence[hasten.Graph], target: str, threads: int) -> list[Timing]:
    """The latency of each graph on a target, one sample at a time; speed-ups are over the first graph."""
    with tempfile.TemporaryDirectory(prefix="hasten-timings-") as name:
        work, subjects = Path(name), []
        for number, graph in enumerate(graphs):
            folder = work / str(number)
            folder.mkdir()
            artifact = targets.find(target).export(
                graph, folder, targets.options(target, {"threads": threads})
            )
            subjects.append(Subject(artifact, folder, str(number)))
        store, _ = data_room.ingest(known.seen, known.clean.inputs, work / "store", seed=0)
        found = measuring.time_interleaved(subjects, split(store, 0).selection, Conditions(threads=threads))
    timings = [timing for timing in found if isinstance(timing, Timing)]
    if len(timings) < len(graphs):
        raise RuntimeError(f"a version of {known.name} does not run on {target}")
    return timings
