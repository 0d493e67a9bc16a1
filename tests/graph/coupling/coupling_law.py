"""The law of coupling: a graph without units computes what the whole one does with their weights zero."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

from hasten.graph import Graph
from hasten.graph.cost import layer_costs
from hasten.graph.coupling import Coupling, Side, couple, mask, prepare, shrink
from hasten.graph.coupling.cost import Costs, Sizes
from hasten.graph.evaluate import Evaluator
from hasten.graph.shapes import observed_shapes

Feeds = Mapping[str, np.ndarray]


def drawn(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """A weight for which sums of its products stay about one."""
    return (rng.normal(size=shape) / np.sqrt(max(np.prod(shape[1:]), 1))).astype(np.float32)


def graph(text: str, opset: int = 18, **weights: object) -> Graph:
    """Parse a graph; weights are arrays, or shapes of weights to draw."""
    imports = f'["" : {opset}, "own.domain" : 1]'
    model = onnx.parser.parse_model(f"<ir_version: 8, opset_import: {imports}> tested {text}")
    rng = np.random.default_rng(len(text))
    for name, given in weights.items():
        array = drawn(rng, given) if isinstance(given, tuple) else np.asarray(given)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return Graph(ir.serde.deserialize_model(model))


def feeds_for(made: Graph, seed: int = 0, free: int = 3) -> dict[str, np.ndarray]:
    """Random inputs; lengths that are open are ``free``, integers lie in 0 … 4."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for spec in made.inputs:
        assert spec.shape is not None
        shape = [length if isinstance(length, int) else free for length in spec.shape]
        if np.dtype(spec.dtype).kind == "f":
            feeds[spec.name] = rng.normal(size=shape).astype(spec.dtype)
        else:
            feeds[spec.name] = rng.integers(0, 5, size=shape).astype(spec.dtype)
    return feeds


def some(coupling: Coupling, seed: int) -> list[int]:
    """Units to remove: of each width any number but all."""
    rng = np.random.default_rng(seed)
    return [
        unit
        for width in coupling.widths
        for unit in rng.permutation(width.units)[: rng.integers(0, len(width))].tolist()
    ]


def agree(whole: Graph, coupling: Coupling, units: Iterable[int], feeds: Feeds) -> Graph:
    """Assert the law for these units; returns the narrow graph."""
    units = list(units)
    narrow = shrink(whole, coupling, units)
    wanted = Evaluator(mask(whole, coupling, units), optimized=False).run(feeds)
    found = Evaluator(narrow, optimized=False).run(feeds)
    for name, reference in wanted.items():
        assert found[name].shape == reference.shape
        assert np.isfinite(reference).all()
        size = max(float(np.abs(reference).max(initial=0)), 1e-3)
        np.testing.assert_allclose(found[name], reference, rtol=0, atol=2e-5 * size, err_msg=name)
    return narrow


def costs_agree(whole: Graph, coupling: Coupling, units: Iterable[int], feeds: Feeds) -> None:
    """Assert that what the narrow graph costs is known without building it, exactly."""
    gone = np.zeros(coupling.count, dtype=bool)
    gone[list(units)] = True
    narrow = shrink(whole, coupling, gone.nonzero()[0].tolist())
    counted = {layer.name: layer.macs for layer in layer_costs(narrow, feeds)}
    told = Costs(whole, coupling, observed_shapes(whole, feeds)).of(gone)
    assert told == {name: counted[name] for name in told}
    sizes = Sizes(whole, coupling).of(gone)
    # Integers say how long axes are, and may be stored anew.
    stored = {n: prod(v.shape.numpy()) for n, v in narrow.weights.items() if v.dtype.is_floating_point()}
    assert stored == {name: sizes[name] for name in stored}


def widths(coupling: Coupling) -> dict[str, int]:
    """How many units each width has, by name."""
    return {width.name: len(width) for width in coupling.widths}


def holds(
    given: Graph, expected: Mapping[str, int], *, side: Side = "outer", free: int = 3, rounds: int = 3
) -> Coupling:
    """Assert which widths a graph has, and the law, for random removals and for all but one of each."""
    before = given.fingerprint
    whole = prepare(given)
    coupling = couple(whole, side=side)
    assert widths(coupling) == dict(expected)
    assert all(skip.reason for skip in coupling.fixed)
    feeds = feeds_for(whole, free=free)
    least = [unit for width in coupling.widths for unit in width.units[1:].tolist()]
    for units in (least, *(some(coupling, seed) for seed in range(rounds))):
        narrow = agree(whole, coupling, units, feeds)
        costs_agree(whole, coupling, units, feeds)
        assert narrow.inputs == whole.inputs
        assert [(o.name, o.shape) for o in narrow.outputs] == [(o.name, o.shape) for o in whole.outputs]
        if units:
            assert narrow.parameters < whole.parameters
    # Another number of samples and of steps than the shapes were observed with.
    agree(whole, coupling, least, feeds_for(whole, seed=1, free=free + 2))
    assert given.fingerprint == before
    return coupling
