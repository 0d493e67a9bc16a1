"""What to try next, given what has been tried: the advised candidates, repairs, options, and one question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf

from hasten.core.errors import TrialError
from hasten.core.recipe import Recipe
from hasten.core.record import Trial
from hasten.search.advise import Advice
from hasten.search.aligned import Alignment
from hasten.search.candidate import CLEAN, Candidate
from hasten.search.choose import cost, exact_costs, leader, within_budget
from hasten.search.families import Family
from hasten.search.forms import can_exclude, without
from hasten.search.layers import fell_back, saved
from hasten.search.repair import Repairer
from hasten.search.smaller import Shrinker
from hasten.search.trial import Lab

_WORTH = 0.01
"""Part of the layers' times that layers which became slower must make up to be worth a trial of their own."""


_FAR = 1.5
"""Times the cost of the best beyond which a target's further versions are not where time is best spent."""


@dataclass(frozen=True, kw_only=True)
class Proposer:
    """Proposes candidates one by one and looks at ``done``, the trials so far, before each.

    threads: how many threads the user fixed, or None when they are free to vary.
    shapes: the shapes that inputs with dynamic dimensions have in the data, to learn what fixing them would
    gain; empty when there are none. samples: of the calibration role; labelled: whether it has labels to
    learn from. deadline: in the time of ``time.monotonic``. structures: ways to make it smaller, as they are
    tried. alignment: of the widths that they leave.
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
    alignment: Alignment = field(default_factory=Alignment)

    def propose(self, done: Sequence[Trial]) -> Iterator[Candidate]:
        """Yield what to try next; the caller tries it and appends the trial to ``done``."""
        repairer = Repairer(
            lab=self.lab, baseline=self.baseline, samples=self.samples, deadline=self.deadline
        )
        early, late = self.advice.candidates[: self.advice.early], self.advice.candidates[self.advice.early :]
        yield from self._promising(early, done)
        # What is fast and lost too much promises more, once repaired, than what was not promising at first.
        yield from repairer.propose(done, 0)
        repaired = len(done)
        unlikely: list[Candidate] = []
        for candidate in self._by_target(late, done):
            if self._is_unlikely(candidate, done):
                unlikely.append(candidate)
            else:
                yield candidate
        yield from repairer.propose(done, repaired)
        yield from repairer.taught(done)
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
                alignment=self.alignment,
            ).propose(done)
        yield from self._runtime_options(done)
        yield from self._fixed_shapes(done)
        yield from unlikely

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

    def _is_unlikely(self, candidate: Candidate, done: Sequence[Trial]) -> bool:
        """Whether what was tried speaks against it: all there was far slower, or its precision is of no use.

        Such candidates come last: by then the time may have gone into better ones.
        """
        there = [self._cost(t) for t in done if t.target == candidate.target]
        best = min((self._cost(t) for t in done if within_budget(t)), default=inf)
        is_far = bool(there) and min(there) > _FAR * best
        return is_far or self._is_narrow_in_vain(candidate, done)

    def _is_narrow_in_vain(self, candidate: Candidate, done: Sequence[Trial]) -> bool:
        """Whether the precision that it runs in lost too much, or cost more, where nothing else changed."""
        precision = candidate.options.get("precision")
        costs = exact_costs(done, candidate.target, self.lab.budget)
        if precision is None or None not in costs:
            return False
        if len(candidate.recipe.steps) == 1:
            # Either of 16 bits is slow where the CPU has to convert, so one tells of the other.
            return any(cost > costs[None] for cost in costs.values())
        alone = next((t for t in done if _candidate(t) == replace(candidate, recipe=Recipe((CLEAN,)))), None)
        if alone is not None and alone.quality is not None and not within_budget(alone):
            return True
        # What integers leave may wait for memory where the whole does not: the whole says less of its speed.
        return costs.get(precision, 0.0) > _FAR * costs[None]

    def _cost(self, trial: Trial) -> float:
        return cost(trial, self.lab.budget)

    def _mixed(self, done: Sequence[Trial]) -> Iterator[Candidate]:
        """The best so far without the layers that its last step made slower, or the runtime does not run so.

        A layer that is computed in floats all the same has paid for rounding and gained nothing.
        """
        best = leader(done, self.baseline, self.lab.budget)
        if best is None or self.lab.budget.objective == "size" or not can_exclude(best.recipe):
            return
        *first, last = best.recipe.steps
        try:
            gains = saved(self.lab, replace(_candidate(best), recipe=Recipe((*first,))), last)
            fallen = fell_back(self.lab, _candidate(best))
        except TrialError:
            return
        changed = {site.name for site in best.sites}
        slower = {name for name, us in gains.items() if us < 0 and name in changed}
        fallen = fallen & changed
        if fallen or -sum(gains[name] for name in slower) > _WORTH * sum(map(abs, gains.values())):
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


def _candidate(trial: Trial) -> Candidate:
    return Candidate(trial.recipe, trial.target, trial.options)
