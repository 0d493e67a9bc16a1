"""What values do activations take? Samples are streamed through the float graph in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from hasten.core.data import Array, Calibration
from hasten.graph import Graph
from hasten.methods import Context
from hasten.methods._observe.samples import key, observed, replace_arrays
from hasten.numerics.ranges import Histogram

COUNTED = 1 << 15
"""Values of one activation counted from one batch: with some ten batches enough for one in 100,000."""


def collect(
    graph: Graph, names: Iterable[str], samples: Calibration, context: Context
) -> dict[str, Histogram]:
    """A histogram of each named value of the main graph, over all samples.

    Histograms are kept in the context's folder, so that applying the method again to the same graph, as a
    search for harmful layers does, only counts what is new. Raises MethodError when the graph cannot run.
    """
    cache = context.work / f"ranges-{key(graph, samples, context.batch, COUNTED)}.npz"
    known = _load(cache)
    missing = [name for name in names if name not in known]
    if missing:
        known |= _count(graph, missing, samples, context)
        _save(cache, known)
    return known


def _count(
    graph: Graph, names: Sequence[str], samples: Calibration, context: Context
) -> dict[str, Histogram]:
    found = {name: Histogram() for name in names}
    for part, values in observed(graph, names, samples, context, doing="calibrating"):
        for name in part:
            found[name].update(values[name], at_most=COUNTED)
    return found


def _load(path: Path) -> dict[str, Histogram]:
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as arrays:
        names = arrays["names"].tolist()
        return {
            name: Histogram.restore(counts, state)
            for name, counts, state in zip(names, arrays["counts"], arrays["states"], strict=True)
        }


def _save(path: Path, known: Mapping[str, Histogram]) -> None:
    arrays: dict[str, Array] = {
        "names": np.array(list(known)),
        "counts": np.stack([h.counts for h in known.values()]),
        "states": np.stack([h.state for h in known.values()]),
    }
    replace_arrays(path, arrays)
