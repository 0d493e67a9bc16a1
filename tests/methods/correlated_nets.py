"""Nets as training leaves them: channels that say much the same, so that some can go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto
from small_graphs import Net

from hasten.core.data import Calibration, StoreWriter
from hasten.graph import Graph

FLOAT = TensorProto.FLOAT


class Correlated(Net):
    """Weights whose rows are mixtures of a few, and a little of their own."""

    def rows(self, outputs: int, *rest: int) -> np.ndarray:
        inner = int(np.prod(rest))
        few = self.rng.normal(size=(max(outputs // 3, 1), inner))
        rows = self.rng.normal(size=(outputs, len(few))) @ few / np.sqrt(len(few))
        rows += 0.1 * self.rng.normal(size=rows.shape)
        return (rows / np.sqrt(inner)).reshape(outputs, *rest).astype(np.float32)

    def conv(self, x: str, y: str, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> str:
        names = [self.constant(f"{y}.w", self.rows(outputs, inputs, kernel, kernel))]
        names.append(self.constant(f"{y}.b", 0.1 * self.rng.normal(size=outputs).astype(np.float32)))
        return self.node("Conv", [x, *names], y, pads=[kernel // 2] * 4, strides=[stride, stride])

    def norm(self, x: str, y: str, count: int) -> str:
        draws = (self.rng.uniform(0.5, 1.5, count).astype(np.float32) for _ in range(4))
        return self.node(
            "BatchNormalization", [x, *(self.constant(f"{y}.{i}", d) for i, d in enumerate(draws))], y
        )

    def product(self, x: str, y: str, inputs: int, outputs: int) -> str:
        weight = np.ascontiguousarray(self.rows(outputs, inputs).T)
        return self.node("MatMul", [x, self.constant(f"{y}.w", weight)], y)


def residual_net(seed: int = 0) -> Graph:
    """Convolutions with batch normalization, two residual blocks, pooling, a classifier."""
    net = Correlated(seed)
    x = net.node("Relu", [net.norm(net.conv("image", "stem", 3, 16), "stem.n", 16)], "r0")
    for i in range(2):
        y = net.node("Relu", [net.norm(net.conv(x, f"in{i}", 16, 24), f"n{i}", 24)], f"mid{i}")
        x = net.node("Relu", [net.node("Add", [net.conv(y, f"out{i}", 24, 16), x], f"sum{i}")], f"r{i + 1}")
    x = net.node("Relu", [net.conv(x, "wide", 16, 32, stride=2)], "last")
    x = net.node("Flatten", [net.node("GlobalAveragePool", [x], "pooled")], "flat")
    net.node(
        "Gemm", [x, net.constant("head.w", net.rows(6, 32)), net.weight("head.b", 6)], "scores", transB=1
    )
    return net.graph([("image", FLOAT, ["batch", 3, 8, 8])], [("scores", FLOAT, ["batch", 6])])


def heads_net(seed: int = 0, heads: int = 4, width: int = 24) -> Graph:
    """Two attention layers and feed-forward ones over tokens, normalized and added."""
    net = Correlated(seed)
    net.constant("apart", np.array([0, 0, heads, width // heads]))
    net.constant("joined", np.array([0, 0, width]))
    net.constant("root", np.array((width // heads) ** 0.5, np.float32))
    ones, zeros = (
        net.constant("ones", np.ones(width, np.float32)),
        net.constant("zeros", np.zeros(width, np.float32)),
    )
    x = "tokens"
    for i in range(2):
        y = net.node("LayerNormalization", [x, ones, zeros], f"n{i}", axis=-1)
        parts = []
        for letter, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
            apart = net.node(
                "Reshape", [net.product(y, f"{letter}{i}", width, width), "apart"], f"{letter}{i}.a"
            )
            parts.append(net.node("Transpose", [apart], f"{letter}{i}.h", perm=perm))
        scores = net.node("Div", [net.node("MatMul", parts[:2], f"s{i}"), "root"], f"d{i}")
        mixed = net.node("MatMul", [net.node("Softmax", [scores], f"p{i}", axis=-1), parts[2]], f"m{i}")
        back = net.node(
            "Reshape", [net.node("Transpose", [mixed], f"t{i}", perm=[0, 2, 1, 3]), "joined"], f"j{i}"
        )
        x = net.node("Add", [x, net.product(back, f"o{i}", width, width)], f"a{i}")
        y = net.node("LayerNormalization", [x, ones, zeros], f"f{i}", axis=-1)
        y = net.node("Relu", [net.product(y, f"up{i}", width, 48)], f"r{i}")
        x = net.node("Add", [x, net.product(y, f"down{i}", 48, width)], f"b{i}")
    net.product(x, "y", width, 5)
    return net.graph([("tokens", FLOAT, ["batch", "length", width])], [("y", FLOAT, ["batch", "length", 5])])


def batch_for(graph: Graph, count: int, seed: int) -> dict[str, np.ndarray]:
    """Samples of one distribution, whose values depend on each other."""
    [spec] = graph.inputs
    assert spec.shape is not None
    shape = [d if isinstance(d, int) else 6 for d in spec.shape[1:]]
    size = int(np.prod(shape))
    mixture = np.random.default_rng(99).normal(size=(size // 3, size)) / np.sqrt(size // 3)
    draws = np.random.default_rng(seed).normal(size=(count, size // 3)) @ mixture
    return {spec.name: draws.reshape(count, *shape).astype(np.float32)}


def samples_for(graph: Graph, folder: Path, count: int = 96) -> Calibration:
    """Calibration of that distribution."""
    [(name, values)] = batch_for(graph, count, 1).items()
    writer = StoreWriter(folder, [name])
    for value in values:
        writer.append({name: value})
    return Calibration(writer.close(), range(count))
