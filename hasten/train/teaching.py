"""The loss that a teacher means: which of its values are learned, and how each is compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


def from_teacher(
    pairs: Mapping[str, str], values: Mapping[str, Sequence[Array]], settings: Settings
) -> tuple[list[Term], Metric]:
    """The terms of the outputs, and the metric of the first; raises InputError when none can be learned.

    values: of the teacher on some samples, by name; class scores, embeddings and other signals are told apart
    as the measurement of agreement does.
    """
    terms: list[Term] = []
    metrics: list[Metric] = []
    for ours, theirs in pairs.items():
        seen = values.get(theirs)
        if not seen or seen[0].dtype.kind != "f":
            continue
        sight = see(theirs, seen)
        if sight.kind == "top-1":
            made, metric = _scores(ours, theirs, sight.axis, seen, settings.temperature)
        elif sight.kind == "cosine":
            made, metric = _embedding(ours, theirs, seen)
        else:
            made, metric = _signal(ours, theirs, seen)
        terms += made
        metrics.append(metric)
    if not terms:
        raise InputError("no output of the teacher can be learned: none holds floating-point numbers")
    return terms, metrics[0]


def _scores(
    ours: str, theirs: str, axis: int, seen: Sequence[Array], temperature: float
) -> tuple[list[Term], Metric]:
    scale = scale_of(seen, axis)

    def loss(outputs: Values, wanted: Values, batch: Batch) -> Tensor:
        pair = [logits(by_decision(v, axis), scale) for v in (outputs[ours], wanted[theirs])]
        return softened_divergence(pair[0], pair[1], temperature)

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


def from_features(
    names: Sequence[str], values: Mapping[str, Sequence[Array]], settings: Settings
) -> list[Term]:
    """The terms of inner values, their weight shared out evenly; raises InputError for an unfit one."""
    terms = []
    for name in names:
        seen = values.get(name)
        if not seen or seen[0].dtype.kind != "f":
            raise InputError(f"{name!r} gives no floating-point numbers, a row a sample, to learn from")
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
