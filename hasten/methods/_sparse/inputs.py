"""What the layers of weights read on samples, of a bounded number of layers at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import onnx_ir as ir

from hasten.graph.reading import constant
from hasten.methods._observe.moments import moments_of, solvable
from hasten.methods._sparse.weights import Weight
from hasten.numerics.rounding import Moments

LARGEST = 8192
"""Inputs of an output beyond which second moments are not taken: 512 MiB."""
_MOMENTS_BYTES = 512 << 20
"""About how much second moments may take at once."""

Observe = Callable[[Sequence[Weight]], Mapping[str, Moments]]


def with_inputs(
    weights: Sequence[Weight], main: ir.Graph, observe: Observe | None
) -> Iterator[tuple[Weight, Moments | None]]:
    """Each weight in order, with the moments of what its layer reads; None where it cannot be observed.

    main: the graph that is observed. observe: the moments of some layers, by name; None: none are wanted.
    """
    part: list[Weight] = []
    held = 0
    for weight in weights:
        seen = observe is not None and _observable(weight, main)
        needed = 8 * weight.form.split[0] * weight.depth**2 if seen else 0
        if part and held + needed > _MOMENTS_BYTES:
            yield from _observed(part, main, observe)
            part, held = [], 0
        part.append(weight)
        held += needed
    yield from _observed(part, main, observe)


def _observed(
    part: Sequence[Weight], main: ir.Graph, observe: Observe | None
) -> Iterator[tuple[Weight, Moments | None]]:
    layers = [weight for weight in part if _observable(weight, main)]
    found = observe(layers) if observe is not None and layers else {}
    for weight in part:
        yield weight, moments_of(found, weight)
        weight.release()


def _observable(weight: Weight, main: ir.Graph) -> bool:
    """Whether its one layer's outputs are sums of products with what is computed in the main graph."""
    node = weight.node
    if len(weight.users) != 1 or node.graph is not main or weight.form.index != 1:
        return False
    if node.attributes.get_int("transA", 0) or constant(node.inputs[0]) is not None:
        return False
    return solvable(weight, LARGEST)
