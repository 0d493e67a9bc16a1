"""The four figures a reader looks for first: speed, quality, size and memory, before and after."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hasten.core.measurement import Measurement
from hasten.core.record import BudgetVerdict
from hasten.report import figures
from hasten.report.claim import Claim, against_source

Who = Literal["source", "before", "after"]
Tone = Literal["good", "doubt", "bad"]


@dataclass(frozen=True)
class Bar:
    """One bar; positions are per cent of the card's width. low, high: the 95 % interval, or None."""

    who: Who
    label: str
    value: str
    percent: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Strip:
    """The interval of a drop on a line: per cent positions of zero, of the budget, and of the interval."""

    zero: float
    allowed: float
    low: float
    point: float
    high: float
    label: str


@dataclass(frozen=True)
class Card:
    """One figure: a large number with its unit in words, the lines that qualify it, and its bars."""

    key: str
    title: str
    big: str
    word: str
    lines: tuple[str, ...] = ()
    bars: tuple[Bar, ...] = ()
    strip: Strip | None = None
    chip: str = ""
    tone: Tone = "good"
    warnings: tuple[str, ...] = field(default=())


def cards(made: Claim) -> tuple[Card, ...]:
    """The cards that the record has numbers for, in reading order."""
    size = _bytes_card(
        made, "size", "Size on disk", (made.baseline.size_bytes, made.size_bytes), ("smaller", "larger")
    )
    memory = _bytes_card(
        made,
        "memory",
        "Peak memory",
        (made.baseline.peak_memory_bytes, made.peak_memory_bytes),
        ("less", "more"),
    )
    return tuple(card for card in (_speed(made), _quality(made), size, memory) if card)


def _speed(made: Claim) -> Card | None:
    tone: Tone = "good"
    after = made.latency_ms
    before = made.reference_ms
    if made.kept:
        if before is None:
            return None
        big = figures.latency(before)
        lines = [f"95 % interval {figures.latency_interval(before)}, {plural_rounds(before)}"]
        title, word = "Latency", "the original, as it was"
    elif made.gain is not None:
        objective = made.record.budget.objective
        ratio = figures.speed(made.gain, objective)
        big, word, title = ratio.big, ratio.word, "Throughput" if objective == "throughput" else "Speed"
        if made.gain.verdict == "indistinguishable":
            word = f"the original's {title.lower()}, indistinguishable from it"
        lines = [f"95 % interval {ratio.interval}, in rounds interleaved with the original's"]
        if title == "Throughput" and made.throughput_per_s is not None:
            lines.append(f"{figures.latency(made.throughput_per_s)}, with enough requests to keep it busy")
            lines.append("below: the latency of one request alone")
        tone = "bad" if made.gain.verdict == "worse" else "good"
    elif after is not None:
        big, word = figures.latency(after), "not compared in the same rounds"
        lines, title = [f"95 % interval {figures.latency_interval(after)}"], "Latency"
    else:
        return None
    budget = made.record.budget
    lines.append(f"batch {budget.batch}, {figures.plural(budget.threads, 'thread')}")
    source = made.record.source
    compared = against_source(made)
    if source is not None and compared is not None:
        than = figures.speed(compared)
        lines.append(f"against {source.name}, which runs today: {than.text} (95 % interval {than.interval})")
    found = [m for m in (None if made.kept else after, before) if m is not None and m.warning]
    warnings = tuple(dict.fromkeys(m.warning for m in found if m.warning))
    return Card("speed", title, big, word, tuple(lines), _speed_bars(made), tone=tone, warnings=warnings)


def plural_rounds(measured: Measurement) -> str:
    """``30 rounds``."""
    return figures.plural(measured.rounds, "round")


def _speed_bars(made: Claim) -> tuple[Bar, ...]:
    named: list[tuple[Who, str, Measurement | None]] = []
    if made.record.source is not None:
        named.append(("source", made.record.source.name, made.record.source.latency_ms))
    named.append(("before", "original", made.reference_ms))
    if not made.kept:
        named.append(("after", "saved", made.latency_ms))
    known = [(who, label, m) for who, label, m in named if m is not None]
    top = max((m.ci95[1] for _, _, m in known), default=0.0)
    top = max([top, *(m.median for _, _, m in known)])
    if top <= 0:
        return ()
    return tuple(
        Bar(
            who,
            label,
            figures.latency(m),
            100 * m.median / top,
            100 * m.ci95[0] / top,
            100 * m.ci95[1] / top,
        )
        for who, label, m in known
    )


def _quality(made: Claim) -> Card | None:
    quality = made.quality
    if quality is None:
        return None
    words = figures.QualityWords(quality)
    n = f"n = {figures.count(quality.n)}"
    if made.kept:
        bars = _quality_bars(words, kept=True)
        line = f"{n} samples of {made.role}"
        return Card("quality", "Quality", words.level(quality.value), quality.metric, (line,), bars)
    big, word = _quality_head(words)
    lines: tuple[str, ...] = (
        f"95 % interval: {words.interval}",
        f"{n} samples of {made.role}"
        + (f"; {quality.flips.lost} lost, {quality.flips.gained} gained" if quality.flips else ""),
        words.budget,
    )
    if made.searched is not None:
        seen = figures.QualityWords(made.searched)
        lines += (
            f"on Selection, where it was chosen: {seen.amount(made.searched.drop)} ({seen.interval}; "
            f"n = {figures.count(made.searched.n)})",
        )
    return Card(
        "quality",
        f"Quality on {made.role}",
        big,
        word,
        lines,
        _quality_bars(words, kept=False),
        strip=_strip(words),
        chip=words.verdict,
        tone=_TONES[quality.budget],
    )


_TONES: dict[BudgetVerdict, Tone] = {
    "met": "good",
    "met on the sample, not proven": "doubt",
    "missed": "bad",
}


def _quality_head(words: figures.QualityWords) -> tuple[str, str]:
    quality = words.quality
    if "agreement" in quality.metric.lower():
        return words.level(quality.value), f"{quality.metric} with the original"
    big = words.drop_number(abs(quality.drop))
    gone = words.lost if quality.drop >= 0 else words.gained
    unit = f"{words.drop_unit} of {quality.metric} {gone}" if words.share else f"{gone} in {quality.metric}"
    return big, unit if words.distinguishable else f"{unit}, indistinguishable from no change"


def _quality_bars(words: figures.QualityWords, *, kept: bool) -> tuple[Bar, ...]:
    quality = words.quality
    top = 1.0 if words.share else max(abs(quality.value), abs(quality.reference))
    known: list[tuple[Who, str, float]] = [("before", "original", quality.reference)]
    if not kept:
        known.append(("after", "saved", quality.value))
    if not 0 < top < float("inf") or any(value < 0 for _, _, value in known):
        return ()
    return tuple(Bar(who, label, words.level(v), 100 * v / top) for who, label, v in known)


def _strip(words: figures.QualityWords) -> Strip | None:
    quality = words.quality
    low, high = quality.ci95
    values = [0.0, low, high, quality.drop, quality.allowed]
    if not all(abs(v) < float("inf") for v in values):
        return None
    bottom, top = min(values), max(values)
    if top <= bottom:
        return None
    margin = 0.08 * (top - bottom)

    def at(value: float) -> float:
        return 100 * (value - bottom + margin) / (top - bottom + 2 * margin)

    label = f"drop {words.amount(quality.drop)}, {words.interval}; budget {words.allowed}"
    return Strip(at(0.0), at(quality.allowed), at(low), at(quality.drop), at(high), label)


def _bytes_card(
    made: Claim, key: str, title: str, sizes: tuple[int | None, int | None], words: tuple[str, str]
) -> Card | None:
    before, after = sizes
    if after is None:
        return None
    lines = (_footnote(made, key),)
    if made.kept or before is None:
        return Card(key, title, figures.size(after), "", lines, _byte_bars(None, after))
    big, _, word = figures.shrink(before, after, *words).partition(" ")
    if not word:
        big, word = figures.size(after), "unchanged"
    tone: Tone = "good" if after <= before * 1.005 else "bad"
    return Card(key, title, big, word, lines, _byte_bars(before, after), tone=tone)


def _footnote(made: Claim, key: str) -> str:
    if key == "memory":
        return "resident, fresh process, after the first run"
    zstd = made.size_zstd_bytes
    return "every file the runtime needs" + (f"; {figures.size(zstd)} after zstd" if zstd else "")


def _byte_bars(before: int | None, after: int) -> tuple[Bar, ...]:
    top = max(before or 0, after)
    if top <= 0:
        return ()
    if before is None:
        return (Bar("before", "original", figures.size(after), 100.0),)
    return (
        Bar("before", "original", figures.size(before), 100 * before / top),
        Bar("after", "saved", figures.size(after), 100 * after / top),
    )
