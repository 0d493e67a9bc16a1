"""The last comparison: who is asked first, who is confirmed, and what is kept of the others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from hasten.core.budget import Budget, Objective
from hasten.core.data import Holdout
from hasten.core.errors import TrialError
from hasten.core.measurement import Comparison, Measurement
from hasten.core.record import Trial
from hasten.measuring import Timing
from hasten.search import final
from hasten.search.candidate import Candidate
from hasten.search.trial import Lab
from tests.search.test_choose import BASELINE, trial

HOLDOUT = cast("Holdout", SimpleNamespace(role="holdout"))


class Scripted:
    """A lab whose measurements are given: speed-ups side by side, and losses on the holdout."""

    baseline = "baseline"

    def __init__(self, speeds: dict[str, float], drops: dict[str, float], objective: Objective = "latency"):
        self.budget = Budget(objective=objective)
        self._speeds, self._drops = speeds, drops
        self.asked: list[str] = []

    def head_to_head(self, candidates: list[Candidate]) -> dict[str, Timing]:
        names = [c.recipe.steps[0].method for c in candidates]
        return {name: self._timing(name) for name in names if name in self._speeds}

    def _timing(self, name: str) -> Timing:
        ms = 1 / self._speeds[name]
        measured = Measurement(unit="ms", median=ms, ci95=(ms, ms), rounds=1, spread=0.0, samples=(ms,))
        return Timing(measured, measured, self._gain(name))

    def _gain(self, name: str) -> Comparison:
        speed = self._speeds[name]
        return Comparison(median=speed, ci95=(speed, speed), verdict="better" if speed > 1 else "worse")

    def subject(self, candidate: Candidate) -> str:
        return candidate.recipe.steps[0].method

    def predictions(self, subject: str, holdout: Holdout) -> str:
        if subject != self.baseline:
            self.asked.append(subject)
        if subject not in self._drops and subject != self.baseline:
            raise TrialError("it crashed")
        return subject

    def judge(self, answers: str, reference: str, holdout: Holdout) -> Any:
        return trial(answers, 2.0, self._drops[answers]).quality

    def card(self, subject: str, answers: str, quality: Any) -> dict[str, Any]:
        return {"quality": quality, "speedup": self._gain(subject), "size_bytes": 10}

    def flipped(self, answers: str, reference: str, holdout: Holdout) -> tuple[tuple[int], tuple[int]]:
        return (3,), (5,)

    def kernels(self, *subjects: str) -> list[tuple[()]]:
        raise TrialError("no profile")


@pytest.fixture
def end(monkeypatch):
    """The trials a to d, the finalists that are made of them, and the outcome."""
    monkeypatch.setattr(final, "layer_errors", lambda workshop, recipe: ())
    monkeypatch.setattr(Scripted, "workshop", None, raising=False)

    def run(lab: Scripted, trials: list[Trial]) -> final.Outcome:
        tried = {t.id: Candidate(t.recipe, t.target, {}) for t in trials}
        chosen = final.finalists(cast("Lab", lab), BASELINE, trials, tried)
        both = {t.id: (tried[t.id], t) for t in trials}
        return final.confirm(cast("Lab", lab), HOLDOUT, chosen, both)

    return run


def outcomes(found: final.Outcome) -> list[tuple[str, str]]:
    return [(f.trial, f.outcome) for f in found.finalists]


def test_the_fastest_side_by_side_is_asked_first(end) -> None:
    lab = Scripted({"a": 2.0, "b": 3.0, "c": 2.5}, {"a": 0.0, "b": 0.05, "c": 0.001})
    found = end(lab, [trial("a", 2.6, 0.0), trial("b", 2.4, 0.0), trial("c", 2.2, 0.0), trial("d", 1.5, 0.0)])
    assert lab.asked == ["b", "c"]
    assert outcomes(found) == [("b", "refused"), ("c", "confirmed"), ("a", "not asked")]
    assert [f.speedup.median for f in found.finalists if f.speedup] == [3.0, 2.5, 2.0]
    assert found.best is not None
    assert (found.best.id, found.flipped) == ("c", (3, 5))
    assert "b on onnxruntime did not hold on the holdout" in found.reasons[0]
    assert "could not be read: no profile" in found.reasons[1]


def test_one_that_fails_is_kept_with_its_reason(end) -> None:
    lab = Scripted({"b": 3.0, "c": 2.5}, {"c": 0.0})
    found = end(lab, [trial("a", 2.6, 0.0), trial("b", 2.4, 0.0), trial("c", 2.2, 0.0)])
    assert outcomes(found) == [("b", "failed"), ("c", "confirmed"), ("a", "failed")]
    assert "b on onnxruntime failed on the holdout: it crashed." in found.reasons
    assert "a on onnxruntime failed when it was timed again." in found.reasons


def test_none_that_holds(end) -> None:
    lab = Scripted({"a": 1.0}, {"a": 0.0})
    found = end(lab, [trial("a", 2.6, 0.0)])
    assert found.best is None
    assert outcomes(found) == [("a", "refused")]
    assert found.reasons == ("a on onnxruntime gained nothing when measured again.",)
    assert end(lab, []).finalists == ()


def test_size_needs_no_timing(end) -> None:
    lab = Scripted({"a": 0.5, "b": 0.5}, {"a": 0.0, "b": 0.0}, objective="size")
    found = end(lab, [trial("a", 0.5, 0.0, size=20), trial("b", 0.5, 0.0, size=10)])
    assert outcomes(found) == [("b", "confirmed"), ("a", "not asked")]
    assert all(f.speedup is None for f in found.finalists)
