"""Operators that move values around: entries keep their numbers wherever they go."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hasten.graph.coupling.axes import Axes, Rule, Stop, called, is_zero
from hasten.graph.coupling.elementwise import carried
from hasten.graph.coupling.reshape import given_lengths
from hasten.graph.reading import axes_of, constant, given, integers


def _transpose(axes: Axes, node: ir.Node) -> None:
    x, out = _through(node)
    rank = len(axes.shape(x))
    for axis, source in enumerate(node.attributes.get_ints("perm", tuple(reversed(range(rank))))):
        axes.carry(x, source, out, axis)


def _squeeze(axes: Axes, node: ir.Node) -> None:
    x, out = _through(node)
    shape = axes.shape(x)
    dropped = axes_of(node)
    if dropped is None:
        if given(node, 1) is not None or None in shape:
            raise Stop(f"it is not known which axes {called(node)} removes")
        dropped = [axis for axis, length in enumerate(shape) if length == 1]
    gone = {axis % len(shape) for axis in dropped}
    for place, axis in enumerate(axis for axis in range(len(shape)) if axis not in gone):
        axes.carry(x, axis, out, place)


def _unsqueeze(axes: Axes, node: ir.Node) -> None:
    x, out = _through(node)
    added, rank = axes_of(node), len(axes.shape(out))
    if added is None:
        raise Stop(f"it is not known which axes {called(node)} adds")
    new = {axis % rank for axis in added}
    for place, axis in enumerate(axis for axis in range(rank) if axis not in new):
        axes.carry(x, place, out, axis)


def _concat(axes: Axes, node: ir.Node) -> None:
    out = node.outputs[0]
    rank = len(axes.shape(out))
    joined = node.attributes.get_int("axis", 0) % rank
    operands = [value for value in node.inputs if value is not None]
    for value in operands:
        for axis in range(rank):
            if axis != joined:
                axes.meet(value, axis, out, axis)
    if axes.shape(out)[joined] is None:
        for value in operands:
            axes.fix(value, [joined], f"{called(node)} joins it with a length that is not known")
    else:
        axes.tie(axes.of(out, joined), np.concatenate([axes.of(value, joined) for value in operands]))
    for axis in range(rank):
        axes.vanish(out, axis, when=all(axes.vanishes(value, axis) for value in operands))


def _split(axes: Axes, node: ir.Node) -> None:
    x = node.inputs[0]
    assert x is not None
    rank = len(axes.shape(x))
    divided = node.attributes.get_int("axis", 0) % rank
    start = 0
    for out in node.outputs:
        for axis in range(rank):
            if axis != divided:
                axes.carry(x, axis, out, axis)
        labels = axes.of(out, divided)
        axes.tie(axes.of(x, divided)[start : start + len(labels)], labels)
        start += len(labels)
        axes.vanish(out, divided, when=axes.vanishes(x, divided))


def _slice(axes: Axes, node: ir.Node) -> None:
    x, out = _through(node)
    cuts = slices(node, len(axes.shape(x)))
    for axis in range(len(axes.shape(x))):
        cut = cuts.get(axis)
        if cut is None:
            axes.meet(x, axis, out, axis)
        elif cut.step in {None, 1} and axes.shape(x)[axis] is not None:
            axes.tie(axes.of(x, axis)[cut], axes.of(out, axis))
        else:
            for value in (x, out):
                axes.fix(value, [axis], f"{called(node)} takes every so many of its entries")
        axes.vanish(out, axis, when=axes.vanishes(x, axis))


def slices(node: ir.Node, rank: int) -> dict[int, slice]:
    """What a Slice takes of each axis it cuts; raises Stop where that is computed."""
    if "starts" in node.attributes:
        starts, ends = (list(node.attributes.get_ints(name, ())) for name in ("starts", "ends"))
        which = list(node.attributes.get_ints("axes", range(len(starts))))
        steps = [1] * len(starts)
    else:
        found = [integers(given(node, i)) for i in range(1, 5)]
        if None in found[:2] or any(given(node, i) is not None and found[i - 1] is None for i in (3, 4)):
            raise Stop(f"what {called(node)} takes is computed")
        starts, ends = found[0] or [], found[1] or []
        which = found[2] if found[2] is not None else list(range(len(starts)))
        steps = found[3] if found[3] is not None else [1] * len(starts)
    return {a % rank: slice(s, e, t) for a, s, e, t in zip(which, starts, ends, steps, strict=True)}


def _gather(axes: Axes, node: ir.Node) -> None:
    x, out = _through(node)
    indices = given(node, 1)
    assert indices is not None
    rank, added = len(axes.shape(x)), len(axes.shape(indices))
    along = node.attributes.get_int("axis", 0) % rank
    for axis in range(rank):
        if axis != along:
            place = axis if axis < along else axis + added - 1
            axes.carry(x, axis, out, place)
            axes.mark(node, x, axis, "made")
            axes.vanish(out, place, when=constant(x) is not None)
    chosen = constant(indices)
    if chosen is not None and chosen.ndim == 1 and axes.shape(x)[along] is not None:
        labels = axes.of(x, along)[chosen]
        axes.tie(labels, axes.of(out, along))
        axes.tie(labels, axes.of(indices, 0))
        axes.vanish(out, along, when=axes.vanishes(x, along))
    else:
        axes.fix(x, [along], f"{called(node)} looks entries up in it")
        for axis in range(added):
            axes.meet(indices, axis, out, along + axis)


def _gather_nd(axes: Axes, node: ir.Node) -> None:
    """Each index leads along the first axes; those behind them go along."""
    x, out = _through(node)
    indices = given(node, 1)
    assert indices is not None
    along, added = axes.shape(indices)[-1], len(axes.shape(indices)) - 1
    if along is None or node.attributes.get_int("batch_dims", 0) != 0:
        raise Stop(f"what {called(node)} looks up differs from sample to sample")
    axes.fix(x, range(along), f"{called(node)} looks entries up in it")
    axes.fix(indices, [added], f"{called(node)} has a number for each axis")
    for axis in range(added):
        axes.meet(indices, axis, out, axis)
    for axis in range(along, len(axes.shape(x))):
        place = added + axis - along
        axes.carry(x, axis, out, place)
        axes.mark(node, x, axis, "made")
        axes.vanish(out, place, when=constant(x) is not None)


def _pad(axes: Axes, node: ir.Node) -> None:
    x, out = _through(node)
    around = pads(node, len(axes.shape(x)))
    mode = node.attributes.get_string("mode", "constant")
    for axis, (before, after) in enumerate(around):
        if (before, after) == (0, 0):
            axes.meet(x, axis, out, axis)
        elif mode == "constant" and min(before, after) >= 0 and axes.shape(x)[axis] is not None:
            labels = axes.of(x, axis)
            axes.tie(labels, axes.of(out, axis)[before : before + len(labels)])
        else:
            for value in (x, out):
                axes.fix(value, [axis], f"{called(node)} pads it")
    # What is padded with zeros is zero whatever is removed; another number is not.
    fill = given(node, 2)
    zero = node.attributes.get_float("value", 0.0) == 0.0 and (fill is None or is_zero(fill))
    for axis in range(len(around)):
        axes.vanish(out, axis, when=zero and axes.vanishes(x, axis))


def pads(node: ir.Node, rank: int) -> list[tuple[int, int]]:
    """What a Pad adds before and after each axis; raises Stop where that is computed."""
    around = list(node.attributes.get_ints("pads", ())) or integers(given(node, 1))
    which = integers(given(node, 3)) if given(node, 3) is not None else list(range(rank))
    if around is None or which is None or len(around) != 2 * len(which):
        raise Stop(f"what {called(node)} adds is computed")
    found = [(0, 0)] * rank
    for axis, before, after in zip(which, around[: len(which)], around[len(which) :], strict=True):
        found[axis % rank] = (before, after)
    return found


def _expand(axes: Axes, node: ir.Node) -> None:
    x, out = _through(node)
    carried(axes, x, out)
    offset = len(axes.shape(out)) - len(axes.shape(x))
    repeated = [a for a in range(len(axes.shape(out))) if a < offset or axes.shape(x)[a - offset] == 1]
    axes.fix(out, repeated, f"{called(node)} repeats one entry along it")
    given_lengths(axes, node, given(node, 1))


def _shape(axes: Axes, node: ir.Node) -> None:
    """Only the lengths that something reads have to stay."""
    x, out = _through(node)
    rank = len(axes.shape(x))
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", rank)
    taken = list(range(rank))[start:end]
    read: set[int] = set()
    if out.is_graph_output():
        read.update(taken)
    for user in out.consumers():
        chosen = constant(given(user, 1)) if user.op_type == "Gather" else None
        read |= set(taken) if chosen is None else {taken[int(i)] for i in chosen.reshape(-1)}
    axes.fix(x, sorted(read), f"{called(node)} reads its length")
    axes.fix(out, [0], f"{called(node)} has a number for each axis")


def _blocks(axes: Axes, node: ir.Node) -> None:
    """Channels become places of a block of pixels, or these channels: of a deep channel all its places go."""
    x, out = _through(node)
    block = node.attributes.get_int("blocksize", 1) ** 2
    deep, flat = (x, out) if node.op_type == "DepthToSpace" else (out, x)
    channels = axes.of(deep, 1)
    if node.op_type == "DepthToSpace" and node.attributes.get_string("mode", "DCR") == "CRD":
        axes.tie(channels.reshape(-1, block), axes.of(flat, 1)[:, None])
    else:
        axes.tie(channels.reshape(block, -1), axes.of(flat, 1)[None])
    axes.vanish(out, 1, when=axes.vanishes(x, 1))
    axes.carry(x, 0, out, 0)
    for value in (x, out):
        axes.fix(value, [2, 3], f"{called(node)} moves pixels along it")


def _through(node: ir.Node) -> tuple[ir.Value, ir.Value]:
    x = node.inputs[0]
    assert x is not None
    return x, node.outputs[0]


RULES: dict[str, Rule] = {
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Pad": _pad,
    "Expand": _expand,
    "Shape": _shape,
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), _blocks),
}
