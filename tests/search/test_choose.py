"""Choosing: constraints first, then the objective, and a front that nothing dominates."""

from __future__ import annotations

from hasten.core.budget import Budget
from hasten.core.measurement import Comparison
from hasten.core.recipe import Recipe
from hasten.core.record import Quality, Trial
from hasten.search.choose import contenders, leader, ranked


def trial(name: str, speed: float, drop: float, size: int = 100, allowed: float = 0.01) -> Trial:
    verdict = "better" if speed > 1.05 else "worse" if speed < 0.95 else "indistinguishable"
    return Trial(
        id=name,
        recipe=Recipe([name]),
        target="onnxruntime",
        runtime="r",
        status="ok" if drop <= allowed else "rejected",
        speedup=Comparison(median=speed, ci95=(speed * 0.98, speed * 1.02), verdict=verdict),
        quality=quality(drop, allowed),
        size_bytes=size,
    )


def quality(drop: float, allowed: float = 0.01) -> Quality:
    return Quality(
        metric="accuracy",
        value=0.9 - drop,
        reference=0.9,
        drop=drop,
        ci95=(drop, drop),
        n=100,
        allowed=allowed,
        budget="met" if drop <= allowed else "missed",
    )


BASELINE = trial("baseline", 1.0, 0.0)


def test_the_fastest_within_budget_wins() -> None:
    trials = [trial("slow", 1.5, 0.0), trial("broken", 4.0, 0.5), trial("fast", 2.0, 0.005)]
    assert [t.id for t in ranked(trials, BASELINE, Budget())] == ["fast", "slow"]


def test_a_difference_within_the_noise_is_no_gain() -> None:
    assert leader([trial("same", 1.01, 0.0)], BASELINE, Budget()) is None


def test_what_a_short_timing_leaves_in_doubt_is_timed_again() -> None:
    trials = [trial("sure", 1.2, 0.0), trial("perhaps", 1.04, 0.0), trial("slower", 0.98, 0.0)]
    assert [t.id for t in contenders(trials, BASELINE, Budget())] == ["sure", "perhaps"]
    assert [t.id for t in contenders(trials, BASELINE, Budget(objective="size"))] == []


def test_size_is_an_objective_of_its_own() -> None:
    trials = [trial("small", 0.5, 0.0, size=25), trial("fast", 2.0, 0.0, size=100)]
    assert [t.id for t in ranked(trials, BASELINE, Budget(objective="size"))] == ["small"]


def test_what_the_report_calls_unchanged_is_no_smaller_model() -> None:
    large = BASELINE.model_copy(update={"size_bytes": 341_409})
    trials = [trial("names", 1.0, 0.0, size=340_566), trial("folded", 1.0, 0.0, size=339_000)]
    assert [t.id for t in ranked(trials, large, Budget(objective="size"))] == ["folded"]


def test_a_probe_is_never_chosen() -> None:
    probe = trial("probe", 9.0, 0.0).model_copy(update={"selectable": False})
    assert leader([probe], BASELINE, Budget()) is None


def test_throughput_is_an_objective_of_its_own() -> None:
    rates = {"quick": 1.1, "busy": 2.5}
    trials = [
        trial(name, speed, 0.0).model_copy(
            update={
                "throughput_gain": Comparison(
                    median=rates[name], ci95=(rates[name] * 0.99, rates[name] * 1.01), verdict="better"
                )
            }
        )
        for name, speed in (("quick", 2.0), ("busy", 1.2))
    ]
    assert [t.id for t in ranked(trials, BASELINE, Budget(objective="throughput"))] == ["busy", "quick"]
    assert [t.id for t in ranked(trials, BASELINE, Budget())] == ["quick", "busy"]
    assert ranked([trial("untested", 2.0, 0.0)], BASELINE, Budget(objective="throughput")) == []
