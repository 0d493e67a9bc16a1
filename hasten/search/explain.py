"""The verdict in words: what was found, and when there is no gain, why."""

from __future__ import annotations

from collections.abc import Sequence

from hasten.core.budget import Budget, Objective
from hasten.core.measurement import ratio_text
from hasten.core.record import Considered, Quality, Scorecard, Trial
from hasten.core.target import TargetSpec
from hasten.search.choose import is_smaller
from hasten.search.facts import GraphFacts

_OVERHEAD_MACS = 2_000_000
"""Below this a call takes about as long as its arithmetic: some tens of microseconds on one core."""
OUT_OF_TIME = "the time budget was spent before its turn"
"""The reason of a candidate that was planned and not reached."""


def headline(best: Trial | None, baseline: Trial, holdout: Scorecard | None, budget: Budget) -> str:
    """The verdict in a sentence; the figures that belong to it stand beside it."""
    if best is None or holdout is None:
        return "Nothing qualified: the original is kept."
    parts = []
    gain = holdout.gain(budget.objective)
    if gain is not None:
        more, less = _WORDS[budget.objective == "throughput"]
        words = {
            "better": f"{ratio_text(gain.median)} times {more}",
            "worse": f"{ratio_text(1 / gain.median)} times {less}",
            "indistinguishable": "no faster and no slower",
        }
        parts.append(words[gain.verdict])
    if holdout.size_bytes and baseline.size_bytes and (budget.objective == "size" or not parts):
        parts.insert(0, f"{ratio_text(baseline.size_bytes / holdout.size_bytes)} times smaller")
    if holdout.quality is not None:
        parts.append(f"{holdout.quality.metric} {_BUDGET_WORDS[holdout.quality.budget]}")
    text = ", ".join(parts)
    return f"{text[:1].upper()}{text[1:]}: {best.recipe} on {best.target}."


_WORDS = {False: ("faster", "slower"), True: ("the throughput", "less throughput")}
_BUDGET_WORDS = {
    "met": "within budget",
    "met on the sample, not proven": "within budget on the sample, not proven",
    "missed": "over budget",
}


def quality_in_words(quality: Quality) -> str:
    """Value, drop, interval, sample size and what they say of the budget."""
    low, high = quality.ci95
    return (
        f"{quality.metric} {quality.value:.4f} against {quality.reference:.4f} "
        f"on {quality.n} held-out samples (drop {quality.drop:+.4f}, "
        f"95 % interval {low:+.4f} to {high:+.4f}; {_BUDGET_WORDS[quality.budget]})"
    )


def shape_gain(trials: Sequence[Trial]) -> list[str]:
    """What fixing the dynamic dimensions would gain, when it was measured."""
    said = []
    for probe in (t for t in trials if not t.selectable and t.speedup is not None):
        same = [t for t in trials if t.selectable and t.recipe == probe.recipe and t.options == probe.options]
        for trial in (t for t in same if t.target == probe.target and t.speedup is not None):
            assert trial.speedup is not None
            assert probe.speedup is not None
            # Each was timed beside the original, at different minutes: the ratios can be compared.
            fixed, free = probe.speedup.median, trial.speedup.median
            gain = (
                f"{ratio_text(fixed)} times the original's speed with shapes fixed, "
                f"{ratio_text(free)} with dynamic ones"
            )
            advice = "; fix them with --shape" if fixed > 1.05 * free else ": not worth fixing"
            said.append(f"{probe.recipe} on {probe.target}: {gain}{advice}.")
    return said


def no_gain(
    facts: GraphFacts,
    specs: Sequence[TargetSpec],
    baseline: Trial,
    trials: Sequence[Trial],
    *,
    objective: Objective = "latency",
    considered: Sequence[Considered] = (),
) -> list[str]:
    """Why nothing qualified at the objective, from what was found; first, what there was no time to find."""
    reasons = _unreached(considered)
    timed = objective != "size"
    if timed and baseline.macs is not None and baseline.macs < _OVERHEAD_MACS:
        reasons.append(
            f"The model is small ({baseline.macs:,} multiply-accumulates): "
            "calling it costs about as much as computing it."
        )
    if not facts.weighted_layers and not facts.recurrent:
        reasons.append("No layer has constant weights that could be quantized.")
    if facts.quantized:
        reasons.append("The model is quantized already.")
    if timed and not any("int8" in spec.compute_dtypes for spec in specs):
        reasons.append("This CPU has no int8 dot-product instructions (avx512_vnni, avx_vnni, amx_int8).")
    for trial in trials:
        if trial.status in {"rejected", "no effect"} and trial.reason:
            reasons.append(f"{trial.recipe} on {trial.target}: {trial.reason.rstrip('.')}.")
        elif trial.status == "failed" and trial.reason:
            reasons.append(f"{trial.recipe} on {trial.target} failed: {trial.reason.rstrip('.')}.")
        elif trial.status == "ok" and trial.selectable:
            short = _short_of(trial, baseline, objective)
            reasons += [f"{trial.recipe} on {trial.target} {short}."] if short else []
    return reasons


def _unreached(considered: Sequence[Considered]) -> list[str]:
    missed = sum(entry.reason == OUT_OF_TIME for entry in considered)
    planned = missed + sum(entry.tried for entry in considered)
    if not missed:
        return []
    were = "was" if missed == 1 else "were"
    return [
        f"{missed} of {planned} candidates {were} not tried for lack of time: give a longer --time-budget."
    ]


def _short_of(trial: Trial, baseline: Trial, objective: Objective) -> str:
    """In what a trial is no better than the original; empty where it is better or was not measured."""
    if objective == "size":
        after, before = trial.size_bytes, baseline.size_bytes
        if after is None or before is None or is_smaller(trial, baseline):
            return ""
        words = "was hardly smaller" if after < before else "was not smaller"
        return f"{words} ({after:,} bytes, the original {before:,})"
    gain = trial.gain(objective)
    if gain is None or gain.verdict == "better":
        return ""
    words = "was not faster" if objective == "latency" else "did not answer more samples a second"
    return f"{words} ({ratio_text(gain.median)} times, {gain.verdict})"
