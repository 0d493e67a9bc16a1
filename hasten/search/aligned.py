"""In blocks of how many channels do a target's kernels like widths? A table of latencies, measured there.

Kernels compute blocks of channels, and what does not fill the last one runs by other code, or for nothing.
How large a block is depends on the runtime, the CPU and the precision, and none of them says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hasten import methods
from hasten.core.errors import TrialError
from hasten.core.layers import Blocks
from hasten.core.recipe import Json, Recipe, Step
from hasten.core.record import Trial
from hasten.search.candidate import CLEAN, Candidate
from hasten.search.layers import Seen, shared_us
from hasten.search.trial import Lab

if TYPE_CHECKING:
    from hasten.graph import Graph

BLOCKS = (8, 16, 32)
"""Channels in a block, of which the best is looked for. Fewer than 8 fill no vector of any CPU with AVX2."""
_FEWEST = 4
"""Blocks in a width for its layers to tell: of three quarters of fewer too much goes, or nothing."""
_NEAR = 0.08
"""Latency that larger blocks must save to be worth choosing widths more coarsely. The same table, measured
again, differed by as much on a noisy machine."""
_ASIDE = 0.2
"""Part of the time that may go by to make the versions."""


def widths_in_child(
    graph: str, store: str | None, work: str, original: str, settings: dict[str, int]
) -> dict[str, int]:
    """Child side: the channels of each width that can become narrower one channel at a time."""
    from hasten.graph import Graph

    return widths_of(Graph.open(graph))


def widths_of(graph: Graph) -> dict[str, int]:
    """The channels of each width that can become narrower one channel at a time, by its name."""
    from hasten.graph.coupling import couple

    found = couple(graph).widths
    return {width.name: len(width) for width in found if not width.attended and width.breadth == 1}


def cuts(widths: Mapping[str, int]) -> dict[int, Step]:
    """What makes the versions to compare, by their blocks: those that some width holds often enough."""
    found = {}
    for block in BLOCKS:
        kept: dict[str, Json] = {**uneven(widths, block)}
        if kept:
            found[block] = Step("prune_channels", {"widths": kept, "importance": "l1", "fit": False})
    return found


def uneven(widths: Mapping[str, int], block: int) -> dict[str, int]:
    """Near three quarters of each width, full blocks of so many channels but not of twice as many."""
    counts = {name: (3 * count // 4 // block, count) for name, count in widths.items()}
    odd = {name: blocks - (blocks % 2 == 0) for name, (blocks, _) in counts.items()}
    return {name: odd[name] * block for name, (_, count) in counts.items() if count >= _FEWEST * block}


def rates(whole: Seen, versions: Mapping[int, Seen]) -> dict[int, float]:
    """What layers of each version take, over what they would if time fell as multiply-accumulates do.

    versions: by their blocks, as ``uneven`` made them narrower. Only layers count that all of them have
    narrower: others tell of themselves and not of blocks. The larger blocks are left out where few widths
    hold so many, so that no such layer is left. Empty where no two versions can be compared.
    """
    before = {layer.name: layer.macs for layer in whole[0]}
    took = shared_us(whole[1], before)
    macs = {block: {layer.name: layer.macs for layer in layers} for block, (layers, _) in versions.items()}
    us = {block: shared_us(kernels, macs[block]) for block, (_, kernels) in versions.items()}
    blocks = sorted(versions)
    while len(blocks) > 1:
        told = [
            name
            for name in took
            if all(name in us[block] and 0 < macs[block][name] < before[name] for block in blocks)
        ]
        if told:
            return {block: _rate(told, us[block], macs[block], took, before) for block in blocks}
        blocks.pop()
    return {}


def _rate(
    told: Sequence[str],
    us: Mapping[str, float],
    macs: Mapping[str, int],
    took: Mapping[str, float],
    before: Mapping[str, int],
) -> float:
    expected = sum(took[name] * macs[name] / before[name] for name in told)
    return sum(us[name] for name in told) / max(expected, 1e-12)


def liked(table: Mapping[int, float]) -> int | None:
    """The smallest block that no larger one is clearly faster than; None where nothing was compared."""
    if len(table) < 2:
        return None
    bound = min(table.values()) * (1 + _NEAR)
    return min(block for block, rate in table.items() if rate <= bound)


@dataclass
class Alignment:
    """Measures once for each target and precision, and remembers."""

    _known: dict[str, Blocks | None] = field(default_factory=dict)

    @property
    def measured(self) -> tuple[Blocks, ...]:
        """What it found so far."""
        return tuple(found for found in self._known.values() if found is not None)

    def of(self, lab: Lab, place: Trial, behind: Sequence[Step], left_s: float) -> int | None:
        """The block that a target likes where these steps come behind what makes the model smaller.

        None where it cannot be told, or there is too little time to. left_s: the time there is.
        """
        runs = tuple(step for step in behind if "gradients" not in methods.find(step.method).FACTS.needs)
        candidate = Candidate(Recipe((CLEAN, *runs)), place.target, place.options)
        if candidate.id not in self._known:
            try:
                self._known[candidate.id] = _measured(lab, candidate, runs, left_s)
            except TrialError:
                self._known[candidate.id] = None
        found = self._known[candidate.id]
        return None if found is None else found.chosen


def _measured(lab: Lab, candidate: Candidate, runs: Sequence[Step], left_s: float) -> Blocks | None:
    """The table and what follows; None where there is nothing to compare, or too little time to."""
    clean, whole = lab.workshop.apply(Recipe((CLEAN,))), lab.workshop.apply(candidate.recipe)
    if len(BLOCKS) * whole.seconds > _ASIDE * left_s:
        return None
    widths: Mapping[str, int] = lab.workshop.ask("aligned:widths_in_child", lab.workshop.place(clean))
    steps = cuts(widths)
    if len(steps) < 2:
        return None
    recipes = [candidate.recipe, *(Recipe((CLEAN, step, *runs)) for step in steps.values())]
    candidates = [Candidate(recipe, candidate.target, candidate.options) for recipe in recipes]
    layers = [lab.workshop.cost(lab.workshop.apply(recipe)).layers for recipe in recipes]
    first, *rest = zip(layers, lab.kernels(*map(lab.subject, candidates)), strict=True)
    table = rates(first, dict(zip(steps, rest, strict=True)))
    chosen = liked(table)
    if chosen is None:
        return None
    rounded = {block: round(rate, 3) for block, rate in table.items()}
    return Blocks(version=str(candidate), rates=rounded, chosen=chosen)
