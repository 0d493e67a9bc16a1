"""The range of each activation: by a rule, or by that of several which spoils its layers' outputs least."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
import onnx_ir as ir

from hasten.core.data import Calibration
from hasten.graph import Graph
from hasten.methods import Context
from hasten.methods._observe.moments import as_rows, inputs_of, solvable
from hasten.methods._observe.samples import observed
from hasten.methods._qdq.layers import IntegerLayer
from hasten.methods._qdq.placement import Plan
from hasten.numerics.affine import Affine, Grid, asymmetric, symmetric
from hasten.numerics.ranges import (
    Histogram,
    Range,
    entropy,
    extremes,
    least_squares,
    mean_sigma,
    moving,
    percentile,
)

ActivationType: TypeAlias = Literal["uint8", "int8", "uint16"]
Rule: TypeAlias = Literal["minmax", "moving", "percentile", "mse", "entropy", "sigma", "outputs"]

_TRIED: tuple[Rule, ...] = ("mse", "minmax", "percentile", "entropy")
"""What ``outputs`` chooses from; the first is for what no layer reads."""
_SAMPLES, _POSITIONS = 32, 32
"""Samples, and positions of each, that layers are tried on: enough to rank a handful of ranges."""


def quantizer(activations: ActivationType, low: float, high: float) -> Affine:
    """The quantizer of activations of this type with this range."""
    if activations != "int8":
        return asymmetric(low, high, Grid(bits=16 if activations == "uint16" else 8, signed=False))
    if low >= 0.0:
        return asymmetric(low, high, Grid(signed=True))
    return symmetric(max(-low, high), Grid(signed=True))


class Ranges:
    """Sets the quantizers of a plan's groups from the histograms of its points.

    rule: one of all groups, or ``outputs``. share: per cent that ``percentile`` covers. sigmas: standard
    deviations of ``sigma``.
    """

    def __init__(self, activations: ActivationType, rule: Rule, share: float, sigmas: float) -> None:
        self._quantizer = partial(quantizer, activations)
        self._rule = rule
        self._rules: dict[Rule, Callable[[Histogram], Range]] = {
            "minmax": extremes,
            "moving": moving,
            "percentile": lambda histogram: percentile(histogram, share),
            "mse": lambda histogram: least_squares(histogram, self._quantizer),
            "entropy": entropy,
            "sigma": lambda histogram: mean_sigma(histogram, sigmas),
        }

    def quantizers(
        self,
        plan: Plan,
        seen: Mapping[str, Histogram],
        graph: Graph,
        calibration: Calibration,
        context: Context,
    ) -> dict[ir.Value, Affine]:
        """The quantizer of each group of the plan. graph: the float model that layers are tried in."""
        rules = _TRIED if self._rule == "outputs" else (self._rule,)
        made = {
            group: [self._of(rule, [seen[str(value.name)] for value in values]) for rule in rules]
            for group, values in plan.groups().items()
        }
        if len(rules) == 1:
            return {group: only for group, (only,) in made.items()}
        errors = _errors(plan, made, graph, calibration, context)
        return {group: tried[int(np.argmin(errors[group]))] for group, tried in made.items()}

    def _of(self, rule: Rule, histograms: Sequence[Histogram]) -> Affine:
        ranges = [self._rules[rule](histogram) for histogram in histograms]
        return self._quantizer(min(low for low, _ in ranges), max(high for _, high in ranges))


def _errors(
    plan: Plan,
    tried: Mapping[ir.Value, Sequence[Affine]],
    graph: Graph,
    calibration: Calibration,
    context: Context,
) -> dict[ir.Value, np.ndarray]:
    """‖W (x - x̂)‖² over the layers that read a group, of each quantizer tried, relative to ‖W x‖²."""
    errors = {group: np.zeros(len(quantizers)) for group, quantizers in tried.items()}
    readers: dict[str, list[IntegerLayer]] = {}
    for layer in filter(solvable, plan.layers):
        readers.setdefault(str(layer.activation.name), []).append(layer)
    weights = {layer.name: as_rows(layer, layer.array) for layer in plan.layers if solvable(layer)}
    samples = calibration.take(_SAMPLES)
    for part, values in observed(graph, list(readers), samples, context):
        for layer in (layer for name in part for layer in readers[name]):
            group = plan.group(layer.activation)
            rows = inputs_of(layer, values[str(layer.activation.name)], _POSITIONS)
            transposed = weights[layer.name].swapaxes(1, 2)
            signal = float(np.square(rows @ transposed).sum()) or 1.0
            for i, each in enumerate(tried[group]):
                lost = rows - each.round_trip(rows)
                errors[group][i] += float(np.square(lost @ transposed).sum()) / signal
    return errors
