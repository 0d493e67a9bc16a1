"""Small nets of two uneven layers, ``first`` and ``second``, with what lets scales pass between them."""

from __future__ import annotations

from functools import partial

import numpy as np
from onnx import TensorProto
from small_graphs import Net

from hasten.graph import Graph

FLOAT = TensorProto.FLOAT
C, SIDE = 8, 6


class Uneven(Net):
    """Weights whose channels differ by orders of magnitude."""

    def matrix(self, name: str, *shape: int) -> str:
        array = self.rng.normal(size=shape)
        for axis in (0, 1):
            size = [1] * len(shape)
            size[axis] = shape[axis]
            array = array * np.exp(self.rng.normal(size=size))
        return self.constant(name, (array / np.abs(array).max()).astype(np.float32))

    def conv(self, x: str, y: str, inputs: int = C, outputs: int = C, group: int = 1, kernel: int = 3) -> str:
        w = self.matrix(f"{y}.w", outputs, inputs // group, kernel, kernel)
        pads = [kernel // 2] * 4
        return self.node("Conv", [x, w, self.weight(f"{y}.b", outputs)], y, group=group, pads=pads)

    def gemm(self, x: str, y: str, inputs: int, outputs: int = 5) -> str:
        return self.node(
            "Gemm", [x, self.matrix(f"{y}.w", inputs, outputs), self.weight(f"{y}.b", outputs)], y
        )

    def product(self, x: str, y: str, inputs: int = C, outputs: int = C) -> str:
        return self.node("MatMul", [x, self.matrix(f"{y}.w", inputs, outputs)], y)

    def picture(self, output: str, rank: int = 4) -> Graph:
        return self.graph([("x", FLOAT, ["n", C, SIDE, SIDE])], [(output, FLOAT, [None] * rank)])

    def tokens(self, *outputs: str) -> Graph:
        return self.graph([("x", FLOAT, ["n", "t", C])], [(name, FLOAT, [None] * 3) for name in outputs])


def pointwise(op_type: str, net: Uneven, **attributes: object) -> Graph:
    x = net.node(op_type, [net.conv("x", "first")], "mid", **attributes)
    net.conv(x, "second", group=C)
    return net.picture("second")


def prelu(net: Uneven) -> Graph:
    x = net.node("PRelu", [net.conv("x", "first"), net.constant("slope", np.float32([0.3]))], "mid")
    net.conv(x, "second", group=2, outputs=4)
    return net.picture("second")


def unbounded(net: Uneven) -> Graph:
    x = net.node("Clip", [net.conv("x", "first"), net.constant("low", np.float32(0))], "mid")
    net.conv(x, "second")
    return net.picture("second")


def pooled(net: Uneven) -> Graph:
    x = net.node("MaxPool", [net.conv("x", "first", group=2)], "p1", kernel_shape=[2, 2])
    x = net.node("AveragePool", [net.node("Relu", [x], "r1")], "p2", kernel_shape=[2, 2])
    x = net.node("Flatten", [net.node("GlobalAveragePool", [x], "g")], "f")
    net.gemm(x, "second", C)
    return net.picture("second", 2)


def flattened(net: Uneven) -> Graph:
    x = net.node("Reshape", [net.conv("x", "first"), net.constant("to", np.array([0, -1]))], "f")
    net.gemm(x, "second", C * SIDE * SIDE)
    return net.picture("second", 2)


def mean(net: Uneven) -> Graph:
    axes = net.constant("axes", np.array([2, 3]))
    x = net.node("ReduceMean", [net.conv("x", "first"), axes], "m", keepdims=0)
    net.gemm(x, "second", C)
    return net.picture("second", 2)


def image_to_tokens(net: Uneven) -> Graph:
    x = net.node("Reshape", [net.conv("x", "first"), net.constant("to", np.array([0, C, -1]))], "f")
    net.product(net.node("Transpose", [x], "t", perm=[0, 2, 1]), "second")
    return net.picture("second", 3)


def with_bias(net: Uneven) -> Graph:
    x = net.node("Add", [net.product("x", "first"), net.weight("bias", C)], "biased")
    x = net.node("Mul", [net.node("Relu", [x], "r"), net.weight("gain", C)], "gained")
    net.product(x, "second")
    return net.tokens("second")


def scalar_bias(net: Uneven) -> Graph:
    x = net.node("Sub", [net.conv("x", "first"), net.constant("half", np.float32(0.5))], "less")
    net.conv(net.node("Max", [x, "half"], "more"), "second")
    return net.picture("second")


def residual(net: Uneven) -> Graph:
    x = net.node("Relu", [net.conv("x", "first")], "r1")
    for i in range(2):
        y = net.conv(net.node("Relu", [net.conv(x, f"a{i}")], f"ra{i}"), f"b{i}")
        x = net.node("Relu", [net.node("Add", [y, x], f"s{i}")], f"rs{i}")
    net.conv(x, "second")
    return net.picture("second")


def padded_shortcut(net: Uneven) -> Graph:
    x = net.node("Relu", [net.conv("x", "first")], "r1")
    wide = net.node("Pad", [x, net.constant("amounts", np.array([0, 4, 0, 0, 0, 4, 0, 0]))], "pad")
    x = net.node("Add", [wide, net.conv(x, "a", outputs=2 * C)], "sum")
    net.conv(x, "second", inputs=2 * C)
    return net.picture("second")


def side_by_side(net: Uneven) -> Graph:
    x = net.node("Concat", [net.conv("x", "first"), "x", net.conv("x", "other", outputs=4)], "j", axis=1)
    net.conv(net.node("Relu", [x], "r"), "second", inputs=2 * C + 4)
    return net.picture("second")


def parted(net: Uneven) -> Graph:
    a = net.node("Split", [net.conv("x", "first")], "a", "b", axis=1, num_outputs=2)
    net.node("Concat", [net.conv(a, "second", inputs=4), net.conv("b", "third", inputs=4)], "y", axis=1)
    return net.picture("y")


def batch_norm(net: Uneven) -> Graph:
    names = [net.constant(n, net.rng.uniform(0.5, 2, C).astype(np.float32)) for n in ("g", "b", "m", "v")]
    x = net.node("BatchNormalization", [net.conv("x", "first"), *names], "bn")
    x = net.node("BatchNormalization", [net.node("Sigmoid", [net.conv(x, "mid")], "sig"), *names], "bn2")
    net.conv(x, "second")
    return net.picture("second")


def transposed(net: Uneven) -> Graph:
    x = net.node("ConvTranspose", ["x", net.matrix("first.w", C, 3, 2, 2)], "first", group=2, strides=[2, 2])
    sizes = net.constant("scales", np.float32([1, 1, 2, 2]))
    x = net.node("Resize", [x, "", sizes], "big", mode="linear")
    net.node("ConvTranspose", [x, net.matrix("second.w", 6, 2, 2, 2)], "second", group=3)
    return net.picture("second")


def normalized(net: Uneven) -> Graph:
    x = net.node("LayerNormalization", ["x", net.weight("g", C), net.weight("b", C)], "first")
    net.node("Add", [net.product(x, "second"), net.product(x, "third")], "y")
    return net.tokens("y")


def spelled_norm(net: Uneven) -> Graph:
    axes = net.constant("axes", np.array([-1]))
    centred = net.node("Sub", ["x", net.node("ReduceMean", ["x", axes], "mean")], "centred")
    x = net.node("Mul", [centred, net.weight("g", C)], "first")
    net.product(net.node("Add", [x, net.weight("b", C)], "more"), "second")
    return net.tokens("second")


def attention_value(net: Uneven) -> Graph:
    net.constant("split", np.array([0, 0, 2, C // 2]))

    def part(name: str, perm: list[int]) -> str:
        apart = net.node("Reshape", [net.product("x", name), "split"], f"{name}.apart")
        return net.node("Transpose", [apart], f"{name}.heads", perm=perm)

    q, k, v = part("q", [0, 2, 1, 3]), part("k", [0, 2, 3, 1]), part("first", [0, 2, 1, 3])
    p = net.node("Softmax", [net.node("MatMul", [q, k], "scores")], "p", axis=-1)
    mixed = net.node("Transpose", [net.node("MatMul", [p, v], "mixed")], "back", perm=[0, 2, 1, 3])
    joined = net.node("Reshape", [mixed, net.constant("join", np.array([0, 0, C]))], "joined")
    net.product(joined, "second")
    return net.tokens("second")


def shared(net: Uneven) -> Graph:
    """Both uses of a weight agree: between two layers each, all of the same channels."""
    x = net.product(net.node("Relu", [net.product("x", "first")], "r1"), "second")
    net.node(
        "MatMul", [net.node("Relu", [net.node("MatMul", ["x", "first.w"], "again")], "r2"), "second.w"], "y"
    )
    return net.tokens(x, "y")


PATTERNS = {
    **{name: partial(pointwise, name) for name in ("Relu", "LeakyRelu", "Identity", "Dropout", "Abs", "Neg")},
    "nothing": lambda net: (net.conv(net.conv("x", "first"), "second"), net.picture("second"))[1],
    "attention_value": attention_value,
    "batch_norm": batch_norm,
    "flattened": flattened,
    "image_to_tokens": image_to_tokens,
    "mean": mean,
    "normalized": normalized,
    "padded_shortcut": padded_shortcut,
    "parted": parted,
    "pooled": pooled,
    "prelu": prelu,
    "residual": residual,
    "scalar_bias": scalar_bias,
    "shared": shared,
    "side_by_side": side_by_side,
    "spelled_norm": spelled_norm,
    "transposed": transposed,
    "unbounded": unbounded,
    "with_bias": with_bias,
}
