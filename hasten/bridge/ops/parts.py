"""Parts of tensors: joining, splitting, slicing, padding."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from hasten.bridge.operator import Call, Function, operator
from hasten.bridge.ops.integers import Integers, attribute_or_input, known, read, reader, wrapped
from hasten.bridge.ops.shape import torch_pads


@operator("Concat")
def concat(call: Call) -> Function:
    """Tensors one after another along an axis."""
    axis = call.integer("axis")
    return lambda *parts: torch.cat(parts, axis)


@operator("Split", host=(1,))
def split(call: Call) -> Function:
    """Pieces along an axis: of the given sizes, or as many as there are outputs, the last one smaller."""
    axis, count = call.integer("axis", 0), len(call.wanted)
    sizes = attribute_or_input(call, "split", 1, since=13)
    if sizes is not None:
        parts = list(sizes)
        return lambda x, _=None: torch.split(x, parts, axis)

    def run(x: Tensor, given: Tensor | None = None) -> tuple[Tensor, ...]:
        sizes = even_parts(x.shape[axis], count) if given is None else list(read(given))
        return torch.split(x, sizes, axis)

    return run


def even_parts(size: int, count: int) -> list[int]:
    """Sizes of ``count`` parts of equal size; what lacks, lacks at the end."""
    part = -(-size // count)
    return [max(min(part, size - i * part), 0) for i in range(count)]


@operator("Slice", since=10, host=(1, 2, 3, 4))
def slice_of_inputs(call: Call) -> Function:
    """Ranges along axes, as numpy slices."""
    starts_of, ends_of, axes_of, steps_of = (reader(call, i) for i in (1, 2, 3, 4))

    def run(
        x: Tensor,
        starts: Tensor,
        ends: Tensor,
        axes: Tensor | None = None,
        steps: Tensor | None = None,
    ) -> Tensor:
        first = _near(starts_of(starts))
        places = tuple(range(len(first))) if axes is None else axes_of(axes)
        strides = (1,) * len(first) if steps is None else steps_of(steps)
        return _sliced(x, first, _near(ends_of(ends)), places, strides)

    fixed = all(known(call, i) is not None for i in (1, 2, 3, 4) if call.has(i))
    return _fixed_slice(call) if fixed else run


def _fixed_slice(call: Call) -> Function:
    starts, ends = known(call, 1) or (), known(call, 2) or ()
    axes = known(call, 3) if call.has(3) else tuple(range(len(starts)))
    steps = known(call, 4) if call.has(4) else (1,) * len(starts)
    assert axes is not None
    assert steps is not None
    return _slicer(starts, ends, axes, steps)


def _slicer(starts: Integers, ends: Integers, axes: Integers, steps: Integers) -> Function:
    """A function that cuts the same ranges at every call."""
    starts, ends = _near(starts), _near(ends)
    if any(step < 0 for step in steps) or any(axis < 0 for axis in axes):
        return lambda x, *_: _sliced(x, starts, ends, axes, steps)
    cuts = [slice(None)] * (max(axes, default=-1) + 1)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        cuts[axis] = slice(start, end, step)
    places = tuple(cuts)
    return lambda x, *_: x[places]


@operator("Slice")
def slice_of_attributes(call: Call) -> Function:
    """Ranges along axes, given as attributes."""
    starts = call.integers("starts")
    axes = call.integers("axes", tuple(range(len(starts))))
    return _slicer(starts, call.integers("ends"), axes, (1,) * len(starts))


_FAR = 1 << 62
"""Further than any axis is long; torch warns of ends near the limits of 64 bits, which stand for "all"."""


def _near(ends: Integers) -> Integers:
    return tuple(min(max(n, -_FAR), _FAR) for n in ends)


def _sliced(x: Tensor, starts: Integers, ends: Integers, axes: Integers, steps: Integers) -> Tensor:
    cuts = [slice(None)] * x.dim()
    turned = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = wrapped(axis, x.dim())
        cuts[place] = slice(start, end, step)
        if step < 0:
            # Torch slices forwards only: the same elements forwards, then turned around.
            taken = range(*cuts[place].indices(x.shape[place]))[::-1]
            cuts[place] = slice(taken.start, taken.stop, taken.step) if len(taken) else slice(0, 0)
            turned.append(place)
    found = x[tuple(cuts)]
    return found.flip(turned) if turned else found


@operator("Pad", host=(1, 3))
def pad(call: Call) -> Function:
    """Elements added around the axes, or cut away where the count is negative."""
    mode = call.text("mode", "constant")
    old = call.version < 11
    widths = call.integers("pads") if old else known(call, 1)
    axes = known(call, 3) if call.has(3) else ()
    fill = _constant_fill(call, old)

    def run(
        x: Tensor, sizes: Tensor | None = None, value: Tensor | None = None, at: Tensor | None = None
    ) -> Tensor:
        assert widths is not None or sizes is not None
        around = widths if sizes is None or widths is not None else read(sizes)
        assert around is not None
        places = axes if axes is not None or at is None else read(at)
        before, after = _around_all(around, places or range(x.dim()), x.dim())
        if mode == "constant":
            return fill(x, torch_pads(before, after), value)
        return _pad_from_inside(x, before, after, mode)

    return run


def _around_all(widths: Integers, axes: Integers | range, rank: int) -> tuple[Integers, Integers]:
    before, after = [0] * rank, [0] * rank
    count = len(axes)
    for i, axis in enumerate(axes):
        before[axis], after[axis] = widths[i], widths[count + i]
    return tuple(before), tuple(after)


def _constant_fill(call: Call, old: bool) -> Callable[[Tensor, list[int], Tensor | None], Tensor]:
    known_value = call.constant(2)
    if old or not call.has(2) or known_value is not None:
        number = (
            call.real("value", 0.0)
            if old
            else 0
            if known_value is None
            else known_value.reshape(-1)[0].item()
        )
        return lambda x, pads, _: functional.pad(x, pads, value=number)

    def run(x: Tensor, pads: list[int], value: Tensor | None) -> Tensor:
        assert value is not None
        inside = functional.pad(torch.ones_like(x, dtype=torch.bool), pads)
        return torch.where(inside, functional.pad(x, pads), value.reshape(()))

    return run


_TORCH_MODES = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def _pad_from_inside(x: Tensor, before: Integers, after: Integers, mode: str) -> Tensor:
    """Padding with the tensor's own elements: reflected at its edges, its edges repeated, or in circles."""
    crop = torch_pads(tuple(min(n, 0) for n in before), tuple(min(n, 0) for n in after))
    x = functional.pad(x, crop) if any(crop) else x
    before, after = tuple(max(n, 0) for n in before), tuple(max(n, 0) for n in after)
    spatial = x.dim() - 2
    if 1 <= spatial <= 3 and x.is_floating_point() and not any(before[:2] + after[:2]):
        largest = [max(pair) for pair in zip(before[2:], after[2:], strict=True)]
        if all(n < size for n, size in zip(largest, x.shape[2:], strict=True)):
            return functional.pad(x, torch_pads(before[2:], after[2:]), mode=_TORCH_MODES[mode])
    for axis, (left, right) in enumerate(zip(before, after, strict=True)):
        if left or right:
            x = x.index_select(axis, _source(x, axis, left, right, mode))
    return x


def _source(x: Tensor, axis: int, left: int, right: int, mode: str) -> Tensor:
    """Which element of an axis stands at each place of the padded one."""
    size = x.shape[axis]
    place = torch.arange(-left, size + right, device=x.device)
    if mode == "edge":
        return place.clamp(0, size - 1)
    if mode == "wrap":
        return place.remainder(size)
    period = max(2 * (size - 1), 1)
    place = place.remainder(period)
    return torch.where(place < size, place, period - place)
