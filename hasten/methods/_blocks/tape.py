"""What goes into a block and what is to come out, sample by sample, on disk.

The values at one cut are computed from those at the cut before it and then replace them, so that whatever
the depth of the model two blocks' values are kept, on disk, and those of one batch in memory.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hasten.core.data import Array, Calibration, Store, StoreWriter
from hasten.core.errors import MethodError
from hasten.graph import Graph
from hasten.graph.evaluate import Evaluator

WANTED = "wanted:"
"""What the field of a value that the original computed begins with."""


@dataclass(frozen=True)
class Tape:
    """A unit for each sample: inputs still to be read, the student's value at the cut, and what is wanted.

    start: the value at the cut, None at the beginning. powers: of what is wanted, the mean square by name;
    values with numbers that are not finite are left out.
    """

    store: Store
    inputs: tuple[str, ...]
    start: str | None
    powers: Mapping[str, float]

    def __len__(self) -> int:
        return len(self.store)

    def discard(self) -> None:
        """Remove it from the disk."""
        shutil.rmtree(self.store.folder, ignore_errors=True)

    def feeds(self, index: int, block: Graph) -> dict[str, Array]:
        """What goes into the student's block that begins here."""
        return {spec.name: self.store.value(spec.name, index) for spec in block.inputs}

    @property
    def positions(self) -> int:
        """Places of a unit for which values are wanted: of pictures (N, C, …) or of rows (…, C)."""
        name = next(field for field in self.store.fields if field.startswith(WANTED))
        shape = self.store.shape(name, 0)
        return max(1, math.prod(shape[2:] if len(shape) > 3 else shape[:-1]))


def units(samples: Calibration, graph: Graph) -> Iterator[dict[str, Array]]:
    """The feeds of the model, as many samples at a time as it takes; one where it takes any number."""
    size = samples.fixed_batch(graph.inputs) or 1
    for batch in samples.batches(size):
        if len(batch.indices) == size:
            yield batch.feeds(graph.inputs)


class Recorder:
    """Writes the tape of each cut; ``folder`` is its own."""

    def __init__(self, folder: Path, read: Sequence[Collection[str]], threads: int) -> None:
        """Read: of each block, the model's inputs that it or a later one reads."""
        self._folder = folder
        self._read = read
        self._threads = threads
        self._count = 0

    def begin(self, feeds: Iterator[Mapping[str, Array]], teacher: Graph, ends: Mapping[str, str]) -> Tape:
        """The tape of the first block. ends: what comes out, and what the teacher's block calls it."""
        evaluator = Evaluator(teacher, threads=self._threads)
        names = self._read[0]
        rows = (
            ({name: feed[name] for name in names}, evaluator.run(_given(feed, teacher))) for feed in feeds
        )
        return self._write(None, rows, ends)

    def go_on(
        self, tape: Tape, student: Graph, teacher: Graph, cut: tuple[str, str], ends: Mapping[str, str]
    ) -> Tape:
        """The tape of the next block. student: the block that was trained, which ends where this one starts.

        cut: the value there, and what the teacher's block calls it.
        """
        start, theirs = cut
        ours, other = (Evaluator(graph, threads=self._threads) for graph in (student, teacher))

        def rows() -> Iterator[tuple[dict[str, Array], dict[str, Array]]]:
            for i in range(len(tape)):
                value = ours.run(tape.feeds(i, student))[start]
                row = {name: tape.store.value(name, i) for name in tape.inputs}
                target = tape.store.value(f"{WANTED}{start}", i)
                found = other.run(_given({**row, theirs: target}, teacher))
                yield {**row, start: value}, found

        return self._write(start, rows(), ends)

    def _write(
        self,
        start: str | None,
        rows: Iterator[tuple[dict[str, Array], dict[str, Array]]],
        ends: Mapping[str, str],
    ) -> Tape:
        names = tuple(sorted(self._read[self._count]))
        self._count += 1
        fields = [*names, *([start] if start else []), *(f"{WANTED}{name}" for name in ends)]
        writer = StoreWriter(self._folder / f"cut{self._count}", fields)
        squares = dict.fromkeys(ends, 0.0)
        sizes = dict.fromkeys(ends, 0)
        for given, found in rows:
            writer.append({**given, **{f"{WANTED}{name}": found[theirs] for name, theirs in ends.items()}})
            for name, theirs in ends.items():
                squares[name] += float(np.square(found[theirs], dtype=np.float64).sum())
                sizes[name] += found[theirs].size
        powers = {n: squares[n] / sizes[n] for n in ends if np.isfinite(squares[n]) and squares[n] > 0}
        return Tape(writer.close(), names, start, powers)


def _given(feeds: Mapping[str, Array], graph: Graph) -> dict[str, Array]:
    return {spec.name: feeds[spec.name] for spec in graph.inputs}


def drawn(samples: Calibration, most: int) -> Calibration:
    """At most so many of the samples, evenly spread, since data are often sorted.

    Raises MethodError for fewer than two, since one is held back.
    """
    if len(samples) < 2:
        raise MethodError("reconstruct needs two samples at least, one to learn from and one to judge by")
    return samples.take(most)
