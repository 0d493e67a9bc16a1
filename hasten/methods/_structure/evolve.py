"""The choices of least harm that cost no more than they may: greedy ones, then better ones bred from them.

Harms and costs of decisions hang together (a branch that goes takes its widths along, two widths share a
layer), so that neither an exact knapsack nor the greedy way alone finds the best. After Deb et al. 2002, "A
Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", parents and children compete for the places of
the next generation; here what costs too much is repaired, so that harm alone ranks them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hasten.methods._structure.decisions import KINDS, Choice, Decision, Kind, harm
from hasten.methods._structure.prices import Prices

_APART = 0.1
"""Part of the decisions in which choices differ that are worth building side by side."""
_MUTATED = 2.0
"""Decisions that a child changes on average, besides what it has of its other parent."""


class Evolution:
    """Searches choices. target: what one may cost."""

    def __init__(self, decisions: Sequence[Decision], prices: Prices, target: float, seed: int) -> None:
        self._decisions = decisions
        self._prices = prices
        self._target = target
        self._rng = np.random.default_rng(seed)
        self._none: Choice = (0,) * len(decisions)

    def best(self, count: int, population: int, generations: int) -> list[Choice]:
        """So many choices at most, each unlike those before it; none where none will do.

        The first is the least harmful, the second the best greedy one of a single kind, which keeps its place
        however much better sums of harms say that others are; then the next least harmful ones. population:
        choices that live on, and children they have in each of the generations.
        """
        alive, alone = self._greedy()
        for _ in range(generations if alive else 0):
            children = [self._child(alive) for _ in range(population)]
            made = (self._fitting(child, range(len(child))) for child in children)
            alive = self._ranked([*alive, *(child for child in made if child is not None)])
            alive = alive[:population]
        return self._unlike([*alive[:1], *alone[:1], *alive[1:]], count)

    def alone(self, kind: Kind) -> Choice | None:
        """The greedy choice among the decisions of one kind; None where they do not suffice."""
        return self._fitting(self._none, [i for i, d in enumerate(self._decisions) if d.kind == kind])

    def _greedy(self) -> tuple[list[Choice], list[Choice]]:
        """The greedy choices among all decisions and those of each kind alone; and of these the latter."""
        together = self._fitting(self._none, range(len(self._decisions)))
        found = (self.alone(kind) for kind in KINDS)
        alone = self._ranked([choice for choice in found if choice is not None])
        return self._ranked([*([] if together is None else [together]), *alone]), alone

    def _ranked(self, choices: Sequence[Choice]) -> list[Choice]:
        return sorted(dict.fromkeys(choices), key=lambda choice: (harm(self._decisions, choice), choice))

    def _unlike(self, ranked: Sequence[Choice], count: int) -> list[Choice]:
        chosen: list[Choice] = []
        for choice in ranked:
            if len(chosen) == count:
                break
            moved = [sum(map(int.__ne__, choice, other)) for other in chosen]
            if all(number > _APART * len(choice) for number in moved):
                chosen.append(choice)
        return chosen

    def _child(self, alive: Sequence[Choice]) -> Choice:
        """Of two parents, each decision from one of them, and a few of its own; the better breed more."""
        places = self._rng.integers(0, len(alive), (2, 2)).min(axis=1)
        mother, father = (np.array(alive[place]) for place in places)
        child = np.where(self._rng.random(len(mother)) < 0.5, mother, father)
        for number in np.flatnonzero(self._rng.random(len(child)) < _MUTATED / len(child)).tolist():
            child[number] = self._rng.integers(0, len(self._decisions[number].values))
        return tuple(int(option) for option in child)

    def _fitting(self, choice: Choice, numbers: Sequence[int]) -> Choice | None:
        """The choice with more taken away until it costs no more than it may; what need not go comes back.

        numbers: of the decisions that may take more. None where they do not suffice.
        """
        cost = self._prices.of(choice)
        while cost > self._target:
            moves = [move for number in numbers for move in self._further(choice, number)]
            if not moves:
                return None
            _, saved, choice = min(moves, key=lambda move: (move[0] / move[1], move[2]))
            cost -= saved
        return self._given_back(choice)

    def _further(self, choice: Choice, number: int) -> list[tuple[float, float, Choice]]:
        """What taking more of one decision harms and saves, and the choice, for every option that saves."""
        decision, now = self._decisions[number], choice[number]
        layers = self._prices.touched[number]
        before = self._prices.of(choice, layers)
        found = []
        for option in range(now + 1, len(decision.values)):
            moved = (*choice[:number], option, *choice[number + 1 :])
            saved = before - self._prices.of(moved, layers)
            if saved > 0:
                found.append((decision.harms[option] - decision.harms[now], saved, moved))
        return found

    def _given_back(self, choice: Choice) -> Choice:
        """With every option undone that the target does not need, that which harms most first."""
        cost = self._prices.of(choice)
        order = sorted(range(len(choice)), key=lambda i: -self._decisions[i].harms[choice[i]])
        for number in order:
            layers = self._prices.touched[number]
            before = self._prices.of(choice, layers)
            for option in range(choice[number]):
                moved = (*choice[:number], option, *choice[number + 1 :])
                after = cost - before + self._prices.of(moved, layers)
                if after <= self._target:
                    choice, cost = moved, after
                    break
        return choice
