"""What would mend a recipe that is fast and lost too much quality?

Other ranges and scales first, which cost a calibration each: those are tried whose outputs come closest. Then
other forms for the layers that do much harm for what they save; at last, where samples and time allow,
learning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from time import monotonic

from hasten import methods
from hasten.core.errors import TrialError
from hasten.core.recipe import Json, Recipe, Step
from hasten.core.record import Trial
from hasten.search.build import Built
from hasten.search.candidate import Candidate
from hasten.search.choose import cost, exact_costs, leader, within_budget
from hasten.search.forms import NARROW, choose_forms, forms_of
from hasten.search.layers import saved
from hasten.search.learn import Learning
from hasten.search.trial import Lab

_SHARE = 0.5
"""Part of the time left that finding the layers to blame may take."""

_ROUNDS = 3
"""How often one recipe is repaired: the error allowed is a guess from the drop, the next one is better."""

_RANGES = ("minmax", "outputs", "mse")
"""Ways of setting ranges worth a trial each, where one loses too much; of the others a recipe may ask."""

_MARGIN = 0.5
"""A repair aims at this part of the error the budget allows: error and drop are not proportional."""


@dataclass(frozen=True, kw_only=True)
class Repairer:
    """Proposes mended versions of what lost too much; the fields are those of ``Proposer``."""

    lab: Lab
    baseline: Trial
    samples: int
    deadline: float

    def propose(self, done: Sequence[Trial], since: int) -> Iterator[Candidate]:
        """Each recipe that lost too much, fastest first, as long as it is faster than the best that holds.

        since: the number of trials before those that may be repaired; repairs are not repaired anew.
        """
        broken: dict[str, list[Trial]] = {}
        for trial in sorted((t for t in done[since:] if _broken(t)), key=self._cost):
            broken.setdefault(trial.recipe.fingerprint, []).append(trial)
        for trials in broken.values():
            pays = self._pays(trials, done)
            if not pays:
                continue
            first = pays[0]
            tried = [first]
            closest = self._closest(first.recipe)
            if closest is not None:
                candidate = Candidate(closest, first.target, first.options)
                yield candidate
                tried += [t for t in done if t.id == candidate.id and t.quality is not None]
            if any(within_budget(t) for t in tried):
                continue
            yield from self._in_other_forms(min(tried, key=_drop), pays, done)

    def taught(self, done: Sequence[Trial]) -> Iterator[Candidate]:
        """The best quantized version that lost too much, mended: block by block, otherwise as a whole."""
        broken = sorted((t for t in done if _broken(t)), key=self._cost)
        lost = self._pays([t for t in broken if t.recipe.steps[-1].method == "quantize_static"], done)
        if not lost:
            return
        learning = Learning(self.lab.workshop, self.samples)
        for mend in (learning.reconstruct, learning.quantize_aware):
            step = mend(self.deadline - monotonic())
            if step is not None:
                candidate = Candidate(Recipe((*lost[0].recipe.steps, step)), lost[0].target, lost[0].options)
                yield candidate
                if any(t.id == candidate.id and t.quality is not None and within_budget(t) for t in done):
                    return

    def _closest(self, recipe: Recipe) -> Recipe | None:
        """The recipe with the ranges and scales whose outputs are closest; None where it has them already."""
        workshop, others = self.lab.workshop, [*_other_ranges(recipe), *self._equalized(recipe)]
        made: list[tuple[Recipe, Built]] = []
        for other in (recipe, *others) if others else ():
            if monotonic() > self.deadline:
                break
            with suppress(TrialError):
                made.append((other, workshop.apply(other)))
        if len(made) < 2:
            return None
        paths: list[Json] = [str(built.path) for _, built in made]
        try:
            exact = workshop.apply(Recipe(recipe.steps[:-1]))
            place = {**workshop.place(exact), "changed": paths}
            damages = workshop.ask("sensitivity:damages_in_child", place)
        except TrialError:
            return None
        found = [(damage, number) for number, damage in enumerate(damages) if damage is not None]
        best = made[min(found)[1]][0] if found else recipe
        return best if best != recipe else None

    def _equalized(self, recipe: Recipe) -> list[Recipe]:
        """The recipe with scales moved between layers before its last step, where there are such layers."""
        *before, last = recipe.steps
        if last.method != "quantize_static" or any(step.method == "equalize" for step in before):
            return []
        equalize = Step("equalize", {"by": "activations"})
        try:
            effective = self.lab.workshop.apply(Recipe((*before, equalize))).last_effective
        except TrialError:
            return []
        return [Recipe((*before, equalize, last))] if effective else []

    def _in_other_forms(
        self, worst: Trial, places: Sequence[Trial], done: Sequence[Trial]
    ) -> Iterator[Candidate]:
        """The trial with layers in other forms, where it ran fast; again while it loses too much."""
        current: Trial | None = worst
        for _ in range(_ROUNDS):
            repaired = self._repair(current, done) if current is not None else None
            if repaired is None:
                return
            yield repaired
            if all(step.method != "cast" for step in repaired.recipe.steps):
                # Not written for one runtime.
                yield from (Candidate(repaired.recipe, place.target, place.options) for place in places)
            fingerprint = repaired.recipe.fingerprint
            made = [t for t in done if t.recipe.fingerprint == fingerprint and t.quality is not None]
            if any(within_budget(t) for t in made):
                return
            current = min(self._pays(made, done), key=_drop, default=None)

    def _repair(self, trial: Trial, done: Sequence[Trial]) -> Candidate | None:
        """The trial with the layers to blame in more bits, or as they were; None where that cannot be."""
        left_s = self.deadline - monotonic()
        candidate = Candidate(trial.recipe, trial.target, trial.options)
        forms = forms_of(candidate, narrow=self._narrow_pays(trial.target, done))
        if trial.quality is None or left_s <= 0 or forms is None:
            return None
        fraction = _MARGIN * min(1.0, trial.quality.allowed / max(trial.quality.drop, 1e-12))
        try:
            saves = {form: saved(self.lab, forms.left, step) for form, step in forms.steps.items()}
            choice = choose_forms(self.lab.workshop, forms, saves, fraction, _SHARE * left_s)
        except TrialError:
            return None
        return forms.mixed(choice) if choice is not None else None

    def _narrow_pays(self, target: str, done: Sequence[Trial]) -> bool:
        """Whether the exact rewrites alone ran faster there in bfloat16 than in float32."""
        if self.lab.budget.objective == "size":
            return False
        costs = exact_costs(done, target, self.lab.budget)
        return NARROW in costs and None in costs and costs[NARROW] < costs[None]

    def _pays(self, trials: Sequence[Trial], done: Sequence[Trial]) -> list[Trial]:
        """Those of the trials that are faster than the best which holds."""
        best = leader(done, self.baseline, self.lab.budget)
        return [t for t in trials if best is None or self._cost(t) < self._cost(best)]

    def _cost(self, trial: Trial) -> float:
        return cost(trial, self.lab.budget)


def _drop(trial: Trial) -> float:
    return trial.quality.drop if trial.quality is not None else 0.0


def _broken(trial: Trial) -> bool:
    """Whether what its recipe did lost too much."""
    return trial.status == "rejected" and bool(trial.recipe.steps)


def _other_ranges(recipe: Recipe) -> list[Recipe]:
    """The recipe with each other way its last step has of setting ranges; calibrated once, so quick."""
    step = recipe.steps[-1]
    if not any(f.name == "range" for f in fields(methods.find(step.method).Params)):
        return []
    current = methods.parameters(step).range
    others = [Step(step.method, {**step.params, "range": name}) for name in _RANGES if name != current]
    return [Recipe((*recipe.steps[:-1], other)) for other in others]
