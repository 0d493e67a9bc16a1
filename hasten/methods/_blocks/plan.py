"""The blocks of one graph: where it is cut, who teaches, and what each block may learn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from hasten.core.data import Array, Calibration
from hasten.core.errors import MethodError
from hasten.graph import Graph
from hasten.graph.evaluate import Evaluator
from hasten.graph.section import section
from hasten.methods._blocks.counterpart import Counterpart, counterpart
from hasten.methods._blocks.cuts import choose, layers_of, passages
from hasten.methods._blocks.student import Student
from hasten.methods._blocks.tape import units

_COMPARED = 2
"""Units on which the original's values are looked for."""


@dataclass(frozen=True)
class Span:
    """A block between a cut (None: the model's inputs) and the next, or the model's outputs."""

    start: str | None
    ends: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """graph: the student's, each weight where it starts to learn. spans: its blocks, in order.

    units: of the tensors that may be learned. together: whether samples are computed at once, stacked.
    """

    graph: Graph
    teacher: Counterpart
    spans: tuple[Span, ...]
    units: Mapping[str, Array]
    together: bool

    def student_block(self, span: Span) -> Graph:
        """The block as it stands."""
        return section(self.graph, span.start, span.ends)

    def teacher_block(self, span: Span) -> Graph:
        """What the original computes there."""
        start = None if span.start is None else self.teacher.names[span.start]
        return section(self.teacher.graph, start, list(self.wanted(span).values()))

    def wanted(self, span: Span) -> dict[str, str]:
        """What comes out of a block, and what the teacher calls it."""
        return {name: self.teacher.names.get(name, name) for name in span.ends}


def make_plan(student: Student, original: Graph, samples: Calibration, layers: int, threads: int) -> Plan:
    """Plan the blocks, with at least ``layers`` layers that learn each, and let the student begin.

    Raises MethodError where the model has no output to learn from, and where it does not run on the samples.
    """
    graph = student.graph
    theirs = {spec.name for spec in original.outputs if spec.dtype.startswith("float")}
    outputs = tuple(spec.name for spec in graph.outputs if spec.name in theirs)
    if not outputs:
        raise MethodError("reconstruct finds no output of floating-point numbers that the original has too")
    first = list(islice(units(samples, graph), _COMPARED))
    found = passages(graph, student.layers)
    teacher = counterpart(student, original, [passage.name for passage in found], first, threads)
    together = samples.fixed_batch(graph.inputs) is None
    fit = set(teacher.names)
    if together:
        stacked = _stacking(teacher, outputs, first[0], threads)
        together = stacked.issuperset(outputs)
        fit = fit & stacked if together else fit
    cuts = choose(found, fit, layers, len(layers_of(graph, student.layers)))
    starts, ends = (None, *cuts), (*((name,) for name in cuts), outputs)
    spans = tuple(Span(start, end) for start, end in zip(starts, ends, strict=True))
    learned = student.begin(teacher.graph, first[0], threads)
    blocks = [section(graph, span.start, span.ends) for span in spans]
    return Plan(graph, teacher, spans, _in_one_block(learned, blocks), together)


def _in_one_block(units: Mapping[str, Array], blocks: Iterable[Graph]) -> dict[str, Array]:
    """The tensors that no two blocks read: what one block learns must not change another."""
    used = [name for block in blocks for name in block.weights]
    return {name: unit for name, unit in units.items() if used.count(name) == 1}


def _stacking(
    teacher: Counterpart, outputs: Sequence[str], unit: Mapping[str, Array], threads: int
) -> set[str]:
    """The values whose first axis is that of the samples, told by a sample beside itself."""
    names = {**teacher.names, **{name: name for name in outputs}}
    evaluator = Evaluator(teacher.graph, list(dict.fromkeys(names.values())), threads=threads)
    one, two = (
        evaluator.run({name: np.concatenate([value] * count) for name, value in unit.items()})
        for count in (1, 2)
    )
    same = set()
    for name, theirs in names.items():
        value, stacked = one[theirs], two[theirs]
        if value.ndim and stacked.shape == (2 * len(value), *value.shape[1:]):
            twice = np.concatenate([value, value])
            if np.allclose(stacked, twice, rtol=1e-2, atol=1e-3 * float(np.abs(twice).max(initial=0))):
                same.add(name)
    return same
