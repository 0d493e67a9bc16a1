"""A graph without some of its units: stored tensors are cut, and what says how long axes are is set anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hasten.core.data import Array
from hasten.core.errors import MethodError
from hasten.graph.coupling.coupling import Coupling
from hasten.graph.coupling.moving import pads, slices
from hasten.graph.coupling.reshape import shape_entries
from hasten.graph.editor import Editor
from hasten.graph.graph import Graph
from hasten.graph.reading import constant, given, integers
from hasten.graph.shapes import forget

Keep: TypeAlias = NDArray[np.bool_]


class Kept:
    """Which entries of each axis of each value remain."""

    def __init__(self, coupling: Coupling, units: Iterable[int]) -> None:
        self._axes = coupling.axes
        self._gone = np.zeros(coupling.count, dtype=bool)
        self._gone[list(units)] = True
        if self._gone[0]:
            raise ValueError("0 is the number of no unit")
        for width in coupling.widths:
            if self._gone[width.units].all():
                raise MethodError(f"{width.name} would lose all of its {len(width)} channels")

    def along(self, value: ir.Value | None, axis: int) -> Keep | None:
        """Of each entry whether it remains; None where all do."""
        units = None if value is None else self._axes.get(str(value.name), ())
        if not units or units[axis] is None:
            return None
        keep = ~self._gone[units[axis]]
        return None if keep.all() else keep

    def rank(self, value: ir.Value) -> int:
        """How many axes a value has."""
        return len(self._axes[str(value.name)])

    def length(self, value: ir.Value, axis: int) -> int:
        """How many entries of an axis whose length is known remain."""
        units = self._axes[str(value.name)][axis]
        assert units is not None
        return int((~self._gone[units]).sum())

    def axes(self, value: ir.Value) -> dict[int, Keep]:
        """The axes that lose entries."""
        found = {axis: self.along(value, axis) for axis in range(len(self._axes.get(str(value.name), ())))}
        return {axis: keep for axis, keep in found.items() if keep is not None}


def shrink(graph: Graph, coupling: Coupling, units: Iterable[int]) -> Graph:
    """A copy without these units; ``coupling`` is of this graph.

    Raises MethodError where a width would lose all units.
    """
    kept = Kept(coupling, units)
    made = graph.copy()
    editor = Editor(made)
    for value in editor.main.initializers.values():
        array, cut = constant(value), kept.axes(value)
        if array is None or not cut:
            continue
        for axis, keep in cut.items():
            array = np.compress(keep, array, axis=axis)
        value.const_value = ir.tensor(np.ascontiguousarray(array), name=value.name)
        value.shape = ir.Shape(array.shape)
    for node in editor.main:
        resize = _RESIZES.get(node.op_type) if node.domain == "" else None
        if resize is not None:
            resize(editor, node, kept)
    forget(made)
    return made


def mask(graph: Graph, coupling: Coupling, units: Iterable[int]) -> Graph:
    """A copy of the same shape in which the weights of these units are zero: what ``shrink`` computes."""
    gone = np.zeros(coupling.count, dtype=bool)
    gone[list(units)] = True
    made = graph.copy()
    weights = made.weights
    for part in (part for width in coupling.widths for part in width.parts):
        value = weights[part.weight]
        array = constant(value)
        if array is None or not gone[part.units].any():
            continue
        array = array.copy()
        np.moveaxis(array, part.axis, 0)[gone[part.units]] = 0
        value.const_value = ir.tensor(array, name=value.name)
    return made


Resize: TypeAlias = Callable[[Editor, ir.Node, Kept], None]
"""Sets what a node says of the lengths of axes to what they are now."""


def _groups(_: Editor, node: ir.Node, kept: Kept) -> None:
    """Groups of which no channel is left are no more."""
    keep, groups = kept.along(node.inputs[0], 1), node.attributes.get_int("group", 1)
    if keep is not None and groups > 1:
        left = keep.reshape(groups, -1).any(axis=1).sum()
        node.attributes["group"] = ir.AttrInt64("group", int(left))


def _squeeze(editor: Editor, node: ir.Node, kept: Kept) -> None:
    """Without axes all that are of length 1 go; an axis of which one entry is left stays."""
    x = node.inputs[0]
    if x is None or "axes" in node.attributes or given(node, 1) is not None or not kept.axes(x):
        return
    single = [a for a in range(kept.rank(x)) if kept.along(x, a) is None and kept.length(x, a) == 1]
    if editor.graph.opset < _AXES_BY_INPUT:
        node.attributes["axes"] = ir.AttrInt64s("axes", single)
    else:
        editor.set_input(node, 1, np.asarray(single, np.int64))


def _split(editor: Editor, node: ir.Node, kept: Kept) -> None:
    x = node.inputs[0]
    axis = node.attributes.get_int("axis", 0)
    if x is None or kept.along(x, axis) is None:
        return
    sizes = [kept.length(out, axis) for out in node.outputs]
    if editor.graph.opset < _AXES_BY_INPUT:
        node.attributes["split"] = ir.AttrInt64s("split", sizes)
    else:
        node.attributes.pop("num_outputs", None)
        editor.set_input(node, 1, np.asarray(sizes, np.int64))


_AXES_BY_INPUT = 13
"""From this operator set on axes of a Squeeze and sizes of a Split are inputs; before, attributes."""


def _slice(editor: Editor, node: ir.Node, kept: Kept) -> None:
    x = node.inputs[0]
    assert x is not None
    cut = kept.axes(x)
    if not cut:
        return
    taken = slices(node, kept.rank(x))
    if not cut.keys() & taken.keys():
        return
    new: list[tuple[int, int, int, int]] = []
    for axis, each in taken.items():
        if axis in cut:
            start, end, _ = each.indices(len(cut[axis]))
            new.append((int(cut[axis][:start].sum()), int(cut[axis][:end].sum()), axis, 1))
        else:
            new.append((each.start, each.stop, axis, each.step or 1))
    starts, ends, which, steps = (list(each) for each in zip(*new, strict=True))
    if "starts" in node.attributes:
        for name, numbers in (("starts", starts), ("ends", ends), ("axes", which)):
            node.attributes[name] = ir.AttrInt64s(name, numbers)
        return
    for index, numbers in enumerate((starts, ends, which, steps), start=1):
        editor.set_input(node, index, np.asarray(numbers, np.int64))


def _gather(editor: Editor, node: ir.Node, kept: Kept) -> None:
    """The indices that remain were cut like any other tensor; here each becomes its entry's new place."""
    x, indices = node.inputs[0], constant(given(node, 1))
    keep = kept.along(x, node.attributes.get_int("axis", 0))
    if keep is None or indices is None:
        return
    places: Array = np.cumsum(keep) - 1
    editor.set_input(node, 1, places[indices].astype(indices.dtype))


def _pad(editor: Editor, node: ir.Node, kept: Kept) -> None:
    x, out = node.inputs[0], node.outputs[0]
    cut = kept.axes(out)
    if x is None or not cut:
        return
    around = pads(node, kept.rank(out))
    for axis, keep in cut.items():
        before, after = around[axis]
        around[axis] = int(keep[:before].sum()), int(keep[len(keep) - after :].sum()) if after else 0
    flat = [before for before, _ in around] + [after for _, after in around]
    if "pads" in node.attributes:
        node.attributes["pads"] = ir.AttrInt64s("pads", flat)
        return
    editor.set_input(node, 1, np.asarray(flat, np.int64))
    if given(node, 3) is not None:
        editor.set_input(node, 3, np.arange(len(around), dtype=np.int64))


def _sizes(index: int, least: int) -> Resize:
    """For operators whose input of that number is the shape of what they make; below ``least`` it is not."""

    def resize(editor: Editor, node: ir.Node, kept: Kept) -> None:
        out, target = node.outputs[0], given(node, index)
        cut = kept.axes(out)
        entries = shape_entries(target, lambda value: kept.length(value, 0)) if cut else None
        if entries is None or target is None:
            return
        copied = kept.axes(node.inputs[0]) if node.inputs[0] is not None else {}
        rank = kept.rank(out)
        which = [axis % rank for axis in node.attributes.get_ints("axes", range(rank - len(entries), rank))]
        for place, axis in enumerate(which):
            entry = entries[place]
            if axis in cut and entry is not None and entry >= least:
                entries[place] = int(cut[axis].sum())
            # A 0 takes the length from the same place of what is read, where another axis may lie.
            elif entry == 0 and _lost(copied.get(axis)) != _lost(cut.get(axis)):
                entries[place] = kept.length(out, axis)
        if integers(target) is not None:
            editor.set_input(node, index, np.asarray(entries, np.int64))
        else:
            node.replace_input_with(index, _joined(editor, node, target, entries, kept))
            concat = target.producer()
            if concat is not None and not target.uses() and not target.is_graph_output():
                editor.remove(concat)

    return resize


def _lost(keep: Keep | None) -> int:
    return 0 if keep is None else int((~keep).sum())


def _joined(
    editor: Editor, node: ir.Node, target: ir.Value, entries: list[int | None], kept: Kept
) -> ir.Value:
    """A shape like that one, which a Concat makes, with these numbers among what is computed."""
    concat, place = target.producer(), 0
    assert concat is not None
    inputs: list[ir.Value] = []
    for value in concat.inputs:
        assert value is not None
        count = kept.length(value, 0)
        own = np.asarray(entries[place : place + count])
        inputs.append(value if integers(value) is None else editor.constant(own, f"{value.name}.left"))
        place += count
    return editor.insert(node, "Concat", inputs, {"axis": 0})


def _hidden(_: Editor, node: ir.Node, kept: Kept) -> None:
    keep = kept.along(node.inputs[2], 2)
    if keep is not None:
        node.attributes["hidden_size"] = ir.AttrInt64("hidden_size", int(keep.sum()))


def _heads(_: Editor, node: ir.Node, kept: Kept) -> None:
    for name, index in (("q_num_heads", 0), ("kv_num_heads", 1)):
        keep = kept.along(node.inputs[index], 2)
        if name in node.attributes and keep is not None:
            count = node.attributes[name].as_int()
            node.attributes[name] = ir.AttrInt64(name, int(keep.reshape(count, -1)[:, 0].sum()))


_RESIZES: Mapping[str, Resize] = {
    "Attention": _heads,
    "Conv": _groups,
    "ConvTranspose": _groups,
    "Expand": _sizes(1, least=2),
    "GRU": _hidden,
    "Gather": _gather,
    "LSTM": _hidden,
    "Pad": _pad,
    "RNN": _hidden,
    "Reshape": _sizes(1, least=1),
    "Resize": _sizes(3, least=1),
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
}
