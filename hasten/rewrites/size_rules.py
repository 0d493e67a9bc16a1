"""Where an operator's output sizes come from: one rule an operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from hasten.graph.reading import axes_of, given, integers, rank
from hasten.rewrites.elements import Element, Tracer, factors, product


def _first_input(dims: Tracer, node: ir.Node, axis: int) -> Element:
    x = node.inputs[0]
    return None if x is None else dims.size(x, axis)


def _leading(count: int) -> Callable[[Tracer, ir.Node, int], Element]:
    """The first axes are those of the first input, such as the batch of a convolution."""

    def size(dims: Tracer, node: ir.Node, axis: int) -> Element:
        return _first_input(dims, node, axis) if axis < count else None

    return size


def _transposed(dims: Tracer, node: ir.Node, axis: int) -> Element:
    perm = node.attributes.get_ints("perm", ())
    return dims.size(node.inputs[0], perm[axis]) if node.inputs[0] is not None and axis < len(perm) else None


def _broadcast(dims: Tracer, node: ir.Node, axis: int) -> Element:
    """The one size among the operands' that is not 1; None when several differ."""
    out = rank(node.outputs[0])
    if out is None:
        return None
    sizes: list[Element] = []
    for value in node.inputs:
        have = rank(value)
        if value is None or have is None:
            return None
        own = axis - (out - have)
        if own >= 0:
            sizes.append(dims.size(value, own))
    return _common([size for size in sizes if size != 1]) if any(s != 1 for s in sizes) else 1


def _common(sizes: Sequence[Element]) -> Element:
    return sizes[0] if sizes and all(size == sizes[0] for size in sizes) else None


def _multiplied(dims: Tracer, node: ir.Node, axis: int) -> Element:
    """Rows come from the left operand, columns from the right; the batch only when the right is a matrix."""
    a, b = node.inputs[0], given(node, 1)
    left, right = rank(a), rank(b)
    if a is None or b is None or left is None or right is None or left < 2 or right < 2:
        return None
    out = max(left, right)
    if axis == out - 1:
        return dims.size(b, right - 1)
    if axis == out - 2:
        return dims.size(a, left - 2)
    sizes = [dims.size(v, axis - (out - r)) for v, r in ((a, left), (b, right)) if axis - (out - r) >= 0]
    return _common([size for size in sizes if size != 1])


def _gathered(dims: Tracer, node: ir.Node, axis: int) -> Element:
    if node.attributes.get_int("axis", 0) != 0:
        return None
    indices, count = given(node, 1), rank(given(node, 1))
    if indices is None or count is None or node.inputs[0] is None:
        return None
    return dims.size(indices, axis) if axis < count else dims.size(node.inputs[0], axis - count + 1)


def _unsqueezed(dims: Tracer, node: ir.Node, axis: int) -> Element:
    out, axes = rank(node.outputs[0]), axes_of(node)
    if out is None or axes is None or node.inputs[0] is None:
        return None
    added = {a % out for a in axes}
    return 1 if axis in added else dims.size(node.inputs[0], axis - sum(a < axis for a in added))


def _squeezed(dims: Tracer, node: ir.Node, axis: int) -> Element:
    have, axes = rank(node.inputs[0]), axes_of(node)
    if have is None or axes is None or node.inputs[0] is None:
        return None
    kept = [i for i in range(have) if i not in {a % have for a in axes}]
    return dims.size(node.inputs[0], kept[axis]) if axis < len(kept) else None


def _sliced(dims: Tracer, node: ir.Node, axis: int) -> Element:
    """Axes that are not cut keep their size."""
    have = rank(node.inputs[0])
    axes = list(node.attributes.get_ints("axes", ())) or integers(given(node, 3))
    if have is None or not axes or axis in {a % have for a in axes}:
        return None
    return _first_input(dims, node, axis)


def _joined(dims: Tracer, node: ir.Node, axis: int) -> Element:
    """Axes that are not joined have one size in all inputs."""
    have = rank(node.outputs[0])
    if have is None or axis == node.attributes.get_int("axis", 0) % have:
        return None
    return _first_input(dims, node, axis)


def _counted(dims: Tracer, node: ir.Node, axis: int) -> Element:
    """Range(0, n, 1) has n elements."""
    start, limit, step = (dims.vector(given(node, i)) for i in range(3))
    if axis or start is None or limit is None or step is None:
        return None
    return limit.elements[0] if start.elements == (0,) and step.elements == (1,) else None


def _reshaped_size(dims: Tracer, node: ir.Node, axis: int) -> Element:
    """The element of the target; for the one that is -1, what the others leave of the input's sizes."""
    x, vector = node.inputs[0], dims.vector(given(node, 1))
    if x is None or vector is None or axis >= len(vector.elements):
        return None
    copies = not node.attributes.get_int("allowzero", 0)
    target = [dims.size(x, i) if e == 0 and copies else e for i, e in enumerate(vector.elements)]
    if target[axis] != -1:
        return target[axis]
    have = factors(dims.shape(x) or (None,))
    taken = factors(element for i, element in enumerate(target) if i != axis)
    if have is None or taken is None or taken[0] <= 0 or have[0] % taken[0] or taken[1] - have[1]:
        return None
    return product(have[0] // taken[0], have[1] - taken[1])


UNARY = (
    "Relu",
    "Sigmoid",
    "Tanh",
    "Erf",
    "Exp",
    "Log",
    "Sqrt",
    "Neg",
    "Abs",
    "Clip",
    "LeakyRelu",
    "Elu",
    "Selu",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Mish",
    "Softplus",
    "Softsign",
    "Reciprocal",
    "Cast",
    "Identity",
    "Dropout",
    "Softmax",
    "LogSoftmax",
    "LayerNormalization",
    "BatchNormalization",
    "InstanceNormalization",
    "GroupNormalization",
    "Not",
    "Floor",
    "Ceil",
    "Round",
    "Sign",
    "QuantizeLinear",
    "DequantizeLinear",
    "PRelu",
)
"""Operators whose result has the shape of their first input."""

_ELEMENTWISE = (
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "Equal",
    "Greater",
    "Less",
    "And",
    "Or",
    "Where",
    "Min",
    "Max",
    "Sum",
    "GreaterOrEqual",
    "LessOrEqual",
)

SIZES: Mapping[str, Callable[[Tracer, ir.Node, int], Element]] = {
    **dict.fromkeys(UNARY, _first_input),
    **dict.fromkeys(_ELEMENTWISE, _broadcast),
    **dict.fromkeys(("Conv", "ConvTranspose"), _leading(1)),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"), _leading(2)),
    "Transpose": _transposed,
    "MatMul": _multiplied,
    "Unsqueeze": _unsqueezed,
    "Squeeze": _squeezed,
    "Slice": _sliced,
    "Concat": _joined,
    "Gather": _gathered,
    "Range": _counted,
    "Reshape": _reshaped_size,
}
