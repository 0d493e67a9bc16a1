"""Matrix products: MatMul, Gemm."""

from __future__ import annotations

import torch
from torch import Tensor

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

    def run(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a = a.t() if turn_a else a
        if alpha == beta == 1.0 and turn_b and c is not None and c.dim() == 1:
            return torch.nn.functional.linear(a, b, c)
        product = a @ (b.t() if turn_b else b)
        product = product if alpha == 1.0 else alpha * product
        return product if c is None else product + (c if beta == 1.0 else beta * c)

    return run
