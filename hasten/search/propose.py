"""What to try next, given what has been tried: the advised candidates, repairs, options, and one question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import inf
from time import monotonic

from hasten import methods
from hasten.core.errors import TrialError
from hasten.core.recipe import Recipe, Step
from hasten.core.record import Trial
from hasten.search.advise import Advice
from hasten.search.candidate import Candidate
from hasten.search.choose import cost, leader, within_budget
from hasten.search.layers import fell_back, saved
from hasten.search.learn import Learning
from hasten.search.repair import choose_forms, forms_of, mixed, without
from hasten.search.smaller import Family, Shrinker
from hasten.search.trial import Lab

_REPAIR_SHARE = 0.5
"""Part of the time left that finding the layers to blame may take."""

_REPAIRS = 3
"""How often one recipe is repaired: the error allowed is a guess from the drop, the next one is better."""

_WORTH = 0.01
"""Part of the layers' times that layers which became slower must make up to be worth a trial of their own."""

_RANGES = ("minmax", "outputs", "mse")
"""Ways of setting ranges worth a trial each, where one loses too much; of the others a recipe may ask."""

_MARGIN = 0.5
"""A repair aims at this part of the error the budget allows: error and drop are not proportional."""


@dataclass(frozen=True, kw_only=True)
class Proposer:
    """Proposes candidates one by one and looks at ``done``, the trials so far, before each.

    threads: how many threads the user fixed, or None when they are free to vary.
    shapes: the shapes that inputs with dynamic dimensions have in the data, to learn what fixing them would
    gain; empty when there are none. samples: of the calibration role; labelled: whether it has labels.
    deadline: in the time of ``time.monotonic``. structures: ways to make it smaller, as they are tried.
    """

    lab: Lab
    advice: Advice
    baseline: Trial
    threads: int | None
    shapes: Mapping[str, tuple[int, ...]]
    samples: int
    deadline: float
    labelled: bool
    structures: Sequence[Family]

    def propose(self, done: Sequence[Trial]) -> Iterator[Candidate]:
        """Yield what to try next; the caller tries it and appends the trial to ``done``."""
        early, late = self.advice.candidates[: self.advice.early], self.advice.candidates[self.advice.early :]
        yield from self._promising(early, done)
        # What is fast and lost too much promises more, once repaired, than what was not promising at first.
        yield from self._repairs(done, 0)
        repaired = len(done)
        yield from self._by_target(late, done)
        yield from self._repairs(done, repaired)
        yield from self._trained(done)
        yield from self._thread_counts(done)
        yield from self._mixed(done)
        if self.structures:
            yield from Shrinker(
                lab=self.lab,
                families=self.structures,
                baseline=self.baseline,
                samples=self.samples,
                labelled=self.labelled,
                deadline=self.deadline,
            ).propose(done)
        yield from self._runtime_options(done)
        yield from self._fixed_shapes(done)

    def _promising(self, early: Sequence[Candidate], done: Sequence[Trial]) -> Iterator[Candidate]:
        """Exact rewrites, then what promises most on each target."""
        exact = [c for c in early if len(c.recipe.steps) == 1]
        yield from exact
        yield from self._by_target([c for c in early if c not in exact], done)

    def _by_target(self, wave: Sequence[Candidate], done: Sequence[Trial]) -> list[Candidate]:
        """Those on the target that the exact rewrites turned out fastest on first.

        Where one runtime takes three times as long as the other, its other versions are not where time is
        best spent.
        """
        costs: dict[str, float] = {}
        for trial in done:
            if len(trial.recipe.steps) == 1:
                costs.setdefault(trial.target, self._cost(trial))
        return sorted(wave, key=lambda c: costs.get(c.target, inf))

    def _repairs(self, done: Sequence[Trial], since: int) -> Iterator[Candidate]:
        """Each recipe that lost too much, fastest first: other ranges and scales, then other forms of layers.

        since: the number of trials before those that may be repaired; repairs are not repaired anew.
        """
        broken: dict[str, list[Trial]] = {}
        for trial in sorted((t for t in done[since:] if _broken(t)), key=self._cost):
            broken.setdefault(trial.recipe.fingerprint, []).append(trial)
        for trials in broken.values():
            best = leader(done, self.baseline, self.lab.budget)
            pays = [t for t in trials if best is None or self._cost(t) < self._cost(best)]
            if not pays:
                continue
            first = pays[0]
            others = (*_other_ranges(first.recipe), *self._equalized(first.recipe))
            family = [Candidate(recipe, first.target, first.options) for recipe in others]
            yield from family
            ids = {first.id, *(candidate.id for candidate in family)}
            tried = [t for t in done if t.id in ids and t.quality is not None]
            if any(within_budget(t) for t in tried):
                continue
            yield from self._without_culprits(min(tried, key=_drop), pays, done)

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

    def _without_culprits(
        self, worst: Trial, places: Sequence[Trial], done: Sequence[Trial]
    ) -> Iterator[Candidate]:
        """The trial's recipe without the layers to blame, where it pays; again while it loses too much."""
        current: Trial | None = worst
        for _ in range(_REPAIRS):
            repaired = self._repair(current) if current is not None else None
            if repaired is None:
                return
            for place in places:
                yield Candidate(repaired, place.target, place.options)
            made = [t for t in done if t.recipe.fingerprint == repaired.fingerprint and t.quality is not None]
            best = leader(done, self.baseline, self.lab.budget)
            pays = [t for t in made if best is None or self._cost(t) < self._cost(best)]
            if any(within_budget(t) for t in made):
                return
            current = min(pays, key=_drop, default=None)

    def _trained(self, done: Sequence[Trial]) -> Iterator[Candidate]:
        """The best quantized version that lost too much, mended: block by block, otherwise as a whole."""
        best = leader(done, self.baseline, self.lab.budget)
        lost = [
            t
            for t in sorted((t for t in done if _broken(t)), key=self._cost)
            if t.recipe.steps[-1].method == "quantize_static"
            and (best is None or self._cost(t) < self._cost(best))
        ]
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

    def _cost(self, trial: Trial) -> float:
        return cost(trial, self.lab.budget)

    def _repair(self, trial: Trial) -> Recipe | None:
        """The trial's recipe with layers to blame at more bits, or left out of its last step; or None."""
        left_s = self.deadline - monotonic()
        if trial.quality is None or left_s <= 0 or not _can_exclude(trial.recipe):
            return None
        before, step = Recipe(trial.recipe.steps[:-1]), trial.recipe.steps[-1]
        fraction = _MARGIN * min(1.0, trial.quality.allowed / max(trial.quality.drop, 1e-12))
        forms = forms_of(step)
        try:
            saves = {form: saved(self.lab, _candidate(trial), other) for form, other in forms.items()}
            limit_s = _REPAIR_SHARE * left_s
            choice = choose_forms(self.lab.workshop, before, forms, saves, fraction, limit_s)
        except TrialError:
            return None
        return Recipe((*before.steps, mixed(forms, choice))) if choice is not None else None

    def _mixed(self, done: Sequence[Trial]) -> Iterator[Candidate]:
        """The best so far without the layers that its last step made slower, or the runtime does not run so.

        A layer that is computed in floats all the same has paid for rounding and gained nothing.
        """
        best = leader(done, self.baseline, self.lab.budget)
        if best is None or self.lab.budget.objective == "size" or not _can_exclude(best.recipe):
            return
        try:
            gains = saved(self.lab, _candidate(best), best.recipe.steps[-1])
            fallen = fell_back(self.lab, _candidate(best))
        except TrialError:
            return
        changed = {site.name for site in best.sites}
        slower = {name for name, us in gains.items() if us < 0 and name in changed}
        fallen = fallen & changed
        if fallen or -sum(gains[name] for name in slower) > _WORTH * sum(map(abs, gains.values())):
            *first, last = best.recipe.steps
            yield replace(_candidate(best), recipe=Recipe((*first, without(last, slower | fallen))))

    def _thread_counts(self, done: Sequence[Trial]) -> Iterator[Candidate]:
        """Fewer threads for the best so far, halved as long as it helps: small models pay for each thread.

        For throughput, requests of fewer threads run side by side; OpenVINO's own mode for it arranges that.
        """
        if self.threads is not None or self.lab.budget.objective == "size":
            return
        count = self.lab.conditions.threads
        while count > 1:
            best = self._best(done)
            if best.options.get("threads") != count or best.options.get("mode") == "throughput":
                return
            count //= 2
            yield _candidate(best).with_options(threads=count)

    def _runtime_options(self, done: Sequence[Trial]) -> Iterator[Candidate]:
        """The best so far with options of its runtime that pay for some graphs only."""
        objective, threads = self.lab.budget.objective, self.lab.conditions.threads
        best = self._best(done)
        if objective == "size" or threads == 1:
            return
        if best.target == "onnxruntime":
            yield _candidate(best).with_options(graph_level="extended")
            yield _candidate(best).with_options(execution="parallel")
        elif best.target == "openvino" and objective == "throughput":
            yield _candidate(best).with_options(streams=threads)

    def _fixed_shapes(self, done: Sequence[Trial]) -> Iterator[Candidate]:
        """The best so far with its dynamic dimensions fixed: what would that gain?"""
        best = self._best(done)
        if self.shapes:
            yield Candidate(best.recipe, best.target, best.options, self.shapes)

    def _best(self, done: Sequence[Trial]) -> Trial:
        return leader(done, self.baseline, self.lab.budget) or self.baseline


def _drop(trial: Trial) -> float:
    return trial.quality.drop if trial.quality is not None else 0.0


def _broken(trial: Trial) -> bool:
    """Whether what its recipe did lost too much."""
    return trial.status == "rejected" and bool(trial.recipe.steps)


def _candidate(trial: Trial) -> Candidate:
    return Candidate(trial.recipe, trial.target, trial.options)


def _other_ranges(recipe: Recipe) -> list[Recipe]:
    """The recipe with each other way its last step has of setting ranges; calibrated once, so quick."""
    step = recipe.steps[-1]
    if not any(f.name == "range" for f in fields(methods.find(step.method).Params)):
        return []
    current = methods.parameters(step).range
    others = [Step(step.method, {**step.params, "range": name}) for name in _RANGES if name != current]
    return [Recipe((*recipe.steps[:-1], other)) for other in others]


def _can_exclude(recipe: Recipe) -> bool:
    """Whether its last step can leave layers out; the original with other options has none."""
    last = recipe.steps[-1:]
    return any(f.name == "exclude" for step in last for f in fields(methods.find(step.method).Params))
