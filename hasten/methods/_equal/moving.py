"""Operators that move values, pool them, or read no more than their shape: labels move with the values."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hasten.graph.channels import Labels
from hasten.graph.reading import axes_of, given, integers, scalar
from hasten.methods._equal.trace import Rule, Stop, Trace

_WITHOUT_END = 2**31 - 1


def _labels(trace: Trace, node: ir.Node) -> Labels:
    labels = trace.labels(node.inputs[0])
    assert labels is not None
    return labels


def _aside(labels: Labels, axes: list[int], node: ir.Node) -> None:
    """Make sure that no channels lie along these axes."""
    if any(labels.shape[axis] != 1 for axis in axes):
        raise Stop(f"{node.op_type} {node.name} mixes channels")


def _axes(node: ir.Node, rank: int) -> list[int]:
    axes = axes_of(node)
    if axes is None:
        raise Stop(f"the axes of {node.op_type} {node.name} are not known")
    return [axis % rank for axis in axes]


def _pool(trace: Trace, node: ir.Node) -> list[Labels | None]:
    labels = _labels(trace, node)
    _aside(labels, list(range(2, labels.ndim)), node)
    return [labels]


def _reduce(trace: Trace, node: ir.Node) -> list[Labels | None]:
    labels = _labels(trace, node)
    axes = _axes(node, labels.ndim)
    _aside(labels, axes, node)
    kept = node.attributes.get_int("keepdims", 1)
    return [labels if kept else np.squeeze(labels, axis=tuple(axes))]


def _transpose(trace: Trace, node: ir.Node) -> list[Labels | None]:
    return [np.transpose(_labels(trace, node), node.attributes.get_ints("perm", None))]


def _squeeze(trace: Trace, node: ir.Node) -> list[Labels | None]:
    labels = _labels(trace, node)
    axes = _axes(node, labels.ndim)
    _aside(labels, axes, node)
    return [np.squeeze(labels, axis=tuple(axes))]


def _unsqueeze(trace: Trace, node: ir.Node) -> list[Labels | None]:
    labels, shape = _labels(trace, node), trace.shape(node.outputs[0])
    if shape is None:
        raise Stop("the shape that Unsqueeze makes is not known")
    return [np.expand_dims(labels, tuple(_axes(node, len(shape))))]


def _reshape(trace: Trace, node: ir.Node) -> list[Labels | None]:
    """Axes that are kept keep their channels; so do the last ones, if they hold as many values as before."""
    labels, have, want = _labels(trace, node), trace.shape(node.inputs[0]), trace.shape(node.outputs[0])
    along = [axis for axis, length in enumerate(labels.shape) if length > 1]
    if not along or have is None or want is None:
        raise Stop(f"{node.op_type} {node.name} leads to shapes that are not known")
    kept = _kept(node, have)
    if along[-1] < kept:
        front = labels.reshape(labels.shape[:kept])
        return [front.reshape(*front.shape, *(1,) * (len(want) - kept))]
    tail = _known(have[along[0] :])
    for start in range(len(want)):
        made = _known(want[start:])
        if tail is not None and made is not None and np.prod(made) == np.prod(tail) and made[0] > 1:
            whole = np.broadcast_to(labels[(0,) * along[0]], tail)
            return [_slim(whole.reshape(*(1,) * start, *made))]
    raise Stop(f"{node.op_type} {node.name} mixes channels with an axis whose length is not known")


def _kept(node: ir.Node, have: tuple[int | None, ...]) -> int:
    """How many of the first axes a Reshape leaves as they are."""
    target = integers(given(node, 1)) if node.op_type == "Reshape" else None
    if target is None or node.attributes.get_int("allowzero", 0) != 0:
        return 0
    same = [entry in (0, length) for entry, length in zip(target, have, strict=False)]
    return same.index(False) if False in same else len(same)


def _slim(labels: Labels) -> Labels:
    """Of length 1 along axes on which the channel does not change."""
    for axis in range(labels.ndim):
        first = labels.take([0], axis=axis)
        labels = first if (labels == first).all() else labels
    return labels


def _known(shape: tuple[int | None, ...]) -> list[int] | None:
    return [n for n in shape if n is not None] if None not in shape else None


def _split(trace: Trace, node: ir.Node) -> list[Labels | None]:
    labels = _labels(trace, node)
    axis = node.attributes.get_int("axis", 0) % labels.ndim
    if labels.shape[axis] == 1:
        return [labels for _ in node.outputs]
    lengths = [shape[axis] if shape is not None else None for shape in map(trace.shape, node.outputs)]
    if any(length is None for length in lengths):
        raise Stop("it is split into parts of unknown length")
    ends = np.cumsum([length or 0 for length in lengths])
    return list(np.split(labels, ends[:-1], axis=axis))


def _slice(trace: Trace, node: ir.Node) -> list[Labels | None]:
    labels = _labels(trace, node)
    starts, ends, axes, steps = (integers(given(node, i)) for i in range(1, 5))
    if given(node, 3) is None and starts is not None:
        axes = list(range(len(starts)))
    if given(node, 4) is None and starts is not None:
        steps = [1] * len(starts)
    if starts is None or ends is None or axes is None or steps is None:
        raise Stop("it is sliced at places that are computed")
    cut = [slice(None)] * labels.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if labels.shape[axis] > 1:
            if step < 1:
                raise Stop("its channels are reversed")
            cut[axis] = slice(start, None if end >= _WITHOUT_END else end, step)
    return [labels[tuple(cut)]]


def _pad(trace: Trace, node: ir.Node) -> list[Labels | None]:
    """Zeros are zeros in any scale: channels of nothing but them are new ones."""
    labels, amounts = _labels(trace, node), integers(given(node, 1))
    value, mode = given(node, 2), node.attributes.get_string("mode", "constant")
    if mode == "constant" and value is not None and scalar(value) != 0:
        raise Stop("it is padded with numbers that would have to be scaled")
    if amounts is None or given(node, 3) is not None or len(amounts) != 2 * labels.ndim or min(amounts) < 0:
        raise Stop("it is padded by amounts that are computed")
    for axis, (before, after) in enumerate(zip(amounts[: labels.ndim], amounts[labels.ndim :], strict=True)):
        if labels.shape[axis] > 1 and (before or after):
            if mode != "constant":
                raise Stop(f"Pad {node.name} repeats channels")
            around = [
                trace.channels.new((*labels.shape[:axis], n, *labels.shape[axis + 1 :]))
                for n in (before, after)
            ]
            labels = np.concatenate([around[0], labels, around[1]], axis=axis)
    return [labels]


def _resize(trace: Trace, node: ir.Node) -> list[Labels | None]:
    """Interpolation is linear; the axis of channels must keep its length."""
    labels, have, want = _labels(trace, node), trace.shape(node.inputs[0]), trace.shape(node.outputs[0])
    if node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        raise Stop("it is cropped, with numbers around that would have to be scaled")
    along = [axis for axis, length in enumerate(labels.shape) if length > 1]
    if have is None or want is None or any(have[a] is None or have[a] != want[a] for a in along):
        raise Stop("it is resized along its channels")
    return [labels]


def _gather(trace: Trace, node: ir.Node) -> list[Labels | None]:
    labels, places = _labels(trace, node), trace.shape(node.inputs[1])
    axis = node.attributes.get_int("axis", 0) % labels.ndim
    if places is None or labels.shape[axis] != 1:
        raise Stop("it is looked up along its channels")
    return [labels.reshape(*labels.shape[:axis], *(1,) * len(places), *labels.shape[axis + 1 :])]


def _nothing(trace: Trace, node: ir.Node) -> list[Labels | None]:
    return []


def _if_any(rule: Rule) -> Rule:
    """The rule where the first input has channels; otherwise there is nothing to follow."""

    def apply(trace: Trace, node: ir.Node) -> list[Labels | None]:
        return [] if trace.labels(node.inputs[0]) is None else rule(trace, node)

    return apply


_MOVES: dict[str, Rule] = {
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"), _pool),
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"), _reduce),
    "Flatten": _reshape,
    "Gather": _gather,
    "Pad": _pad,
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}

MOVING: dict[str, Rule] = {
    **{name: _if_any(rule) for name, rule in _MOVES.items()},
    **dict.fromkeys(("Shape", "Size"), _nothing),
}
