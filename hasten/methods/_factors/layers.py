"""Which layers have a weight that can be factorized, and where a correction of their means goes?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.core.record import Skip
from hasten.graph.editor import Editor
from hasten.graph.names import layer_name
from hasten.graph.reading import constant, given, pinned, sole_user

_QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
_LOOKED_THROUGH = frozenset({"Identity", "Transpose"})


class Unfit(Exception):  # noqa: N818 - carries the reason why a layer stays as it is
    """The layer cannot be factorized."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A node that multiplies what it reads first by a weight, its second input.

    array: the weight as the operator reads it; axis: the axis of its output channels. factor: what the
    operator multiplies products by. offset: where a constant that is added to its outputs is or can be: a
    node and the number of its input; None where there is no such place. bias: that constant, of shape
    (outputs,); None for none yet.
    """

    node: ir.Node
    array: Array
    axis: int
    factor: float = 1.0
    offset: tuple[ir.Node, int] | None = None
    bias: Array | None = None

    @property
    def name(self) -> str:
        """What reports and ``exclude`` call the layer."""
        return layer_name(self.node)

    @property
    def activation(self) -> ir.Value:
        """What the layer multiplies by its weight."""
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def rows(self) -> Array:
        """The weight as (outputs, inputs of an output), with ``factor`` multiplied in."""
        rows = self.array if self.axis == 0 else self.array.T
        return rows.reshape(len(rows), -1).astype(np.float64) * self.factor

    @property
    def kernel(self) -> tuple[int, ...]:
        """Of a convolution; empty for a product."""
        return tuple(self.array.shape[2:])

    @property
    def automatic(self) -> bool:
        """Whether a convolution pads as it sees fit."""
        return self.node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET"

    def shift(self, editor: Editor, by: Array) -> None:
        """Add to the layer's outputs, by means of ``offset``. by: of shape (outputs,)."""
        if self.offset is None:
            return
        node, index = self.offset
        bias = by if self.bias is None else self.bias + by
        old = constant(given(node, index))
        shape = (
            old.shape if node is not self.node and old is not None and old.size == bias.size else bias.shape
        )
        editor.set_input(node, index, bias.astype(self.array.dtype).reshape(shape), f"{self.name}.bias")
        if node is self.node:
            node.attributes.pop("beta", None)


def find_layers(main: ir.Graph, exclude: frozenset[str]) -> tuple[list[Layer], list[Skip]]:
    """The layers whose weight is a matrix or kernel of their own, and the others with the reason."""
    layers, skipped = [], []
    for node in _candidates(main):
        try:
            if layer_name(node) in exclude:
                raise Unfit("excluded by the recipe")
            layers.append(_read(node))
        except Unfit as unfit:
            skipped.append(skip(node, str(unfit)))
    for inner in main.subgraphs():
        skipped += [skip(node, "it is inside the body of a loop or branch") for node in _candidates(inner)]
    return layers, skipped


def skip(node: ir.Node, reason: str) -> Skip:
    """The record of a node that stays as it is."""
    return Skip(name=layer_name(node), op_type=node.op_type, reason=reason)


def _candidates(graph: ir.Graph) -> Iterator[ir.Node]:
    """The layers; a product of two activations is none."""
    for node in graph:
        if node.domain == "" and node.op_type in _READERS:
            made = all(_stored(given(node, index)) is None for index in (0, 1))
            if not (made and node.op_type == "MatMul") or _quantized(node):
                yield node


def _quantized(node: ir.Node) -> bool:
    producers = (None if value is None else value.producer() for value in node.inputs)
    return any(producer is not None and producer.op_type in _QUANTIZED for producer in producers)


def _read(node: ir.Node) -> Layer:
    if _quantized(node):
        raise Unfit("it is quantized already; put factorize before")
    if _stored(given(node, 0)) is not None:
        raise Unfit("what it is applied to is constant, or its weight is on the left")
    return _READERS[node.op_type](node)


def _convolution(node: ir.Node) -> Layer:
    array = _weight(node)
    groups = node.attributes.get_int("group", 1)
    if groups != 1:
        raise Unfit(f"its channels are convolved in {groups} groups, each of them small already")
    if array.ndim < 3:
        raise Unfit("its weight has no kernel")
    return Layer(node, array, 0, 1.0, *_own_bias(node, len(array)))


def _transposed_convolution(node: ir.Node) -> Layer:
    raise Unfit("transposed convolutions have no form here")


def _gemm(node: ir.Node) -> Layer:
    array = _weight(node)
    attributes = node.attributes
    if attributes.get_int("transA", 0):
        raise Unfit("its activation is transposed")
    if array.ndim != 2:
        raise Unfit(f"its weight has {array.ndim} dimensions instead of 2")
    axis = 0 if attributes.get_int("transB", 0) else 1
    factor = attributes.get_float("alpha", 1.0)
    return Layer(node, array, axis, factor, *_own_bias(node, array.shape[axis]))


def _product(node: ir.Node) -> Layer:
    array = _weight(node)
    if array.ndim != 2:
        raise Unfit(f"its weight has {array.ndim} dimensions instead of 2")
    return Layer(node, array, 1, 1.0, *_added_bias(node, array.shape[1]))


_READERS: dict[str, Callable[[ir.Node], Layer]] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Gemm": _gemm,
    "MatMul": _product,
}


def _weight(node: ir.Node) -> Array:
    array = _stored(given(node, 1))
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
    if array.dtype not in (np.float32, np.float64):
        raise Unfit(f"its weight is {array.dtype.name}; put factorize before what changes types")
    if not np.isfinite(array).all():
        raise Unfit("its weight holds values that are not finite")
    if not array.any():
        raise Unfit("its weight is empty or zero throughout")
    return array


def _stored(value: ir.Value | None) -> Array | None:
    """The array behind a constant, as it is or transposed; None for anything else."""
    array = constant(value)
    node = None if value is None else value.producer()
    if array is not None or node is None or node.domain or node.op_type not in _LOOKED_THROUGH:
        return array
    source = _stored(given(node, 0))
    if source is None or node.op_type == "Identity":
        return source
    return np.transpose(source, node.attributes.get_ints("perm", None))


_Offset = tuple[tuple[ir.Node, int] | None, Array | None]


def _own_bias(node: ir.Node, outputs: int) -> _Offset:
    """The third input of the node itself, with Gemm's ``beta`` multiplied in."""
    value = given(node, 2)
    if value is None:
        return (node, 2), None
    array = constant(value)
    if array is None or array.size not in {1, outputs} or prod(array.shape[:-1]) != 1:
        return None, None
    beta = node.attributes.get_float("beta", 1.0) if node.op_type == "Gemm" else 1.0
    return (node, 2), np.broadcast_to(array.reshape(-1).astype(np.float64) * beta, (outputs,))


def _added_bias(node: ir.Node, outputs: int) -> _Offset:
    """The constant that an addition right behind a product adds to its columns."""
    user = sole_user(node.outputs[0])
    if user is None or user.op_type != "Add" or user.domain:
        return None, None
    for index in (0, 1):
        array = constant(user.inputs[index])
        if array is not None and array.ndim and array.shape[-1] == array.size == outputs:
            return (user, index), array.reshape(-1).astype(np.float64)
    return None, None
