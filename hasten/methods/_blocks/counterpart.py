"""What the original computes at the places where the quantized graph is cut.

A rewrite may have let another value take a name over, and may have folded a weight; so neither names nor
weights are trusted. The quantized graph is run with the original's weights in the places of its rounded ones;
a value of it is the original's of the same name where both agree on samples. Two graphs are tried as the
original: as it was given, and with hasten's exact rewrites; the one that agrees in more places teaches.
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
from hasten.graph.reading import constant
from hasten.graph.shapes import infer
from hasten.methods._blocks.start import along
from hasten.methods._qat.unfold import SUFFIX, Unfolded
from hasten.rewrites import ALL, remove_unused

_ROUNDS = 8
_SAME = 0.3
"""The largest error, relative to the signal, of what is the original's but for rounded activations."""
_STEPS = 1.0
"""How far integers may be from the weight that they stand for, in steps (root of the mean square)."""


@dataclass(frozen=True)
class Counterpart:
    """The teacher.

    names: values of the quantized graph to the teacher's. weights: its floats, by their name in the unfolded
    graph. error: of the values that agree, relative to the signal, on average.
    """

    graph: Graph
    names: Mapping[str, str]
    weights: Mapping[str, Array]
    error: float


def counterpart(
    unfolded: Unfolded,
    original: Graph,
    names: Sequence[str],
    units: Sequence[Mapping[str, Array]],
    threads: int,
) -> Counterpart:
    """The teacher that agrees in most of the values ``names``. units: feeds to compare on, at least one.

    Raises MethodError when the original does not run on them.
    """
    found = [
        _agreement(unfolded, candidate, names, units, threads) for candidate in _originals(original, units)
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
        wanted, got = (Evaluator(graph).run(units[0]) for graph in (original, rewritten))
    except (MethodError, ir.passes.PassError, ir.serde.SerdeError, ValueError, AssertionError):
        return  # what a rewrite breaks, no recipe contains
    if all(_error(got[name], wanted[name]) < 1e-2 for name in wanted if wanted[name].dtype.kind == "f"):
        yield rewritten


def _agreement(
    unfolded: Unfolded,
    original: Graph,
    names: Sequence[str],
    units: Sequence[Mapping[str, Array]],
    threads: int,
) -> Counterpart:
    weights = dict(_weights(unfolded, original))
    known = {str(v.name) for node in original.ir_model.graph for v in node.outputs}
    guesses = {name: their for name in names for their in [_before_rounding(name)] if their in known}
    restored = _with_weights(unfolded, weights)
    # Optimizing, ONNX Runtime would round a weight whose neighbours are rounded, and per tensor at that.
    ours = Evaluator(restored, list(guesses), threads=threads, optimized=False)
    theirs = Evaluator(original, list(dict.fromkeys(guesses.values())), threads=threads)
    errors = dict.fromkeys(guesses, 0.0)
    for feeds in units:
        found, wanted = ours.run(feeds), theirs.run(feeds)
        errors = {name: max(e, _error(found[name], wanted[guesses[name]])) for name, e in errors.items()}
    same = {name: their for name, their in guesses.items() if errors[name] < _SAME}
    return Counterpart(infer(original), same, weights, sum(errors[name] for name in same) / max(1, len(same)))


def _weights(unfolded: Unfolded, original: Graph) -> Iterator[tuple[str, Array]]:
    """The original's weights and biases that were rounded, by their name in the unfolded graph."""
    for weight in unfolded.weights:
        theirs, ours, step = (
            constant(value)
            for value in (
                original.weights.get(weight.integers.removesuffix(SUFFIX)),
                unfolded.graph.weights[weight.floats],
                unfolded.graph.weights[weight.scale],
            )
        )
        assert ours is not None
        assert step is not None
        if theirs is None or theirs.dtype != np.float32 or theirs.shape != ours.shape:
            continue
        off = (theirs - ours) / along(step, weight.axis, ours.ndim)
        if float(np.sqrt(np.mean(np.square(off)))) < _STEPS:
            yield weight.floats, theirs
    for bias in unfolded.biases:
        theirs = constant(original.weights.get(bias.integers.removesuffix(SUFFIX)))
        ours = constant(unfolded.graph.weights[bias.floats])
        if theirs is None or ours is None or theirs.size != ours.size:
            continue
        shaped = theirs.reshape(ours.shape).astype(np.float32)
        if _error(ours, shaped) < _SAME:
            yield bias.floats, shaped


def _with_weights(unfolded: Unfolded, weights: Mapping[str, Array]) -> Graph:
    """The unfolded graph with these in the place of its rounded weights."""
    graph = unfolded.graph.copy()
    for name, array in weights.items():
        value = graph.weights[name]
        value.const_value = ir.tensor(array, name=name)
        for use in value.uses():
            if use.node.op_type == "QuantizeLinear":
                for reader in use.node.outputs[0].uses():
                    reader.node.outputs[0].replace_all_uses_with(value)
    return graph


def _before_rounding(name: str) -> str:
    for ending in (".rounded", ".float"):
        name = name.removesuffix(ending)
    return name


def _error(found: Array, wanted: Array) -> float:
    """The error's size relative to the signal's; infinite where shapes differ or a number is not finite."""
    if found.shape != wanted.shape or not (np.isfinite(found).all() and np.isfinite(wanted).all()):
        return float("inf")
    size = float(np.linalg.norm(wanted.astype(np.float64)))
    return float(np.linalg.norm(found.astype(np.float64) - wanted)) / size if size else float("inf")
