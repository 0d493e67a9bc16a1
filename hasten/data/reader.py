"""What every format gives: samples, one at a time, under the model's names."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hasten.core.data import LABELS, Array
from hasten.core.errors import DataError
from hasten.core.tensor import TensorSpec

LABEL_NAMES = (LABELS, "label")

Sample = Mapping[str, Array]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the samples are for.

    specs: the model's inputs, or None when the model is not known yet and every array is taken as an input.
    preprocess: how pictures become inputs: None, a mapping, or the path of a YAML or JSON file.
    """

    specs: tuple[TensorSpec, ...] | None
    preprocess: Any = None


@dataclass(frozen=True, kw_only=True)
class Reader:
    """An opened data source.

    count: samples it has, or None when only reading to the end would tell. samples: the samples of the given
    numbers (ascending), or all of them, each with its number; fields are the model's inputs and ``labels``,
    without the batch axis. notes: what was assumed.
    """

    source: str
    count: int | None
    samples: Callable[[Sequence[int] | None], Iterator[tuple[int, Sample]]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Match:
    """Which array of the data is which input: names in the data by input; the labels' name, or None."""

    inputs: dict[str, str]
    label: str | None
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> dict[str, str]:
        """Names in the data by field of the store."""
        return self.inputs | ({LABELS: self.label} if self.label is not None else {})


def match(
    available: Sequence[str], specs: Sequence[TensorSpec] | None, stand_ins: Sequence[str] | None = None
) -> Match:
    """Find every input of the model among the names in the data.

    stand_ins: names that may feed the only input of a model although they are called differently (default:
    all that are not labels). Raises DataError saying what is missing and what there is.
    """
    wanted = [spec.name for spec in specs] if specs is not None else None
    if wanted is not None and LABELS in wanted:
        raise DataError(f"the model has an input named {LABELS!r}, which hasten keeps for labels; rename it")
    label = next((name for name in LABEL_NAMES if name in available and name not in (wanted or ())), None)
    others = [name for name in available if name != label]
    if wanted is None:
        return Match({name: name for name in others}, label)
    if not wanted:
        raise DataError("the model takes no inputs, so there is nothing to feed it")
    missing = [name for name in wanted if name not in others]
    candidates = others if stand_ins is None else [name for name in others if name in stand_ins]
    if missing and len(wanted) == 1 and len(candidates) == 1:
        note = f"{candidates[0]!r} was taken as the input {wanted[0]!r}, the only one"
        return Match({wanted[0]: candidates[0]}, label, (note, *_ignored(others, candidates)))
    if missing:
        raise DataError(_missing(missing, wanted, others))
    return Match({name: name for name in wanted}, label, _ignored(others, wanted))


def _ignored(others: Sequence[str], used: Sequence[str]) -> tuple[str, ...]:
    unused = [name for name in others if name not in used]
    return (f"not used: {', '.join(map(repr, unused))}",) if unused else ()


def _missing(missing: Sequence[str], wanted: Sequence[str], others: Sequence[str]) -> str:
    message = (
        f"the data have no {', '.join(map(repr, missing))}: the model takes {', '.join(map(repr, wanted))}, "
        f"the data have {', '.join(map(repr, others)) or 'nothing'}"
    )
    lowered = {name.lower(): name for name in others if name not in wanted}
    for name in missing:
        close = difflib.get_close_matches(name.lower(), lowered, n=1)
        if close:
            message += f"; rename {lowered[close[0]]!r} to {name!r}"
    return message
