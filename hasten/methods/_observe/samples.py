"""Which samples are looked at, how many values are held at once, and where what was seen is kept."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from hasten.core.data import Array, Calibration
from hasten.core.errors import MethodError
from hasten.graph import Graph
from hasten.graph.shapes import observed_shapes
from hasten.methods import Context

MEMORY_BYTES = 256 << 20
"""About how much of a batch's activations may be held at once; what exceeds it takes further passes."""
_JUDGES_OF = 4
"""Of how many samples one judges, at most."""


def apart(calibration: Calibration, count: int) -> tuple[Calibration, Calibration]:
    """``count`` of the samples to judge by, and the others to solve for; twice all where there is but one.

    At even distances, a quarter of all at most, and one at least: what was solved for samples fits them far
    better than any others, and by them what was solved looks better than what was not.
    """
    some = calibration.take(max(min(count, len(calibration) // _JUDGES_OF), 1))
    taken = set(some.indices)
    others = [index for index in calibration.indices if index not in taken]
    return some, Calibration(calibration.store, others) if others else calibration


def in_memory(
    graph: Graph, names: Sequence[str], samples: Calibration, context: Context
) -> Iterator[list[str]]:
    """Divide the values so that those of one group fit into memory together."""
    first = next(samples.batches_for(graph.inputs, context.batch), None)
    if first is None:
        raise MethodError("there are no samples to calibrate on; give --data")
    shapes = observed_shapes(graph, first.feeds(graph.inputs), threads=context.threads)
    group: list[str] = []
    held = 0
    for name in names:
        needed = 4 * int(np.prod(shapes.get(name, ()), dtype=np.int64))
        if group and held + needed > MEMORY_BYTES:
            yield group
            group, held = [], 0
        group.append(name)
        held += needed
    if group:
        yield group


def key(graph: Graph, samples: Calibration, batch: int, how_many: int) -> str:
    """Names what was seen of a graph on these samples; how_many: values of each that were counted."""
    told = json.dumps([graph.fingerprint, samples.store.sha256, samples.indices, batch, how_many])
    return hashlib.sha256(told.encode()).hexdigest()[:24]


def replace_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write a file of arrays, whole or not at all."""
    partial = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    np.savez(partial, allow_pickle=False, **arrays)
    partial.replace(path)
