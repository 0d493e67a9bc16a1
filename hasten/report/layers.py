"""Cost per layer before and after: which layers carry the work, and in what dtype they compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hasten.core.layers import LayerCost
from hasten.report import figures
from hasten.report.claim import Claim

SHOWN = 30
"""Layers listed before the rest is folded away."""

_CLASSES = {
    "float64": "float",
    "float32": "float",
    "tfloat32": "float",
    "float16": "half",
    "bfloat16": "half",
    "int8": "byte",
    "uint8": "byte",
    "float8e4m3fn": "byte",
    "float8e5m2": "byte",
    "int4": "nibble",
    "uint4": "nibble",
}


def colour(dtype: str) -> str:
    """The style class of a dtype; from a fixed list, never from the record's text."""
    return _CLASSES.get(dtype.lower(), "other")


@dataclass(frozen=True)
class Side:
    """A layer on one side: its bar (per cent of the largest layer), its numbers, its dtype."""

    percent: float
    macs: str
    share: str
    weights: str
    dtype: str
    colour: str


@dataclass(frozen=True)
class Layer:
    """A layer before and after; None: it is not there on that side."""

    name: str
    op_type: str
    output_shape: str
    before: Side | None
    after: Side | None


@dataclass(frozen=True)
class Part:
    """The share of one dtype in a whole, per cent, with where its bar begins."""

    dtype: str
    colour: str
    start: float
    percent: float
    text: str


@dataclass(frozen=True)
class Mix:
    """One stacked bar: how a model's MACs, or the bytes of its weights, divide over dtypes."""

    label: str
    total: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Layers:
    """Everything the section shows. compared: whether the layers of the saved model are known."""

    top: tuple[Layer, ...]
    rest: tuple[Layer, ...]
    mixes: tuple[Mix, ...]
    compared: bool
    key: tuple[tuple[str, str], ...]


def layers(made: Claim) -> Layers | None:
    """The layers of the model and of what was saved; None when the record holds none."""
    before = made.record.model.layers
    after = made.record.best.layers if made.record.best else ()
    if not before and not after:
        return None
    largest = max((c.macs for c in (*before, *after)), default=0) or 1
    totals = sum(c.macs for c in before) or 1, sum(c.macs for c in after) or 1
    paired = sorted(_paired(before, after), key=_weight, reverse=True)
    listed = [_layer(old, new, largest, totals) for old, new in paired]
    dtypes = dict.fromkeys(c.dtype for c in (*before, *after))
    return Layers(
        top=tuple(listed[:SHOWN]),
        rest=tuple(listed[SHOWN:]),
        mixes=_mixes(before, after),
        compared=bool(after),
        key=tuple(sorted({(d, colour(d)) for d in dtypes})),
    )


def _paired(
    before: Sequence[LayerCost], after: Sequence[LayerCost]
) -> list[tuple[LayerCost | None, LayerCost | None]]:
    """Pair layers by name; names may repeat, so each is used once, in order."""
    waiting: dict[str, list[LayerCost]] = {}
    for cost in after:
        waiting.setdefault(cost.name, []).append(cost)
    pairs: list[tuple[LayerCost | None, LayerCost | None]] = []
    for cost in before:
        same = waiting.get(cost.name)
        pairs.append((cost, same.pop(0) if same else None))
    return pairs + [(None, cost) for rest in waiting.values() for cost in rest]


def _weight(pair: tuple[LayerCost | None, LayerCost | None]) -> tuple[int, int]:
    costs = [c for c in pair if c]
    return max(c.macs for c in costs), max(c.weight_bytes for c in costs)


def _layer(old: LayerCost | None, new: LayerCost | None, largest: int, totals: tuple[int, int]) -> Layer:
    known = old or new
    assert known is not None, "a pair holds a layer on at least one side"
    return Layer(
        name=known.name,
        op_type=known.op_type,
        output_shape=known.output_shape,
        before=_side(old, largest, totals[0]) if old else None,
        after=_side(new, largest, totals[1]) if new else None,
    )


def _side(cost: LayerCost, largest: int, total: int) -> Side:
    return Side(
        percent=round(100 * cost.macs / largest, 2),
        macs=figures.large(cost.macs),
        share=f"{100 * cost.macs / total:.1f} %",
        weights=figures.size(cost.weight_bytes) if cost.weight_bytes else "none",
        dtype=cost.dtype,
        colour=colour(cost.dtype),
    )


def _mixes(before: Sequence[LayerCost], after: Sequence[LayerCost]) -> tuple[Mix, ...]:
    made = []
    for side, costs in (("original", before), ("saved", after)):
        made.append(_mix(f"Multiply-accumulates, {side}", [(c.dtype, c.macs) for c in costs], figures.large))
    for side, costs in (("original", before), ("saved", after)):
        made.append(
            _mix(f"Bytes of weights, {side}", [(c.dtype, c.weight_bytes) for c in costs], figures.size)
        )
    return tuple(mix for mix in made if mix)


def _mix(label: str, amounts: Sequence[tuple[str, int]], written: Callable[[float], str]) -> Mix | None:
    total = sum(amount for _, amount in amounts)
    if total <= 0:
        return None
    by_dtype: dict[str, int] = {}
    for dtype, amount in amounts:
        by_dtype[dtype] = by_dtype.get(dtype, 0) + amount
    parts, start = [], 0.0
    for dtype, amount in sorted(by_dtype.items(), key=lambda item: -item[1]):
        if amount == 0:
            continue
        percent = 100 * amount / total
        parts.append(
            Part(dtype, colour(dtype), round(start, 3), round(percent, 3), f"{dtype} {percent:.1f} %")
        )
        start += percent
    return Mix(label, written(total), tuple(parts))
