"""How what lost too much is mended, in searches whose outcomes are scripted."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from hasten.core.budget import Budget
from hasten.core.errors import TrialError
from hasten.core.measurement import Comparison
from hasten.core.recipe import Recipe, Step
from hasten.core.record import Trial
from hasten.search import repair
from hasten.search.build import Built
from hasten.search.candidate import Candidate
from hasten.search.forms import Choice
from hasten.search.repair import Repairer
from tests.search.test_choose import trial as trial_of_choosing

EXACT = Step("optimize_graph", {})
FAST = Candidate(Recipe((EXACT,)), "openvino", {"precision": "bfloat16"})


def outcome(candidate: Candidate, speed: float, drop: float) -> Trial:
    """A trial that took 1 / speed of the original's time; a drop beyond 0.01 is too much."""
    scripted = trial_of_choosing("t", speed, drop)
    return scripted.model_copy(
        update={
            "id": candidate.id,
            "recipe": candidate.recipe,
            "target": candidate.target,
            "options": dict(candidate.options),
            "speedup": Comparison(median=speed, ci95=(speed, speed), verdict="better"),
            "status": "ok" if drop <= 0.01 else "rejected",
        }
    )


def repairer(workshop: object) -> Repairer:
    lab = SimpleNamespace(budget=Budget(max_drop=0.01), workshop=workshop)
    baseline = outcome(Candidate(Recipe(), "onnxruntime"), 1.0, 0.0)
    return Repairer(lab=lab, baseline=baseline, samples=0, deadline=float("inf"))  # type: ignore[arg-type]


def proposed(
    done: list[Trial], monkeypatch: pytest.MonkeyPatch, workshop: object = None, **forms: str
) -> list[Candidate]:
    """What is proposed where the choice of forms comes out so, and each proposal holds."""
    monkeypatch.setattr(repair, "saved", lambda *_: {})
    monkeypatch.setattr(repair, "choose_forms", lambda *_: Choice(forms, 1.0, 0.1))
    found = []
    for candidate in repairer(workshop).propose(done, 0):
        found.append(candidate)
        done.append(outcome(candidate, 1.9, 0.0))
    return found


def test_bfloat16_that_lost_too_much_stays_where_it_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    done = [outcome(Candidate(Recipe((EXACT,)), "openvino"), 1.1, 0.0), outcome(FAST, 2.0, 0.3)]
    (found,) = proposed(done, monkeypatch, bad="left", good="bfloat16")
    cast = Step("cast", {"dtype": "bfloat16", "what": "compute", "exclude": ["bad"]})
    assert found == Candidate(Recipe((EXACT, cast)), "openvino", {})


def test_bfloat16_that_is_slower_than_float32_is_no_form(monkeypatch: pytest.MonkeyPatch) -> None:
    done = [outcome(Candidate(Recipe((EXACT,)), "openvino"), 2.1, 0.3), outcome(FAST, 2.0, 0.3)]
    assert proposed(done, monkeypatch, bad="left", good="bfloat16") == []


def test_of_other_ranges_those_with_the_closest_outputs_are_tried_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ask(function: str, arguments: dict[str, list[str]]) -> list[float | None]:
        assert function == "sensitivity:damages_in_child"
        damages = {"minmax": 0.3, "outputs": 0.1, "mse": None}
        return [damages[path] for path in arguments["changed"]]

    def apply(recipe: Recipe) -> Built:
        return Built(Path(str(recipe.steps[-1].params.get("range", "minmax"))), last_effective=False)

    workshop = SimpleNamespace(apply=apply, place=lambda built: {}, ask=ask)
    static = Candidate(Recipe((EXACT, Step("quantize_static"))), "openvino")
    done = [outcome(Candidate(Recipe((EXACT,)), "openvino"), 1.1, 0.0), outcome(static, 2.0, 0.3)]
    found = proposed(done, monkeypatch, workshop)
    better = Step("quantize_static", {"range": "outputs"})
    assert found == [Candidate(Recipe((EXACT, better)), "openvino")]


def test_ranges_that_cannot_be_compared_are_no_end_of_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(function: str, arguments: object) -> list[float]:
        raise TrialError("it does not run")

    def apply(recipe: Recipe) -> Built:
        return Built(Path("model.onnx"), last_effective=False)

    workshop = SimpleNamespace(apply=apply, place=lambda built: {}, ask=ask)
    static = Candidate(Recipe((EXACT, Step("quantize_static"))), "openvino")
    done = [outcome(Candidate(Recipe((EXACT,)), "openvino"), 1.1, 0.0), outcome(static, 2.0, 0.3)]
    # Its layers have their turn all the same.
    found = proposed(done, monkeypatch, workshop, bad="left", good="changed")
    left = Step("quantize_static", {"exclude": ["bad"]})
    assert {candidate.id for candidate in found} == {Candidate(Recipe((EXACT, left)), "openvino").id}
