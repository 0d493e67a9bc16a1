"""What is a model timed on? Batches from the data, the same for every subject."""

from __future__ import annotations

import numpy as np

from hasten.core.data import LABELS, Dataset
from hasten.core.errors import TrialError
from hasten.measuring.subject import Conditions

_FEEDS = 8
_FEED_BYTES = 64 << 20


def choose_feeds(data: Dataset, conditions: Conditions) -> list[list[int]]:
    """Batches as sample numbers of equal shapes, drawn with the seed: shapes come as often as they do there.

    A batch for which too few samples have its shape is filled by repeating them. Raises TrialError when
    there are no samples.
    """
    if not len(data):
        raise TrialError("there are no samples to time on")
    first = data.store.sample(data.indices[0])
    batch_bytes = max(1, sum(v.nbytes for v in first.values())) * conditions.batch
    count = int(np.clip(_FEED_BYTES // batch_bytes, 1, _FEEDS))
    starts = np.random.default_rng(conditions.seed).permutation(len(data))[:count]
    return [_fill(data, int(start), conditions.batch) for start in starts]


def _fill(data: Dataset, start: int, wanted: int) -> list[int]:
    if wanted == 1:
        return [data.indices[start]]
    near = [data.indices[(start + i) % len(data)] for i in range(min(len(data), 8 * wanted))]
    alike = [i for i in near if shapes(data, i) == shapes(data, near[0])][:wanted]
    return [alike[i % len(alike)] for i in range(wanted)]


def shapes(data: Dataset, index: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a sample's inputs, by name."""
    return {name: v.shape for name, v in data.store.sample(index).items() if name != LABELS}
