"""What an operator makes of shape vectors: one rule an operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from hasten.graph.reading import axes_of, constant, given, integers
from hasten.rewrites.elements import LONGEST, Tracer, Vector, factors, product


def _shape(dims: Tracer, node: ir.Node) -> Vector | None:
    x = node.inputs[0]
    sizes = dims.shape(x) if x is not None else None
    if sizes is None or len(sizes) > LONGEST:
        return None
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(sizes))
    return Vector(sizes[start:end])


def _gather(dims: Tracer, node: ir.Node) -> Vector | None:
    vector, indices = dims.vector(node.inputs[0]), constant(given(node, 1))
    if vector is None or vector.scalar or indices is None or indices.ndim > 1 or indices.size > LONGEST:
        return None
    numbers = [int(n) for n in indices.reshape(-1)]
    if any(not -len(vector.elements) <= n < len(vector.elements) for n in numbers):
        return None
    return Vector(tuple(vector.elements[n] for n in numbers), scalar=indices.ndim == 0)


def _slice(dims: Tracer, node: ir.Node) -> Vector | None:
    vector = dims.vector(node.inputs[0])
    if len(node.inputs) > 1:
        bounds = [integers(given(node, i)) for i in (1, 2)]
        step = integers(given(node, 4)) if given(node, 4) is not None else [1]
    else:
        attributes = node.attributes
        bounds = [list(attributes.get_ints("starts", ())), list(attributes.get_ints("ends", ()))]
        step = [1]
    if vector is None or vector.scalar or step is None or any(b is None or len(b) != 1 for b in bounds):
        return None
    start, end = (b[0] for b in bounds if b)
    return Vector(vector.elements[start : end : step[0]]) if step[0] > 0 else None


def _concat(dims: Tracer, node: ir.Node) -> Vector | None:
    parts = [dims.vector(value) for value in node.inputs]
    if any(part is None or part.scalar for part in parts):
        return None
    elements = tuple(e for part in parts if part is not None for e in part.elements)
    return Vector(elements) if len(elements) <= LONGEST else None


def _cast(dims: Tracer, node: ir.Node) -> Vector | None:
    """Sizes fit in 32 bits: a tensor with a longer axis would not fit the runtimes' own limits."""
    to = node.attributes.get_int("to", 0)
    vector = dims.vector(node.inputs[0]) if to in {ir.DataType.INT64, ir.DataType.INT32} else None
    if vector is None or to == ir.DataType.INT64:
        return vector
    fits = all(not isinstance(n, int) or -(2**31) <= n < 2**31 for n in vector.elements)
    return vector if fits else None


def _identity(dims: Tracer, node: ir.Node) -> Vector | None:
    return dims.vector(node.inputs[0])


def _squeeze(dims: Tracer, node: ir.Node) -> Vector | None:
    vector = dims.vector(node.inputs[0])
    one = vector is not None and len(vector.elements) == 1 and not vector.scalar
    return Vector(vector.elements, scalar=True) if one and vector is not None else None


def _unsqueeze(dims: Tracer, node: ir.Node) -> Vector | None:
    vector, axes = dims.vector(node.inputs[0]), axes_of(node)
    if vector is None or not vector.scalar or axes not in ([0], [-1]):
        return None
    return Vector(vector.elements)


def _reshape_vector(dims: Tracer, node: ir.Node) -> Vector | None:
    vector, target = dims.vector(node.inputs[0]), integers(given(node, 1))
    if vector is None or target is None or len(target) > 1:
        return None
    return Vector(vector.elements, scalar=not target)


def _multiply(dims: Tracer, node: ir.Node) -> Vector | None:
    a, b = dims.vector(node.inputs[0]), dims.vector(given(node, 1))
    if a is None or b is None or len(a.elements) != 1 or len(b.elements) != 1:
        return None
    found = factors((*a.elements, *b.elements))
    if found is None or found[0] < 0:
        return None
    return Vector((product(*found),), scalar=a.scalar and b.scalar)


VECTORS: Mapping[str, Callable[[Tracer, ir.Node], Vector | None]] = {
    "Shape": _shape,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Cast": _cast,
    "Identity": _identity,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Reshape": _reshape_vector,
    "Mul": _multiply,
}
