"""Block after block: what comes in and what is wanted is recorded, the block learns, and the next begins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from hasten.core.data import Calibration
from hasten.graph import Graph
from hasten.methods import Context
from hasten.methods._blocks.plan import Plan
from hasten.methods._blocks.tape import Recorder, Tape, units
from hasten.train.settings import Settings

if TYPE_CHECKING:
    from hasten.methods._blocks.learn import Learned

_TRIES = 3
"""Learning rates that a block is tried with, each a third of the one before."""
_DECAY, _MOST_DECAY = 0.05, 3.0
"""Decay towards the start, for each weight that a block has to a place that it is seen at: with many weights
and few places, these would be learned by heart."""
_FEWEST = 2
"""Samples of an optimizer step at least, however many positions each has."""


@dataclass(frozen=True)
class Outcome:
    """What came of a block. weights: names of the initializers that it may learn.

    before, after: squared error, relative to the signal's power, on the samples held back; None where there
    was nothing to learn.
    """

    number: int
    weights: frozenset[str]
    before: float | None = None
    after: float | None = None

    @property
    def better(self) -> bool:
        """Whether it learned something that holds for samples it did not learn from."""
        return self.before is not None and self.after is not None and self.after < self.before

    def __str__(self) -> str:
        if self.before is None or self.after is None:
            return f"block {self.number + 1}: what it computes cannot be compared with the original"
        if not self.better:
            return (
                f"block {self.number + 1}: put back, no better on samples held back (error {self.before:.3g})"
            )
        return f"block {self.number + 1}: error {self.before:.3g} before, {self.after:.3g} after"


@dataclass(frozen=True)
class Lesson:
    """How a block is trained. positions: places of an optimizer step that are enough."""

    settings: Settings
    positions: int

    def settings_for(self, tape: Tape, weights: int) -> Settings:
        """With as many samples a step as give enough positions, and what holds so many weights together."""
        most = self.settings.batch_size
        enough = max(self.positions // tape.positions, _FEWEST)
        decay = min(_DECAY * weights / (tape.positions * len(tape)), _MOST_DECAY)
        return replace(self.settings, batch_size=min(most, enough), weight_decay=decay)


def walk(
    plan: Plan, samples: Calibration, lesson: Lesson, context: Context, folder: Path
) -> Iterator[Outcome]:
    """Train block by block, in order, and put what was learned into the plan's graph.

    folder: where the values at the cuts are kept meanwhile. Raises MethodError where a block cannot be run.
    """
    recorder = Recorder(folder, _read(plan), context.threads)
    tape: Tape | None = None
    student: Graph | None = None
    for number, span in enumerate(plan.spans):
        teacher, wanted = plan.teacher_block(span), plan.wanted(span)
        if tape is None or student is None:
            tape = recorder.begin(units(samples, plan.graph), teacher, wanted)
        else:
            before = tape
            assert span.start is not None
            tape = recorder.go_on(
                before, student, teacher, (span.start, plan.teacher.names[span.start]), wanted
            )
            before.discard()
        block = plan.student_block(span)
        yield _learn(plan, number, block, tape, lesson, context)
        student = plan.student_block(span)


def _read(plan: Plan) -> list[set[str]]:
    """Of each block, the model's inputs that it or a later one reads."""
    inputs = {spec.name for spec in plan.graph.inputs}
    later: set[str] = set()
    found = []
    for span in reversed(plan.spans):
        blocks = (plan.student_block(span), plan.teacher_block(span))
        later = later | {spec.name for block in blocks for spec in block.inputs if spec.name in inputs}
        found.append(later)
    return found[::-1]


def _learn(plan: Plan, number: int, block: Graph, tape: Tape, lesson: Lesson, context: Context) -> Outcome:
    from hasten.methods._blocks.learn import learn

    units_here = {name: unit for name, unit in plan.units.items() if name in block.weights}
    if not units_here or not tape.powers:
        return Outcome(number, frozenset(units_here))
    settings = lesson.settings_for(tape, sum(_size(block, name) for name in units_here))
    count = len(plan.spans)
    best: Learned | None = None
    for attempt in range(_TRIES):
        found = learn(
            block,
            tape,
            units_here,
            replace(settings, learning_rate=settings.learning_rate / 3**attempt),
            together=plan.together,
            progress=partial(_tell, context, number, count, attempt),
        )
        if best is None or found.after < best.after:
            best = found
        if best.better:
            break
    assert best is not None
    if best.better:
        for name, array in best.tensors.items():
            plan.graph.weights[name].const_value = ir.tensor(array, name=name)
    return Outcome(number, frozenset(units_here), best.before, best.after)


def _size(graph: Graph, name: str) -> int:
    tensor = graph.weights[name].const_value
    assert tensor is not None
    return tensor.size


def _tell(context: Context, number: int, count: int, attempt: int, done: float) -> None:
    reached = done if attempt == 0 else 1.0  # what another attempt will take is not known before
    context.progress(f"reconstructing block {number + 1} of {count}", (number + reached) / count)
