"""Which constants are weights, and along which axis lie the channels whose values belong together?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.graph.reading import constant, given, pinned

_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})


class Unfit(Exception):  # noqa: N818 - carries the reason why a weight stays as it is
    """The weight cannot be stored by this scheme."""


@dataclass
class Weight:
    """A constant, as a matrix of channels, and the layers that use it.

    axis: of the channels in ``matrix``. shape: of the constant itself. lead: how many of its axes count
    channels (for ``axis`` 0). product: every user is a matrix product with the weight on the right.
    """

    value: ir.Value
    axis: int
    shape: tuple[int, ...]
    lead: int
    product: bool
    users: list[ir.Node] = field(default_factory=list)

    @property
    def matrix(self) -> Array:
        """[channels, K] where ``axis`` is 0, [K, channels] where it is 1.

        K numbers go into one output of a layer, or are a row of a table. Read anew each time, so that of a
        large model no more than one weight need be in memory.
        """
        array = constant(self.value)
        assert array is not None
        return array if self.axis else array.reshape(prod(self.shape[: self.lead]), -1)

    def release(self) -> None:
        """Let go of a weight that was mapped from its file."""
        if isinstance(self.value.const_value, ir.ExternalTensor):
            self.value.const_value.release()

    @property
    def name(self) -> str:
        """The constant's name."""
        return str(self.value.name)

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)

    @property
    def depth(self) -> int:
        """K, how many numbers a channel has."""
        return self.size // prod(self.shape[: self.lead]) if self.axis == 0 else self.shape[0]


def slots(node: ir.Node) -> Iterator[tuple[int, int, bool]]:
    """The inputs that hold weights: (index, axis of the channels, whether a product with it on the right)."""
    if node.domain:
        return
    if node.op_type in _CONVOLUTIONS:
        yield 1, 0, False
    elif node.op_type == "Gemm":
        yield 1, 0 if node.attributes.get_int("transB", 0) else 1, False
    elif node.op_type == "MatMul":
        # Of two constants neither is a weight of the other; of two activations the second one is missed.
        left = constant(given(node, 0)) is not None and constant(given(node, 1)) is None
        yield (0, 0, False) if left else (1, 1, True)
    elif node.op_type in _RECURRENT:
        yield 1, 0, False
        yield 2, 0, False
    elif node.op_type == "Gather" and _is_lookup(node):
        yield 0, 0, False


def _is_lookup(node: ir.Node) -> bool:
    table = constant(given(node, 0))
    by_rows = node.attributes.get_int("axis", 0) in {0, -2}
    return table is not None and table.ndim == 2 and table.dtype.kind == "f" and by_rows


def read(node: ir.Node, index: int, axis: int, *, product: bool) -> Weight:
    """The weight at an input of a node; raises Unfit with the reason."""
    value = given(node, index)
    array = constant(value)
    if value is None or array is None:
        raise Unfit("its weight is computed at run time")
    if pinned(value):
        raise Unfit("its weight is an output of the model")
    if array.dtype != np.float32:
        raise Unfit(f"its weight is {array.dtype.name}, not float32")
    if not np.isfinite(array).all():
        raise Unfit("its weight holds values that are not finite")
    if node.op_type in {"MatMul", "Gemm"} and array.ndim != 2:
        raise Unfit(f"its weight has {array.ndim} dimensions instead of 2")
    lead = 2 if node.op_type in _RECURRENT else 1
    return Weight(value, axis, array.shape, lead, product)
