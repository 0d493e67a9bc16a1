"""Matrix products: MatMul, Gemm, Einsum, Det."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from hasten.bridge.operator import Call, Function, operator


@operator("MatMul")
def matmul(call: Call) -> Function:
    """Matrix product with numpy's rules for vectors and stacks of matrices."""
    return torch.matmul


@operator("Gemm")
def gemm(call: Call) -> Function:
    """Product alpha · A' · B' + beta · C, where A' and B' may be transposed."""
    alpha, beta = call.real("alpha", 1.0), call.real("beta", 1.0)
    turn_a, turn_b = bool(call.integer("transA", 0)), bool(call.integer("transB", 0))
    if not turn_a and turn_b and alpha == beta == 1.0:
        return _linear

    def run(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a = a.t() if turn_a else a
        b = b.t() if turn_b else b
        if c is not None and a.is_floating_point():
            return torch.addmm(c, a, b, beta=beta, alpha=alpha)
        product = _scaled(a @ b, alpha)
        return product if c is None else product + _scaled(c, beta)

    return run


def _linear(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    if c is None or c.dim() == 1:
        return functional.linear(a, b, c)
    return functional.linear(a, b) + c


def _scaled(x: Tensor, factor: float) -> Tensor:
    if factor == 1.0:
        return x
    return x * (factor if x.is_floating_point() else int(factor))


@operator("Einsum")
def einsum(call: Call) -> Function:
    """Sum of products over the indices that the equation leaves out (numpy's einsum)."""
    equation = call.text("equation").replace(" ", "")
    return lambda *tensors: torch.einsum(equation, *tensors)


@operator("Det")
def det(call: Call) -> Function:
    """Determinant of a matrix or of every matrix of a stack."""
    determinant: Function = torch.linalg.det
    return determinant
