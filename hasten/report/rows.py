"""The table of all trials: one row each, with what a reader may unfold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hasten.core.recipe import Json
from hasten.core.record import RunRecord, Site, Skip, Trial
from hasten.report import figures
from hasten.report.claim import Claim, runs_on

NAMES_SHOWN = 60
"""Names listed in a group before the rest is left to hasten.json."""

_FEW = 4
"""Entries of a hyper-parameter that are written out."""

STATUS_ORDER = ("chosen", "original", "ok", "rejected", "no effect", "failed", "aside")


@dataclass(frozen=True)
class Group:
    """Places in the graph that share what was done to them, or why they were left."""

    text: str
    count: int
    kinds: str
    names: tuple[str, ...]
    more: int


@dataclass(frozen=True)
class Row:
    """One trial, written out. Keys are what its columns are sorted by; None sorts last."""

    anchor: str
    number: int
    trial: Trial
    kind: str
    parameters: str
    runs_on: str
    status: str
    drop: str
    drop_interval: str
    latency: str
    latency_interval: str
    speed: str
    speed_interval: str
    size: str
    finalist: str
    keys: dict[str, float | None]
    sites: tuple[Group, ...]
    skipped: tuple[Group, ...]

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """What the plot's tooltip shows: name and value."""
        pairs = (
            ("with", self.parameters),
            ("runs on", self.runs_on),
            ("status", self.status),
            ("drop", _joined(self.drop, self.drop_interval)),
            ("latency", _joined(self.latency, self.latency_interval)),
            ("against the original", _joined(self.speed, self.speed_interval)),
            ("size", self.size),
            ("reason", self.trial.reason or ""),
            ("at the end", self.finalist),
        )
        return tuple((name, value) for name, value in pairs if value)


def _joined(value: str, interval: str) -> str:
    return f"{value} {interval}".strip()


def rows(made: Claim) -> tuple[Row, ...]:
    """All trials: the chosen one, the original, then by status and speed."""
    record = made.record
    others = [t for t in record.trials if t.id != record.baseline.id]
    chosen = None if made.kept else made.trial.id
    every = [_row(record, t, i, chosen) for i, t in enumerate((record.baseline, *others))]
    return tuple(sorted(every, key=lambda r: (STATUS_ORDER.index(r.kind), -(r.keys["speed"] or 0), r.number)))


def _finalist(record: RunRecord, trial: Trial) -> str:
    """What the last comparison said of a trial that came so far."""
    for finalist in record.finalists:
        if finalist.trial == trial.id:
            objective = record.budget.objective
            gain = finalist.throughput_gain if objective == "throughput" else finalist.speedup
            found = [f"{figures.speed(gain, objective).sentence} beside the other finalists"] if gain else []
            said = {"refused": "refused on the holdout", "not asked": "one before it was confirmed"}
            return "; ".join([*found, said.get(finalist.outcome, finalist.outcome)])
    return ""


def _row(record: RunRecord, trial: Trial, number: int, chosen: str | None) -> Row:
    kind: str = "original" if trial.id == record.baseline.id else trial.status
    if trial.id == chosen:
        kind = "chosen"
    elif not trial.selectable and kind in ("ok", "rejected"):
        kind = "aside"
    words = figures.QualityWords(trial.quality) if trial.quality else None
    objective = record.budget.objective
    gain = trial.gain(objective)
    ratio = figures.speed(gain, objective) if gain else None
    measured = trial.latency_ms
    unit = f" {words.drop_unit}".rstrip() if words else ""
    return Row(
        anchor=f"trial-{number}",
        number=number,
        trial=trial,
        kind=kind,
        parameters=parameters(trial),
        runs_on=runs_on(trial),
        status=_status(kind, trial),
        drop=words.drop_number(words.quality.drop) + unit if words else "",
        drop_interval=words.brackets if words else "",
        latency=figures.latency(measured) if measured else "",
        latency_interval=f"[{figures.latency_interval(measured)}]" if measured else "",
        speed="reference" if kind == "original" else ratio.text if ratio else "",
        speed_interval=f"[{ratio.interval}]" if ratio and kind != "original" else "",
        size=figures.size(trial.size_bytes) if trial.size_bytes is not None else "",
        finalist=_finalist(record, trial),
        keys={
            "number": float(number),
            "status": float(STATUS_ORDER.index(kind)),
            "drop": trial.quality.drop if trial.quality else None,
            "latency": measured.median if measured else None,
            "speed": gain.median if gain else None,
            "size": None if trial.size_bytes is None else float(trial.size_bytes),
        },
        sites=group((s.what, s) for s in trial.sites),
        skipped=group((s.reason, s) for s in trial.skipped),
    )


def parameters(trial: Trial) -> str:
    """The hyper-parameters that a recipe names, on one line: ``quantize_static: range=mse``.

    Of long tables (the times of all layers) only how long they are.
    """
    given = [
        f"{step.method}: {', '.join(f'{key}={_short(value)}' for key, value in step.params.items())}"
        for step in trial.recipe.steps
        if step.params
    ]
    return "; ".join(given)


def _short(value: Json) -> Json:
    if isinstance(value, (Mapping, list)) and len(value) > _FEW:
        return f"({len(value)} entries)"
    return value


def _status(kind: str, trial: Trial) -> str:
    if kind == "aside":
        return f"{trial.status}, for comparison only"
    if kind == "chosen":
        return "chosen"
    return "original" if kind == "original" else trial.status


def group(places: Iterable[tuple[str, Site | Skip]]) -> tuple[Group, ...]:
    """Group places by text, the largest group first; names once each, in the order of the graph."""
    gathered: dict[str, list[Site | Skip]] = {}
    for text, place in places:
        gathered.setdefault(text, []).append(place)
    groups = []
    for text, found in gathered.items():
        kinds = Counter(p.op_type for p in found)
        names = tuple(dict.fromkeys(p.name for p in found))
        groups.append(
            Group(
                text=text,
                count=len(found),
                kinds=", ".join(f"{n} {kind}" for kind, n in kinds.most_common(6)),
                names=names[:NAMES_SHOWN],
                more=max(0, len(names) - NAMES_SHOWN),
            )
        )
    return tuple(sorted(groups, key=lambda g: -g.count))


def counts(every: Sequence[Row]) -> tuple[tuple[str, int], ...]:
    """How many trials ended in each way, in the order they are listed."""
    found = Counter(r.kind for r in every)
    return tuple((kind, found[kind]) for kind in STATUS_ORDER if found[kind])


def left_in_float(made: Claim) -> tuple[tuple[Group, ...], int]:
    """What was left and why, with the number of trials asked.

    Of the chosen trial; where the original was kept, of all trials together, each place counted once.
    """
    if not made.kept:
        return group((s.reason, s) for s in made.trial.skipped), 1
    asked = [t for t in made.record.trials if t.skipped]
    unique = dict.fromkeys((s.reason, s.name, s.op_type) for t in asked for s in t.skipped)
    places = [(reason, Skip(name=name, op_type=op, reason=reason)) for reason, name, op in unique]
    return group(places), len(asked)


def closest(record: RunRecord, every: Sequence[Row]) -> tuple[tuple[str, Row], ...]:
    """Where the original was kept: the trials that came closest, with what makes each worth naming."""
    timed = [r for r in every if r.trial.speedup and r.trial.id != record.baseline.id and r.kind != "aside"]
    within = [r for r in timed if r.trial.quality and r.trial.quality.budget != "missed"]
    found: list[tuple[str, Row]] = []
    if within:
        found.append(("Fastest within the quality budget", max(within, key=_speed_key)))
    if timed:
        fastest = max(timed, key=_speed_key)
        if all(fastest is not row for _, row in found):
            found.append(("Fastest of all measured", fastest))
    over = [r for r in timed if r.trial.quality and r.trial.quality.budget == "missed"]
    if over:
        nearest = min(over, key=lambda r: r.keys["drop"] or 0.0)
        if all(nearest is not row for _, row in found):
            found.append(("Smallest drop over budget", nearest))
    return tuple(found)


def _speed_key(row: Row) -> float:
    return row.keys["speed"] or 0.0
