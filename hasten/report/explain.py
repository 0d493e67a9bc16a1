"""What became of each layer: what it costs in quality, what it computes in, and why it is not faster."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hasten.core.executed import Executed, by_precision, executed
from hasten.core.layers import LayerError
from hasten.core.record import Best, RunRecord, Trial
from hasten.report import figures
from hasten.report.layers import Part, colour

SHOWN = 15
"""Layers, kernels or samples listed before the rest is folded away."""

_LOUD_DB = 20.0
"""Signal to noise below which a layer's error is a tenth of its signal: such a layer is worth looking at."""


@dataclass(frozen=True)
class ErrorLine:
    """How far a layer is from the original's, written out; percent: its bar, of the loudest layer's error."""

    name: str
    op_type: str
    action: str
    alone: str
    together: str
    percent: float
    loud: bool


@dataclass(frozen=True)
class KernelLine:
    """A kernel, written out. title: the finding in words, for the reader; why: what there is to say of it."""

    layer: str
    op_type: str
    kind: str
    intended: str
    precision: str
    colour: str
    share: str
    percent: float
    finding: str
    title: str
    why: str


@dataclass(frozen=True)
class Finding:
    """Kernels of one kind of finding, with their share of the time together."""

    name: str
    title: str
    meaning: str
    share: str
    lines: tuple[KernelLine, ...]


@dataclass(frozen=True)
class Flipped:
    """Numbers of the held-out samples that changed; more: how many further ones the record does not name."""

    lost: tuple[int, ...]
    gained: tuple[int, ...]
    more: int
    where: str


@dataclass(frozen=True)
class Explanation:
    """Everything there is to say, what is most worth reading first.

    errors: the layers that cost most quality first. kernels: those that take most time first; parts: the time
    (or, where it was not measured, the kernels) divided over precisions. no_errors, no_kernels, no_flips:
    why there are none, empty where there are some.
    """

    errors: tuple[ErrorLine, ...]
    kernels: tuple[KernelLine, ...]
    parts: tuple[Part, ...]
    findings: tuple[Finding, ...]
    flipped: Flipped | None
    no_errors: str
    no_kernels: str
    no_flips: str

    @property
    def empty(self) -> bool:
        """Whether the record holds none of it."""
        return not (self.errors or self.kernels or self.flipped)


def explain(record: RunRecord) -> Explanation:
    """The explanation of what was saved; raises RecordError when the record names a trial that it lacks."""
    best = record.best
    if best is None:
        kept = "the original was kept, so no layer was changed"
        return Explanation((), (), (), (), None, kept, kept, kept)
    trial = record.trial(best.trial)
    found = executed(best.kernels, best.layers, _inputs(record))
    lines = _lines(found, record)
    flipped = _flipped(best, record)
    return Explanation(
        errors=_errors(best.errors),
        kernels=tuple(sorted(lines, key=lambda line: -line.percent)),
        parts=_parts(found),
        findings=_findings(found, lines),
        flipped=flipped,
        no_errors="" if best.errors else _no_errors(trial),
        no_kernels="" if best.kernels else _no_kernels(trial),
        no_flips="" if flipped else _no_flips(best),
    )


def as_values(record: RunRecord) -> dict[str, Any]:
    """The same as JSON values, with the record's own numbers; raises RecordError."""
    made = explain(record)
    best = record.best
    found = executed(best.kernels, best.layers, _inputs(record)) if best else ()
    kernels = [
        {
            **each.kernel.model_dump(mode="json"),
            "layer": each.layer,
            "intended": each.intended,
            "share": each.share,
            "finding": each.finding or None,
            "why": line.why or None,
        }
        for each, line in zip(found, _lines(found, record), strict=True)
    ]
    return {
        "headline": record.headline,
        "errors": [error.model_dump(mode="json") for error in ranked(best.errors)] if best else [],
        "kernels": kernels,
        "lost": list(made.flipped.lost) if made.flipped else [],
        "gained": list(made.flipped.gained) if made.flipped else [],
        "missing": {"errors": made.no_errors, "kernels": made.no_kernels, "flipped": made.no_flips},
    }


def _inputs(record: RunRecord) -> tuple[str, ...]:
    """Names of the model's inputs, which are recorded as ``name: dtype[shape]``."""
    return tuple(spec.rpartition(": ")[0] or spec for spec in record.model.inputs)


def ranked(errors: tuple[LayerError, ...]) -> tuple[LayerError, ...]:
    """The layers that cost most quality first: by their own error, else by the accumulated one."""
    return tuple(sorted(errors, key=_own_db))


def _own_db(error: LayerError) -> float:
    known = (error.sqnr_alone_db, error.sqnr_db)
    return next((db for db in known if db is not None), math.inf)


def _errors(errors: tuple[LayerError, ...]) -> tuple[ErrorLine, ...]:
    order = ranked(errors)
    loudest_db = min(map(_own_db, order), default=math.inf)
    return tuple(
        ErrorLine(
            name=error.name,
            op_type=error.op_type,
            action=error.action,
            alone=_db(error.sqnr_alone_db),
            together=_db(error.sqnr_db),
            percent=_bar(_own_db(error), loudest_db),
            loud=_own_db(error) < _LOUD_DB,
        )
        for error in order
    )


def _bar(db: float, loudest_db: float) -> float:
    """Per cent of the loudest layer's error; of the difference, since one ratio alone may overflow."""
    return round(100 * 10 ** ((loudest_db - db) / 20), 2) if math.isfinite(db) else 0.0


def _db(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{figures.number(value)} dB" if math.isfinite(value) else "no error"


def _lines(found: tuple[Executed, ...], record: RunRecord) -> list[KernelLine]:
    trial = record.trial(record.best.trial) if record.best else record.baseline
    return [_kernel(each, trial) for each in found]


def _kernel(each: Executed, trial: Trial) -> KernelLine:
    kernel = each.kernel
    return KernelLine(
        layer=each.layer,
        op_type=kernel.op_type,
        kind=kernel.kind,
        intended=each.intended or "",
        precision=kernel.precision,
        colour=colour(kernel.precision),
        share=_percent(each.share),
        percent=round(100 * each.share, 3) if each.share is not None else 0.0,
        finding=each.finding,
        title=_TITLES[each.finding][0] if each.finding in _TITLES else "",
        why=_why(each, trial),
    )


def _percent(share: float | None) -> str:
    if share is None:
        return "–"
    return f"{100 * share:.1f} %" if share >= 0.0005 or share == 0 else "< 0.1 %"


_TITLES: Mapping[str, tuple[str, str]] = {
    "fell back": (
        "Quantized, but computed in float",
        "The recipe quantized these layers, the runtime runs float kernels for them: quality was paid, "
        "and no time was gained.",
    ),
    "not fused": (
        "Conversions of their own",
        "Rounding to integers, or back to floats, that no kernel beside it took over: time that computes "
        "nothing.",
    ),
    "lowered": (
        "In float by the recipe, computed in integers",
        "The runtime rounded these layers' weights by itself, because what stands around them is quantized.",
    ),
}


def _why(each: Executed, trial: Trial) -> str:
    kernel = each.kernel
    left = next((s.reason for s in trial.skipped if s.name in {each.layer, *kernel.layers}), None)
    if each.finding == "fell back":
        return f"{trial.runtime} runs it as {kernel.kind or kernel.op_type} in {kernel.precision}"
    if each.finding == "lowered":
        return f"left in {each.intended}{f' ({left})' if left else ''}; runs as {kernel.kind}"
    if each.finding == "entrance":
        return "rounds an input of the model, which is needed once"
    return f"left in float: {left}" if left and kernel.precision not in {"int8", "int4"} else ""


def _findings(found: tuple[Executed, ...], lines: list[KernelLine]) -> tuple[Finding, ...]:
    made = []
    for name, (title, meaning) in _TITLES.items():
        some = [(e, line) for e, line in zip(found, lines, strict=True) if e.finding == name]
        if not some:
            continue
        shares = [e.share for e, _ in some if e.share is not None]
        listed = tuple(sorted((line for _, line in some), key=lambda line: -line.percent))
        made.append(Finding(name, title, meaning, _percent(sum(shares)) if shares else "–", listed))
    return tuple(made)


def _parts(found: tuple[Executed, ...]) -> tuple[Part, ...]:
    amounts = by_precision(found)
    timed = any(amount.share for amount in amounts)
    parts, start = [], 0.0
    for amount in amounts:
        percent = 100 * ((amount.share or 0.0) if timed else amount.count / len(found))
        text = f"{amount.precision} {percent:.1f} % in {figures.plural(amount.count, 'kernel')}"
        parts.append(
            Part(amount.precision, colour(amount.precision), round(start, 3), round(percent, 3), text)
        )
        start += percent
    return tuple(parts)


def _flipped(best: Best, record: RunRecord) -> Flipped | None:
    flips = best.holdout.quality.flips if best.holdout.quality else None
    if not best.flipped or flips is None:
        return None
    drawn = any("drawn at random" in note for note in record.data.notes)
    return Flipped(
        lost=best.flipped[: flips.lost],
        gained=best.flipped[flips.lost :],
        more=max(0, flips.lost + flips.gained - len(best.flipped)),
        where="the samples that were drawn from the data" if drawn else "the data",
    )


def _no_errors(trial: Trial) -> str:
    if not trial.sites:
        return "no layer was changed"
    return "no layer was put into fewer bits, or what that cost was not measured"


def _no_kernels(trial: Trial) -> str:
    return f"what {trial.runtime} executes was not read; the record's reasons say so where it failed"


def _no_flips(best: Best) -> str:
    quality = best.holdout.quality
    if quality is None:
        return "quality was not measured on held-out samples"
    if quality.flips is None:
        return f"samples are not right or wrong by {quality.metric}"
    if quality.flips.lost or quality.flips.gained:
        return "the record does not name the samples that changed; hasten optimize writes it again"
    return "no held-out sample changed between right and wrong"
