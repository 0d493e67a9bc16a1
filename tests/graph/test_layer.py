"""Layers read alike, whichever operator they are."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from hasten.core.data import Array
from hasten.graph.layer import Layer, is_quantized, output_axis, stored


def initializer(name: str, array: Array) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(array))
    ir.Graph([], [], nodes=[], initializers=[value], opset_imports={"": 18})
    return value


def layer(op_type: str, shape: tuple[int, ...], **attributes: int) -> Layer:
    weight = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    node = ir.node(op_type, [ir.Value(name="x"), initializer("w", weight)], attributes, name="node")
    return Layer(node, weight, output_axis(node))


@pytest.mark.parametrize(
    ("made", "outputs"),
    [
        (layer("Conv", (4, 3, 5, 5)), 4),
        (layer("ConvTranspose", (3, 4, 2, 2)), 4),
        (layer("Gemm", (3, 4)), 4),
        (layer("Gemm", (4, 3), transB=1), 4),
        (layer("MatMul", (3, 4)), 4),
    ],
    ids=["Conv", "ConvTranspose", "Gemm", "Gemm transB", "MatMul"],
)
def test_rows_are_outputs_and_go_back(made: Layer, outputs: int) -> None:
    assert made.matrix.shape == (outputs, made.array.size // outputs)
    np.testing.assert_array_equal(made.matrix[1], made.array.take(1, axis=made.axis).reshape(-1))
    np.testing.assert_array_equal(made.as_weight(made.matrix), made.array)
    fewer = made.as_weight(made.matrix[:2])
    np.testing.assert_array_equal(fewer, made.array.take([0, 1], axis=made.axis))
    assert fewer.dtype == np.float32
    assert (made.name, made.activation.name) == ("node", "x")


def test_a_constant_is_found_behind_what_only_moves_it() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    turned = ir.node("Transpose", [initializer("w", array)], {"perm": [1, 0]}).outputs[0]
    same = ir.node("Identity", [turned]).outputs[0]
    np.testing.assert_array_equal(stored(same), array.T)
    assert stored(ir.node("Relu", [same]).outputs[0]) is None
    assert stored(None) is None


def test_what_reads_rounded_numbers_is_quantized() -> None:
    scale = initializer("s", np.float32(0.1))
    rounded = ir.node("DequantizeLinear", [ir.Value(name="q"), scale]).outputs[0]
    assert is_quantized(ir.node("MatMul", [rounded, ir.Value(name="w")]))
    assert not is_quantized(ir.node("MatMul", [ir.Value(name="x"), None]))
