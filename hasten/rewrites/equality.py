"""Does a rewritten graph still compute the same? Both are run, operator by operator, on the same inputs.

Rewrites reorder floating-point sums, so equal means: as close as two orders of summation are. A sum of K
products in one order and another differs by about √K·u of its size (u: the unit roundoff), L layers by √L
times that; with K up to 4608 and L up to 100 this is below 2¹⁰·u (Higham 2002, "Accuracy and Stability of
Numerical Algorithms", section 3.1).

Where a graph amplifies rounding errors, by cancellation say, that is too strict. How much it amplifies them
is then measured in two ways: by the difference between the runtime's optimized and literal run of the
original, and, only where that is not enough, by runs of the original with every weight disturbed at random
in its last bit (Monte Carlo arithmetic: Parker 1997, UCLA CSD-970002).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from hasten.core.data import Array
from hasten.core.errors import MethodError
from hasten.graph import Graph
from hasten.graph.evaluate import Evaluator
from hasten.graph.graph import PROTOBUF_LIMIT_BYTES

_SINGLE = 2.0**-24
_HALF = 2.0**-8
"""Unit roundoffs of float32 and, standing for both 16-bit types, of bfloat16."""
_ROUNDINGS = 2.0**10
_ROUNDINGS_HALF = 4.0
"""In 16 bits each operator sums in 32 and rounds once: √L·u with few operators in a row."""
_NOISE = 16.0
_DISTURBANCES = 3
_DISTURBED = 8.0
"""How many disturbed runs there are, and how many times their largest deviation still counts as equal."""
_MOST = 2.0**-7
"""Of the largest output: a graph that amplifies rounding errors beyond is not said to be equal to another."""


class Equality:
    """What a graph computes on some inputs, and how exactly another must reproduce it.

    Raises MethodError when the graph does not run on one of the feeds.
    """

    def __init__(self, graph: Graph, feeds: Sequence[Mapping[str, Array]], *, threads: int = 1) -> None:
        self._graph = graph
        self._feeds = feeds
        self._threads = threads
        self._disturbed = graph.weight_bytes > PROTOBUF_LIMIT_BYTES
        self._wanted = self._run(graph)
        least = _relative_bound(graph)
        self._bounds = [
            {name: _bound(value, other.get(name, value), least) for name, value in wanted.items()}
            for wanted, other in zip(self._wanted, self._optimized(graph), strict=True)
        ]

    def difference(self, graph: Graph) -> str | None:
        """How the graph's outputs differ, or None where they are equal."""
        try:
            found = self._run(graph)
        except MethodError as error:
            return str(error)
        problem = self._compare(found)
        if problem and not self._disturbed:
            self._widen()
            problem = self._compare(found)
        return problem

    def _run(self, graph: Graph, *, optimized: bool = False) -> list[dict[str, Array]]:
        evaluator = Evaluator(graph, threads=self._threads, optimized=optimized)
        return [_flat(evaluator.run(feed)) for feed in self._feeds]

    def _optimized(self, graph: Graph) -> list[dict[str, Array]]:
        """The optimized run; where the runtime's own rewrites fail on the graph, the literal one again."""
        try:
            return self._run(graph, optimized=True)
        except MethodError:
            return self._wanted

    def _compare(self, found: list[dict[str, Array]]) -> str | None:
        for outputs, wanted, bounds in zip(found, self._wanted, self._bounds, strict=True):
            for name, reference in wanted.items():
                problem = _differs(outputs.get(name), reference, bounds[name])
                if problem:
                    return f"output {name!r} {problem}"
        return None

    def _widen(self) -> None:
        """Raise the bounds to what disturbing the last bits of the weights does."""
        self._disturbed = True
        for seed in range(_DISTURBANCES):
            try:
                runs = self._run(_disturbed(self._graph, seed))
            except MethodError:
                return  # some constants are no weights, and bear no disturbance
            for outputs, wanted, bounds in zip(runs, self._wanted, self._bounds, strict=True):
                for name in wanted.keys() & outputs.keys():
                    gap = _gap(outputs[name], wanted[name])
                    most = _MOST * _size(wanted[name])
                    bounds[name] = max(bounds[name], min(_DISTURBED * gap, most))


def _flat(outputs: Mapping[str, object]) -> dict[str, Array]:
    """Arrays only: an output that is a list (a sequence) or a dictionary (a map) becomes several."""
    found: dict[str, Array] = {}
    for name, value in outputs.items():
        if isinstance(value, list):
            found |= {f"{name}.length": np.asarray(len(value))}
            found |= _flat({f"{name}[{i}]": item for i, item in enumerate(value)})
        elif isinstance(value, dict):
            found |= _flat({f"{name}[{key}]": item for key, item in value.items()})
        else:
            found[name] = np.asarray(value)
    return found


def _disturbed(graph: Graph, seed: int) -> Graph:
    """A copy with every floating-point weight multiplied by 1 plus or minus up to one unit roundoff."""
    copy, rng = graph.copy(), np.random.default_rng(seed)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=2)(copy.ir_model)
    for value in copy.weights.values():
        tensor = value.const_value
        if tensor is not None and tensor.dtype in {ir.DataType.FLOAT, ir.DataType.DOUBLE}:
            array = tensor.numpy()
            factor = 1.0 + rng.uniform(-1, 1, array.shape) * 2.0 * _SINGLE
            value.const_value = ir.tensor((array * factor).astype(array.dtype), name=value.name)
    return copy


def _relative_bound(graph: Graph) -> float:
    narrow = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
    values = (v for owner in graph.ir_model.graphs() for node in owner for v in (*node.inputs, *node.outputs))
    half = any(value is not None and value.dtype in narrow for value in values)
    return _HALF * _ROUNDINGS_HALF if half else _SINGLE * _ROUNDINGS


def _bound(reference: Array, other: Array, relative: float) -> float:
    """The largest difference of one element that counts as equal; 0 for anything but numbers."""
    if not _is_float(reference) or reference.size == 0:
        return 0.0
    return max(relative * _size(reference), _NOISE * _gap(other, reference))


def _size(reference: Array) -> float:
    """The largest finite number of it, without its sign; 0 for anything but numbers."""
    if not _is_float(reference):
        return 0.0
    wide = reference.astype(np.float64)
    finite = wide[np.isfinite(wide)]
    return float(np.abs(finite).max()) if finite.size else 0.0


def _gap(found: Array, reference: Array) -> float:
    """The largest difference of one element where both are finite; 0 for anything but numbers."""
    if not _is_float(reference) or found.shape != reference.shape:
        return 0.0
    gaps = np.abs(found.astype(np.float64) - reference.astype(np.float64))
    gaps = gaps[np.isfinite(gaps)]
    return float(gaps.max()) if gaps.size else 0.0


def _differs(found: Array | None, reference: Array, bound: float) -> str | None:
    if found is None:
        return "is missing"
    if found.dtype != reference.dtype or found.shape != reference.shape:
        return f"became {found.dtype}{list(found.shape)} instead of {reference.dtype}{list(reference.shape)}"
    if not _is_float(reference):
        return None if np.array_equal(found, reference) else "differs"
    if not np.array_equal(np.isfinite(found), np.isfinite(reference)):
        return "is no longer finite, or has become so"
    gap = _gap(found, reference)
    return f"differs by {gap:.3g}, more than rounding explains ({bound:.3g})" if gap > bound else None


def _is_float(array: Array) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"
