"""Which samples are looked at, how many values are held at once, and where what was seen is kept."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from hasten.core.data import Array, Calibration
from hasten.core.errors import MethodError
from hasten.graph import Graph
from hasten.graph.evaluate import Evaluator
from hasten.graph.shapes import observed_shapes
from hasten.methods import Context

T = TypeVar("T")

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


def in_parts(items: Iterable[T], size: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """Divide items, in order, so that each part has ``most`` bytes at most; one alone may have more."""
    part: list[T] = []
    held = 0
    for item in items:
        needed = size(item)
        if part and held + needed > most:
            yield part
            part, held = [], 0
        part.append(item)
        held += needed
    if part:
        yield part


def observed(
    graph: Graph, names: Sequence[str], samples: Calibration, context: Context, *, doing: str | None = None
) -> Iterator[tuple[list[str], Mapping[str, Array]]]:
    """What these values and the inputs hold, batch by batch: names, and arrays by name.

    As many of the names come together as fit into memory; the others in further passes over the samples.
    doing: in words, for the progress. Raises MethodError when there are no samples or the graph does not run
    on them.
    """
    first = next(samples.batches_for(graph.inputs, context.batch), None)
    if first is None:
        raise MethodError("there are no samples to calibrate on; give --data")
    shapes = observed_shapes(graph, first.feeds(graph.inputs), threads=context.threads)

    def size(name: str) -> int:
        return 4 * int(np.prod(shapes.get(name, ()), dtype=np.int64))

    parts = list(in_parts(names, size, MEMORY_BYTES))
    done, total = 0, len(samples) * len(parts)
    for part in parts:
        evaluator = Evaluator(graph, part, threads=context.threads)
        computed = [name for name in part if name in evaluator.output_names]
        for batch in samples.batches_for(graph.inputs, context.batch):
            feeds = batch.feeds(graph.inputs)
            yield part, feeds | evaluator.run(feeds, computed)
            done += len(batch.indices)
            if doing is not None:
                context.progress(doing, min(done / total, 1.0))


def key(graph: Graph, samples: Calibration, batch: int, how_many: int) -> str:
    """Names what was seen of a graph on these samples; how_many: values of each that were counted."""
    told = json.dumps([graph.fingerprint, samples.store.sha256, samples.indices, batch, how_many])
    return hashlib.sha256(told.encode()).hexdigest()[:24]


def replace_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write a file of arrays, whole or not at all."""
    partial = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    np.savez(partial, allow_pickle=False, **arrays)
    partial.replace(path)
