"""How a number is written: units, significant digits, intervals, and what a drop is called in words."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from hasten.core.budget import Objective
from hasten.core.measurement import Comparison, Measurement, ratio_text
from hasten.core.record import Quality

MINUS = "\N{MINUS SIGN}"
NOT_PROVEN = "within budget on the sample, not proven"

# Metrics that are a share of the samples (or of decisions), so that per cent and points read better.
_SHARE = re.compile(r"accuracy|agreement|top[-_ ]?\d|\bf1\b|precision|recall|\bmap\b|error[-_ ]rate", re.I)
_NOT_SHARE = re.compile(r"cosine|rank|spearman|sqnr|normali[sz]ed", re.I)


def number(value: float, digits: int = 3) -> str:
    """A number with ``digits`` significant digits, thousands separated, never in exponent form."""
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    places = max(0, min(digits - 1 - magnitude, 9))
    rounded = round(value, places)
    if rounded != 0 and math.floor(math.log10(abs(rounded))) > magnitude:
        places = max(0, places - 1)  # 9.996 has become 10.0, not 10.00
    return f"{rounded:,.{places}f}".replace("-", MINUS)


def count(value: int) -> str:
    """An exact whole number, thousands separated."""
    return f"{value:,}".replace("-", MINUS)


def tight(text: str) -> str:
    """The same words, with a number and its per cent sign (or ``n``) kept on one line."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%").replace("n = ", "n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")


def plural(value: int, one: str, many: str | None = None) -> str:
    """``1 sample``, ``2 samples``."""
    return f"{count(value)} {one if value == 1 else many or one + 's'}"


def large(value: float) -> str:
    """A large count in thousands (k), millions (M) or billions (G)."""
    for bound, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= bound:
            return f"{number(value / bound)} {unit}"
    return number(value)


def size(size_bytes: float) -> str:
    """Bytes in decimal units: 1 kB is 1000 bytes."""
    for bound, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(size_bytes) >= bound:
            return f"{number(size_bytes / bound)} {unit}"
    return f"{number(size_bytes)} bytes"


def duration(seconds: float) -> str:
    """Seconds as ``12.3 s``, ``4 min 12 s`` or ``1 h 03 min``."""
    if not math.isfinite(seconds):
        return "not finite"
    if seconds < 60:
        return f"{number(seconds)} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def time_ms(value_ms: float) -> str:
    """Milliseconds as µs, ms or s, whichever reads best."""
    unit, factor = time_unit(value_ms)
    return f"{number(value_ms * factor)} {unit}"


def time_unit(value_ms: float) -> tuple[str, float]:
    """The unit a time is best read in, and what to multiply milliseconds by."""
    if abs(value_ms) >= 1000:
        return "s", 1e-3
    if abs(value_ms) < 1 and value_ms != 0:
        return "µs", 1e3
    return "ms", 1.0


def to(low: str, high: str) -> str:
    """A range; the word ``to`` cannot be mistaken for a minus sign."""
    return f"{low} to {high}"


def latency(measured: Measurement) -> str:
    """The median alone, with its unit."""
    if measured.unit == "ms":
        return time_ms(measured.median)
    return f"{number(measured.median)} {_unit(measured)}".strip()


def latency_interval(measured: Measurement) -> str:
    """The 95 % interval of the median, in the unit the median is written in."""
    low, high = measured.ci95
    if measured.unit != "ms":
        return f"{to(number(low), number(high))} {_unit(measured)}".strip()
    unit, factor = time_unit(measured.median)
    return f"{to(number(low * factor), number(high * factor))} {unit}"


def _unit(measured: Measurement) -> str:
    """``3725 / s`` reads better than ``3725 1/s``."""
    return "/ s" if measured.unit == "1/s" else measured.unit


@dataclass(frozen=True)
class Ratio:
    """A comparison in words: ``3.21× faster``, ``1.30× slower`` or ``1.01× indistinguishable``."""

    big: str
    word: str
    interval: str

    @property
    def sentence(self) -> str:
        """Everything in one line."""
        return f"{self.text} (95 % interval {self.interval})"

    @property
    def text(self) -> str:
        """Without the interval: ``3.21× faster``; ``1.01×, indistinguishable``."""
        return f"{self.big}{',' if self.word == 'indistinguishable' else ''} {self.word}"


def times(value: float) -> str:
    """A ratio: two decimals below ten, three significant digits above; three decimals next to 1."""
    if not math.isfinite(value):
        return "not finite"
    return f"{ratio_text(value) if abs(value) < 9.995 else number(value)}×"


def speed(comparison: Comparison, objective: Objective = "latency") -> Ratio:
    """A speed-up in words; a slow-down is turned over so that the number stays above 1."""
    low, high = comparison.ci95
    more, less = ("the throughput", "less throughput") if objective == "throughput" else ("faster", "slower")
    if comparison.verdict == "worse" and comparison.median > 0 and low > 0:
        return Ratio(times(1 / comparison.median), less, to(times(1 / high), times(1 / low)))
    words = {"better": more, "worse": less, "indistinguishable": "indistinguishable"}
    return Ratio(times(comparison.median), words[comparison.verdict], to(times(low), times(high)))


def shrink(before: float, after: float, smaller: str, larger: str) -> str:
    """The ratio of two exact quantities in words: ``3.88× smaller``."""
    if before <= 0 or after <= 0:
        return ""
    if abs(before / after - 1) < 0.005:
        return "unchanged"
    if after < before:
        return f"{times(before / after)} {smaller}"
    return f"{times(after / before)} {larger}"


@dataclass(frozen=True)
class QualityWords:
    """How one ``Quality`` is written: shares in per cent and points, anything else in its own unit."""

    quality: Quality

    @property
    def share(self) -> bool:
        """Whether the metric is a share between 0 and 1."""
        q = self.quality
        named = bool(_SHARE.search(q.metric)) and not _NOT_SHARE.search(q.metric)
        return named and 0 <= q.value <= 1 and 0 <= q.reference <= 1

    @property
    def factor(self) -> float:
        """What the metric's own unit is multiplied by before it is written."""
        return 100.0 if self.share else 1.0

    @property
    def lost(self) -> str:
        """What a positive drop is called: of an error, of which less is better, nothing is lost."""
        q = self.quality
        return "worse" if (q.value - q.reference) * q.drop > 0 else "lost"

    @property
    def gained(self) -> str:
        """What a negative drop is called."""
        return "better" if self.lost == "worse" else "gained"

    @property
    def drop_unit(self) -> str:
        """``points`` for shares, nothing for other metrics."""
        return "points" if self.share else ""

    def level(self, value: float) -> str:
        """The metric itself: ``91.24 %``, or four significant digits."""
        if not math.isfinite(value):
            return "not finite"
        return f"{value * 100:.2f} %" if self.share else number(value, 4)

    def drop_number(self, drop: float) -> str:
        """A drop without its unit: two decimals of a point, or three significant digits."""
        if not math.isfinite(drop):
            return "not finite"
        if not self.share:
            return number(drop)
        text = f"{drop * 100:.2f}"
        return "0.00" if text == "-0.00" else text.replace("-", MINUS)

    def amount(self, drop: float) -> str:
        """A drop in words, so that no sign has to be interpreted: ``0.21 points lost``."""
        unit = f" {self.drop_unit}" if self.share else ""
        text = self.drop_number(abs(drop))
        if float(text.replace(",", "") if math.isfinite(drop) else "1") == 0:
            return f"{text}{unit}"
        return f"{text}{unit} {self.lost if drop > 0 else self.gained}"

    @property
    def interval(self) -> str:
        """The 95 % interval of the drop in words: ``0.13 gained to 0.65 points lost``."""
        low, high = self.quality.ci95
        if low < 0 < high:
            return to(f"{self.drop_number(-low)} {self.gained}", self.amount(high))
        near, far = sorted((low, high), key=abs)
        if self.drop_number(near) == self.drop_number(far):
            return f"{self.amount(far)} at both ends"
        return to(self.drop_number(abs(near)), self.amount(far))

    @property
    def brackets(self) -> str:
        """The 95 % interval of the drop for a table column."""
        low, high = self.quality.ci95
        return f"[{self.drop_number(low)}, {self.drop_number(high)}]"

    @property
    def distinguishable(self) -> bool:
        """Whether the interval of the drop leaves zero out."""
        low, high = self.quality.ci95
        return low > 0 or high < 0

    @property
    def verdict(self) -> str:
        """The budget's verdict in words."""
        return {"met": "within budget", "missed": "over budget"}.get(self.quality.budget, NOT_PROVEN)

    @property
    def budget(self) -> str:
        """What was allowed, what that means for the interval, and what it would take to prove it."""
        q = self.quality
        if q.budget == "met":
            return f"budget {self.allowed}: the whole interval is within it"
        if q.budget == "missed":
            return f"budget {self.allowed}: the estimate is beyond it"
        proof = f"; about {plural(q.proof_n, 'sample')} would settle it" if q.proof_n else ""
        return f"budget {self.allowed}: the estimate is within it, the interval reaches beyond{proof}"

    @property
    def allowed(self) -> str:
        """The largest drop within budget."""
        unit = f" {self.drop_unit}" if self.share else ""
        return f"{self.drop_number(self.quality.allowed)}{unit}"
