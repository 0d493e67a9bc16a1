"""The verdict in a few plain lines, for the terminal."""

from __future__ import annotations

from pathlib import Path

from hasten.core.record import RunRecord
from hasten.report import figures
from hasten.report.claim import Claim, against_source, claim, runs_on


def summary(record: RunRecord, folder: Path | None = None) -> list[str]:
    """The verdict, speed, quality with its interval, size, memory and where: plain text, one line each.

    folder: where the run was saved; adds the line that says where to find model and report.
    Raises RecordError when the record names a trial it does not hold.
    """
    made = claim(record)
    rows = [
        ("rate", _rate(made)),
        ("speed", _speed(made)),
        ("today", _today(made)),
        ("quality", _quality(made)),
        ("size", _sizes(made.baseline.size_bytes, made.size_bytes, made.kept, "smaller", "larger")),
        ("memory", _memory(made)),
        ("runs on", _where(made)),
    ]
    if folder is not None:
        entry = made.trial.artifact.entry if made.trial.artifact else None
        rows.append(("model", str(folder / entry) if entry else ""))
        rows.append(("report", str(folder / "report.html")))
    lines = [record.headline]
    lines += [f"  {name:<8} {value}" for name, value in rows if value]
    if record.verdict != "faster":
        lines += [f"  {'why' if i == 0 else '':<8} {reason}" for i, reason in enumerate(record.reasons)]
    return [_plain(line) for line in lines]


def _plain(line: str) -> str:
    """Names come from model files: control characters must not reach the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)


def _speed(made: Claim) -> str:
    before, after = made.reference_ms, made.latency_ms
    if made.kept or made.speedup is None:
        return f"{figures.latency(after)} (95 % interval {figures.latency_interval(after)})" if after else ""
    text = figures.speed(made.speedup).sentence
    if before and after:
        text += f": {figures.latency(before)} -> {figures.latency(after)}"
    return text


def _rate(made: Claim) -> str:
    after, gain = made.throughput_per_s, made.throughput_gain
    if after is None:
        return ""
    if made.kept or gain is None:
        return f"{figures.latency(after)} (95 % interval {figures.latency_interval(after)})"
    return f"{figures.speed(gain, 'throughput').sentence}: {figures.latency(after)}"


def _today(made: Claim) -> str:
    source, compared = made.record.source, against_source(made)
    if source is None:
        return ""
    text = f"{source.name} takes {figures.latency(source.latency_ms)}"
    return f"{text}; what was saved is {figures.speed(compared).sentence}" if compared else text


def _quality(made: Claim) -> str:
    quality = made.quality
    if quality is None:
        return ""
    words = figures.QualityWords(quality)
    if made.kept:
        return (
            f"{quality.metric} {words.level(quality.value)} on {made.role} (n = {figures.count(quality.n)})"
        )
    return (
        f"{quality.metric} {words.level(quality.reference)} -> {words.level(quality.value)} on {made.role}: "
        f"{words.amount(quality.drop)} (95 % interval {words.interval}; n = {figures.count(quality.n)}); "
        f"{words.verdict} ({words.allowed})"
    )


def _sizes(before: int | None, after: int | None, kept: bool, smaller: str, larger: str) -> str:
    if after is None:
        return ""
    if kept or before is None:
        return figures.size(after)
    ratio = figures.shrink(before, after, smaller, larger)
    return f"{figures.size(before)} -> {figures.size(after)}{f' ({ratio})' if ratio else ''}"


def _memory(made: Claim) -> str:
    text = _sizes(made.baseline.peak_memory_bytes, made.peak_memory_bytes, made.kept, "less", "more")
    return f"{text} peak resident" if text else ""


def _where(made: Claim) -> str:
    record = made.record
    threads = figures.plural(record.budget.threads, "thread")
    return f"{runs_on(made.trial)}; measured on {record.machine.cpu}, {threads}, batch {record.budget.batch}"
