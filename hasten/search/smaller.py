"""Smaller structures of the best version so far: narrower layers, fewer, separable, thinner, or all searched.

Each family makes the model smaller by a share, before it is rounded. First all of them as they are made, each
on top of the others; then once more from where the best stands, where what loses too much learns from the
original, if samples and time allow. Where a share holds, more is taken, otherwise less.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic

from hasten.core.recipe import Recipe, Step
from hasten.core.record import Quality, Trial
from hasten.search.aligned import Alignment
from hasten.search.candidate import Candidate
from hasten.search.choose import cost, costlier, leader, within_budget
from hasten.search.families import Family, smaller, taught, whole
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


@dataclass(frozen=True)
class _Made:
    """A share that is left, and what became of it; without a trial where another share came to the same."""

    share: float
    size: Size
    trial: Trial | None
    quality: Quality


@dataclass(frozen=True)
class _Round:
    """The trials so far, what is known of each family, and until when something may be made.

    spoils: the methods of learning that made a smaller model worse; they would the next one, too.
    """

    done: Sequence[Trial]
    known: Mapping[Family, Shares]
    until: float
    spoils: set[str] = field(default_factory=set)


@dataclass(frozen=True, kw_only=True)
class Shrinker:
    """Proposes smaller structures. families: as they are tried; the other fields as of ``Proposer``."""

    lab: Lab
    families: Sequence[Family]
    baseline: Trial
    samples: int
    labelled: bool
    deadline: float
    alignment: Alignment

    def propose(self, done: Sequence[Trial]) -> Iterator[Candidate]:
        """Yield what to try next; the caller tries it and appends the trial to ``done``."""
        if not self.samples:
            return
        known = {family: Shares() for family in self.families}
        learning, now = Learning(self.lab.workshop, self.samples), monotonic()
        until = now + (self.deadline - now) * _AS_MADE if learning.possible else self.deadline
        first, second = _Round(done, known, until), _Round(done, known, self.deadline)
        for family in self.families:
            yield from self._coarsely(family, first)
        for family in self.families:
            yield from self._closely(family, second, learning)

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
            quality = yield from self._mended(made, now, learning)
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
        made = smaller(self.lab, family, share, place, now.until - began, self.alignment)
        shares.made(share, made.steps if made else (), monotonic() - began)
        if made is None:
            return None
        before = shares.outcome(made.size)
        if before is not None:
            return _Made(share, made.size, None, before)
        candidate = Candidate(made.recipe, place.target, place.options)
        trial = _found(now.done, candidate)
        if trial is None:
            yield candidate
            trial = _found(now.done, candidate)
        if trial is None or trial.quality is None:
            return None
        in_vain = place is not self.baseline and costlier(trial, place, self.lab.budget)
        return None if in_vain else _Made(share, made.size, trial, trial.quality)

    def _mended(self, made: _Made, now: _Round, learning: Learning) -> Generator[Candidate, None, Quality]:
        """What is left of the quality once it has learned by blocks, from the answers, or from labels."""
        quality = made.quality
        hopeless = quality.drop > _HOPELESS * quality.allowed
        if made.trial is None or within_budget(made.trial) or hopeless:
            return quality
        for step, recipe in self._taught(made.trial.recipe, learning):
            if step.method in now.spoils:
                continue
            candidate = Candidate(recipe, made.trial.target, made.trial.options)
            yield candidate
            found = _found(now.done, candidate)
            if found is None or found.quality is None:
                continue
            if found.quality.drop > made.quality.drop:
                now.spoils.add(step.method)
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
        recipe = whole(best.recipe)
        same = (
            t for t in done if t.recipe == recipe and (t.target, t.options) == (best.target, best.options)
        )
        before = next((self._cost(t) for t in same if t.quality is not None), None)
        part = 1.0 if before is None else self._cost(best) / before
        return FIRST if part >= 1.0 else _FASTER * part

    def _taught(self, recipe: Recipe, learning: Learning) -> Iterator[tuple[Step, Recipe]]:
        """The steps by which the smaller model learns: by blocks, from the answers, then from labels."""
        labels = (learning.finetune,) if self.labelled else ()
        for learn in (learning.reconstruct, learning.distill, *labels):
            step = learn(self.deadline - monotonic())
            if step is not None:
                yield step, taught(recipe, step)

    def _cost(self, trial: Trial) -> float:
        return cost(trial, self.lab.budget)


def _found(done: Sequence[Trial], candidate: Candidate) -> Trial | None:
    return next((trial for trial in reversed(done) if trial.id == candidate.id), None)
