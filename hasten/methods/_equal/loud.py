"""Factors for weights that will be rounded to codes: what layers read is observed, loud channels get more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.graph.channels import Labels, Resolved
from hasten.graph.names import layer_name
from hasten.methods._equal.trace import Part, Trace
from hasten.methods._observe.moments import as_rows, moments_of, solvable
from hasten.methods._observe.samples import in_parts
from hasten.numerics.equalization import together
from hasten.numerics.rounding import Moments
from hasten.numerics.scaling import Product, Rounding, favour_loud

_MOMENTS_BYTES = 512 << 20
"""About how much second moments may take; for the sets beyond the samples are computed again."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A weight of a trace, as ``hasten.methods._observe`` wants it."""

    part: Part

    @property
    def name(self) -> str:
        """What reports call the layer."""
        return layer_name(self.part.node)

    @property
    def node(self) -> ir.Node:
        """The node that multiplies."""
        return self.part.node

    @property
    def array(self) -> Array:
        """The weight as the operator reads it."""
        return self.part.array

    @property
    def axis(self) -> int:
        """The axis of output channels."""
        if self.node.op_type == "Gemm":
            return 0 if self.node.attributes.get_int("transB", 0) else 1
        return 1 if self.node.op_type == "MatMul" else 0

    @property
    def activation(self) -> ir.Value:
        """What the layer multiplies by its weight."""
        value = self.node.inputs[0]
        assert value is not None
        return value


@dataclass(frozen=True, eq=False)
class _Set:
    """Channels that change together, and the layers that read them."""

    channels: Labels
    layers: list[Layer]

    @property
    def bytes(self) -> int:
        shapes = (as_rows(layer, layer.array).shape for layer in self.layers)
        return sum(8 * groups * size**2 for groups, _, size in shapes)


Observed = Callable[[Sequence[Layer]], Mapping[str, Moments]]
"""The moments of what layers read, by their names."""


def leave_unobservable(trace: Trace) -> None:
    """Let what is read by layers whose error cannot be computed stay as it is."""
    for part in trace.parts:
        if part.role == "weight" and not solvable(Layer(part)):
            what = f"{part.node.op_type} {layer_name(part.node)}"
            trace.channels.fix(part.read, f"what {what} multiplies cannot be observed")


def scales_for_codes(
    trace: Trace, found: Resolved, rounding: Rounding, strength: float | None, observed: Observed
) -> tuple[Array, str]:
    """The scale of each channel, and in words what they do to the error of rounding."""
    scales = np.ones(found.count)
    errors = np.zeros((0, 2))
    for part in in_parts(_sets(trace, found), lambda item: item.bytes, _MOMENTS_BYTES):
        layers = {layer.name: layer for item in part for layer in item.layers}
        seen = observed(list(layers.values()))
        for item in part:
            products = list(_products(item, found, seen))
            if len(products) < len(item.layers):
                continue
            before = scales
            scales = favour_loud(item.channels, products, before, rounding, strength)
            of_set = [(rounding.error(p, before), rounding.error(p, scales)) for p in products]
            errors = np.concatenate([errors, of_set])
    if not len(errors):
        return scales, "no layer reads what could be scaled"
    before_all, after_all = errors.mean(axis=0)
    told = (
        f"{len(errors)} layers read what could be scaled; rounded to the nearest in {rounding.grid.bits} bits"
    )
    return scales, (
        f"{told} the squared error of what they compute is {after_all:.2%} of its square instead of "
        f"{before_all:.2%}, on average over layers"
    )


def _sets(trace: Trace, found: Resolved) -> Iterator[_Set]:
    readers = {
        Layer(part): np.unique(found.numbers(part.read)) for part in trace.parts if part.role == "weight"
    }
    for channels in together(found.numbers(part.made) for part in trace.parts if part.role != "term"):
        layers = [layer for layer, read in readers.items() if np.isin(read, channels).any()]
        if layers:
            yield _Set(channels, layers)


def _products(item: _Set, found: Resolved, seen: Mapping[str, Moments]) -> Iterator[Product]:
    """Of the layers whose inputs are known, and finite."""
    for layer in item.layers:
        moments = moments_of(seen, layer)
        if moments is not None:
            numbers = np.broadcast_to(found.numbers(layer.part.read), layer.array.shape)
            yield Product(as_rows(layer, layer.array), as_rows(layer, numbers)[:, :1], moments)
