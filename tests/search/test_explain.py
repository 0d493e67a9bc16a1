"""Why nothing qualified: at the objective that was asked for, and with what there was no time for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from hasten.core.measurement import Comparison
from hasten.core.record import Considered
from hasten.search.explain import OUT_OF_TIME, no_gain
from hasten.search.facts import GraphFacts
from tests.search.test_choose import BASELINE, trial

FACTS = cast("GraphFacts", SimpleNamespace(weighted_layers=3, recurrent=0, quantized=False))


def why(**more: Any) -> list[str]:
    busy = Comparison(median=0.7, ci95=(0.68, 0.72), verdict="worse")
    tried = trial("int8", 1.01, 0.0, size=120).model_copy(update={"throughput_gain": busy})
    small = BASELINE.model_copy(update={"macs": 1000})
    return no_gain(FACTS, (), small, [tried], **more)


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ("latency", "int8 on onnxruntime was not faster (1.01 times, indistinguishable)."),
        ("throughput", "int8 on onnxruntime did not answer more samples a second (0.70 times, worse)."),
        ("size", "int8 on onnxruntime was not smaller (120 bytes, the original 100)."),
    ],
)
def test_a_trial_fails_at_the_objective(objective: Any, said: str) -> None:
    assert why(objective=objective)[-1] == said


def test_a_few_bytes_less_are_hardly_smaller() -> None:
    small = BASELINE.model_copy(update={"size_bytes": 341_409})
    tried = [trial("names", 1.0, 0.0, size=340_566)]
    said = "names on onnxruntime was hardly smaller (340,566 bytes, the original 341,409)."
    assert no_gain(FACTS, (), small, tried, objective="size") == [said]


def test_a_recipe_without_effect_is_a_reason() -> None:
    reason = "prune_layers changed nothing in this model"
    idle = trial("pruned", 1.0, 0.0).model_copy(update={"status": "no effect", "reason": reason})
    assert no_gain(FACTS, (), BASELINE, [idle], objective="size") == [f"pruned on onnxruntime: {reason}."]


def test_one_candidate_is_singular() -> None:
    considered = (Considered(name="a", tried=False, reason=OUT_OF_TIME),)
    assert why(considered=considered)[0].startswith("1 of 1 candidates was not tried")


def test_slow_arithmetic_is_no_reason_for_size() -> None:
    assert len(why(objective="size")) == 1
    assert sum("int8 dot-product" in reason or "is small" in reason for reason in why()) == 2


def test_what_there_was_no_time_for_comes_first() -> None:
    considered = (
        Considered(name="a", tried=True, reason="exact"),
        Considered(name="b", tried=False, reason=OUT_OF_TIME),
        Considered(name="c", tried=False, reason=OUT_OF_TIME),
        Considered(name="d", tried=False, reason="this CPU does not compute in bfloat16"),
    )
    assert why(considered=considered)[0].startswith("2 of 3 candidates were not tried for lack of time")
