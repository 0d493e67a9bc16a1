"""Smaller structures of the best version so far: narrower layers, fewer, separable, thinner, or all searched.

Each family makes the model smaller by a share, before whatever else the best recipe does. Where that loses
too much, the smaller model learns from the original, if samples and time allow; where that holds, more is
taken, otherwise less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from time import monotonic
from typing import Literal, TypeAlias

from hasten.core.errors import TrialError
from hasten.core.recipe import Json, Recipe, Step
from hasten.core.record import Trial
from hasten.search.candidate import CLEAN, Candidate
from hasten.search.choose import cost, costlier, leader, within_budget
from hasten.search.facts import GraphFacts
from hasten.search.layers import shared_us
from hasten.search.learn import Learning
from hasten.search.trial import Lab

_FIRST = 0.75
"""Share of the multiply-accumulates, heads or branches that is left at first."""
_LADDER = 4
"""Shares that are tried of one family."""
_FASTER = 0.92
"""What is searched is to take so much of the time of what was made smaller before."""
_MOST = 0.95
"""A share beyond saves less than timing can tell."""
_APART = 0.03
"""Shares of what held and what did not between which there is nothing more to find."""
_HOPELESS = 10.0
"""Times the drop that is allowed beyond which less is taken at once, and not first taught."""
_RISKY = 0.5
"""Part of what may be lost beyond which what held here may not hold on the holdout."""
_STEP = (0.2, 0.8)
"""Of the way from what held to what did not, a next share is within these."""
_ATTENDING = 0.5
"""Share of the multiply-accumulates in products beyond which a model is taken for a transformer."""
_LEAN = 0.2
"""Share of the convolutions that work in groups beyond which a net was made to have no channel to spare."""
_SEARCHED = "search_structure"
"""Decides about all that the other families take away, and so takes their place."""
_SHRINKING = frozenset(
    {"prune_channels", "prune_heads", "prune_layers", "restructure", "factorize", _SEARCHED}
)
_LEARNING = frozenset({"reconstruct", "distill", "finetune"})
"""What teaches a smaller model, directly behind the last of what made it smaller."""


Family: TypeAlias = Literal["narrower", "shallower", "separable", "thinner", "searched"]


def families(facts: GraphFacts) -> tuple[Family, ...]:
    """The ways to make such a model smaller, that which promises most first.

    A branch of a transformer takes the time of its softmax and transposes with it, and of many alike one can
    be spared. In a convolutional net each block does what no other does, and its channels are many; but
    where they are convolved in groups they are few, and separable already.
    """
    attending = facts.product_share is not None and facts.product_share > _ATTENDING
    if attending or facts.grouped > _LEAN * facts.convolutions:
        return "shallower", "narrower", "thinner", "searched"
    return "narrower", "shallower", "thinner", "searched", "separable"


@dataclass(frozen=True)
class _Tried:
    """A share that was left, what of the metric was lost by it, and what may be."""

    share: float
    drop: float
    allowed: float

    def towards(self, failed: _Tried) -> float:
        """The share between the two at which no more would be lost than may be, if that grew as a square."""
        low, high = _STEP
        part = sqrt(max(failed.allowed - self.drop, 0.0) / max(failed.drop - self.drop, 1e-12))
        return self.share + (failed.share - self.share) * min(max(part, low), high)


@dataclass
class _Between:
    """The least share that held, and the greatest that did not."""

    held: _Tried = _Tried(1.0, 0.0, 0.0)
    failed: _Tried | None = None

    def take(self, tried: _Tried, holds: bool) -> None:
        """Note what became of a share."""
        if holds:
            self.held = tried
        else:
            self.failed = tried

    def next(self) -> float | None:
        """The share to try next; None where there is nothing more to find between the two."""
        if self.failed is None:
            return self.held.share * _FIRST
        close = self.held.share - self.failed.share < _APART
        return None if close else self.held.towards(self.failed)

    def milder(self) -> float | None:
        """A share to fall back on; None where what held lost little enough to hold elsewhere, too."""
        risky = self.held.drop > _RISKY * self.held.allowed
        return (1.0 + self.held.share) / 2 if risky else None


@dataclass(frozen=True, kw_only=True)
class Shrinker:
    """Proposes smaller structures. families: as they are tried; the other fields as of ``Proposer``."""

    lab: Lab
    families: Sequence[Family]
    baseline: Trial
    samples: int
    labelled: bool
    deadline: float

    def propose(self, done: Sequence[Trial]) -> Iterator[Candidate]:
        """Yield what to try next; the caller tries it and appends the trial to ``done``."""
        if not self.samples:
            return
        took_s: dict[Family, float] = {}
        for family in self.families:
            yield from self._ladder(family, done, took_s)

    def _ladder(
        self, family: Family, done: Sequence[Trial], took_s: dict[Family, float]
    ) -> Iterator[Candidate]:
        """took_s: what making one took, of the families before."""
        between = _Between()
        yield from self._shares(family, done, took_s, between)
        share = between.milder()
        if share is not None and share <= _MOST and monotonic() + took_s[family] <= self.deadline:
            place = self._place(done)
            steps = self._steps(family, share, place)
            if steps:
                yield Candidate(_with(place.recipe, steps), place.target, place.options)

    def _place(self, done: Sequence[Trial]) -> Trial:
        return leader(done, self.baseline, self.lab.budget) or self.baseline

    def _shares(
        self, family: Family, done: Sequence[Trial], took_s: dict[Family, float], between: _Between
    ) -> Iterator[Candidate]:
        """One share after the other, as the last one came out."""
        share: float | None = self._first(family, done)
        made: set[tuple[int | None, int | None]] = set()
        for _ in range(_LADDER):
            began = monotonic()
            # What is searched measures what each of the others does.
            known = took_s.get(family, sum(took_s.values()) if family == "searched" else 0.0)
            if share is None or share > _MOST or began + known > self.deadline:
                return  # nothing more to find, or what it makes could not be measured any more
            best = leader(done, self.baseline, self.lab.budget)
            place = best or self.baseline
            steps = self._steps(family, share, place)
            took_s[family] = monotonic() - began
            if not steps:
                return
            recipe = _with(place.recipe, steps)
            candidate = Candidate(recipe, place.target, place.options)
            yield candidate
            trial = _found(done, candidate)
            if trial is None or trial.quality is None:
                return
            if best is not None and costlier(trial, best, self.lab.budget):
                return  # smaller, and not faster: less of it would be no faster either
            size = trial.macs, trial.parameters
            if None not in size and size in made:
                return  # widths are whole blocks: the next share is the last one again
            made.add(size)
            quality, holds = trial.quality, within_budget(trial)
            hopeless = quality.drop > _HOPELESS * quality.allowed
            for mended in () if holds or hopeless else self._recovered(recipe):
                taught = replace(candidate, recipe=mended)
                yield taught
                found = _found(done, taught)
                if found is None or found.quality is None:
                    continue
                quality, holds = min(quality, found.quality, key=lambda q: q.drop), within_budget(found)
                if holds:
                    break
            between.take(_Tried(share, quality.drop, quality.allowed), holds)
            share = between.next()

    def _first(self, family: Family, done: Sequence[Trial]) -> float:
        """The share to begin with; what is searched has to be faster than what was made smaller before."""
        best = leader(done, self.baseline, self.lab.budget)
        if family != "searched" or best is None:
            return _FIRST
        recipe = _whole(best.recipe)
        same = (
            t for t in done if t.recipe == recipe and (t.target, t.options) == (best.target, best.options)
        )
        whole = next((self._cost(t) for t in same if t.quality is not None), None)
        smaller = 1.0 if whole is None else self._cost(best) / whole
        return _FIRST if smaller >= 1.0 else _FASTER * smaller

    def _steps(self, family: Family, share: float, place: Trial) -> tuple[Step, ...]:
        """The family's steps that change this model; ``place``: where and how it will run."""
        steps = {
            "narrower": (
                Step("prune_channels", self._channels(round(share, 3), place)),
                Step("prune_heads", {"heads": round(share, 3)}),
            ),
            "shallower": (Step("prune_layers", {"ratio": round(1 - share, 3)}),),
            "separable": (Step("restructure", {"macs": round(share, 3), **self._times(family, place)}),),
            "thinner": (
                Step("factorize", {"rank": "macs", "keep": round(share, 3), **self._times(family, place)}),
            ),
            # It counts time or multiply-accumulates, never bytes.
            "searched": ()
            if self.lab.budget.objective == "size"
            else (Step(_SEARCHED, {"left": round(share, 3), "tries": 2, **self._times(family, place)}),),
        }[family]
        changing: tuple[Step, ...] = ()
        for step in steps:
            # Each behind those before it, as the recipe will have them: nothing is then made twice.
            if self._changes((*changing, step)):
                changing = (*changing, step)
        return changing

    def _channels(self, share: float, place: Trial) -> dict[str, Json]:
        """Of what counts here: bytes follow from parameters, time from multiply-accumulates or times."""
        if self.lab.budget.objective == "size":
            return {"parameters": share}
        return {"macs": share, **self._times("narrower", place)}

    def _times(self, family: Family, place: Trial) -> dict[str, Json]:
        """What the layers of the whole model take there; nothing where that is not known, or not the aim."""
        if family == "shallower" or self.lab.budget.objective == "size":
            return {}
        recipe = _whole(place.recipe)
        try:
            layers = self.lab.workshop.cost(self.lab.workshop.apply(recipe)).layers
            kernels = self.lab.kernels(self.lab.subject(Candidate(recipe, place.target, place.options)))
        except TrialError:
            return {}
        found = shared_us(kernels, {layer.name: layer.macs for layer in layers})
        times: dict[str, Json] = {name: float(f"{us:.3g}") for name, us in found.items()}
        return {"times": times} if times else {}

    def _changes(self, steps: Sequence[Step]) -> bool:
        try:
            return self.lab.workshop.apply(Recipe((CLEAN, *steps))).last_effective
        except TrialError:
            return False

    def _recovered(self, recipe: Recipe) -> Iterator[Recipe]:
        """The recipe in which the smaller model learns: by blocks, from the answers, then from labels."""
        learning = Learning(self.lab.workshop, self.samples)
        at = 1 + max(i for i, step in enumerate(recipe.steps) if step.method in _SHRINKING)
        labels = (learning.finetune,) if self.labelled else ()
        for learn in (learning.reconstruct, learning.distill, *labels):
            step = learn(self.deadline - monotonic())
            if step is not None:
                yield Recipe((*recipe.steps[:at], step, *recipe.steps[at:]))

    def _cost(self, trial: Trial) -> float:
        return cost(trial, self.lab.budget)


def _with(recipe: Recipe, steps: tuple[Step, ...]) -> Recipe:
    """The recipe with these steps behind the exact ones, in place of others of the same methods.

    What it had learned since it was made smaller falls away; what a quantized one learned stays.
    """
    ours = {step.method for step in steps}
    if _SEARCHED in ours:
        ours |= _SHRINKING
    before = (None, *(step.method for step in recipe.steps))
    rest = [
        step
        for step, last in zip(recipe.steps, before, strict=False)
        if step.method not in ours and not _mends(step, last)
    ]
    at = 1 if rest and rest[0].method == CLEAN.method else 0
    return Recipe((*rest[:at], *([] if at else [CLEAN]), *steps, *rest[at:]))


def _whole(recipe: Recipe) -> Recipe:
    """The recipe without what makes the model smaller, and what mends that."""
    before = (None, *(step.method for step in recipe.steps))
    return Recipe(
        tuple(
            step
            for step, last in zip(recipe.steps, before, strict=False)
            if step.method not in _SHRINKING and not _mends(step, last)
        )
    )


def _mends(step: Step, last: str | None) -> bool:
    """Whether a step teaches what the last one made smaller."""
    return step.method in _LEARNING and last in _SHRINKING


def _found(done: Sequence[Trial], candidate: Candidate) -> Trial | None:
    return next((trial for trial in reversed(done) if trial.id == candidate.id), None)
