"""The conditions a claim holds under, written out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from hasten.core.layers import Blocks
from hasten.core.record import DataInfo, MachineInfo, RunRecord
from hasten.report import figures

# Instructions that decide how fast low-precision kernels run, by Linux flag name. Only ones that every record
# keeps when the processor has them, so that absence from the record is absence from the processor.
_X86 = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16")
_ARM = ("asimd", "asimdhp", "asimddp", "i8mm", "sve", "sve2")


@dataclass(frozen=True)
class Pair:
    """A name and its values, one line each. mono: a hash or a flag list, in fixed width."""

    name: str
    values: tuple[str, ...]
    mono: bool = False


@dataclass(frozen=True)
class Part:
    """Conditions that belong together."""

    title: str
    pairs: tuple[Pair, ...]


def conditions(record: RunRecord) -> tuple[Part, ...]:
    """Machine, run, model and data, in that order."""
    return (
        Part("Machine", _machine(record.machine)),
        Part("Run", _run(record)),
        Part("Model", _model(record)),
        Part("Data", _data(record.data)),
        *([Part("Data to learn from", _data(record.data.train))] if record.data.train else []),
    )


def when(record: RunRecord) -> str:
    """The date of the run as ``2026-11-23 14:03 UTC``; as recorded where it is not ISO 8601."""
    try:
        moment = datetime.fromisoformat(record.created)
    except ValueError:
        return record.created
    zone = moment.tzname() or ""
    return f"{moment:%Y-%m-%d %H:%M} {zone}".rstrip()


def drop_allowed(record: RunRecord) -> str:
    """The budget as it was given: relative to the original, or in the metric's own unit."""
    budget = record.budget
    if budget.points:
        return f"{budget.max_drop:g} in the metric's own unit"
    return f"{100 * budget.max_drop:g} % of the original's value"


def _machine(machine: MachineInfo) -> tuple[Pair, ...]:
    flags = set(machine.flags)
    known = _ARM if "asimd" in flags else _X86
    present = tuple(f for f in known if f in flags)
    missing = tuple(f for f in known if f not in flags)
    pairs = [
        Pair("Processor", (machine.cpu,)),
        Pair("Cores usable", (figures.count(machine.cores),)),
        Pair("Memory", (figures.size(machine.memory_bytes),)),
        Pair("System", (machine.system,)),
        Pair("Python", (machine.python,)),
    ]
    if flags:
        pairs.append(
            Pair("Instructions it has", (" ".join(present) or "none of those that matter here",), True)
        )
        pairs.append(
            Pair("Instructions it lacks", (" ".join(missing) or "none of those that matter here",), True)
        )
    if machine.versions:
        versions = tuple(f"{name} {version}" for name, version in machine.versions.items())
        pairs.append(Pair("Versions", versions))
    return tuple(pairs)


def _run(record: RunRecord) -> tuple[Pair, ...]:
    budget = record.budget
    pairs = [
        Pair("Date", (when(record),)),
        Pair(
            "Took",
            (f"{figures.duration(record.seconds)}; the search was given {figures.duration(budget.time_s)}",),
        ),
        Pair("Objective", (budget.objective,)),
        Pair("Quality budget", (f"{budget.metric}: at most {drop_allowed(record)}",)),
        Pair("Target", (budget.target,)),
        Pair("Batch, threads", (f"batch {budget.batch}, {figures.plural(budget.threads, 'thread')}",)),
        Pair("Seed", (str(budget.seed),)),
    ]
    if budget.shapes:
        pairs.append(Pair("Shapes", tuple(f"{name}: {shape}" for name, shape in budget.shapes.items())))
    if record.blocks:
        pairs.append(Pair("Widths in blocks", tuple(map(_blocks, record.blocks))))
    pairs.append(Pair("hasten", (record.hasten_version,)))
    return tuple(pairs)


def _blocks(found: Blocks) -> str:
    table = ", ".join(f"{rate:.2f} times at {block}" for block, rate in sorted(found.rates.items()))
    return (
        f"{found.chosen} channels for {found.version}; what its layers took over what their MACs say, "
        f"by the channels that their widths are odd multiples of: {table}"
    )


def _model(record: RunRecord) -> tuple[Pair, ...]:
    model = record.model
    pairs = [
        Pair("Source", (f"{model.source} ({model.format}, opset {model.opset})",)),
        Pair("SHA-256", (model.sha256,), True),
        Pair("Inputs", model.inputs),
        Pair("Outputs", model.outputs),
        Pair("Parameters", (figures.count(model.parameters),)),
        Pair("MACs", ("unknown" if model.macs is None else figures.count(model.macs),)),
        Pair("Size", (figures.size(model.size_bytes),)),
    ]
    if model.notes:
        pairs.append(Pair("Notes", model.notes))
    return tuple(pairs)


def _data(data: DataInfo) -> tuple[Pair, ...]:
    splits = tuple(f"{role}: {figures.count(n)}" for role, n in data.splits.items())
    pairs = [
        Pair("Source", (data.source,)),
        Pair("SHA-256", (data.sha256,), True),
        Pair("Samples", (f"{figures.count(data.samples)}, {'with' if data.labelled else 'without'} labels",)),
        Pair("Splits", splits or ("none",)),
    ]
    if data.notes:
        pairs.append(Pair("Notes", data.notes))
    return tuple(pairs)
