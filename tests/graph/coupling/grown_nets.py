"""Nets grown node by node from what real ones are made of, as a strategy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st
from onnx import TensorProto
from small_graphs import Net

from hasten.graph import Graph

SIDE = 4


class Grown(Net):
    """Values of an image, [n, channels, 4, 4], and what each piece adds to them. opset: 11 or 18."""

    def __init__(self, seed: int, opset: int) -> None:
        super().__init__(seed)
        self.opset = opset
        self.channels = {"x": 3}
        self._count = 0

    def new(self, stem: str = "v") -> str:
        self._count += 1
        return f"{stem}{self._count}"

    def ints(self, *numbers: int) -> str:
        return self.constant(self.new("i"), np.array(numbers, np.int64))

    def made(self, name: str, channels: int) -> str:
        self.channels[name] = channels
        return name

    def on(self, op_type: str, *inputs: str, channels: int | None = None, **attributes: object) -> str:
        """A node whose output has so many channels, or as many as its first input."""
        out = self.node(op_type, list(inputs), self.new(), **attributes)
        return self.made(out, self.channels[inputs[0]] if channels is None else channels)

    def conv(self, x: str, outputs: int, *, group: int = 1, kernel: int = 1, bias: bool = True) -> str:
        name = self.new("w")
        inputs = self.channels[x] // group
        weights = [self.weight(name, outputs, inputs, kernel, kernel, fan_in=inputs * kernel**2)]
        if bias:
            weights.append(self.weight(f"{name}.b", outputs))
        pads = [kernel // 2] * 4
        return self.on("Conv", x, *weights, channels=outputs, group=group, pads=pads)

    def split(self, x: str, sizes: list[int]) -> list[str]:
        names = [self.new() for _ in sizes]
        if self.opset == 11:
            self.node("Split", [x], *names, axis=1, split=sizes)
        else:
            self.node("Split", [x, self.ints(*sizes)], *names, axis=1)
        for name, size in zip(names, sizes, strict=True):
            self.made(name, size)
        return names

    def finish(self, ends: list[str]) -> Graph:
        """Every end gets a head of its own: flattened, pooled, or as an image."""
        outputs = []
        for i, x in enumerate(ends):
            kind = int(self.rng.integers(3))
            if kind == 0:
                out = self.conv(x, 2)
            else:
                if kind == 2:
                    x = self.on("GlobalAveragePool", x)  # noqa: PLW2901 - a step on the way
                flat, out, count = self.new(), self.new("y"), self.channels[x] * (SIDE**2 if kind == 1 else 1)
                self.node("Flatten", [x], flat)
                self.node("Gemm", [flat, self.weight(f"head{i}", 4, count, fan_in=count)], out, transB=1)
            outputs.append((out, TensorProto.FLOAT, ["n"] + [None] * (3 if kind == 0 else 1)))
        image = ("x", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])
        return self.graph([image], outputs, self.opset)


Piece = Callable[[Grown, str, str, int], str]
"""Adds nodes that read one value, or two; the number chooses between forms. Returns the newest value."""


def _conv(net: Grown, x: str, _: str, n: int) -> str:
    return net.conv(x, 2 + n % 7, kernel=1 + 2 * (n % 2), bias=n % 3 > 0)


def _grouped(net: Grown, x: str, _: str, n: int) -> str:
    count = net.channels[x]
    group = next(g for g in (3, 2, 1) if count % g == 0)
    return net.conv(x, group * (1 + n % 3), group=group)


def _depthwise(net: Grown, x: str, _: str, n: int) -> str:
    return net.conv(x, net.channels[x] * (1 + n % 2), group=net.channels[x], kernel=3)


def _transposed(net: Grown, x: str, _: str, n: int) -> str:
    group = 2 if net.channels[x] % 2 == 0 and n % 2 else 1
    w = net.weight(net.new("w"), net.channels[x], 2 + n % 3, 1, 1)
    return net.on("ConvTranspose", x, w, channels=group * (2 + n % 3), group=group)


def _alike(net: Grown, x: str, other: str, n: int) -> str:
    """The other value with as many channels as the first: as it is, padded, sliced, or through a layer."""
    have, want = net.channels[other], net.channels[x]
    if have == want:
        return other
    if n % 3 == 0:
        return net.conv(other, want)
    if have < want:
        before = n % (want - have + 1)
        pads = net.ints(0, before, 0, 0, 0, want - have - before, 0, 0)
        return net.on("Pad", other, pads, channels=want)
    start = n % (have - want + 1)
    parts = [other, net.ints(start), net.ints(start + want), net.ints(1)]
    return net.on("Slice", *parts, channels=want)


def _add(net: Grown, x: str, other: str, n: int) -> str:
    return net.on(("Add", "Sub")[n % 2], x, _alike(net, x, other, n))


def _product(net: Grown, x: str, other: str, n: int) -> str:
    return net.on("Mul", x, net.on(("Sigmoid", "Tanh", "Relu")[n % 3], _alike(net, x, other, n)))


def _join(net: Grown, x: str, other: str, _: int) -> str:
    return net.on("Concat", x, other, channels=net.channels[x] + net.channels[other], axis=1)


def _parts(net: Grown, x: str, _: str, n: int) -> str:
    count = net.channels[x]
    if count < 2:
        return x
    first = 1 + n % (count - 1)
    parts = net.split(x, [first, count - first])
    return parts[n % 2]


def _gated(net: Grown, x: str, _: str, n: int) -> str:
    half = 2 + n % 3
    first, second = net.split(net.conv(x, 2 * half), [half, half])
    return net.on("Mul", first, net.on("Sigmoid", second))


def _function(net: Grown, x: str, _: str, n: int) -> str:
    name = ("Relu", "Sigmoid", "Tanh", "Exp", "HardSigmoid", "Abs", "Neg", "Softplus")[n % 8]
    return net.on("Tanh", net.on(name, x)) if name == "Exp" else net.on(name, x)


def _bias(net: Grown, x: str, _: str, n: int) -> str:
    shape = [(net.channels[x], 1, 1), (), (1, net.channels[x], 1, 1), (net.channels[x], 4, 4)][n % 4]
    name = net.constant(net.new("c"), net.rng.normal(size=shape).astype(np.float32))
    return net.on(("Add", "Mul", "Max", "PRelu")[n % 3 + (n % 2 and len(shape) == 3)], x, name)


def _normalized(net: Grown, x: str, _: str, n: int) -> str:
    count, name = net.channels[x], net.new("n")
    draws = (net.rng.uniform(0.5, 1.5, count).astype(np.float32) for _ in range(4))
    numbers = [net.constant(f"{name}.{i}", draw) for i, draw in enumerate(draws)]
    if n % 3 == 0:
        return net.on("InstanceNormalization", x, *numbers[:2])
    return net.on("BatchNormalization", x, *numbers)


def _pooled(net: Grown, x: str, _: str, n: int) -> str:
    name = ("MaxPool", "AveragePool")[n % 2]
    return net.on(name, x, kernel_shape=[3, 3], pads=[1] * 4)


def _excited(net: Grown, x: str, _: str, n: int) -> str:
    narrow = net.on("Relu", net.conv(net.on("GlobalAveragePool", x), 2 + n % 3))
    return net.on("Mul", x, net.on("Sigmoid", net.conv(narrow, net.channels[x])))


def _last(net: Grown, x: str, _: str, n: int) -> str:
    """Channels last, a product there, and back."""
    out = 2 + n % 5
    moved, product = net.new(), net.new()
    net.node("Transpose", [x], moved, perm=[0, 2, 3, 1])
    net.node("MatMul", [moved, net.weight(net.new("w"), net.channels[x], out)], product)
    return net.made(net.node("Transpose", [product], net.new(), perm=[0, 3, 1, 2]), out)


def _shuffled(net: Grown, x: str, _: str, n: int) -> str:
    count = net.channels[x]
    group = next(g for g in (2, 3, 1) if count % g == 0)
    apart, moved = net.new(), net.new()
    net.node("Reshape", [x, net.ints(-1 if n % 2 else 0, group, count // group, SIDE, SIDE)], apart)
    net.node("Transpose", [apart], moved, perm=[0, 2, 1, 3, 4])
    return net.made(net.node("Reshape", [moved, net.ints(0, count, SIDE, SIDE)], net.new()), count)


def _tokens(net: Grown, x: str, _: str, n: int) -> str:
    """[n, c, h, w] → [n, h · w, c], self-attention over places with heads, and back."""
    heads, size, count = 1 + n % 3, 2 + n % 2, net.channels[x]
    flat = net.node("Reshape", [x, net.ints(0, count, SIDE**2)], net.new())
    rows = net.node("Transpose", [flat], net.new(), perm=[0, 2, 1])
    parts = []
    for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
        made = net.node("MatMul", [rows, net.weight(net.new("w"), count, heads * size)], net.new())
        if n % 3 == 0 and len(parts) < 2:  # queries and keys that are never zero
            made = net.node("Sigmoid", [made], net.new())
        if (n + len(parts)) % 5 == 0:
            made = net.node("Add", [made, net.constant(net.new("c"), np.float32(0.3))], net.new())
        apart = net.node("Reshape", [made, net.ints(0, SIDE**2, heads, size)], net.new())
        parts.append(net.node("Transpose", [apart], net.new(), perm=perm))
    scores = net.node("MatMul", parts[:2], net.new())
    # A softmax would hide what is added to all of its inputs.
    weights = (
        net.node("Tanh", [scores], net.new())
        if n % 3 == 0
        else net.node("Softmax", [scores], net.new(), axis=3)
    )
    mixed = net.node("MatMul", [weights, parts[2]], net.new())
    back = net.node("Transpose", [mixed], net.new(), perm=[0, 1, 3, 2])
    joined = net.node("Reshape", [back, net.ints(0, heads * size, SIDE, SIDE)], net.new())
    return net.made(joined, heads * size)


def _taken(net: Grown, x: str, _: str, n: int) -> str:
    count = net.channels[x]
    which = net.rng.integers(-count, count, size=1 + n % 5)
    return net.on("Gather", x, net.ints(*which.tolist()), channels=len(which), axis=1)


PIECES: tuple[Piece, ...] = (
    _conv, _conv, _grouped, _depthwise, _transposed, _add, _add, _product, _join, _parts, _gated, _function,
    _bias, _normalized, _pooled, _excited, _last, _shuffled, _tokens, _taken,
)  # fmt: skip
Step = tuple[Piece, int, int, int]


def grow(seed: int, opset: int, steps: list[Step]) -> Graph:
    """The net these steps make: of each the piece, which values it reads, and a number for its form."""
    net = Grown(seed, opset)
    values = ["x", net.conv("x", 6)]
    for piece, back, other, form in steps:
        x, second = values[-1 - back % len(values)], values[-1 - other % len(values)]
        values.append(piece(net, x, second, form))
    used = {name for node in net.nodes for name in node.input}
    ends = [name for name in net.channels if name not in used] or values[-1:]
    return net.finish(ends[-3:])


STEPS = st.lists(
    st.tuples(st.sampled_from(PIECES), st.integers(0, 3), st.integers(0, 6), st.integers(0, 99)),
    min_size=2,
    max_size=10,
)
NETS = st.builds(grow, st.integers(0, 99), st.sampled_from([11, 18]), STEPS)
