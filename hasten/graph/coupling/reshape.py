"""Reshape: axes are joined and divided, and what each entry belongs to goes with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple

import onnx_ir as ir

from hasten.graph.channels import Labels
from hasten.graph.coupling.axes import Axes, Lengths, Rule, called
from hasten.graph.reading import given, integers


def _reshape(axes: Axes, node: ir.Node) -> None:
    """Axes that stay what they are, at both ends, and between them what is joined and divided."""
    x, out = _ends(node)
    before, after = axes.lengths(x), axes.lengths(out)
    start, last = _staying(before, after)
    for axis in range(start):
        axes.carry(x, axis, out, axis)
    for axis in range(-last, 0):
        axes.carry(x, len(before) + axis, out, len(after) + axis)
    ins, outs = (list(range(start, len(lengths) - last)) for lengths in (before, after))
    _between(axes, node, ins, outs)
    if node.op_type == "Reshape":
        given_lengths(axes, node, given(node, 1))


def _staying(before: Lengths, after: Lengths) -> tuple[int, int]:
    """How many axes stay what they are, at the start and at the end."""
    start, last = _alike(before, after, 0, 0)
    if start + last < min(len(before), len(after)):
        # Of one pair of lengths without a common name, what is left tells whether they are the same.
        for place, guess in ((-1 - last, (start, last + 1)), (start, (start + 1, last))):
            if isinstance(before[place], int) or isinstance(after[place], int):
                continue
            found = _alike(before, after, *guess)
            sizes = [_size(lengths[found[0] : len(lengths) - found[1]]) for lengths in (before, after)]
            if sizes[0] == sizes[1] != 0:
                return found
    return start, last


def _alike(before: Lengths, after: Lengths, start: int, last: int) -> tuple[int, int]:
    common = min(len(before), len(after))
    while start + last < common and before[-1 - last] == after[-1 - last] is not None:
        last += 1
    while start + last < common and before[start] == after[start] is not None:
        start += 1
    return start, last


def _size(lengths: Lengths) -> int:
    return prod(length if isinstance(length, int) else 0 for length in lengths)


def given_lengths(axes: Axes, node: ir.Node, target: ir.Value | None) -> None:
    """Of a shape that is computed, what is a number in it can be set anew; other lengths stay."""
    out = node.outputs[0]
    rank = len(axes.shape(out))

    def length(value: ir.Value) -> int | None:
        return axes.shape(value)[0]

    entries = shape_entries(target, length) or [None] * rank
    computed = [axis for axis in range(-len(entries), 0) if entries[axis] is None]
    axes.fix(out, [rank + axis for axis in computed], f"{called(node)} is given its length")


def shape_entries(
    target: ir.Value | None, length: Callable[[ir.Value], int | None]
) -> list[int | None] | None:
    """The numbers in a shape, None for those that are computed; None where even their places are unknown."""
    known = integers(target)
    if known is not None:
        return list(known)
    node = None if target is None else target.producer()
    if node is None or node.op_type != "Concat" or node.domain:
        return None
    found: list[int | None] = []
    for value in node.inputs:
        assert value is not None
        numbers, count = integers(value), length(value)
        if count is None:
            return None
        found += numbers if numbers is not None else [None] * count
    return found


def _between(axes: Axes, node: ir.Node, ins: list[int], outs: list[int]) -> None:
    """Both sides are made of the parts of the finest division of the two."""
    x, out = _ends(node)
    before, after = axes.shape(x), axes.shape(out)
    ins, outs = [i for i in ins if before[i] != 1], [j for j in outs if after[j] != 1]
    found = _division([before[i] for i in ins], [after[j] for j in outs])
    parts = [axes.new(part.size) for part in found]
    sources = _side(axes, node, x, ins, parts, [part.before for part in found])
    for axis, own in _side(axes, node, out, outs, parts, [part.after for part in found]).items():
        of = [i for i, others in sources.items() if any(a is b for a in own for b in others)]
        axes.vanish(out, axis, when=bool(of) and all(axes.vanishes(x, i) for i in of))


class _Part(NamedTuple):
    """A run of elements that one axis before and one after have in common, by their places."""

    size: int
    before: int
    after: int


def _division(before: Sequence[int | None], after: Sequence[int | None]) -> list[_Part]:
    """The finest division of two shapes of as many elements, from the last axis on, as far as it is known.

    An axis of open length (None) takes in whatever the other side's has.
    """
    found: list[_Part] = []
    i, j = len(before) - 1, len(after) - 1
    one, two = (lengths[-1] if lengths else None for lengths in (before, after))
    while i >= 0 and j >= 0:
        size = min((length for length in (one, two) if length is not None), default=0)
        if not size or any(length is not None and length % size for length in (one, two)):
            break
        found.append(_Part(size, i, j))
        one, two = (None if length is None else length // size for length in (one, two))
        if one == 1:
            i -= 1
            one = before[i] if i >= 0 else None
        if two == 1:
            j -= 1
            two = after[j] if j >= 0 else None
    return found


def _side(
    axes: Axes, node: ir.Node, value: ir.Value, which: list[int], parts: list[Labels], owners: list[int]
) -> dict[int, list[Labels]]:
    """Tie the axes of a value to their parts, outermost first; those that are not wholly known stay whole."""
    own: dict[int, list[Labels]] = {axis: [] for axis in which}
    for part, owner in zip(parts, owners, strict=True):
        own[which[owner]].insert(0, part)
    for axis, held in own.items():
        size, length = prod(map(len, held)), axes.shape(value)[axis]
        # An axis of open length that none precedes is its parts, over and over.
        labels = axes.repeated(value, axis, size) if held and axis == which[0] and length is None else None
        if held and length == size:
            labels = axes.of(value, axis)
        if labels is None:
            reason = f"{called(node)} mixes its axes"
            axes.fix(value, [axis], reason)
            for part in held:
                axes.hold(part, reason)
        elif len(held) == 1:
            axes.tie(labels, held[0])
        else:
            axes.divide(
                labels, held, f"{called(node)} makes one axis of it and others, which loses whole parts only"
            )
    return own


def _ends(node: ir.Node) -> tuple[ir.Value, ir.Value]:
    x = node.inputs[0]
    assert x is not None
    return x, node.outputs[0]


RULES: dict[str, Rule] = dict.fromkeys(("Reshape", "Flatten"), _reshape)
