"""Merge parallel convolutions of one value, and the value itself, that are added to one convolution.

Algebra: Σ_j Conv(x, W_j) + s·x + t = Conv(x, Σ_j P_j W_j + diag(s)) + t, where P_j places a kernel's taps
within one that reaches as far as all of them (RepVGG: 3×3, 1×1 and the identity; ACNet: 3×3, 1×3 and 3×1).

Check: all of them read the same value and nothing else uses what they make; convolutions have explicit pads,
and agree in strides, groups, and the positions they make; taps lie on one grid; x itself, or scaled per
channel, only at strides of 1. Only where the one kernel takes no more multiply-accumulates than all had.

Sources: Ding et al. 2021, "RepVGG: Making VGG-style ConvNets Great Again", section 3.3; Ding et al. 2019,
"ACNet: Strengthening the Kernel Skeletons for Powerful CNN via Asymmetric Convolution Blocks", section 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.graph import Graph
from hasten.graph.editor import Editor, Findings, rounded
from hasten.graph.names import layer_name
from hasten.graph.reading import constant, sole_user
from hasten.rewrites.affine import affine, source
from hasten.rewrites.linear import linear, per_channel


@dataclass(frozen=True, eq=False)
class _Branch:
    """A convolution, as its kernel says. node: None where it is x itself.

    first, last: what the outer taps read along each axis, from the place of the output; beyond: how far
    the image reaches behind the last tap of the last output, from which the number of positions follows.
    macs: at each position and for each output.
    """

    node: ir.Node | None
    x: ir.Value
    weight: Array
    bias: Array
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    groups: int
    first: tuple[int, ...]
    last: tuple[int, ...]
    beyond: tuple[int, ...]
    macs: int


def apply(graph: Graph) -> Findings:
    """Merge every sum of branches, in place."""
    editor = Editor(graph, shapes=True)
    for node in editor.nodes("Add", "Sum"):
        convolutions = [found for found in map(_convolution, node.inputs) if found is not None]
        if not convolutions or len(node.inputs) < 2:
            continue
        others = [_identity(value, convolutions[0]) for value in node.inputs if _convolution(value) is None]
        branches = [*convolutions, *(found for found in others if found is not None)]
        if len(branches) == len(node.inputs):
            _merge(editor, node, branches)
    return editor.findings


def _convolution(value: ir.Value | None) -> _Branch | None:
    """The convolution that makes a value which nothing else but one sum uses."""
    node = None if value is None else value.producer()
    if value is None or node is None or node.op_type != "Conv" or sole_user(value) is None:
        return None
    found = linear(node)
    x = node.inputs[0]
    if found is None or x is None or node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return None
    kernel = found.weight.shape[2:]
    axes = len(kernel)
    pads = node.attributes.get_ints("pads", [0] * (2 * axes))
    dilations = tuple(node.attributes.get_ints("dilations", [1] * axes))
    last = tuple(d * (k - 1) - p for d, k, p in zip(dilations, kernel, pads[:axes], strict=True))
    return _Branch(
        node,
        x,
        found.weight,
        np.zeros(found.outputs) if found.bias is None else found.bias,
        tuple(node.attributes.get_ints("strides", [1] * axes)),
        dilations,
        node.attributes.get_int("group", 1),
        tuple(-pad for pad in pads[:axes]),
        last,
        tuple(pad - reach for pad, reach in zip(pads[axes:], last, strict=True)),
        prod(found.weight.shape[1:]),
    )


def _identity(value: ir.Value | None, like: _Branch) -> _Branch | None:
    """x, as it is or scaled per channel, as a convolution with as many groups as another one of x."""
    if value is None:
        return None
    scale, shift, x = np.ones(()), np.zeros(()), value
    node = value.producer()
    if value is not like.x and node is not None and sole_user(value) is not None:
        found = affine(node)
        if found is not None:
            scale, shift, x = found.scale, found.shift, source(found)
    outputs, inputs = len(like.weight), like.weight.shape[1]
    dims = like.weight.ndim
    factor, term = (per_channel(array, outputs, 1, dims) for array in (scale, shift))
    if x is not like.x or factor is None or term is None or outputs != inputs * like.groups:
        return None
    weight = np.zeros((outputs, inputs, *[1] * (dims - 2)))
    every = np.arange(outputs)
    weight[every, every % inputs] = factor.reshape(-1, *[1] * (dims - 2))
    ones, none = (1,) * (dims - 2), (0,) * (dims - 2)
    return _Branch(None, x, weight, term, ones, ones, like.groups, none, none, none, 0)


def _merge(editor: Editor, total: ir.Node, branches: Sequence[_Branch]) -> None:
    main = max(branches, key=lambda branch: (branch.node is not None, branch.weight.size))
    if any(branch.x is not main.x for branch in branches):
        return
    if len({(b.strides, b.groups, b.beyond, len(b.weight)) for b in branches}) > 1:
        editor.refused(total, "the convolutions that are added differ in strides, groups or positions")
        return
    first = [min(starts) for starts in zip(*(b.first for b in branches), strict=True)]
    last = [max(ends) for ends in zip(*(b.last for b in branches), strict=True)]
    kernel = _common(branches, first, last)
    if kernel is None:
        editor.refused(total, "the taps of the convolutions that are added do not lie on one grid")
        return
    size, dilations = kernel
    if prod((main.weight.shape[1], *size)) > sum(branch.macs for branch in branches):
        editor.refused(total, "one kernel that reaches as far would take more multiply-accumulates")
        return
    weight = np.zeros((*main.weight.shape[:2], *size))
    for branch in branches:
        weight[(slice(None), slice(None), *_taps(branch, first, dilations))] += branch.weight
    pads = [-start for start in first] + [b + end for b, end in zip(main.beyond, last, strict=True)]
    _write(editor, total, main, weight, np.sum([branch.bias for branch in branches], axis=0), pads, dilations)


def _common(
    branches: Sequence[_Branch], first: Sequence[int], last: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Size and dilations of a kernel that has all taps; None where none has."""
    size, dilations = [], []
    for axis, (start, end) in enumerate(zip(first, last, strict=True)):
        steps = {b.dilations[axis] for b in branches if b.weight.shape[2 + axis] > 1}
        step = min(steps, default=1)
        if len(steps) > 1 or any((b.first[axis] - start) % step for b in branches) or (end - start) % step:
            return None
        size.append((end - start) // step + 1)
        dilations.append(step)
    return tuple(size), tuple(dilations)


def _taps(branch: _Branch, first: Sequence[int], dilations: Sequence[int]) -> list[slice]:
    """Where a branch's kernel lies within the common one."""
    starts = [(own - start) // d for own, start, d in zip(branch.first, first, dilations, strict=True)]
    return [slice(start, start + n) for start, n in zip(starts, branch.weight.shape[2:], strict=True)]


def _write(
    editor: Editor,
    total: ir.Node,
    main: _Branch,
    weight: Array,
    bias: Array,
    pads: Sequence[int],
    dilations: Sequence[int],
) -> None:
    """Put all into the largest of the convolutions, which takes the sum's place."""
    node = main.node
    operator = None if node is None else linear(node)
    original = None if node is None else constant(node.inputs[1])
    assert node is not None
    assert operator is not None
    assert original is not None
    if rounded(weight, original.dtype) is None or rounded(bias, original.dtype) is None:
        editor.refused(total, "the merged weights exceed the range of their type")
        return
    if not editor.bypass(total, node.outputs[0]):
        return
    operator.write(editor, weight, bias)
    whole = {"kernel_shape": weight.shape[2:], "dilations": dilations, "pads": pads}
    for name, numbers in whole.items():
        node.attributes[name] = ir.AttrInt64s(name, list(numbers))
    editor.changed(total, f"merged with the branches it adds into {layer_name(node)}")
