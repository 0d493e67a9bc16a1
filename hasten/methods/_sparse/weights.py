"""Constant weights of linear layers as rows: what each output sums over, whatever the operator's layout."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.graph.editor import Editor
from hasten.graph.layer import OPERATORS, output_axis
from hasten.graph.names import layer_name
from hasten.graph.reading import constant, given, pinned

_DEQUANTIZE = "DequantizeLinear"


class Unfit(Exception):  # noqa: N818 - carries the reason why a weight stays as it is
    """The weight gets no zeros."""


@dataclass(frozen=True)
class Form:
    """How a weight's array becomes rows.

    index: of the operator's input. split: the array's shape with its axes divided. order: of those axes, so
    that they count groups, outputs of a group, channels read, and positions of a window.
    """

    index: int
    split: tuple[int, int, int, int]
    order: tuple[int, int, int, int] = (0, 1, 2, 3)

    def rows(self, array: Array) -> Array:
        """(groups, outputs, channels · positions), as ``hasten.methods._observe.moments`` orders them."""
        moved = array.reshape(self.split).transpose(self.order)
        return np.ascontiguousarray(moved.reshape(*moved.shape[:2], -1))

    def array(self, rows: Array, shape: tuple[int, ...]) -> Array:
        """The inverse of ``rows``."""
        moved = [self.split[axis] for axis in self.order]
        back = np.argsort(self.order)
        return np.ascontiguousarray(rows.reshape(moved).transpose(back).reshape(shape))

    @property
    def channels(self) -> int:
        """How many channels an output reads."""
        return self.split[self.order[2]]

    def by_position(self) -> Array:
        """The places of a row in an order in which the channels of one position follow each other."""
        positions = self.split[self.order[3]]
        return np.arange(self.channels * positions).reshape(self.channels, positions).T.reshape(-1)


@dataclass(eq=False)
class Weight:
    """A constant, and the layers that multiply by it; read anew each time, so that few are in memory.

    It is a ``hasten.methods._observe.moments.Layer`` by its first user. number: among all found.
    """

    value: ir.Value
    form: Form
    shape: tuple[int, ...]
    number: int = 0
    users: list[ir.Node] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What reports call its layer."""
        return layer_name(self.node)

    @property
    def node(self) -> ir.Node:
        """Its first layer."""
        return self.users[0]

    @property
    def array(self) -> Array:
        """The constant."""
        array = constant(self.value)
        assert array is not None
        return array

    @property
    def axis(self) -> int:
        """The axis of output channels of a convolution or a product with the weight on the right."""
        return 0 if self.form.order == (0, 1, 2, 3) else 1

    @property
    def activation(self) -> ir.Value:
        """What the layer multiplies by it."""
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return int(np.prod(self.shape))

    @property
    def outputs(self) -> int:
        """How many outputs its layer has, those of all groups."""
        split, order = self.form.split, self.form.order
        return split[order[0]] * split[order[1]]

    @property
    def depth(self) -> int:
        """How many products an output is the sum of."""
        return self.size // self.outputs

    @property
    def rows(self) -> Array:
        """Its numbers as ``Form.rows``."""
        return self.form.rows(self.array)

    def write(self, rows: Array) -> None:
        """Put other numbers in its place."""
        array = self.form.array(rows, self.shape).astype(np.float32)
        self.value.const_value = ir.tensor(array, name=self.value.name)

    def release(self) -> None:
        """Let go of a weight that was mapped from its file."""
        if isinstance(self.value.const_value, ir.ExternalTensor):
            self.value.const_value.release()


def find(editor: Editor, exclude: Set[str], min_elements: int) -> list[Weight]:
    """The weights that can get zeros, each once with all its layers; the editor is told of those that cannot.

    exclude: names of layers to leave. min_elements: weights of fewer numbers are left.
    """
    found: dict[ir.Value, Weight] = {}
    refused: dict[ir.Value, str] = {}
    for node in editor.nodes(*OPERATORS):
        try:
            if layer_name(node) in exclude:
                raise Unfit("excluded by the recipe")
            weight = _read(node)
            weight.release()
            if weight.size < min_elements:
                raise Unfit(f"its {weight.size} numbers are fewer than min_elements")
            if weight.form != found.setdefault(weight.value, weight).form:
                raise Unfit("another layer reads its weight in another layout")
        except Unfit as unfit:
            editor.refused(node, str(unfit))
            value = given(node, _index(node))
            if value is not None:
                refused.setdefault(value, layer_name(node))
            continue
        found[weight.value].users.append(node)
    for weight in list(found.values()):
        other = _other_user(weight, refused)
        if other is not None:
            for user in found.pop(weight.value).users:
                editor.refused(user, f"it shares its weight with {other}, which is left")
    for number, weight in enumerate(found.values()):
        weight.number = number
    return list(found.values())


def _other_user(weight: Weight, refused: Mapping[ir.Value, str]) -> str | None:
    """What else reads the weight and is not to see zeros."""
    if weight.value in refused:
        return refused[weight.value]
    known = {(user, weight.form.index) for user in weight.users}
    uses = ((use.node, use.idx) for use in weight.value.uses())
    return next((layer_name(node) for node, index in uses if (node, index) not in known), None)


def _index(node: ir.Node) -> int:
    """The input that holds the weight; of two constants neither is a weight of the other."""
    left = constant(given(node, 0)) is not None and constant(given(node, 1)) is None
    return 0 if node.op_type == "MatMul" and left else 1


def _read(node: ir.Node) -> Weight:
    index = _index(node)
    value = given(node, index)
    array = constant(value)
    if value is None or array is None:
        producer = None if value is None else value.producer()
        stored = producer is not None and producer.op_type == _DEQUANTIZE
        raise Unfit("its weight is quantized already" if stored else "its weight is computed at run time")
    if pinned(value):
        raise Unfit("its weight is an output of the model")
    if array.dtype != np.float32:
        raise Unfit(f"its weight is {array.dtype.name}, not float32")
    if not np.isfinite(array).all():
        raise Unfit("its weight holds values that are not finite")
    return Weight(value, _form(node, index, array), array.shape)


def _form(node: ir.Node, index: int, array: Array) -> Form:
    if node.op_type in {"Conv", "ConvTranspose"}:
        groups = node.attributes.get_int("group", 1)
        window = int(np.prod(array.shape[2:]))
        if node.op_type == "Conv":
            return Form(index, (groups, array.shape[0] // groups, array.shape[1], window))
        return Form(index, (groups, array.shape[0] // groups, array.shape[1], window), (0, 2, 1, 3))
    if array.ndim != 2:
        raise Unfit(f"its weight has {array.ndim} dimensions instead of 2")
    by_output = index == 0 or output_axis(node) == 0
    return Form(index, (1, *array.shape, 1), (0, 1, 2, 3) if by_output else (0, 2, 1, 3))
