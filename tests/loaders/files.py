"""Small ONNX models, good and hostile, built with onnx.helper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def value(name: str, shape: Sequence[Any] | None = ("N", 4), dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def model(
    nodes: Sequence[onnx.NodeProto],
    weights: Sequence[onnx.TensorProto] = (),
    *,
    inputs: Sequence[onnx.ValueInfoProto] | None = None,
    outputs: Sequence[onnx.ValueInfoProto] | None = None,
    opsets: dict[str, int] | None = None,
    ir_version: int = 8,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "net",
        list(inputs if inputs is not None else [value("x")]),
        list(outputs if outputs is not None else [value("y", None)]),
        list(weights),
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in (opsets or {"": 17}).items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)


def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """Inputs and outputs separated by blanks; the node is named after its first output."""
    outs = outputs.split()
    return helper.make_node(op_type, inputs.split(), outs, name=f"make_{outs[0]}", **attributes)


def weight(name: str, array: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def linear(rows: int = 4, columns: int = 3) -> onnx.ModelProto:
    """y = relu(x · w + b)."""
    rng = np.random.default_rng(0)
    return model(
        [node("MatMul", "x w", "h"), node("Add", "h b", "a"), node("Relu", "a", "y")],
        [
            weight("w", rng.normal(size=(rows, columns)).astype(np.float32)),
            weight("b", rng.normal(size=columns).astype(np.float32)),
        ],
        inputs=[value("x", ["N", rows])],
        outputs=[value("y", ["N", columns])],
    )


def external(folder: Path, **entries: str) -> Path:
    """``linear`` with ``w`` in ``weights.bin``; entries of its external data can be set otherwise."""
    made = linear()
    tensor = made.graph.initializer[0]
    (folder / "weights.bin").write_bytes(b"\0" * 16 + tensor.raw_data)
    given = {"location": "weights.bin", "offset": "16", "length": "48"} | entries
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in given.items():
        tensor.external_data.add(key=key, value=text)
    return save(made, folder)


def save(made: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(made.SerializeToString())
    return path
