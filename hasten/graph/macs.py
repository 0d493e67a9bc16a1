"""Multiply-accumulates of one node, from the shapes of its operands.

Each counter takes the node and a function that tells a value's shape (None: rank unknown), and returns a
number of MACs; 0 when a shape it needs is unknown. Formulas follow the operators' definitions in the ONNX
specification (and, for com.microsoft, in ONNX Runtime's ContribOperators).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import TypeAlias

import onnx_ir as ir

Shape: TypeAlias = tuple[int, ...] | None
ShapeOf: TypeAlias = Callable[[ir.Value | None], Shape]
Counter: TypeAlias = Callable[[ir.Node, ShapeOf], int]


def moved(node: ir.Node, of: ShapeOf) -> int:
    """The numbers that a node reads and writes; operands of unknown shape count as none."""
    shapes = (of(value) for value in (*node.inputs, *node.outputs))
    return sum(prod(shape) for shape in shapes if shape is not None)


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _conv(weight: int) -> Counter:
    """Output elements times input channels of a group times kernel: W is [M, C/group, *kernel]."""

    def count(node: ir.Node, of: ShapeOf) -> int:
        out, kernel = of(node.outputs[0]), of(_input(node, weight))
        return 0 if out is None or kernel is None else prod(out) * prod(kernel[1:])

    return count


def _conv_transpose(node: ir.Node, of: ShapeOf) -> int:
    """Input elements times output channels of a group times kernel: W is [C, M/group, *kernel]."""
    image, kernel = of(_input(node, 0)), of(_input(node, 1))
    return 0 if image is None or kernel is None else prod(image) * prod(kernel[1:])


def _matmul(left: int, right: int) -> Counter:
    """Output elements times the length of the summed axis."""

    def count(node: ir.Node, of: ShapeOf) -> int:
        a, b, out = of(_input(node, left)), of(_input(node, right)), of(node.outputs[0])
        if a is None or b is None or not a or not b:
            return 0
        flipped = node.attributes.get_int("transA", 0) and len(a) > 1
        depth = a[-2] if flipped else a[-1]
        if out is None:
            rows = a[:-1] if not flipped else (*a[:-2], a[-1])
            columns = b[-2] if node.attributes.get_int("transB", 0) else b[-1]
            out = (*rows, columns if len(b) > 1 else 1)
        return prod(out) * depth

    return count


def _matmul_bits(node: ir.Node, of: ShapeOf) -> int:
    """Rows of A times K times N, which are attributes: B is packed."""
    a = of(_input(node, 0))
    return (
        0 if a is None else prod(a[:-1]) * node.attributes.get_int("K", 0) * node.attributes.get_int("N", 0)
    )


def _recurrent(node: ir.Node, of: ShapeOf) -> int:
    """Every step of every sequence multiplies by all of W and R.

    X is [steps, batch, input], or with batch first; W and R hold all gates of all directions.
    """
    x, w, r = (of(_input(node, i)) for i in range(3))
    return 0 if x is None or w is None or r is None else prod(x[:2]) * (prod(w) + prod(r))


def _attention(node: ir.Node, of: ShapeOf) -> int:
    """Scores (queries times keys) and their products with the values.

    With [batch, heads, length, head size] or [batch, length, heads times head size] alike, this is keys'
    length times the elements of the queries and of the result.
    """
    q, k, out = of(_input(node, 0)), of(_input(node, 1)), of(node.outputs[0])
    if q is None or k is None or out is None or len(k) < 2:
        return 0
    past = of(_input(node, 4)) if node.domain == "" else None
    length = k[-2] + (past[-2] if past is not None and len(past) > 1 else 0)
    return length * (prod(q) + prod(out))


def _fused_attention(node: ir.Node, of: ShapeOf) -> int:
    """com.microsoft Attention: [batch, length, width] times weights [width, 3 hidden], then attention."""
    x, w, out = of(_input(node, 0)), of(_input(node, 1)), of(node.outputs[0])
    if x is None or w is None or out is None or len(x) != 3:
        return 0
    return prod(x[:2]) * prod(w) + 2 * prod(out) * x[1]


def _attention_any(node: ir.Node, of: ShapeOf) -> int:
    return (_fused_attention if node.domain == "com.microsoft" else _attention)(node, of)


def _einsum(node: ir.Node, of: ShapeOf) -> int:
    """Product of the sizes of all letters; 0 with one operand, which is only moved or summed."""
    left = node.attributes.get_string("equation", "").replace(" ", "").split("->")[0]
    terms = left.split(",")
    shapes = [of(value) for value in node.inputs]
    if len(terms) < 2 or len(terms) != len(shapes):
        return 0
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        if shape is None:
            return 0
        head, dots, tail = term.partition("...")
        if len(head) + len(tail) > len(shape) or (not dots and len(head) != len(shape)):
            return 0
        hidden = len(shape) - len(head) - len(tail)
        letters = [*head, *(f"...{hidden - i}" for i in range(hidden)), *tail]
        for letter, size in zip(letters, shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    return prod(sizes.values())


COUNTERS: Mapping[str, Counter] = {
    "Conv": _conv(1),
    "FusedConv": _conv(1),
    "NhwcFusedConv": _conv(1),
    "DeformConv": _conv(1),
    "ConvInteger": _conv(1),
    "QLinearConv": _conv(3),
    "ConvTranspose": _conv_transpose,
    "Gemm": _matmul(0, 1),
    "FusedGemm": _matmul(0, 1),
    "QGemm": _matmul(0, 3),
    "MatMul": _matmul(0, 1),
    "FusedMatMul": _matmul(0, 1),
    "TransposeMatMul": _matmul(0, 1),
    "QLinearMatMul": _matmul(0, 3),
    "MatMulInteger": _matmul(0, 1),
    "MatMulIntegerToFloat": _matmul(0, 1),
    "DynamicQuantizeMatMul": _matmul(0, 1),
    "MatMulNBits": _matmul_bits,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "DynamicQuantizeLSTM": _recurrent,
    "Attention": _attention_any,
    "QAttention": _fused_attention,
    "MultiHeadAttention": _attention,
    "Einsum": _einsum,
}
"""Operator type to counter; a type means the same in every domain that defines it, Attention apart."""
