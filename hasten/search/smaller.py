"""Smaller structures of the best version so far: narrower layers, fewer, separable, thinner, or all searched.

Each family makes the model smaller by a share, before it is rounded. First all of them as they are made, each
on top of the others; then once more from where the best stands, where what loses too much learns from the
original, if samples and time allow. Where a share holds, more is taken, otherwise less.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from time import monotonic
from typing import Literal, TypeAlias

from hasten.core.errors import TrialError
from hasten.core.recipe import Json, Recipe, Step
from hasten.core.record import Quality, Trial
from hasten.search.candidate import CLEAN, Candidate
from hasten.search.choose import cost, costlier, leader, within_budget
from hasten.search.facts import GraphFacts
from hasten.search.layers import shared_us
from hasten.search.learn import Learning
from hasten.search.shares import FIRST, MOST, RISKY, Shares, Size
from hasten.search.trial import Lab

_LADDER = 4
"""Shares that are tried of one family."""
_FASTER = 0.92
"""What is searched is to take so much of the time of what was made smaller before."""
_AS_MADE = 0.5
"""Part of the time in which all families are tried as they are made, where learning is to have the rest."""
_HOPELESS = 10.0
"""Times the drop that is allowed beyond which less is taken at once, and not first taught."""
_ATTENDING = 0.5
"""Share of the multiply-accumulates in products beyond which a model is taken for a transformer."""
_LEAN = 0.2
"""Share of the convolutions that work in groups beyond which a net was made to have no channel to spare."""
_SEARCHED = "search_structure"
"""Decides about all that the other families take away, and so takes their place."""
_LEARNING = frozenset({"reconstruct", "distill", "finetune"})
"""What teaches a smaller model, directly behind the last of what made it smaller."""

Family: TypeAlias = Literal["narrower", "shallower", "separable", "thinner", "searched"]
_SHRINKING: Mapping[Family, frozenset[str]] = {
    "narrower": frozenset({"prune_channels", "prune_heads"}),
    "shallower": frozenset({"prune_layers"}),
    "separable": frozenset({"restructure"}),
    "thinner": frozenset({"factorize"}),
    "searched": frozenset({_SEARCHED}),
}
"""The methods of each."""
_ALL = frozenset().union(*_SHRINKING.values())


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
class _Made:
    """A share that is left, and what became of it; without a trial where another share came to the same."""

    share: float
    size: Size
    trial: Trial | None
    quality: Quality


@dataclass(frozen=True)
class _Round:
    """The trials so far, what is known of each family, and until when something may be made."""

    done: Sequence[Trial]
    known: Mapping[Family, Shares]
    until: float


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
        known = {family: Shares() for family in self.families}
        learning, now = Learning(self.lab.workshop, self.samples), monotonic()
        until = now + (self.deadline - now) * _AS_MADE if learning.possible else self.deadline
        for family in self.families:
            yield from self._coarsely(family, _Round(done, known, until))
        for family in self.families:
            yield from self._closely(family, _Round(done, known, self.deadline), learning)

    def _coarsely(self, family: Family, now: _Round) -> Iterator[Candidate]:
        """One share after the other, as it is made, until one held and a lesser one did not."""
        shares = now.known[family]
        share: float | None = self._first(family, now.done)
        for _ in range(_LADDER):
            made = yield from self._made(family, share, self._roomy(now.done), now)
            if made is None:
                break
            shares.take(made.share, made.size, made.quality)
            share = None if shares.bounded else shares.next()
        yield from self._made(family, shares.milder(), self._roomy(now.done), now)

    def _closely(self, family: Family, now: _Round, learning: Learning) -> Iterator[Candidate]:
        """From where the best stands: what failed is mended; then more is taken, or less, as it came out."""
        shares, best = now.known[family], self._best(now.done)
        if best.quality is not None:
            shares.stand(best.recipe, best.quality)
        share: float | None = self._first(family, now.done)
        if shares.held.share < 1.0:
            share = shares.failed.share if learning.possible and shares.failed else shares.next()
        elif not learning.possible:
            return  # no share of it held, and none will
        for _ in range(_LADDER):
            made = yield from self._made(family, share, self._best(now.done), now)
            if made is None:
                return
            quality = yield from self._mended(made, now.done, learning)
            shares.take(made.share, made.size, quality)
            share = shares.next()

    def _made(
        self, family: Family, share: float | None, place: Trial, now: _Round
    ) -> Generator[Candidate, None, _Made | None]:
        """What became of a share of the model at a place; None ends the family there.

        That is where nothing more is to be found, where it could not be measured any more, and where what is
        smaller is not faster: less of it would be no faster either.
        """
        shares, began = now.known[family], monotonic()
        took_s = shares.took_s
        if family == "searched" and not took_s:  # it measures what each of the others does
            took_s = sum(other.took_s for other in now.known.values())
        if share is None or share > MOST or began + took_s > now.until:
            return None
        head, tail = _parted(place.recipe, _ALL if family == "searched" else _SHRINKING[family])
        steps = self._steps(family, share, place, head)
        shares.made(share, steps, monotonic() - began)
        size = self._size(Recipe((*head, *steps))) if steps else None
        if size is None:
            return None
        before = shares.known(size)
        if before is not None:
            return _Made(share, size, None, before)
        candidate = Candidate(Recipe((*head, *steps, *tail)), place.target, place.options)
        trial = _found(now.done, candidate)
        if trial is None:
            yield candidate
            trial = _found(now.done, candidate)
        if trial is None or trial.quality is None:
            return None
        in_vain = place is not self.baseline and costlier(trial, place, self.lab.budget)
        return None if in_vain else _Made(share, size, trial, trial.quality)

    def _mended(
        self, made: _Made, done: Sequence[Trial], learning: Learning
    ) -> Generator[Candidate, None, Quality]:
        """What is left of the quality once it has learned by blocks, from the answers, or from labels."""
        quality = made.quality
        hopeless = quality.drop > _HOPELESS * quality.allowed
        if made.trial is None or within_budget(made.trial) or hopeless:
            return quality
        for recipe in self._taught(made.trial.recipe, learning):
            taught = Candidate(recipe, made.trial.target, made.trial.options)
            yield taught
            found = _found(done, taught)
            if found is None or found.quality is None:
                continue
            quality = min(quality, found.quality, key=lambda q: q.drop)
            if within_budget(found):
                break
        return quality

    def _best(self, done: Sequence[Trial]) -> Trial:
        return leader(done, self.baseline, self.lab.budget) or self.baseline

    def _roomy(self, done: Sequence[Trial]) -> Trial:
        """The best that has quality left to lose, on which the next family has something to take."""
        roomy = [t for t in done if t.quality is not None and t.quality.drop <= RISKY * t.quality.allowed]
        return leader(roomy, self.baseline, self.lab.budget) or self._best(done)

    def _first(self, family: Family, done: Sequence[Trial]) -> float:
        """The share to begin with; what is searched has to be faster than what was made smaller before."""
        best = leader(done, self.baseline, self.lab.budget)
        if family != "searched" or best is None:
            return FIRST
        recipe = _whole(best.recipe)
        same = (
            t for t in done if t.recipe == recipe and (t.target, t.options) == (best.target, best.options)
        )
        whole = next((self._cost(t) for t in same if t.quality is not None), None)
        smaller = 1.0 if whole is None else self._cost(best) / whole
        return FIRST if smaller >= 1.0 else _FASTER * smaller

    def _steps(self, family: Family, share: float, place: Trial, head: tuple[Step, ...]) -> tuple[Step, ...]:
        """The family's steps that change what ``head`` makes; ``place``: where and how it will run."""
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
            if self._changes(Recipe((*head, *changing, step))):
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

    def _size(self, recipe: Recipe) -> Size | None:
        """Of the structure that a recipe makes; None where it cannot be made."""
        try:
            found = self.lab.workshop.cost(self.lab.workshop.apply(recipe))
        except TrialError:
            return None
        return found.macs, found.parameters

    def _changes(self, recipe: Recipe) -> bool:
        try:
            return self.lab.workshop.apply(recipe).last_effective
        except TrialError:
            return False

    def _taught(self, recipe: Recipe, learning: Learning) -> Iterator[Recipe]:
        """The recipe in which the smaller model learns: by blocks, from the answers, then from labels."""
        at = 1 + max(i for i, step in enumerate(recipe.steps) if step.method in _ALL)
        labels = (learning.finetune,) if self.labelled else ()
        for learn in (learning.reconstruct, learning.distill, *labels):
            step = learn(self.deadline - monotonic())
            if step is not None:
                yield Recipe((*recipe.steps[:at], step, *recipe.steps[at:]))

    def _cost(self, trial: Trial) -> float:
        return cost(trial, self.lab.budget)


def _parted(recipe: Recipe, gone: Set[str]) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """The exact steps and what makes the model smaller but for these methods; and what comes behind.

    What it had learned since it was made smaller falls away; what a quantized one learned stays.
    """
    before = (CLEAN.method, *(step.method for step in recipe.steps))
    behind = tuple(
        step
        for step, last in zip(recipe.steps, before, strict=False)
        if step.method not in {CLEAN.method, *_ALL} and not _mends(step, last)
    )
    return (CLEAN, *(s for s in recipe.steps if s.method in _ALL and s.method not in gone)), behind


def _whole(recipe: Recipe) -> Recipe:
    """The recipe without what makes the model smaller, and what mends that."""
    head, behind = _parted(recipe, _ALL)
    return Recipe((*head, *behind))


def _mends(step: Step, last: str) -> bool:
    """Whether a step teaches what the last one made smaller."""
    return step.method in _LEARNING and last in _ALL


def _found(done: Sequence[Trial], candidate: Candidate) -> Trial | None:
    return next((trial for trial in reversed(done) if trial.id == candidate.id), None)
