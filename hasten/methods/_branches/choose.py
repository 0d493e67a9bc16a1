"""Which branches go? The cheapest first, measured anew with those that are gone.

Harms do not add up: the second of two branches that do the same costs more when the first is gone. So after
each removal the harm of every branch that is left is measured again, together with all removals before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from hasten.methods._branches.board import Board
from hasten.methods._branches.find import cut_of
from hasten.methods._branches.flow import Flow
from hasten.methods._branches.repair import Kind, Line

Importance: TypeAlias = Literal["outputs", "similarity"]
Per: TypeAlias = Literal["branch", "macs"]


@dataclass(frozen=True)
class Limits:
    """When to stop: after so many branches, and before an error of the outputs beyond this."""

    count: int
    harm: float


@dataclass
class Choice:
    """What goes and what stays.

    dropped: in the order of removal, with the harm of all up to there. alone: harms without others;
    influence: 1 - cosine, where that was asked for. stopped: of those that are left the harm together
    with what is gone, at least, where that is what ended it.
    """

    dropped: dict[str, float] = field(default_factory=dict)
    alone: dict[str, float] = field(default_factory=dict)
    influence: dict[str, float] = field(default_factory=dict)
    stopped: dict[str, float] = field(default_factory=dict)


class Chooser:
    """One search on a board. macs: of nodes, by name."""

    def __init__(
        self,
        board: Board,
        flow: Flow,
        macs: Mapping[str, int],
        per: Per,
        progress: Callable[[str, float], None],
    ) -> None:
        self._board = board
        self._flow = flow
        self._macs = macs
        self._per = per
        self._progress = progress
        self._order = list(board.branches)
        self._cuts = {name: cut_of(flow, branch) for name, branch in board.branches.items()}
        self._last: dict[str, float] = {}
        self.choice = Choice()

    def drop(self, name: str) -> None:
        """Leave a branch out, whatever it costs."""
        off = list(self.choice.dropped)
        harm = self._with(name, off, self._board.solve([name], off)[name])
        if not off:
            self.choice.alone[name] = harm
        self._take(name)

    def _with(self, name: str, off: list[str], lines: Mapping[Kind, Line], most: float = math.inf) -> float:
        """The harm with one more branch off, and the line in its place with which it is least.

        Beyond ``most`` it is at least what is returned.
        """
        board = self._board
        best = math.inf
        chosen: Kind | None = None
        # What is fitted most comes first: it is mostly the best, and the others are then seen to be worse
        # from a few samples. Of equals the simplest stays.
        for kind, line in reversed(list(lines.items())):
            board.lines[name] = line
            harm = board.harm([*off, name], min(most, best))
            if chosen is None or harm <= best:
                best, chosen = harm, kind
        assert chosen is not None
        board.kinds[name], board.lines[name] = chosen, lines[chosen]
        return best

    def _take(self, name: str) -> None:
        choice, board = self.choice, self._board
        choice.dropped[name] = math.nan
        off = list(choice.dropped)
        # What lies behind it now reads something else, each after those before it.
        for later in self._order[self._order.index(name) + 1 :]:
            if later in choice.dropped:
                board.solve([later], [n for n in off if n != later])
        choice.dropped[name] = board.harm(off)

    def search(self, importance: Importance, limits: Limits) -> None:
        """Leave out branch after branch while the limits allow it."""
        if importance == "similarity":
            self.choice.influence = self._board.influence(self._order)
        while len(self.choice.dropped) < limits.count:
            left = self._left()
            self._progress(
                "dropping branches", len(self.choice.dropped) / min(limits.count, len(self._order))
            )
            if not left:
                return
            measure = self._most_similar if importance == "similarity" else self._least_harm
            best = measure(left, limits.harm)
            if best is None:
                return
            lines = dict(self._board.lines)
            self._take(best)
            harm = self.choice.dropped[best]
            if harm > limits.harm:  # with the constants behind it solved anew it costs more than it seemed
                del self.choice.dropped[best]
                self._board.lines.update(lines)
                self.choice.stopped = {best: harm}
                return

    def saved(self, names: list[str]) -> int:
        """MACs that are not computed any more without these branches."""
        nodes = self._flow.unread({self._cuts[name] for name in names})
        return sum(self._macs.get(str(node.name), 0) for node in nodes)

    def _left(self) -> list[str]:
        """The branches that still stand, not inside another one that is gone."""
        gone = {str(n.name) for n in self._flow.unread({self._cuts[name] for name in self.choice.dropped})}
        return [
            name
            for name, branch in self._board.branches.items()
            if name not in self.choice.dropped and not set(branch.nodes) <= gone
        ]

    def _worth(self, name: str) -> float:
        """What a harm is divided by."""
        if self._per == "branch":
            return 1.0
        off = list(self.choice.dropped)
        return max(1, self.saved([*off, name]) - self.saved(off))

    def _least_harm(self, left: list[str], limit: float) -> str | None:
        choice, board = self.choice, self._board
        off = list(choice.dropped)
        now = choice.dropped[off[-1]] if off else 0.0
        lines = board.solve(left, off)
        best, least = None, math.inf
        seen = {}
        for name in sorted(left, key=lambda n: self._last.get(n, 0.0)):
            worth = self._worth(name)
            # Alone all are measured to the end, since that is what is reported.
            most = min(limit, now + least * worth) if off else math.inf
            seen[name] = self._with(name, off, lines[name], most)
            if not off:
                choice.alone[name] = seen[name]
            score = (seen[name] - now) / worth
            if seen[name] <= limit and score < least:
                best, least = name, score
        self._last = seen
        choice.stopped = {} if best else seen
        return best

    def _most_similar(self, left: list[str], limit: float) -> str | None:
        choice, board = self.choice, self._board
        best = min(left, key=lambda name: choice.influence[name] / self._worth(name))
        off = list(choice.dropped)
        harm = self._with(best, off, board.solve([best], off)[best])
        choice.stopped = {best: harm} if harm > limit else {}
        return best if harm <= limit else None
