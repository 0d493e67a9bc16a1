"""Which layers can compute in integers: what their weight, bias and activations are, or why they cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.core.record import Skip
from hasten.graph.layer import Layer, is_quantized, output_axis, stored
from hasten.graph.names import layer_name, skip
from hasten.graph.reading import given


@dataclass(frozen=True, eq=False)
class IntegerLayer(Layer):
    """A layer that can compute in integers. has_bias: whether its operator adds a bias, its third input."""

    has_bias: bool = False


class _Unfit(Exception):  # noqa: N818 - carries the reason why a layer stays in float
    """The layer cannot compute in integers."""


def find_layers(
    main: ir.Graph, operators: frozenset[str], exclude: frozenset[str]
) -> tuple[list[IntegerLayer], list[Skip]]:
    """The layers that can compute in integers, and those that must stay in float, with the reason.

    operators: those that the runtimes have integer kernels for. exclude: names of layers to leave.
    """
    layers, skipped = [], []
    for node in _candidates(main):
        try:
            if layer_name(node) in exclude:
                raise _Unfit("excluded by the recipe")
            if node.op_type not in operators:
                raise _Unfit("ONNX Runtime has no integer kernel for it")
            layers.append(_read(node))
        except _Unfit as unfit:
            skipped.append(skip(node, str(unfit)))
    for inner in main.subgraphs():
        skipped += [skip(node, "it is inside the body of a loop or branch") for node in _candidates(inner)]
    return layers, skipped


def _candidates(graph: ir.Graph) -> Iterator[ir.Node]:
    return (node for node in graph if node.domain == "" and node.op_type in _READERS)


def _read(node: ir.Node) -> IntegerLayer:
    if is_quantized(node):
        raise _Unfit("it is quantized already")
    if node.op_type != "MatMul" and stored(node.inputs[0]) is not None:
        raise _Unfit("what it is applied to is constant")
    return _READERS[node.op_type](node)


def _convolution(node: ir.Node) -> IntegerLayer:
    array = _weight(node)
    if not 3 <= array.ndim <= 5:
        raise _Unfit(f"integer kernels convolve over one to three dimensions, not {array.ndim - 2}")
    return IntegerLayer(node, array, 0, _has_bias(node))


def _transposed_convolution(node: ir.Node) -> IntegerLayer:
    array = _weight(node)
    if node.attributes.get_int("group", 1) != 1:
        raise _Unfit("integer kernels do not transpose grouped convolutions")
    # Its bias stays in float: no kernel reads an integer one here.
    return IntegerLayer(node, array, 1)


def _gemm(node: ir.Node) -> IntegerLayer:
    array = _weight(node)
    for name in ("alpha", "beta"):
        if node.attributes.get_float(name, 1.0) != 1.0:
            raise _Unfit(f"{name} is not 1, which integer kernels do not scale by")
    if node.attributes.get_int("transA", 0):
        raise _Unfit("its activation is transposed, which integer kernels do not read")
    axis = output_axis(node)
    has_bias = _has_bias(node)
    bias = stored(node.inputs[2]) if has_bias else None
    if bias is not None and not (bias.size == array.shape[axis] == bias.shape[-1]):
        raise _Unfit("its bias is not one number for each output")
    return IntegerLayer(node, array, axis, has_bias)


def _product(node: ir.Node) -> IntegerLayer:
    left, right = node.inputs[0], node.inputs[1]
    if stored(left) is not None:
        raise _Unfit("its weight is on the left, where integer kernels expect the activation")
    if stored(right) is None:
        raise _Unfit("both factors are activations: to round both took longer than it saved")
    array = _weight(node)
    if array.ndim != 2:
        raise _Unfit(f"its weight has {array.ndim} dimensions instead of 2")
    return IntegerLayer(node, array, 1)


_READERS: dict[str, Callable[[ir.Node], IntegerLayer]] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Gemm": _gemm,
    "MatMul": _product,
}


def _weight(node: ir.Node) -> Array:
    array = stored(node.inputs[1])
    if array is None:
        raise _Unfit("its weight is computed at run time")
    if array.dtype != np.float32:
        raise _Unfit(f"it computes in {array.dtype.name}, not float32")
    if not array.size:
        raise _Unfit("its weight is empty")
    if not np.isfinite(array).all():
        raise _Unfit("its weight holds values that are not finite")
    return array


def _has_bias(node: ir.Node) -> bool:
    bias = given(node, 2)
    if bias is None:
        return False
    array = stored(bias)
    if array is None:
        raise _Unfit("its bias is computed at run time")
    if not np.isfinite(array).all():
        raise _Unfit("its bias holds values that are not finite")
    return True
