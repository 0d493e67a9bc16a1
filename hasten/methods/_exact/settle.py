"""Rewrites applied until none changes anything, checked beside what was given, and undone where they err."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import onnx_ir as ir

from hasten.core.data import Array, Calibration
from hasten.core.errors import DataError, MethodError
from hasten.core.record import Site, Skip
from hasten.graph import Graph
from hasten.graph.feeds import feeds_to_try
from hasten.graph.names import name_nodes
from hasten.methods import Change, Context
from hasten.rewrites import Findings, Rewrite, remove_unused
from hasten.rewrites.dimensions import write_shapes
from hasten.rewrites.equality import Equality

ROUNDS = 8
"""Rewrites enable one another; real models settle in three rounds."""
_NAMES_SHOWN = 3


def rewritten(graph: Graph, rewrites: Mapping[str, Rewrite], context: Context) -> Change:
    """A copy of the graph to which these rewrites, in their order, have nothing left to do.

    Where the copy does not compute what the graph does, they are applied again one at a time, and each that
    breaks equality is left out, with the reason. Without inputs on which the graph runs (calibration samples,
    else random ones) nothing can be verified, so nothing is changed.
    """
    equality = _equality(graph, context)
    if equality is None:
        reason = (
            "no random input was found on which the graph runs, so nothing could be verified; give --data"
        )
        return Change(graph, skipped=(Skip(name="graph", op_type="graph", reason=reason),))
    work = _Work(graph, rewrites, context.progress)
    changed = work.all_at_once()
    problem = None if changed is None else equality.difference(changed)
    if changed is None or problem is not None:
        changed = work.one_by_one(equality)
    if not work.sites:
        return Change(graph, skipped=tuple(work.skipped))
    write_shapes(changed)
    return Change(changed, tuple(_grouped(work.sites)), tuple(work.skipped), tuple(work.notes))


class _Work:
    """One application: the rewrites, and what came of them."""

    def __init__(
        self, graph: Graph, rewrites: Mapping[str, Rewrite], progress: Callable[[str, float], None]
    ) -> None:
        self._graph = graph
        self._rewrites = rewrites
        self._progress = progress
        self.sites: list[tuple[str, Site]] = []
        self.skipped: list[Skip] = []
        self.notes: list[str] = []

    def all_at_once(self) -> Graph | None:
        """The rewritten copy; None when a rewrite failed."""
        graph = self._start()
        try:
            self._settle(lambda name, rewrite: self._swept(rewrite, graph))
        except _FAILURES:
            return None
        return graph

    def one_by_one(self, equality: Equality) -> Graph:
        """The copy after those rewrites alone that keep it equal; the others become skips."""
        graph = self._start()
        failed: dict[str, Skip] = {}

        def attempt(name: str, rewrite: Rewrite) -> Findings:
            if name in failed:
                return Findings()
            candidate = graph.copy()
            try:
                findings = self._swept(rewrite, candidate)
                problem = equality.difference(candidate) if findings.sites else None
            except _FAILURES as error:
                findings, problem = Findings(), f"it failed: {(str(error).splitlines() or ['?'])[0]}"
            if problem is not None:
                failed[name] = Skip(name="graph", op_type=name, reason=f"undone: {problem}")
                return Findings()
            graph.ir_model = candidate.ir_model
            return findings

        self._settle(attempt)
        self.skipped.extend(failed.values())
        return graph

    def _swept(self, rewrite: Rewrite, graph: Graph) -> Findings:
        """Apply a rewrite and remove what it left unused, which is no site of its own."""
        findings = rewrite(graph)
        if findings.sites and "remove_unused" in self._rewrites:
            remove_unused.apply(graph)
        return findings

    def _start(self) -> Graph:
        graph = self._graph.stripped()
        renamed = name_nodes(graph)
        self.sites, self.skipped = [], []
        self.notes = [f"{renamed} nodes had no name of their own and were given one"] if renamed else []
        return graph

    def _settle(self, attempt: Callable[[str, Rewrite], Findings]) -> None:
        """Apply all rewrites until each has had nothing to change since the last change."""
        settled: set[str] = set()
        last: dict[str, Findings] = {}
        for number in range(ROUNDS):
            for index, (name, rewrite) in enumerate(self._rewrites.items()):
                if name in settled:
                    continue
                self._progress(f"rewriting: {name}", (number + index / len(self._rewrites)) / ROUNDS)
                last[name] = attempt(name, rewrite)
                self.sites.extend((name, site) for site in last[name].sites)
                settled = set() if last[name].sites else settled | {name}
            if len(settled) == len(self._rewrites):
                break
        self.skipped = [skip for findings in last.values() for skip in findings.skipped]


_FAILURES = (
    MethodError,
    ir.passes.PassError,
    ir.serde.SerdeError,
    ValueError,
    AssertionError,
    ArithmeticError,
    RuntimeError,
)
"""What a rewrite may raise on a graph its author did not foresee; it is then undone."""


def _equality(graph: Graph, context: Context) -> Equality | None:
    """What the graph computes on the first inputs it accepts: samples if there are any, else random ones."""
    for feeds in _inputs(graph, context):
        try:
            return Equality(graph, feeds, threads=context.threads)
        except MethodError:
            continue
    return None


def _inputs(graph: Graph, context: Context) -> Iterator[list[dict[str, Array]]]:
    """One sample and two at once where the batch is free, so that a batch is not mistaken for a 1."""
    batches = {spec.shape[0] for spec in graph.inputs if spec.shape}
    fixed = [size for size in batches if isinstance(size, int) and size > 0]
    groups = [fixed[:1]] if fixed else [[1, 2], [1]]
    if context.calibration:
        for sizes in groups:
            try:
                yield [_sample(graph, context.calibration, size) for size in sizes]
            except DataError:
                continue
    for sizes in groups:
        for guesses in zip(*(feeds_to_try(graph.inputs, context.seed, batch=n) for n in sizes), strict=True):
            yield list(guesses)


def _sample(graph: Graph, calibration: Calibration, size: int) -> dict[str, Array]:
    return next(calibration.take(size).batches_for(graph.inputs, size)).feeds(graph.inputs)


def _grouped(sites: list[tuple[str, Site]]) -> list[Site]:
    """One site for all nodes of a type that a rewrite treated alike."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for rewrite, site in sites:
        alike.setdefault((rewrite, site.op_type, site.what), []).append(site.name)
    return [
        Site(name=_names(names), op_type=op_type, what=f"{rewrite}: {what}")
        for (rewrite, op_type, what), names in alike.items()
    ]


def _names(names: list[str]) -> str:
    distinct = list(dict.fromkeys(names))
    shown = ", ".join(distinct[:_NAMES_SHOWN])
    return shown if len(distinct) <= _NAMES_SHOWN else f"{shown} and {len(distinct) - _NAMES_SHOWN} more"
