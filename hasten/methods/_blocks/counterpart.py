"""What the original computes at the places where the graph that learns is cut.

A rewrite may have let another value take a name over, and what was narrowed has another shape; so names are
not trusted. A value is the original's of the same name where both agree on samples, as far as the student
says that they have to. Two graphs are tried as the original: as it was given, and with hasten's exact
rewrites; the one that agrees in more places teaches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.core.errors import MethodError
from hasten.graph import Graph
from hasten.graph.evaluate import Evaluator
from hasten.graph.names import name_nodes
from hasten.graph.shapes import infer
from hasten.methods._blocks.student import Student
from hasten.rewrites import ALL, remove_unused

_ROUNDS = 8
_EXACT = 1e-2
"""The largest error of what is still the same function; sums in another order are far below."""
_UNCHANGED = 1e-3
"""The largest error of a model that has nothing to learn again."""


@dataclass(frozen=True)
class Counterpart:
    """The teacher.

    names: values of the graph that learns to the teacher's. error: of the values that agree, relative to the
    signal, on average.
    """

    graph: Graph
    names: Mapping[str, str]
    error: float


def counterpart(
    student: Student,
    original: Graph,
    names: Sequence[str],
    units: Sequence[Mapping[str, Array]],
    threads: int,
) -> Counterpart:
    """The teacher that agrees in most of the values ``names``. units: feeds to compare on, at least one.

    Raises MethodError when the original does not run on them.
    """
    found = [
        _agreement(student, candidate, names, units, threads) for candidate in _originals(original, units)
    ]
    return max(found, key=lambda c: (len(c.names), -c.error))


def _originals(original: Graph, units: Sequence[Mapping[str, Array]]) -> Iterator[Graph]:
    yield original
    rewritten = original.stripped()
    name_nodes(rewritten)
    try:
        for _ in range(_ROUNDS):
            sites = 0
            for rewrite in ALL.values():
                found = len(rewrite(rewritten).sites)
                if found:
                    remove_unused.apply(rewritten)
                sites += found
            if not sites:
                break
        same = _alike(original, rewritten, units[0], _EXACT)
    except (MethodError, ir.passes.PassError, ir.serde.SerdeError, ValueError, AssertionError):
        return  # what a rewrite breaks, no recipe contains
    if same:
        yield rewritten


def unchanged(graph: Graph, original: Graph, feeds: Mapping[str, Array]) -> bool:
    """Whether a graph still computes what the original does; MethodError where either does not run."""
    return _alike(original, graph, feeds, _UNCHANGED)


def _alike(original: Graph, other: Graph, feeds: Mapping[str, Array], most: float) -> bool:
    """Whether no floating-point output that both have is further off."""
    wanted, found = (Evaluator(graph).run(feeds) for graph in (original, other))
    names = [name for name, value in wanted.items() if value.dtype.kind == "f" and name in found]
    return all(distance(found[name], wanted[name]) < most for name in names)


def _agreement(
    student: Student,
    original: Graph,
    names: Sequence[str],
    units: Sequence[Mapping[str, Array]],
    threads: int,
) -> Counterpart:
    known = {str(v.name) for node in original.ir_model.graph for v in node.outputs}
    guesses = {name: their for name in names for their in [_before_rounding(name)] if their in known}
    # Optimizing, ONNX Runtime would round a weight whose neighbours are rounded, and per tensor at that.
    ours = Evaluator(student.likened(original), list(guesses), threads=threads, optimized=False)
    theirs = Evaluator(original, list(dict.fromkeys(guesses.values())), threads=threads)
    errors = dict.fromkeys(guesses, 0.0)
    for feeds in units:
        found, wanted = ours.run(feeds), theirs.run(feeds)
        errors = {name: max(e, distance(found[name], wanted[guesses[name]])) for name, e in errors.items()}
    same = {name: their for name, their in guesses.items() if errors[name] < student.same}
    return Counterpart(infer(original), same, sum(errors[name] for name in same) / max(1, len(same)))


def _before_rounding(name: str) -> str:
    for ending in (".rounded", ".float"):
        name = name.removesuffix(ending)
    return name


def distance(found: Array, wanted: Array) -> float:
    """The error's size relative to the signal's; infinite where shapes differ or a number is not finite."""
    if found.shape != wanted.shape or not (np.isfinite(found).all() and np.isfinite(wanted).all()):
        return float("inf")
    size = float(np.linalg.norm(wanted.astype(np.float64)))
    return float(np.linalg.norm(found.astype(np.float64) - wanted)) / size if size else float("inf")
