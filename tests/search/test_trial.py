"""What a trial does where the machine is busy with something else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hasten import measuring
from hasten.core.budget import Budget
from hasten.core.errors import TrialError
from hasten.core.measurement import Comparison, Measurement
from hasten.core.recipe import Recipe
from hasten.core.record import Quality
from hasten.measuring import Conditions, Timing
from hasten.search.candidate import Candidate
from hasten.search.trial import Lab, too_much


def lab() -> Lab:
    known: Any = SimpleNamespace(artifact=None, folder=None)
    return Lab(
        workshop=known,
        selection=known,
        metric=known,
        conditions=Conditions(),
        budget=Budget(),
        work=Path(),
        runtimes={},
        original=Candidate(Recipe(), "onnxruntime"),
        baseline=known,
        baseline_predictions=known,
    )


def timing(reference_ms: float, speed: float) -> Timing:
    def ms(value: float) -> Measurement:
        return Measurement(
            unit="ms", median=value, ci95=(value, value), rounds=1, spread=0.0, samples=(value,)
        )

    gain = Comparison(median=speed, ci95=(speed, speed), verdict="better")
    return Timing(ms(reference_ms / speed), ms(reference_ms), gain)


def speeds(monkeypatch: pytest.MonkeyPatch, *rounds: Timing | TrialError) -> Iterator[float]:
    """What is recorded, trial by trial, where the timings come out like this."""
    left = list(rounds)
    monkeypatch.setattr(measuring, "time_interleaved", lambda *_: [None, left.pop(0)])
    monkeypatch.setattr(measuring, "sizes", lambda *_: (1, 1))
    place = lab()
    while left:
        yield cast("Comparison", place.card(place.baseline, None, None)["speedup"]).median


def test_a_ratio_beside_a_baseline_that_was_slowed_down_is_taken_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As once on all-MiniLM-L6-v2: int8 was 8.6 times faster while something else ran, and 3.6 times before.
    quiet, busy = timing(17.0, 3.6), timing(58.0, 8.6)
    assert list(speeds(monkeypatch, quiet, quiet, busy, timing(18.0, 3.5), quiet)) == [3.6, 3.6, 3.5, 3.6]


def test_of_two_disturbed_timings_the_quieter_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = list(speeds(monkeypatch, timing(17.0, 3.6), timing(58.0, 8.6), timing(40.0, 6.0)))
    assert found == [3.6, 6.0]


def test_a_machine_that_became_slower_for_good_is_got_used_to(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = timing(30.0, 3.0)
    found = list(speeds(monkeypatch, timing(17.0, 3.6), *[slow] * 6))
    # Timed twice at first; then what is usual lies between, and once is enough.
    assert found == [3.6, 3.0, 3.0, 3.0, 3.0, 3.0]


def test_what_fails_when_it_is_timed_again_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrialError, match="gone"):
        list(speeds(monkeypatch, timing(17.0, 3.6), timing(58.0, 8.6), TrialError("gone")))


@pytest.mark.parametrize(
    ("recipe", "target", "status"),
    [
        (["optimize_graph"], "openvino", "ok"),
        (["optimize_graph"], "onnxruntime", "no effect"),
        (["prune_layers"], "openvino", "no effect"),
        (["optimize_graph", "prune_layers"], "openvino", "no effect"),
    ],
)
def test_what_changed_nothing_is_tried_as_the_original_on_another_runtime_only(
    recipe: list[Any], target: str, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = SimpleNamespace(last_effective=False, sites=(), skipped=(), notes=())
    place = replace(
        lab(), workshop=cast("Any", SimpleNamespace(apply=lambda _: built)), runtimes={target: ""}
    )
    monkeypatch.setattr(Lab, "_measured", lambda *_: {"status": "ok"})
    assert place.run(Candidate(Recipe(recipe), target)).status == status


@pytest.mark.parametrize(("metric", "value", "moves"), [("accuracy", 0.7, "falls"), ("mse", 0.9, "rises")])
def test_a_loss_is_said_the_way_the_metric_moved(metric: str, value: float, moves: str) -> None:
    lost = Quality(
        metric=metric,
        value=value,
        reference=0.8,
        drop=0.1,
        ci95=(0.05, 0.15),
        n=100,
        allowed=0.008,
        budget="missed",
    )
    assert too_much(lost).startswith(f"{metric} {moves} by 0.1 (95 % interval 0.05 to 0.15, n = 100)")
