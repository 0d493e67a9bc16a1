"""The rounds themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from hasten import methods
from hasten.core.data import Calibration
from hasten.core.errors import MethodError
from hasten.core.recipe import Recipe, Step
from hasten.core.record import Site, Skip
from hasten.graph import Graph
from hasten.graph.cost import nonzero_parameters
from hasten.methods import Amount, Change, Context
from hasten.methods._observe.outputs import Outputs
from hasten.methods._rounds.schedule import Form, asked, left_after
from hasten.train.order import hold_back


@dataclass(frozen=True, eq=False, kw_only=True)
class Plan:
    """What ``iterate`` was told; see its parameters. amount: of ``shrink``."""

    shrink: Step
    amount: Amount
    recover: Sequence[Step]
    to: float
    rounds: int
    form: Form
    largest_loss: float | None
    halvings: int
    held_back: float


@dataclass(frozen=True, eq=False)
class _Round:
    """One that was carried out. lost: after shrinking; error: in the end; left: share of the whole."""

    number: int
    shrunk: Change
    recovered: Change
    lost: float
    error: float
    left: float
    filled: int

    def __str__(self) -> str:
        mended = f", {self.error:.3g} recovered" if self.recovered is not self.shrunk else ""
        return f"round {self.number}: {self.left:.1%} left, error {self.lost:.3g}{mended}"


class Rounds:
    """One application."""

    def __init__(self, graph: Graph, plan: Plan, context: Context) -> None:
        """Open the original; raises MethodError without samples, and where it does not run."""
        if context.calibration is None or not len(context.calibration):
            raise MethodError("iterate has no samples to judge rounds by; give --data")
        original = context.original or graph
        seen, judges = _split(context.calibration, plan.held_back, context.seed)
        self._plan = plan
        self._context = replace(context, calibration=seen, original=original)
        self._outputs = Outputs(original, judges, context)
        self._given, self._graph, self._left = graph, graph, 1.0
        self._kept: list[_Round] = []
        self._notes: list[str] = []
        self._looked_at: tuple[Skip, ...] = ()
        self._number = 0
        self._undone: set[str] = set()

    def change(self) -> Change:
        """Go through the rounds."""
        done, part = Fraction(0), Fraction(1, self._plan.rounds)
        smallest = part / 2**self._plan.halvings
        while done < 1 and part >= smallest:
            after = min(done + part, Fraction(1))
            if self._go_on(float(after)):
                done = after
            else:
                part /= 2
        if done < 1:
            self._notes.append(f"{self._left:.1%} are left: to take less than that costs too much")
        return self._told()

    def _go_on(self, done: float) -> bool:
        """Try a round that ends when so much of the schedule is done; whether it stays."""
        plan = self._plan
        target = left_after(plan.form, done, plan.to)
        value = asked(plan.amount, target, self._left)
        if value is None:
            return True
        self._number += 1
        shrunk = self._shrunk(value)
        if not shrunk.effective:
            self._notes.append(f"round {self._number}: nothing went for {target:.1%} to be left")
            return True
        if self._undone and shrunk.graph.fingerprint in self._undone:
            self._notes.append(f"round {self._number}: as one that was undone")
            return False
        made = self._round(shrunk, target)
        worst = float("inf") if plan.largest_loss is None else plan.largest_loss
        if not made.error <= worst or made.error == float("inf"):
            self._notes.append(f"{made}: undone")
            self._undone.add(made.shrunk.graph.fingerprint)
            return False
        self._notes.append(f"{made}: kept")
        if made.filled:
            self._notes.append(f"round {made.number}: recovery filled {made.filled} zeros again")
        self._kept.append(made)
        self._graph, self._left = made.recovered.graph, made.left
        return True

    def _shrunk(self, value: float) -> Change:
        plan = self._plan
        step = Step(
            plan.shrink.method, {**plan.amount.given, **plan.shrink.params, plan.amount.parameter: value}
        )
        shrunk = methods.find(step.method).apply(self._graph, methods.parameters(step), self._in_round())
        self._looked_at = shrunk.skipped
        return shrunk

    def _round(self, shrunk: Change, target: float) -> _Round:
        """Recover what was shrunk."""
        plan = self._plan
        recovered, filled = shrunk, 0
        lost = error = self._outputs.error(shrunk.graph)
        if plan.recover:
            recovered = methods.apply(Recipe(plan.recover), shrunk.graph, self._in_round())
            self._looked_at += recovered.skipped
            error = self._outputs.error(recovered.graph)
            if plan.amount.says == "zeros":
                filled = max(nonzero_parameters(recovered.graph) - nonzero_parameters(shrunk.graph), 0)
        left = target if shrunk.left is None else self._left * shrunk.left
        return _Round(self._number, shrunk, recovered, lost, error, left, filled)

    def _in_round(self) -> Context:
        """What the steps get: progress says which round it is."""
        number, told = self._number, self._context.progress
        return replace(self._context, progress=lambda what, done: told(f"round {number}: {what}", done))

    def _told(self) -> Change:
        notes = tuple(f"iterate: {note}" for note in self._notes)
        if not self._kept:
            reason = "no round took something and lost little enough"
            skipped = (Skip(name="graph", op_type="graph", reason=reason), *self._looked_at)
            return Change(self._given, skipped=skipped, notes=notes)
        sites = tuple(_sites(self._kept))
        changed = {site.name for site in sites}
        skipped = tuple(dict.fromkeys(skip for skip in self._looked_at if skip.name not in changed))
        return Change(self._graph, sites, skipped, notes, self._left)


def _sites(rounds: Sequence[_Round]) -> list[Site]:
    """Of what was taken, every round of it; of what was recovered, the last."""
    taken: dict[str, Site] = {}
    mended: dict[str, Site] = {}
    for made in rounds:
        for site in made.shrunk.sites:
            what = f"round {made.number}: {site.what}"
            if site.name in taken:
                what = f"{taken[site.name].what}; {what}"
            taken[site.name] = Site(name=site.name, op_type=site.op_type, what=what)
        if made.recovered is not made.shrunk:
            for site in made.recovered.sites:
                what = f"round {made.number}: {site.what}"
                mended[site.name] = Site(name=site.name, op_type=site.op_type, what=what)
    return [*taken.values(), *mended.values()]


def _split(calibration: Calibration, share: float, seed: int) -> tuple[Calibration, Calibration]:
    """Samples for the steps, and samples that judge."""
    seen, judges = hold_back(calibration.indices, share, seed)
    if not judges:
        return calibration, calibration
    return Calibration(calibration.store, seen), Calibration(calibration.store, judges)
