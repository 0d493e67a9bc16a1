"""Small networks with residual branches of every kind."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper
from small_graphs import OPSET, Net

from hasten.graph import Graph

_LAYERS = {f"Add_layers.{i}.{part}.sum" for i in (0, 1) for part in ("attention", "feed")}
DROPPABLE = {
    "residual": {"Add_one.0.sum", "Add_one.1.sum", "Add_two.0.sum", "Add_two.1.sum"},
    "pre-norm": _LAYERS,
    "post-norm": _LAYERS,
    "fused": _LAYERS,
}
"""Names of the branches that can be dropped, by the kind of network with a depth of 2."""


def residual_net(seed: int = 5, depth: int = 2, batch: int | str = "batch") -> Graph:
    """A stem, a stage of ``depth`` blocks, a block that halves the picture, one more stage, a classifier."""
    net = Net(seed)
    x = net.node("Conv", ["image", net.weight("stem.weight", 8, 3, 3, 3, fan_in=27)], "stem", pads=[1] * 4)
    x = net.node("Relu", [x], "stem.out")
    for i in range(depth):
        x = _block(net, x, f"one.{i}", 8, 8)
    x = _block(net, x, "half", 8, 16, stride=2)
    for i in range(depth):
        x = _block(net, x, f"two.{i}", 16, 16)
    x = net.node("Flatten", [net.node("GlobalAveragePool", [x], "pooled")], "flat")
    net.node("Gemm", [x, net.weight("scores.weight", 16, 8)], "scores")
    return net.graph(
        [("image", TensorProto.FLOAT, [batch, 3, 8, 8])], [("scores", TensorProto.FLOAT, [batch, 8])]
    )


def _block(net: Net, x: str, name: str, channels: int, made: int, stride: int = 1) -> str:
    size = float(net.rng.uniform(0.3, 1.0))
    first = net.weight(f"{name}.conv1.weight", made, channels, 3, 3, fan_in=9 * channels)
    second = net.constant(
        f"{name}.conv2.weight", (net.rng.normal(size=(made, made, 3, 3)) * size / 12).astype(np.float32)
    )
    bias = net.constant(f"{name}.conv2.bias", net.rng.normal(size=made).astype(np.float32) * size)
    y = net.node("Conv", [x, first], f"{name}.a", pads=[1] * 4, strides=[stride] * 2)
    y = net.node("Conv", [net.node("Relu", [y], f"{name}.r"), second, bias], f"{name}.b", pads=[1] * 4)
    if stride > 1:
        down = net.weight(f"{name}.down.weight", made, channels, 1, 1, fan_in=channels)
        x = net.node("Conv", [x, down], f"{name}.down", strides=[stride] * 2)
    return net.node("Relu", [net.node("Add", [y, x], f"{name}.sum")], f"{name}.out")


def transformer(
    seed: int = 3, depth: int = 2, *, post_norm: bool = False, fused: bool = False, width: int = 16
) -> Graph:
    """Layers of attention and feed-forward branches, normalized before or behind them.

    fused: sum and normalization are ONNX Runtime's one node, which is behind the branches.
    """
    net = Net(seed)
    net.constant("ones", np.ones(width, np.float32))
    net.constant("zeros", np.zeros(width, np.float32))
    x = "tokens"
    for i in range(depth):
        for part, branch in (("attention", _attention), ("feed", _feed_forward)):
            name = f"layers.{i}.{part}"
            read = x if post_norm else _norm(net, x, f"{name}.norm")
            y = branch(net, read, name, width)
            if fused:
                net.nodes.append(
                    helper.make_node(
                        "SkipLayerNormalization",
                        [y, x, "ones", "zeros"],
                        [f"{name}.normed"],
                        name=f"Add_{name}.sum",
                        domain="com.microsoft",
                        epsilon=1e-5,
                    )
                )
                x = f"{name}.normed"
                continue
            x = net.node("Add", [x, y], f"{name}.sum")
            x = _norm(net, x, f"{name}.normed") if post_norm else x
    net.node("MatMul", [x, net.weight("head.weight", width, 8)], "scores")
    shape = ["batch", "length"]
    inputs = [("tokens", TensorProto.FLOAT, [*shape, width])]
    return graph_of(net, inputs, [("scores", TensorProto.FLOAT, [*shape, 8])], fused=fused)


def graph_of(net: Net, inputs: list[tuple], outputs: list[tuple], *, fused: bool = False) -> Graph:
    """The graph, also with operators of ONNX Runtime's, which the checker does not know."""
    if not fused:
        return net.graph(inputs, outputs)
    body = helper.make_graph(
        net.nodes,
        "net",
        [helper.make_tensor_value_info(*i) for i in inputs],
        [helper.make_tensor_value_info(*o) for o in outputs],
        net.weights,
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(body, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    return Graph(ir.serde.deserialize_model(model))


def _norm(net: Net, x: str, name: str) -> str:
    return net.node("LayerNormalization", [x, "ones", "zeros"], name, axis=-1, epsilon=1e-5)


def _attention(net: Net, x: str, name: str, width: int) -> str:
    q, k, v = (
        net.node("MatMul", [x, net.weight(f"{name}.{letter}.weight", width, width)], f"{name}.{letter}")
        for letter in "qkv"
    )
    k = net.node("Transpose", [k], f"{name}.turned", perm=[0, 2, 1])
    weights = net.node("Softmax", [net.node("MatMul", [q, k], f"{name}.logits")], f"{name}.weights", axis=-1)
    mixed = net.node("MatMul", [weights, v], f"{name}.mixed")
    y = net.node("MatMul", [mixed, net.weight(f"{name}.out.weight", width, width)], f"{name}.product")
    return net.node("Add", [y, net.weight(f"{name}.out.bias", width)], f"{name}.made")


def _feed_forward(net: Net, x: str, name: str, width: int) -> str:
    y = net.node("MatMul", [x, net.weight(f"{name}.up.weight", width, 2 * width)], f"{name}.up")
    y = net.node("Relu", [y], f"{name}.active")
    scale = float(net.rng.uniform(0.3, 1.5))
    down = (net.rng.normal(size=(2 * width, width)) * scale / np.sqrt(2 * width)).astype(np.float32)
    return net.node("MatMul", [y, net.constant(f"{name}.down.weight", down)], f"{name}.made")
