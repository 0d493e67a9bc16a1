"""Small real ONNX models: one that classifies, ones that answer almost alike, slower, or not at all."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper
from small_graphs import build

from hasten.graph.evaluate import Evaluator


def run(graph, **feeds):
    return Evaluator(graph).run(feeds)


def classifier(noise=0.0, depth=1, classes=5, batch="batch"):
    """image [batch, 3, 8, 8] -> logits [batch, classes]; ``noise`` disturbs the last layer's weights."""
    rng = np.random.default_rng(0)
    channels = 8
    nodes, weights, value, width = [], [], "image", 3
    for i in range(depth):
        nodes += [
            helper.make_node("Conv", [value, f"w{i}"], [f"c{i}"], kernel_shape=[3, 3], pads=[1] * 4),
            helper.make_node("Relu", [f"c{i}"], [f"r{i}"]),
        ]
        scale = np.sqrt(2 / (9 * width))
        weights.append((f"w{i}", (rng.normal(size=(channels, width, 3, 3)) * scale).astype(np.float32)))
        value, width = f"r{i}", channels
    nodes += [
        helper.make_node("Flatten", [value], ["flat"]),
        helper.make_node("Gemm", ["flat", "fc"], ["logits"]),
    ]
    fc = np.random.default_rng(1).normal(size=(channels * 64, classes))
    fc += noise * np.random.default_rng(2).normal(size=fc.shape)
    weights.append(("fc", fc.astype(np.float32)))
    return build(
        nodes,
        [("image", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [("logits", TensorProto.FLOAT, [batch, classes])],
        weights,
    )


def sequence():
    """Length-preserving: tokens [batch, length] (int64) -> logits [batch, length, 4]."""
    table = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    return build(
        [helper.make_node("Gather", ["table", "tokens"], ["logits"])],
        [("tokens", TensorProto.INT64, ["batch", "length"])],
        [("logits", TensorProto.FLOAT, ["batch", "length", 4])],
        [("table", table)],
    )


def unbatched():
    """A vector in, its positive entries out: no batch axis anywhere, and the size depends on the values."""
    nodes = [
        helper.make_node("Greater", ["x", "zero"], ["positive"]),
        helper.make_node("Compress", ["x", "positive"], ["kept"], axis=0),
    ]
    return build(
        nodes,
        [("x", TensorProto.FLOAT, ["n"])],
        [("kept", TensorProto.FLOAT, ["m"])],
        [("zero", np.zeros((), np.float32))],
    )
