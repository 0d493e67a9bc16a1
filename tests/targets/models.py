"""Small real ONNX models, each about one difficulty."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper
from small_graphs import build


def classifier(channels=4, classes=3):
    """Convolution, pooling, Gemm: image [batch, 3, 8, 8] -> logits [batch, classes]."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "fc"], ["logits"]),
    ]
    weights = [
        ("w", rng.normal(size=(channels, 3, 3, 3)).astype(np.float32)),
        ("b", rng.normal(size=channels).astype(np.float32)),
        ("fc", rng.normal(size=(channels, classes)).astype(np.float32)),
    ]
    return build(
        nodes,
        [("image", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [("logits", TensorProto.FLOAT, ["batch", classes])],
        weights,
    )


def aliases():
    """Outputs that are the same value, and one that is the input itself."""
    nodes = [
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("Identity", ["y"], ["z"]),
    ]
    flat = [("y", TensorProto.FLOAT, ["n", 4]), ("x", TensorProto.FLOAT, ["n", 4])]
    return build(nodes, [("x", TensorProto.FLOAT, ["n", 4])], [*flat, ("z", TensorProto.FLOAT, ["n", 4])])


def doubled(element):
    """y = 2 x computed in float32, x and y of another element type."""
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["a", "a"], ["s"]),
        helper.make_node("Cast", ["s"], ["y"], to=element),
    ]
    return build(nodes, [("x", element, ["n", 3])], [("y", element, ["n", 3])])


def text():
    """Strings in, strings out."""
    return build(
        [helper.make_node("Identity", ["x"], ["y"])],
        [("x", TensorProto.STRING, ["n"])],
        [("y", TensorProto.STRING, ["n"])],
    )


def several():
    """Two inputs of different types, two outputs of different types, a scalar among them."""
    nodes = [
        helper.make_node("Cast", ["ids"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "scale"], ["scaled"]),
        helper.make_node("ArgMax", ["scaled"], ["best"], axis=-1, keepdims=0),
    ]
    return build(
        nodes,
        [("ids", TensorProto.INT32, ["batch", "length"]), ("scale", TensorProto.FLOAT, [])],
        [("scaled", TensorProto.FLOAT, ["batch", "length"]), ("best", TensorProto.INT64, ["batch"])],
    )
