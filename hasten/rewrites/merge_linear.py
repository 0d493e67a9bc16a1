"""Merge two linear operators with nothing between, where one takes fewer multiply-accumulates.

Algebra: W₂·(W₁·x + b₁) + b₂ = (W₂W₁)·x + (W₂b₁ + b₂). Of convolutions one is 1×1, and the other keeps the
size of its kernel.

Check: nothing else uses the value between; weights are the operators' own. Convolutions have one group; a 1×1
one does not pad, and where it comes first does not stride, unless the other is 1×1 as well. The bias of
the first must not meet the second's zero padding, which it would not reach. Fewer multiply-accumulates, and
no more weights, are left: thin layers in between are factors of low rank, and stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.graph import Graph
from hasten.graph.editor import Editor, Findings, rounded
from hasten.graph.names import layer_name
from hasten.graph.reading import constant, given, sole_user
from hasten.rewrites.linear import Linear, linear

_PRODUCTS = frozenset({"Gemm", "MatMul"})


@dataclass(frozen=True, eq=False)
class _Merged:
    """What stands for both: in the form of the second, with the window of whichever has a kernel."""

    weight: Array
    bias: Array
    window: dict[str, list[int]]


def apply(graph: Graph) -> Findings:
    """Merge every chain, in place, from its first operators on."""
    editor = Editor(graph, shapes=True)
    for node in editor.nodes("Conv", *_PRODUCTS):
        user = sole_user(node.outputs[0])
        if user is not None:
            _merge(editor, node, user)
    return editor.findings


def _merge(editor: Editor, node: ir.Node, user: ir.Node) -> None:
    """Let the second take the first in, where that is right and saves something."""
    alike = user.op_type == node.op_type or {user.op_type, node.op_type} == _PRODUCTS
    if not alike or given(user, 0) is not node.outputs[0]:
        return
    first, second = linear(node), linear(user)
    if first is None or second is None:
        return
    made = (_convolved if node.op_type == "Conv" else _multiplied)(first, second)
    if made is None or isinstance(made, str):
        if made:
            editor.refused(node, made)
        return
    original = constant(user.inputs[1])
    assert original is not None
    if rounded(made.weight, original.dtype) is None or rounded(made.bias, original.dtype) is None:
        editor.refused(node, "the merged weights exceed the range of their type")
        return
    if np.any(made.bias) and not second.takes_bias:
        editor.refused(node, "the operator behind it has no place for its bias")
        return
    user.replace_input_with(0, node.inputs[0])
    second.write(editor, made.weight, made.bias)
    for name, numbers in made.window.items():
        user.attributes[name] = ir.AttrInt64s(name, numbers)
    editor.changed(node, f"merged into {layer_name(user)} behind it")
    editor.remove(node)


def _multiplied(first: Linear, second: Linear) -> _Merged | str:
    """Of products, or why not."""
    if first.inputs * second.outputs >= first.outputs * (first.inputs + second.outputs):
        return "one product would not take fewer multiply-accumulates: together they are of low rank"
    before, behind = _rows(first), _rows(second)
    weight = behind @ before
    bias = np.zeros(second.outputs) if second.bias is None else second.bias
    if first.bias is not None:
        bias = bias + behind @ first.bias
    return _Merged(weight if _transposed(second) else weight.T, bias, {})


def _rows(operator: Linear) -> Array:
    """The weight as (outputs, inputs)."""
    return operator.weight if _transposed(operator) else operator.weight.T


def _transposed(operator: Linear) -> bool:
    return operator.node.op_type == "Gemm" and bool(operator.node.attributes.get_int("transB", 0))


def _convolved(first: Linear, second: Linear) -> _Merged | str | None:
    """Of convolutions, or why not; None where they are not of a kind."""
    explicit = all(
        operator.node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET" for operator in (first, second)
    )
    groups = {operator.node.attributes.get_int("group", 1) for operator in (first, second)}
    if not explicit or groups != {1}:
        return None
    behind = _pointwise(second) and not second.pads
    before = _pointwise(first) and not first.pads and (behind or set(_of(first, "strides", 1)) == {1})
    if not behind and not before:
        return None
    if second.pads and first.bias is not None and np.any(first.bias):
        return "its bias would have to reach the zeros that the convolution behind it pads with"
    kernel = first if behind else second
    size = kernel.weight.shape[2:]
    if not _cheaper(first, second, prod(size)):
        return "one convolution would not take fewer multiply-accumulates: together they are of low rank"
    inner = first.weight.reshape(first.outputs, -1)
    if behind:
        weight = second.weight.reshape(second.outputs, -1) @ inner
        weight = weight.reshape(second.outputs, *first.weight.shape[1:])
    else:
        weight = np.moveaxis(np.tensordot(second.weight, inner, axes=(1, 0)), -1, 1)
    bias = np.zeros(second.outputs) if second.bias is None else second.bias
    if first.bias is not None:
        bias = bias + second.weight.sum(axis=tuple(range(2, second.weight.ndim))) @ first.bias
    strides = [a * b for a, b in zip(_of(first, "strides", 1), _of(second, "strides", 1), strict=True)]
    return _Merged(
        weight,
        bias,
        {
            "kernel_shape": list(size),
            "strides": strides,
            "dilations": _of(kernel, "dilations", 1),
            "pads": list(kernel.node.attributes.get_ints("pads", [0] * (2 * len(size)))),
        },
    )


def _pointwise(operator: Linear) -> bool:
    return set(operator.weight.shape[2:]) == {1}


def _of(operator: Linear, name: str, default: int) -> list[int]:
    return list(operator.node.attributes.get_ints(name, [default] * (operator.weight.ndim - 2)))


def _cheaper(first: Linear, second: Linear, taps: int) -> bool:
    """Whether one convolution with so many taps has fewer multiply-accumulates, and no more weights."""
    weights = second.outputs * first.inputs * taps
    if weights > first.weight.size + second.weight.size:
        return False
    between, made = _positions(first.node), _positions(second.node)
    if between is None or made is None:
        # As many positions are between as behind, or more, where the second does not pad beyond its reach.
        return not second.pads and weights < first.weight.size + second.weight.size
    return weights * made < first.weight.size * between + second.weight.size * made


def _positions(node: ir.Node) -> int | None:
    """Of one picture; None where that depends on the input."""
    shape = node.outputs[0].shape
    sizes = None if shape is None else [size for size in shape[2:] if isinstance(size, int)]
    return prod(sizes) if sizes is not None and shape is not None and len(sizes) == len(shape) - 2 else None
