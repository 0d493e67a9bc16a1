"""Which form and rank does each layer take? By itself, or together with all others under one budget."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hasten.methods._factors.forms import Form
from hasten.methods._factors.layers import Unfit
from hasten.numerics.knapsack import Option, cheapest_choice

_STEPS = 6
"""Ranks of each form that a layer is offered with where all layers share a budget."""
_AS_IT_IS = "as it is"


@dataclass(frozen=True)
class Choice:
    """A form and its rank. cost: see ``Form.price``; lost: of the squares of the layer's outputs."""

    form: str
    rank: int
    cost: float
    lost: float


def choice(form: Form, rank: int) -> Choice:
    """The form at that rank."""
    return Choice(form.name, rank, form.price(rank), form.lost(rank))


def by_energy(forms: Sequence[Form], keep: float) -> Choice:
    """The cheapest that keeps at least ``keep`` of the outputs' squares; raises Unfit."""
    found, most = [], 0.0
    for form in forms:
        ranks = form.ranks
        index = bisect_left(ranks, keep, key=form.kept)
        if index < len(ranks):
            found.append(choice(form, ranks[index]))
        elif ranks:
            most = max(most, form.kept(ranks[-1]))
    if found:
        return min(found, key=lambda chosen: chosen.cost)
    _no_rank(forms)
    raise Unfit(f"at most {most:.1%} of its outputs would be kept by what is cheaper, not {keep:.1%}")


def by_ratio(forms: Sequence[Form], keep: float) -> Choice:
    """What keeps most of the outputs with at most ``keep`` of the layer's cost; raises Unfit."""
    _no_rank(forms)
    found = []
    for form in forms:
        ranks = [rank for rank in form.ranks if form.price(rank) <= keep * form.whole_price]
        found += [choice(form, ranks[-1])] if ranks else []
    if not found:
        raise Unfit(f"no rank that is a multiple of {forms[0].align} costs so little")
    return min(found, key=lambda chosen: chosen.lost)


def given(forms: Sequence[Form], rank: int) -> Choice:
    """That rank, in the first form that it makes cheaper; raises Unfit."""
    for form in forms:
        if rank <= form.largest and form.cost(rank).saves(form.whole):
            return choice(form, rank)
    raise Unfit(f"at rank {rank} it would not be cheaper than it is")


def offers(forms: Sequence[Form]) -> list[Choice]:
    """A handful of ranks in every form, those left out that cost more and lose more; raises Unfit."""
    _no_rank(forms)
    found = []
    for form in forms:
        ranks = form.ranks
        steps = sorted(
            {(i * len(ranks)) // _STEPS for i in range(_STEPS)} | {len(ranks) - 1} if ranks else ()
        )
        found += [choice(form, ranks[step]) for step in steps]
    best: list[Choice] = []
    for offer in sorted(found, key=lambda offered: (offered.cost, offered.lost)):
        if not best or offer.lost < best[-1].lost:
            best.append(offer)
    return best


class Shared:
    """Layers that share a budget: of each its offers, its cost as it is, and what its losses weigh."""

    def __init__(self) -> None:
        self.offered: dict[str, Sequence[Choice]] = {}
        self._whole: dict[str, float] = {}
        self._harm: dict[str, float] = {}

    def add(self, name: str, whole: float, offered: Sequence[Choice], harm: float) -> None:
        """A layer of this cost. harm: what a loss of all of its outputs would do."""
        self.offered[name] = offered
        self._whole[name] = whole
        self._harm[name] = harm

    def choose(self, save: float) -> dict[str, Choice]:
        """Of each layer one offer, or none, that save so much together and do the least harm.

        Where no choice saves so many, that which saves most.
        """
        items: dict[str, dict[str, Option]] = {}
        for name, choices in self.offered.items():
            harm = self._harm[name]
            items[name] = {_AS_IT_IS: Option(self._whole[name], 0.0)}
            items[name] |= {str(i): Option(each.cost, harm * each.lost) for i, each in enumerate(choices)}
        chosen = cheapest_choice(items, sum(self._whole.values()) - save)
        return {name: self.offered[name][int(kind)] for name, kind in chosen.items() if kind != _AS_IT_IS}

    def saved(self, chosen: Mapping[str, Choice]) -> float:
        """What a choice saves."""
        return sum(self._whole[name] - choice.cost for name, choice in chosen.items())


def _no_rank(forms: Sequence[Form]) -> None:
    """Raise Unfit where no rank makes the layer cheaper."""
    if not any(form.ranks for form in forms):
        rows = " by ".join(map(str, forms[0].target.weight.shape))
        align = forms[0].align
        multiple = f" that is a multiple of {align}" if align > 1 else ""
        raise Unfit(f"no rank{multiple} would make its {rows} weights cheaper by enough")
