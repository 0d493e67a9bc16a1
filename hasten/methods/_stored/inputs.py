"""What the layers of stored weights read, of a bounded number of layers at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from hasten.core.data import Array
from hasten.graph.names import layer_name
from hasten.graph.reading import constant
from hasten.methods._observe.moments import moments_of, solvable
from hasten.methods._observe.samples import in_parts
from hasten.methods._stored.weights import Weight
from hasten.numerics.rounding import Moments

_MOMENTS_BYTES = 512 << 20
"""About how much second moments may take; for the layers beyond the samples are computed again."""


@dataclass(frozen=True, eq=False)
class Reader:
    """The one layer that multiplies by a weight, as ``hasten.methods._observe`` wants it."""

    node: ir.Node
    weight: Weight

    @property
    def name(self) -> str:
        """What reports call the layer."""
        return layer_name(self.node)

    @property
    def array(self) -> Array:
        """The weight as the operator reads it."""
        array = constant(self.weight.value)
        assert array is not None
        return array

    @property
    def axis(self) -> int:
        """The axis of output channels."""
        return self.weight.axis

    @property
    def activation(self) -> ir.Value:
        """What the layer multiplies by its weight."""
        value = self.node.inputs[0]
        assert value is not None
        return value


class Inputs:
    """Moments of what layers read, for weights asked for in their order.

    observed: makes the moments of some layers, by their names. main: the graph whose layers are observed.
    """

    def __init__(
        self,
        observed: Callable[[Sequence[Reader]], Mapping[str, Moments]],
        main: ir.Graph,
        weights: Sequence[Weight],
    ) -> None:
        self._observed = observed
        found = ((weight.value, _reader(main, weight)) for weight in weights)
        self._readers = {value: reader for value, reader in found if reader is not None}
        self._parts = in_parts(self._readers.values(), _held, _MOMENTS_BYTES)
        self._part: list[Reader] = []
        self._found: Mapping[str, Moments] = {}

    def of(self, weight: Weight) -> Moments | None:
        """The moments of what its layer reads; None where the layer cannot be solved."""
        wanted = self._readers.get(weight.value)
        if wanted is None:
            return None
        while wanted not in self._part:
            self._part = next(self._parts)
            self._found = {}  # let go of the last ones before there are others
            self._found = self._observed(self._part)
            for reader in self._part:
                reader.weight.release()
        return moments_of(self._found, wanted)


def _reader(main: ir.Graph, weight: Weight) -> Reader | None:
    """The weight's layer, where it is in the main graph and one whose outputs are sums of products."""
    if len(weight.users) != 1:
        return None
    node = weight.users[0]
    product = weight.product or node.op_type == "Conv"
    product |= node.op_type == "Gemm" and not node.attributes.get_int("transA", 0)
    if node.graph is not main or not product or constant(node.inputs[0]) is not None:
        return None
    reader = Reader(node, weight)
    return reader if solvable(reader) else None


def _held(reader: Reader) -> int:
    """The bytes of its second moments."""
    return 8 * reader.node.attributes.get_int("group", 1) * reader.weight.depth**2
