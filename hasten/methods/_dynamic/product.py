"""Matrix products with a constant weight, in one form: activations times a [K, N] matrix, plus a bias."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.graph.reading import constant, given

Permutation: TypeAlias = tuple[int, ...]
RankOf: TypeAlias = Callable[[ir.Value], "int | None"]

MOST_TERMS = (2**31 - 1) // (255 * 128)
"""A sum of this many products of a uint8 and an int8 still fits into 32 bits."""


class Unfit(Exception):  # noqa: N818 - carries the reason why a layer stays as it is
    """The layer cannot be quantized by this method."""


@dataclass(frozen=True)
class Product:
    """``after(before(x) @ weight + bias)``, where before and after are transpositions or nothing.

    weight: [K, N], float32. name: of the stored tensor it was made of; with ``variant`` (what was done to
    it) it tells equal weights of several layers. bias: [N] or any constant that broadcasts, a value of the
    graph, or None.
    """

    x: ir.Value
    weight: Array
    name: str
    variant: str
    bias: ir.Value | Array | None = None
    bias_factor: float = 1.0
    before: Permutation | None = None
    after: Permutation | None = None


def read(node: ir.Node, rank_of: RankOf) -> Product:
    """The product a MatMul or Gemm computes; raises Unfit with the reason."""
    product = _gemm(node) if node.op_type == "Gemm" else _matmul(node, rank_of)
    weight = product.weight
    if weight.dtype != np.float32:
        raise Unfit(f"its weight is {weight.dtype.name}, not float32")
    if not np.isfinite(weight).all():
        raise Unfit("its weight holds values that are not finite")
    if weight.shape[0] > MOST_TERMS:
        raise Unfit(f"sums of {weight.shape[0]} products do not fit into 32 bits")
    return product


def _matmul(node: ir.Node, rank_of: RankOf) -> Product:
    left, right = node.inputs[0], node.inputs[1]
    assert left is not None
    assert right is not None
    first, second = constant(left), constant(right)
    if first is not None and second is not None:
        raise Unfit("both factors are constants; optimize_graph computes their product once")
    if second is not None:
        return Product(left, _matrix(second), str(right.name), "as it is")
    if first is None:
        raise Unfit("both factors are computed at run time")
    return _from_left(right, _matrix(first), str(left.name), rank_of(right))


def _from_left(x: ir.Value, weight: Array, name: str, axes: int | None) -> Product:
    """W·X = (Xᵀ·Wᵀ)ᵀ: integer kernels want the weight on the right, and then have a scale a channel."""
    if axes is None or axes < 2:
        raise Unfit("its weight is on the left and the rank of the activations is unknown or below 2")
    swap = (*range(axes - 2), axes - 1, axes - 2)
    return Product(x, np.ascontiguousarray(weight.T), name, "transposed", before=swap, after=swap)


def _gemm(node: ir.Node) -> Product:
    """Y = alpha · A'·B' + beta · C, where alpha goes into the weight and beta into the bias."""
    x, right, bias = node.inputs[0], node.inputs[1], given(node, 2)
    assert x is not None
    assert right is not None
    stored = constant(right)
    if stored is None:
        raise Unfit("its second factor is computed at run time")
    weight = _matrix(stored)
    flipped = bool(node.attributes.get_int("transB", 0))
    alpha = node.attributes.get_float("alpha", 1.0)
    beta = node.attributes.get_float("beta", 1.0)
    if flipped:
        weight = np.ascontiguousarray(weight.T)
    if alpha != 1.0:
        weight = weight * np.asarray(alpha, dtype=weight.dtype)
    known = constant(bias)
    if known is not None and weight.shape[1]:
        columns = weight.shape[1]
        known = known * np.asarray(beta, dtype=known.dtype)
        if known.size in {1, columns} and (known.ndim == 0 or known.shape[-1] == known.size):
            known = np.broadcast_to(known.reshape(-1), (columns,))
    return Product(
        x,
        weight,
        str(right.name),
        f"{'transposed' if flipped else 'as it is'}, times {alpha}",
        bias=bias if known is None else known,
        bias_factor=beta if known is None else 1.0,
        before=(1, 0) if node.attributes.get_int("transA", 0) else None,
    )


def _matrix(array: Array) -> Array:
    if array.ndim != 2:
        raise Unfit(f"its weight has {array.ndim} dimensions instead of 2")
    if not array.size:
        raise Unfit("its weight is empty")
    return array
