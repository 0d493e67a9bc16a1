"""Layers with the forms that they can take, solved for what they read on calibration samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import numpy as np

from hasten.core.data import Array
from hasten.core.errors import MethodError
from hasten.core.record import Skip
from hasten.graph import Graph
from hasten.graph.feeds import feeds_to_try
from hasten.graph.names import skip
from hasten.graph.shapes import observed_shapes
from hasten.methods import Context
from hasten.methods._factors.choice import Choice
from hasten.methods._factors.clock import Clock
from hasten.methods._factors.forms import Factor, Form, Positions
from hasten.methods._factors.layers import Factorable
from hasten.methods._observe.moments import moments_of
from hasten.methods._observe.samples import in_parts
from hasten.numerics.covariance import about_mean, constants, shrunk
from hasten.numerics.low_rank import Target
from hasten.numerics.rounding import Moments

LARGEST = 4608
"""Inputs of an output at most, as many as 512 channels under a kernel of 3×3 have: 162 MiB of moments."""
_MOMENTS_BYTES = 512 << 20
"""About how much moments may take at once; further layers are observed behind these."""

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
Observed: TypeAlias = Callable[[Sequence[Factorable]], Mapping[str, Moments]]
Forms: TypeAlias = Callable[[Factorable, Target, Positions], list[Form]]


@dataclass(frozen=True)
class Solved:
    """A layer and its forms.

    mean: of what it reads, (inputs,), or of each output, (outputs, inputs), where it convolves in groups;
    None where the forms were solved by weights.
    """

    layer: Factorable
    forms: list[Form]
    mean: Array | None

    def form(self, chosen: Choice) -> Form:
        """The form that was chosen."""
        return next(form for form in self.forms if form.name == chosen.form)

    def factors(self, chosen: Choice) -> list[Factor]:
        """Its weights."""
        return self.form(chosen).factors(chosen.rank)


class Solver:
    """Solves layers, few at a time, since moments take memory.

    observed: makes the moments of some layers, by their names; None: by weights. shapes: of all values in one
    inference. forms: those that a layer can take. clock: where times count and not multiply-accumulates.
    """

    def __init__(
        self, observed: Observed | None, shapes: Shapes, forms: Forms, clock: Clock | None = None
    ) -> None:
        self.skipped: list[Skip] = []
        self._observed = observed
        self._shapes = shapes
        self._forms = forms
        self._clock = clock

    def solve(self, layers: Sequence[Factorable]) -> Iterator[Solved]:
        """The layers in order; those that cannot be solved are recorded with the reason."""
        for part in [list(layers)] if self._observed is None else in_parts(layers, _held, _MOMENTS_BYTES):
            found = None if self._observed is None else self._observed(part)
            for layer in part:
                moments = None if found is None else moments_of(found, layer)
                reason = None if found is None else _unsolvable(layer, moments)
                if reason is None:
                    yield self._solved(layer, moments)
                else:
                    self.skipped.append(skip(layer.node, reason))

    def _solved(self, layer: Factorable, moments: Moments | None) -> Solved:
        moment = None if moments is None else _moment(layer, moments)
        forms = self._forms(layer, Target(layer.rows, moment), _positions(layer, self._shapes))
        if self._clock is not None:
            time = self._clock.of(layer.name)
            for form in forms:
                form.clock = time
        return Solved(layer, forms, None if moments is None else _mean(layer, moments))


def run_once(graph: Graph, context: Context) -> tuple[Mapping[str, Array] | None, Shapes]:
    """Inputs of one inference and the shapes of all values in it.

    Without samples the inputs are random; where these do not fit, there are none, and no shapes. Raises
    MethodError when the graph does not run on the samples.
    """
    if context.calibration:
        feeds = next(context.calibration.batches_for(graph.inputs, context.batch)).feeds(graph.inputs)
        return feeds, observed_shapes(graph, feeds, threads=context.threads)
    for feeds in feeds_to_try(graph.inputs, context.seed):
        try:
            return feeds, observed_shapes(graph, feeds, threads=context.threads)
        except MethodError:
            continue
    return None, {}


def _about(layer: Factorable, moments: Moments) -> Array:
    """Second moments of what each group reads, about the mean where a bias can keep it."""
    return moments.second if layer.bias is None else about_mean(moments.second, moments.mean)


def _moment(layer: Factorable, moments: Moments) -> Array:
    """What ``Target`` is given."""
    groups = [shrunk(group, moments.count) for group in _about(layer, moments)]
    return groups[0] if len(groups) == 1 else np.stack(groups)


def _mean(layer: Factorable, moments: Moments) -> Array:
    mean = moments.mean
    return mean[0] if len(mean) == 1 else np.repeat(mean, len(layer.array) // len(mean), axis=0)


def _unsolvable(layer: Factorable, moments: Moments | None) -> str | None:
    """Why there is nothing to choose the layer's factors by; None where there is."""
    if moments is not None:
        second, mean = moments.second, moments.mean
        flat = not second.any() if layer.bias is None else bool(constants(second, mean).all())
        return "what it reads does not vary on the calibration samples" if flat else None
    if layer.inputs > LARGEST:
        return f"its outputs have {layer.inputs} inputs each, too many to observe; by: weights observes none"
    if layer.automatic:
        return "it pads automatically, so that what it reads cannot be observed; by: weights can"
    return "what it reads is empty or not finite on the calibration samples"


def _held(layer: Factorable) -> int:
    """The bytes of its second moments."""
    return 8 * layer.inputs**2 if layer.inputs <= LARGEST else 0


def _positions(layer: Factorable, shapes: Shapes) -> Positions:
    """How often the layer multiplies; once where the shapes are not known."""
    made = shapes.get(str(layer.node.outputs[0].name))
    read = shapes.get(str(layer.activation.name))
    if not made or not read:
        ones = (1,) * max(1, len(layer.kernel))
        return Positions(ones, ones)
    if layer.kernel:
        return Positions(read[2:], made[2:], made[0])
    rows = (prod(made[:-1]),)
    return Positions(rows, rows)
