"""A module of one operator, to be compared with torch's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from hasten.bridge import GraphModule, to_torch
from hasten.graph import Graph


def single(
    op_type: str,
    inputs: Sequence[Tensor | None],
    attributes: Mapping[str, Any] | None = None,
    *,
    outputs: int = 1,
    weights: Sequence[int] = (),
    opset: int = 21,
) -> GraphModule:
    """One node over inputs like these; those at ``weights`` are initializers, the others graph inputs."""
    values, given, stored = [], [], []
    for index, tensor in enumerate(inputs):
        if tensor is None:
            values.append(None)
            continue
        array = ir.tensor(tensor.detach().numpy(), name=f"x{index}")
        value = ir.Value(name=f"x{index}", type=ir.TensorType(array.dtype), shape=array.shape)
        if index in weights:
            value.const_value = array
            stored.append(value)
        else:
            given.append(value)
        values.append(value)
    node = ir.node(op_type, values, dict(attributes or {}), num_outputs=outputs)
    for index, value in enumerate(node.outputs):
        value.name = f"y{index}"
    graph = ir.Graph(
        given, node.outputs, nodes=[node], initializers=stored, opset_imports={"": opset}, name="g"
    )
    return to_torch(Graph(ir.Model(graph, ir_version=10)))


def assert_close(found: Any, wanted: Any) -> None:
    """Compare tensors, or tuples of them, to float32's tolerance."""
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
