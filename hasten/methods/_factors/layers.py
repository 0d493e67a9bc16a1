"""Which layers have a weight that can be factorized, and where a correction of their means goes?"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.core.record import Skip
from hasten.graph.layer import Layer, is_quantized, output_axis, stored
from hasten.graph.names import layer_name, skip
from hasten.graph.reading import given, pinned
from hasten.methods._observe.biases import Bias, find_bias


class Unfit(Exception):  # noqa: N818 - carries the reason why a layer stays as it is
    """The layer cannot be factorized."""


@dataclass(frozen=True, eq=False)
class Factorable(Layer):
    """A layer whose weight can be factorized.

    bias: where the means of its outputs can be kept, None where nowhere. factor: what the operator multiplies
    its products by.
    """

    bias: Bias | None
    factor: float = 1.0

    @property
    def rows(self) -> Array:
        """The weight as (outputs, inputs of an output), with ``factor`` multiplied in."""
        return self.matrix.astype(np.float64) * self.factor

    @property
    def inputs(self) -> int:
        """Of an output."""
        return int(self.array.size // self.array.shape[self.axis])

    @property
    def kernel(self) -> tuple[int, ...]:
        """Of a convolution; empty for a product."""
        return tuple(self.array.shape[2:])

    @property
    def groups(self) -> int:
        """Of a convolution: parts of its outputs, each of which reads a part of its channels."""
        return self.node.attributes.get_int("group", 1)

    @property
    def automatic(self) -> bool:
        """Whether a convolution pads as it sees fit."""
        return self.node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET"


def find_layers(
    main: ir.Graph, exclude: frozenset[str], only: Container[str] | None = None, *, grouped: bool = False
) -> tuple[list[Factorable], list[Skip]]:
    """The layers whose weight is a matrix or kernel of their own, and the others with the reason.

    only: the names of those to look at; None: all. grouped: whether convolutions in groups are among them.
    """
    layers, skipped = [], []
    for node in _candidates(main):
        if only is not None and layer_name(node) not in only:
            continue
        try:
            if layer_name(node) in exclude:
                raise Unfit("excluded by the recipe")
            layer = _read(node)
            if layer.groups != 1 and not grouped:
                raise Unfit(
                    f"its channels are convolved in {layer.groups} groups, each of them small already"
                )
            layers.append(layer)
        except Unfit as unfit:
            skipped.append(skip(node, str(unfit)))
    for inner in main.subgraphs():
        skipped += [skip(node, "it is inside the body of a loop or branch") for node in _candidates(inner)]
    return layers, skipped


def _candidates(graph: ir.Graph) -> Iterator[ir.Node]:
    """The layers; a product of two activations is none."""
    for node in graph:
        if node.domain == "" and node.op_type in _READERS:
            made = all(stored(given(node, index)) is None for index in (0, 1))
            if not (made and node.op_type == "MatMul") or is_quantized(node):
                yield node


def _read(node: ir.Node) -> Factorable:
    if is_quantized(node):
        raise Unfit("it is quantized already; put what quantizes behind")
    if stored(given(node, 0)) is not None:
        raise Unfit("what it is applied to is constant, or its weight is on the left")
    return _READERS[node.op_type](node)


def _convolution(node: ir.Node) -> Factorable:
    array = _weight(node)
    if array.ndim < 3:
        raise Unfit("its weight has no kernel")
    return Factorable(node, array, 0, find_bias(node, len(array)))


def _transposed_convolution(node: ir.Node) -> Factorable:
    raise Unfit("transposed convolutions have no form here")


def _gemm(node: ir.Node) -> Factorable:
    array = _weight(node)
    attributes = node.attributes
    if attributes.get_int("transA", 0):
        raise Unfit("its activation is transposed")
    if array.ndim != 2:
        raise Unfit(f"its weight has {array.ndim} dimensions instead of 2")
    axis = output_axis(node)
    factor = attributes.get_float("alpha", 1.0)
    if not factor:
        raise Unfit("alpha is 0")
    return Factorable(node, array, axis, find_bias(node, array.shape[axis]), factor)


def _product(node: ir.Node) -> Factorable:
    array = _weight(node)
    if array.ndim != 2:
        raise Unfit(f"its weight has {array.ndim} dimensions instead of 2")
    return Factorable(node, array, 1, find_bias(node, array.shape[1]))


_READERS: dict[str, Callable[[ir.Node], Factorable]] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Gemm": _gemm,
    "MatMul": _product,
}


def _weight(node: ir.Node) -> Array:
    array = stored(given(node, 1))
    if array is None:
        raise Unfit("its weight is computed at run time")
    value = given(node, 1)
    while value is not None:
        if len(value.uses()) > 1:
            raise Unfit("something else uses its weight too, so that factors would only be added")
        if pinned(value):
            raise Unfit("its weight is an output of the model")
        producer = value.producer()
        value = None if producer is None else given(producer, 0)
    if array.dtype != np.float32:
        raise Unfit(f"its weight is {array.dtype.name}, not float32; put what changes types behind")
    if not np.isfinite(array).all():
        raise Unfit("its weight holds values that are not finite")
    if not array.any():
        raise Unfit("its weight is empty or zero throughout")
    return array
