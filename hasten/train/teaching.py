"""The loss that a teacher means: which of its values are learned, and how each is compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir as ir
from torch import Tensor

from hasten.core.data import Array
from hasten.core.errors import InputError
from hasten.graph import Graph
from hasten.graph.layer import OPERATORS
from hasten.graph.shapes import infer
from hasten.numerics.kinds import see
from hasten.train.labels import by_decision, scale_of
from hasten.train.losses import (
    Scale,
    attention_distance,
    cosine_distance,
    logits,
    relations,
    softened_divergence,
    squared_error,
)
from hasten.train.objective import Metric, Term, Values
from hasten.train.samples import Batch
from hasten.train.settings import Settings

_MOST_MATCHED = 6


def pair_outputs(student: Sequence[str], teacher: Sequence[str]) -> dict[str, str]:
    """Which output of the student learns from which of the teacher's: by name, else in order.

    Raises InputError when neither their names nor their number agree.
    """
    if set(teacher) <= set(student):
        return {name: name for name in teacher}
    if len(student) == len(teacher):
        return dict(zip(student, teacher, strict=True))
    raise InputError(
        f"the teacher gives {', '.join(teacher)} and the student {', '.join(student)}: they cannot be paired"
    )


Seen: TypeAlias = Mapping[str, Sequence[Array]]
"""What a network makes of some samples: by name, an array a sample."""


def from_teacher(
    pairs: Mapping[str, str], given: Seen, wanted: Seen, settings: Settings
) -> tuple[list[Term], Metric]:
    """The terms of the outputs, and the metric of the first.

    given, wanted: the student's values and the teacher's; class scores, embeddings and other signals are told
    apart as the measurement of agreement does. Raises InputError when none can be learned, or their shapes
    differ.
    """
    terms: list[Term] = []
    metrics: list[Metric] = []
    for ours, theirs in pairs.items():
        seen = wanted.get(theirs)
        if not seen or seen[0].dtype.kind != "f":
            continue
        _refuse_shapes(f"output {ours!r}", given.get(ours, ()), seen)
        sight = see(theirs, seen)
        if sight.kind == "top-1":
            scales = (_scale_beside(given[ours], seen, sight.axis), scale_of(seen, sight.axis))
            made, metric = _scores(ours, theirs, sight.axis, scales, settings.temperature)
        elif sight.kind == "cosine":
            made, metric = _embedding(ours, theirs, seen)
        else:
            made, metric = _signal(ours, theirs, seen)
        terms += made
        metrics.append(metric)
    if not terms:
        raise InputError("no output of the teacher can be learned: none holds floating-point numbers")
    return terms, metrics[0]


def _refuse_shapes(what: str, given: Sequence[Array], wanted: Sequence[Array]) -> None:
    """Raise InputError where a student's values and a teacher's cannot be compared number by number."""
    shapes = [sorted({value.shape for value in values}) for values in (given, wanted)]
    if shapes[0] != shapes[1]:
        said = (", ".join(map(str, each[:3])) or "no row a sample" for each in shapes)
        raise InputError(f"{what}: {' of the student, '.join(said)} of the teacher: these cannot be compared")


def _scale_beside(given: Sequence[Array], wanted: Sequence[Array], axis: int) -> Scale:
    """Whether a student's scores are probabilities: where the teacher's are, unless they cannot be any.

    Those of a rounded student need not add up to one.
    """
    if scale_of(wanted, axis) == "logits":
        return scale_of(given, axis)
    possible = all(bool(np.all((value >= 0) & (value <= 1.01))) for value in given)
    return "probabilities" if possible else "logits"


def _scores(
    ours: str, theirs: str, axis: int, scales: tuple[Scale, Scale], temperature: float
) -> tuple[list[Term], Metric]:
    def loss(outputs: Values, wanted: Values, batch: Batch) -> Tensor:
        pair = zip((outputs[ours], wanted[theirs]), scales, strict=True)
        student, teacher = (logits(by_decision(value, axis), scale) for value, scale in pair)
        return softened_divergence(student, teacher, temperature)

    def same(outputs: Values, wanted: Values, batch: Batch) -> Tensor:
        decided = [by_decision(v, axis).argmax(dim=-1) for v in (outputs[ours], wanted[theirs])]
        return (decided[0] == decided[1]).float().mean(dim=1)

    return [Term("teacher", 1.0, loss)], Metric("top-1 agreement", same)


def _embedding(ours: str, theirs: str, seen: Sequence[Array]) -> tuple[list[Term], Metric]:
    def distance(outputs: Values, wanted: Values, batch: Batch) -> Tensor:
        return cosine_distance(outputs[ours], wanted[theirs])

    def same(outputs: Values, wanted: Values, batch: Batch) -> Tensor:
        return 1 - distance(outputs, wanted, batch)

    terms = [Term("teacher", 1.0, distance)]
    if seen[0].ndim == 1:
        terms.append(
            Term(
                "relations",
                1.0,
                joint=lambda outputs, wanted: (outputs[ours], wanted[theirs]),
                relation=relations,
            )
        )
    return terms, Metric("cosine agreement", same)


def _signal(ours: str, theirs: str, seen: Sequence[Array]) -> tuple[list[Term], Metric]:
    signal = _mean_square(seen)

    def loss(outputs: Values, wanted: Values, batch: Batch) -> Tensor:
        return squared_error(outputs[ours], wanted[theirs], signal)

    def same(outputs: Values, wanted: Values, batch: Batch) -> Tensor:
        return 1 - loss(outputs, wanted, batch)

    return [Term("teacher", 1.0, loss)], Metric("SQNR agreement", same)


def from_features(names: Sequence[str], given: Seen, wanted: Seen, settings: Settings) -> list[Term]:
    """The terms of inner values, their weight shared out evenly; raises InputError for an unfit one.

    Of those that were ``matched``, the unfit ones are left out, unless all are.
    """
    fit = [name for name in names if name in wanted and wanted[name][0].dtype.kind == "f"]
    names = fit if fit and settings.features == "matched" else names
    terms = []
    for name in names:
        seen = wanted.get(name)
        if not seen or seen[0].dtype.kind != "f":
            raise InputError(f"{name!r} gives no floating-point numbers, a row a sample, to learn from")
        if not settings.attention:
            _refuse_shapes(f"feature {name!r}", given.get(name, ()), seen)
        terms.append(_feature(name, seen, settings, len(names)))
    return terms


def _feature(name: str, seen: Sequence[Array], settings: Settings, count: int) -> Term:
    signal = _mean_square(seen)
    by_attention = settings.attention and seen[0].ndim > 1

    def loss(outputs: Values, wanted: Values, batch: Batch) -> Tensor:
        if by_attention:
            return attention_distance(outputs[name], wanted[name])
        return squared_error(outputs[name], wanted[name], signal)

    return Term("features", settings.feature_weight / count, loss)


def matched(student: Graph, teacher: Graph) -> tuple[str, ...]:
    """Inner values of the same name and shape in both graphs that feed weighted layers, spread evenly."""
    shapes = [_inner_shapes(graph) for graph in (student, teacher)]
    outputs = {spec.name for graph in (student, teacher) for spec in graph.outputs}
    both = [name for name, shape in shapes[0].items() if shapes[1].get(name) == shape and name not in outputs]
    if len(both) <= _MOST_MATCHED:
        return tuple(both)
    chosen = np.linspace(0, len(both) - 1, _MOST_MATCHED).round().astype(int)
    return tuple(both[i] for i in chosen)


def _inner_shapes(graph: Graph) -> dict[str, str]:
    """Name to shape of the inner float values that a weighted layer reads, through a rounding or directly."""
    found = {}
    for node in infer(graph).ir_model.graph:
        for value in node.outputs:
            if value.dtype != ir.DataType.FLOAT or value.shape is None or len(value.shape) < 2:
                continue
            if any(user.op_type in {*OPERATORS, "QuantizeLinear"} for user, _ in value.uses()):
                found[str(value.name)] = str(value.shape)
    return found


def _mean_square(seen: Sequence[Array]) -> float:
    """The mean square of the finite values, by which errors are divided."""
    squares = [np.square(v[np.isfinite(v)], dtype=np.float64) for v in seen]
    total, count = sum(float(s.sum()) for s in squares), sum(s.size for s in squares)
    return total / count if count and total > 0 else 1.0
