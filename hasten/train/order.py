"""Which samples make up which optimizer step? Derived from the seed and the epoch alone.

A batch is the same whatever the number of processes; every process takes its share of each part. Samples of
one shape are batched together as far as they go; what is left over of all shapes is batched in order of
shape, and such a batch is computed in parts of equal shapes.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence

import numpy as np

from hasten.core.data import LABELS, Dataset


class Order:
    """Batches of sample numbers, the same number of batches in every epoch."""

    def __init__(self, shapes: Mapping[int, Hashable], batch_size: int, seed: int) -> None:
        """Take sample numbers with anything that says which of them can be stacked."""
        self._size = batch_size
        self._seed = seed
        self.shapes = dict(shapes)
        kinds = {kind: i for i, kind in enumerate(sorted(set(self.shapes.values()), key=repr))}
        self._samples = np.fromiter(self.shapes, dtype=np.int64)
        self._kinds = np.asarray([kinds[kind] for kind in self.shapes.values()], dtype=np.int64)
        self._epoch: tuple[int, list[list[int]]] | None = None

    def __len__(self) -> int:
        """Batches an epoch."""
        counts = np.bincount(self._kinds)
        left = int(np.sum(counts % self._size))
        return int(np.sum(counts // self._size)) + -(-left // self._size)

    def batch(self, step: int) -> list[int]:
        """The sample numbers of an optimizer step, counted from 0 over all epochs."""
        number, place = divmod(step, len(self))
        if self._epoch is None or self._epoch[0] != number:
            self._epoch = (number, self._draw(number))
        return self._epoch[1][place]

    def _draw(self, epoch: int) -> list[list[int]]:
        rng = np.random.default_rng([self._seed, epoch])
        shuffled = rng.permutation(len(self._samples))
        batches: list[list[int]] = []
        rest: list[int] = []
        for kind in range(int(self._kinds.max()) + 1):
            alike = self._samples[shuffled[self._kinds[shuffled] == kind]].tolist()
            whole = len(alike) - len(alike) % self._size
            batches += [alike[i : i + self._size] for i in range(0, whole, self._size)]
            rest += alike[whole:]
        batches += [rest[i : i + self._size] for i in range(0, len(rest), self._size)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def parts(self, batch: Sequence[int], accumulate: int, largest: int | None) -> Iterator[list[int]]:
        """A batch in parts of equal shapes, in ``accumulate`` pieces, or of at most ``largest``."""
        alike: dict[Hashable, list[int]] = {}
        for sample in batch:
            alike.setdefault(self.shapes[sample], []).append(sample)
        for group in alike.values():
            size = max(1, -(-len(group) // accumulate))
            size = min(size, largest) if largest else size
            yield from (group[i : i + size] for i in range(0, len(group), size))


def share(part: Sequence[int], rank: int, world: int) -> list[int]:
    """The piece of a part that belongs to one process: consecutive, sizes that differ by one at most."""
    low, high = (len(part) * r // world for r in (rank, rank + 1))
    return list(part[low:high])


def shapes_of(data: Dataset, samples: Sequence[int]) -> dict[int, Hashable]:
    """Which samples can be stacked: the shapes of all their fields."""
    fields = sorted(data.store.fields, key=lambda name: name == LABELS)
    return {i: tuple(data.store.shape(field, i) for field in fields) for i in samples}


def hold_back(samples: Sequence[int], part: float, seed: int) -> tuple[list[int], list[int]]:
    """Samples to train on and samples to judge by, drawn once with the seed; at least one of each."""
    count = round(len(samples) * part)
    count = min(max(count, 1 if part else 0), len(samples) - 1)
    drawn = np.random.default_rng([seed, len(samples)]).permutation(len(samples))
    held = set(drawn[:count].tolist())
    train = [sample for i, sample in enumerate(samples) if i not in held]
    return train, [sample for i, sample in enumerate(samples) if i in held]
