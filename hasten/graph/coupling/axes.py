"""The entries of every axis of every value as numbers; the rules say which of them stand or fall together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, TypeAlias

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.core.record import Skip
from hasten.graph.channels import Channels, Labels, Resolved
from hasten.graph.graph import Graph
from hasten.graph.names import layer_name, skip
from hasten.graph.reading import constant
from hasten.graph.shapes import infer

Shape: TypeAlias = "tuple[int | None, ...]"
Lengths: TypeAlias = "tuple[int | str | None, ...]"
Role: TypeAlias = Literal["made", "read", "factor", "term"]
Side: TypeAlias = Literal["outer", "inner"]


class Stop(Exception):  # noqa: N818 - carries the reason why nothing may be removed here
    """A rule does not apply to a node, so all that the node reads and makes stays whole."""


@dataclass(frozen=True, eq=False)
class Mark:
    """An axis of a stored tensor whose entries belong to channels.

    role: ``made``: along it lie the outputs of a linear layer; ``read``: it is summed over; ``factor``: its
    entries multiply a channel each; ``term``: they are added to one each.
    """

    node: ir.Node
    value: ir.Value
    axis: int
    role: Role


class Axes:
    """Collects what ties the axes of a graph's values. Constants must be initializers, not nodes.

    side: which axis can lose entries where a Reshape divides one into several, or joins several into one:
    the ``outer`` (whole heads, channels of an image that is flattened) or the ``inner`` one.
    """

    def __init__(self, graph: Graph, side: Side) -> None:
        self.side = side
        self.marks: list[Mark] = []
        self.opset = graph.opset
        self._channels = Channels("it meets a length that is not known")
        self._labels: dict[ir.Value, list[Labels | None]] = {}
        self._fresh: set[tuple[ir.Value, int]] = set()
        self._vanishing: set[tuple[ir.Value, int]] = set()
        self._attended: list[Labels] = []
        self._divided: list[_Divided] = []
        self.refused: list[Skip] = []
        main = infer(graph).ir_model.graph
        self._shapes: dict[str | None, Lengths] = {
            value.name: tuple(d if isinstance(d, int) else d.value for d in value.shape)
            for value in (*main.inputs, *(out for node in main for out in node.outputs))
            if value.shape is not None
        }
        _solve(main, self._shapes)

    def shape(self, value: ir.Value | None) -> Shape:
        """The lengths of a value's axes, None where unknown; raises Stop where not even the rank is."""
        return tuple(length if isinstance(length, int) else None for length in self.lengths(value))

    def lengths(self, value: ir.Value | None) -> Lengths:
        """The same with names for unknown lengths, where they have any: what has one name has one length."""
        if value is not None and value.const_value is not None:
            return tuple(value.const_value.shape.numpy())
        known = None if value is None else self._shapes.get(value.name)
        if known is None:
            raise Stop(f"the shape of {value.name if value is not None else 'an input'} is not known")
        return known

    def all(self, value: ir.Value) -> list[Labels | None]:
        """The numbers of the entries along each axis.

        Of an axis whose length is not known None, or those that come again and again along it: heads that
        were joined with as many samples as there are.
        """
        if value not in self._labels:
            shape = self.shape(value)
            self._labels[value] = [None if n is None else self.new(n) for n in shape]
            self._fresh.update((value, axis) for axis, length in enumerate(shape) if length is None)
            for labels in self._labels[value]:
                if labels is not None and len(labels) == 1:
                    self._channels.fix(labels, "there is only one of it")
        return self._labels[value]

    def of(self, value: ir.Value, axis: int) -> Labels:
        """The numbers along one axis; raises Stop where its length is not known."""
        found = self.all(value)[axis]
        if found is None or self.shape(value)[axis] is None:
            raise Stop(f"the length of axis {axis} of {value.name} is not known")
        return found

    def repeated(self, value: ir.Value, axis: int, size: int) -> Labels | None:
        """The numbers that come again and again along an axis of unknown length; None if not so many do.

        Only the node that makes the value can give it new ones: who reads it finds those that are there.
        """
        labels = self.all(value)
        if (value, axis) in self._fresh:
            labels[axis] = self.new(size)
            self._fresh.discard((value, axis))
        found = labels[axis]
        return found if found is not None and len(found) == size else None

    def done(self) -> None:
        """A node's rule has spoken: what its outputs have along axes of unknown length is settled."""
        self._fresh.clear()

    def new(self, length: int) -> Labels:
        """Numbers of their own for so many entries."""
        return self._channels.new((length,))

    def values(self) -> Iterator[tuple[ir.Value, list[Labels | None]]]:
        """All values that a rule has asked for, with the same as ``all`` says."""
        yield from self._labels.items()

    def tie(self, first: Labels, second: Labels) -> None:
        """Entries that stand or fall together, elementwise."""
        self._channels.same(first, second)

    def hold(self, labels: Labels, reason: str) -> None:
        """These entries stay."""
        self._channels.fix(labels, reason)

    def meet(self, first: ir.Value, axis: int, second: ir.Value, other: int) -> None:
        """Two axes of one length, or of which the first is repeated along the second."""
        one, two = self.all(first)[axis], self.all(second)[other]
        if one is not None and len(one) == 1:
            return
        if one is not None and two is None and self.shape(first)[axis] is None:
            two = self.repeated(second, other, len(one))
        self._fresh -= {(first, axis), (second, other)}
        if one is not None and two is not None and len(one) == len(two):
            self.tie(one, two)
            return
        for labels in (one, two):
            if labels is not None:
                self.hold(labels, "it meets a length that is not known")

    def carry(self, value: ir.Value, axis: int, out: ir.Value, other: int) -> None:
        """An axis of a value becomes one of ``out``, where what was zero stays zero."""
        self.meet(value, axis, out, other)
        whole = self.shape(value)[axis] == self.shape(out)[other]
        self.vanish(out, other, when=whole and self.vanishes(value, axis))

    def fix(self, value: ir.Value | None, axes: Sequence[int] | None, reason: str) -> None:
        """These axes (None: all) of a value stay whole."""
        if value is None:
            return
        try:
            found = self.all(value)
        except Stop:
            return
        for axis in range(len(found)) if axes is None else axes:
            labels = found[axis]
            self._fresh.discard((value, axis))
            if labels is not None:
                self.hold(labels, reason)
            self.vanish(value, axis)  # as all do of none that are removed

    def mark(self, node: ir.Node, value: ir.Value, axis: int, role: Role) -> None:
        """Note what an axis of a constant is to its node; of what is computed nothing is noted."""
        if constant(value) is not None:
            self.marks.append(Mark(node, value, axis % len(self.shape(value)), role))

    def vanishes(self, value: ir.Value, axis: int) -> bool:
        """Whether entries of an axis are zero when their weights are: then no sum over it misses them."""
        return (value, axis % len(self.shape(value))) in self._vanishing or is_zero(value)

    def vanish(self, value: ir.Value, axis: int, *, when: bool = True) -> None:
        """Note that what is removed along an axis is zero in the graph whose weights are masked."""
        if when:
            self._vanishing.add((value, axis % len(self.shape(value))))

    def refuse(self, node: ir.Node, reason: str) -> None:
        """Note why nothing of what a layer makes can go, where it has no weight that ``mark`` takes."""
        self.refused.append(skip(node, reason))

    def attend(self, labels: Labels | None) -> None:
        """Note entries along which two computed values are multiplied: heads, and what lies inside them."""
        if labels is not None:
            self._attended.append(labels)

    @property
    def attended(self) -> Labels:
        """All entries that ``attend`` noted."""
        return np.concatenate([np.zeros(1, np.intp), *self._attended])

    def divide(self, one: Labels, parts: Sequence[Labels], reason: str, *, inner: bool = False) -> None:
        """One axis is several joined, outermost first: one of these can lose entries, the others stay.

        inner: the innermost that can, on whichever ``side``.
        """
        self._divided.append(_Divided(one, parts, reason, inner or self.side == "inner"))

    def resolve(self) -> Resolved:
        """What the rules amount to, once it is decided which parts of each divided axis can lose entries."""
        while self._divided:
            resolved = self._channels.resolve()
            # Those that have no choice come first: what they hold tells the others what they can have.
            settled = [each for each in self._divided if len(each.free(resolved)) < 2]
            for each in settled or self._divided[:1]:
                self._decide(each, each.free(resolved), resolved)
                self._divided.remove(each)
        return self._channels.resolve()

    def _decide(self, divided: _Divided, free: Sequence[int], resolved: Resolved) -> None:
        if not free:
            stays = resolved.reason(divided.one) or resolved.reason(divided.parts[-1]) or divided.reason
            for labels in (divided.one, *divided.parts):
                self.hold(labels, stays)
            return
        carrier = free[-1 if divided.inner else 0]
        wide = [-1 if place == carrier else 1 for place in range(len(divided.parts))]
        self.tie(divided.one.reshape([*map(len, divided.parts)]), divided.parts[carrier].reshape(wide))
        for place, part in enumerate(divided.parts):
            if place != carrier:
                self.hold(part, divided.reason)


@dataclass(frozen=True, eq=False)
class _Divided:
    """An axis that is several joined, and why all but one of these have to stay."""

    one: Labels
    parts: Sequence[Labels]
    reason: str
    inner: bool

    def free(self, resolved: Resolved) -> list[int]:
        """Which of the parts could still lose entries."""
        if resolved.reason(self.one) is not None:
            return []
        return [place for place, part in enumerate(self.parts) if resolved.reason(part) is None]


def _solve(main: ir.Graph, shapes: dict[str | None, Lengths]) -> None:
    """Compute, in place, the one length that a Reshape leaves open where all others are known or named."""
    found: dict[str | None, int] = {}
    for node in main:
        if node.op_type != "Reshape" or node.inputs[0] is None:
            continue
        before, after = shapes.get(node.inputs[0].name), shapes.get(node.outputs[0].name)
        if before is None or after is None:
            continue
        before = tuple(found.get(d, d) if isinstance(d, str) else d for d in before)
        names = Counter(d for d in after if not isinstance(d, int))
        names.subtract(d for d in before if not isinstance(d, int))
        unmatched = list(names.elements()) if min(names.values(), default=0) >= 0 else []
        whole, part = (prod(d for d in lengths if isinstance(d, int)) for lengths in (before, after))
        if len(unmatched) == 1 and unmatched[0] is not None and part and whole % part == 0:
            found[unmatched[0]] = whole // part
    for name, lengths in shapes.items():
        shapes[name] = tuple(found.get(d, d) if isinstance(d, str) else d for d in lengths)


Rule: TypeAlias = Callable[[Axes, ir.Node], None]
"""Ties the axes of a node's inputs and outputs; raises Stop to leave them all whole."""


def is_zero(value: ir.Value) -> bool:
    """Whether it is a constant that is zero throughout."""
    array: Array | None = constant(value)
    return array is not None and not np.any(array)


def used(value: ir.Value) -> bool:
    """Whether anything reads an output, which nodes may have without."""
    return value.is_graph_output() or bool(value.uses())


def called(node: ir.Node) -> str:
    """How reasons speak of a node."""
    return f"{node.op_type} {layer_name(node)}"
