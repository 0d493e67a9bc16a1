"""Small real graphs, and samples for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from hasten.core.data import Calibration, StoreWriter
from hasten.graph import Graph

OPSET = 21


def build(nodes, inputs, outputs, weights=(), opset=17):
    """A Graph from helper nodes; inputs and outputs are (name, element type, shape)."""
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info(*i) for i in inputs],
        [helper.make_tensor_value_info(*o) for o in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model)
    return Graph(ir.serde.deserialize_model(model))


class Net:
    """Collects nodes and weights; every weight is drawn from one generator."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, *shape: int, fan_in: int | None = None) -> str:
        """Normal numbers of variance 1 / fan-in, so that activations keep their size."""
        scale = 1 / math.sqrt(fan_in or shape[0])
        return self.constant(name, (self.rng.normal(size=shape) * scale).astype(np.float32))

    def constant(self, name: str, value: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op_type: str, inputs: list[str], *outputs: str, **attributes: object) -> str:
        self.nodes.append(
            helper.make_node(op_type, inputs, list(outputs), name=f"{op_type}_{outputs[0]}", **attributes)
        )
        return outputs[0]

    def graph(self, inputs: list[tuple], outputs: list[tuple], opset: int = OPSET) -> Graph:
        """The Graph; inputs and outputs are (name, element type, shape)."""
        body = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info(*i) for i in inputs],
            [helper.make_tensor_value_info(*o) for o in outputs],
            self.weights,
        )
        model = helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        onnx.checker.check_model(model)
        return Graph(ir.serde.deserialize_model(model))


def conv_net() -> Graph:
    """Convolution with batch norm, a depthwise one, pooling, two fully connected layers."""
    net = Net()
    x = net.node("Conv", ["image", net.weight("w1", 16, 3, 3, 3, fan_in=27)], "c1", pads=[1] * 4)
    norm = [
        net.constant("gamma", net.rng.uniform(0.5, 1.5, 16).astype(np.float32)),
        net.constant("beta", net.rng.normal(size=16).astype(np.float32)),
        net.constant("mean", net.rng.normal(size=16).astype(np.float32)),
        net.constant("var", net.rng.uniform(0.5, 1.5, 16).astype(np.float32)),
    ]
    x = net.node("Relu", [net.node("BatchNormalization", [x, *norm], "n1")], "r1")
    depthwise = net.weight("w2", 16, 1, 3, 3, fan_in=9)
    x = net.node("Conv", [x, depthwise, net.weight("b2", 16)], "c2", pads=[1] * 4, group=16)
    x = net.node("MaxPool", [net.node("Relu", [x], "r2")], "p2", kernel_shape=[2, 2], strides=[2, 2])
    x = net.node("Conv", [x, net.weight("w3", 32, 16, 1, 1, fan_in=16), net.weight("b3", 32)], "c3")
    x = net.node("Flatten", [net.node("GlobalAveragePool", [x], "g3")], "f3")
    x = net.node("Gemm", [x, net.weight("w4", 512, 32, fan_in=32), net.weight("b4", 512)], "h4", transB=1)
    x = net.node("Relu", [x], "r4")
    net.node("Gemm", [x, net.weight("w5", 512, 10), net.weight("b5", 10)], "logits")
    return net.graph(
        [("image", TensorProto.FLOAT, ["batch", 3, 16, 16])], [("logits", TensorProto.FLOAT, ["batch", 10])]
    )


def mlp() -> Graph:
    """Three fully connected layers, the last one too small to pay, and a softmax."""
    net = Net(1)
    x = net.node("Gemm", ["x", net.weight("w1", 256, 64, fan_in=64), net.weight("b1", 256)], "h1", transB=1)
    x = net.node("Relu", [x], "r1")
    x = net.node("Gemm", [x, net.weight("w2", 256, 128), net.weight("b2", 1, 128)], "h2", alpha=0.5, beta=2.0)
    x = net.node("Tanh", [x], "t2")
    x = net.node("Add", [net.node("MatMul", [x, net.weight("w3", 128, 8)], "m3"), net.weight("b3", 8)], "h3")
    net.node("Softmax", [x], "probabilities", axis=-1)
    return net.graph(
        [("x", TensorProto.FLOAT, ["batch", 64])], [("probabilities", TensorProto.FLOAT, ["batch", 8])]
    )


def lstm() -> Graph:
    """A bidirectional LSTM over a dynamic number of steps, and a product on what it finds."""
    net = Net(2)
    hidden, width = 48, 24
    x = net.node("Transpose", ["steps"], "time_first", perm=[1, 0, 2])
    weights = [
        net.weight("W", 2, 4 * hidden, width, fan_in=width),
        net.weight("R", 2, 4 * hidden, hidden, fan_in=hidden),
        net.weight("B", 2, 8 * hidden, fan_in=hidden),
    ]
    x = net.node("LSTM", [x, *weights], "states", hidden_size=hidden, direction="bidirectional")
    x = net.node("Transpose", [x], "batch_first", perm=[2, 0, 1, 3])
    x = net.node("Reshape", [x, net.constant("shape", np.array([0, 0, 2 * hidden]))], "joined")
    net.node("MatMul", [x, net.weight("w", 2 * hidden, 96)], "tags")
    return net.graph(
        [("steps", TensorProto.FLOAT, ["batch", "time", width])],
        [("tags", TensorProto.FLOAT, ["batch", "time", 96])],
    )


def attention() -> Graph:
    """A transformer block over token ids with a mask: two inputs, two outputs of different types."""
    net = Net(3)
    width, heads, rows = 96, 4, 200
    x = net.node("Gather", [net.weight("table", rows, width, fan_in=1), "ids"], "embedded")
    net.constant("ones", np.ones(width, np.float32))
    net.constant("zeros", np.zeros(width, np.float32))
    y = net.node("LayerNormalization", [x, "ones", "zeros"], "n1", axis=-1)
    net.constant("split", np.array([0, 0, heads, width // heads]))
    parts = {}
    for letter, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        m = net.node("MatMul", [y, net.weight(f"w_{letter}", width, width)], f"m_{letter}")
        m = net.node("Add", [m, net.weight(f"b_{letter}", width)], f"a_{letter}")
        m = net.node("Reshape", [m, "split"], f"s_{letter}")
        parts[letter] = net.node("Transpose", [m], letter, perm=perm)
    scores = net.node("MatMul", [parts["q"], parts["k"]], "scores")
    root = net.constant("root", np.array(math.sqrt(width // heads), np.float32))
    scores = net.node("Div", [scores, root], "scaled")
    shown = net.node("Cast", ["mask"], "shown", to=TensorProto.FLOAT)
    hidden = net.node("Sub", [net.constant("one", np.array(1, np.float32)), shown], "hidden")
    hidden = net.node("Mul", [hidden, net.constant("far", np.array(-1e9, np.float32))], "far_away")
    hidden = net.node("Unsqueeze", [hidden, net.constant("axes", np.array([1, 2]))], "bias")
    weights = net.node("Softmax", [net.node("Add", [scores, hidden], "masked")], "weights", axis=-1)
    z = net.node("Transpose", [net.node("MatMul", [weights, parts["v"]], "mixed")], "back", perm=[0, 2, 1, 3])
    z = net.node("Reshape", [z, net.constant("join", np.array([0, 0, width]))], "joined")
    x = net.node("Add", [x, net.node("MatMul", [z, net.weight("w_o", width, width)], "o")], "residual")
    y = net.node("LayerNormalization", [x, "ones", "zeros"], "n2", axis=-1)
    y = net.node("MatMul", [y, net.weight("w_up", width, 4 * width)], "up")
    y = net.node("Gelu", [y], "gelu")
    y = net.node("MatMul", [y, net.weight("w_down", 4 * width, width)], "down")
    net.node("Add", [x, y], "tokens")
    net.node("ArgMax", ["tokens"], "best", axis=-1, keepdims=0)
    shape = ["batch", "length"]
    return net.graph(
        [("ids", TensorProto.INT64, shape), ("mask", TensorProto.INT64, shape)],
        [("tokens", TensorProto.FLOAT, [*shape, width]), ("best", TensorProto.INT64, shape)],
    )


def branching() -> Graph:
    """A product in each branch of an If, its weight a Constant node there."""
    net = Net()
    branches = {}
    for name in ("then", "else"):
        w = (net.rng.normal(size=(96, 96)) / 10).astype(np.float32)
        value = helper.make_tensor(f"w_{name}", TensorProto.FLOAT, w.shape, w.tobytes(), raw=True)
        nodes = [
            helper.make_node("Constant", [], [f"c_{name}"], value=value),
            helper.make_node("MatMul", ["x", f"c_{name}"], [f"y_{name}"], name=f"MatMul_{name}"),
        ]
        out = helper.make_tensor_value_info(f"y_{name}", TensorProto.FLOAT, None)
        branches[f"{name}_branch"] = helper.make_graph(nodes, name, [], [out])
    net.node("If", ["which"], "y", **branches)
    return net.graph(
        [("x", TensorProto.FLOAT, ["n", 96]), ("which", TensorProto.BOOL, [])],
        [("y", TensorProto.FLOAT, ["n", 96])],
    )


GRAPHS: dict[str, Callable[[], Graph]] = {
    "conv_net": conv_net,
    "mlp": mlp,
    "lstm": lstm,
    "attention": attention,
}


def sample_of(graph: Graph, rng: np.random.Generator, length: int = 6) -> dict[str, np.ndarray]:
    """One sample for the graph's inputs, without its batch axis; dynamic dimensions get ``length``."""
    sample = {}
    for spec in graph.inputs:
        assert spec.shape is not None
        shape = [length if not isinstance(d, int) else d for d in spec.shape[1:]]
        if spec.name == "mask":
            sample[spec.name] = (np.arange(shape[0]) < rng.integers(1, shape[0] + 1)).astype(spec.dtype)
        elif spec.dtype.startswith("int"):
            sample[spec.name] = rng.integers(0, 200, shape).astype(spec.dtype)
        else:
            sample[spec.name] = rng.normal(size=shape).astype(spec.dtype)
    return sample


def feeds_of(graph: Graph, batch: int = 3, seed: int = 7) -> dict[str, np.ndarray]:
    """A batch to run the graph on."""
    rng = np.random.default_rng(seed)
    samples = [sample_of(graph, rng) for _ in range(batch)]
    return {name: np.stack([s[name] for s in samples]) for name in samples[0]}


def _label(graph: Graph, sample: dict[str, np.ndarray], drawn: int) -> np.ndarray:
    """A class, one for each step or token where the graph scores these."""
    scores = graph.outputs[0].shape
    if scores is None or len(scores) < 3:
        return np.asarray(drawn)
    length = len(next(iter(sample.values())))
    return (drawn + np.arange(length)) % 8


def calibration_for(graph: Graph, folder: Path, count: int = 16) -> Calibration:
    """Samples to calibrate on, with labels; their length varies where the graph lets it."""
    rng = np.random.default_rng(11)
    writer = StoreWriter(folder, [*(spec.name for spec in graph.inputs), "labels"])
    for i in range(count):
        sample = sample_of(graph, rng, length=4 + i % 3)
        writer.append({**sample, "labels": _label(graph, sample, int(rng.integers(0, 8)))})
    return Calibration(writer.close(), range(count))


def in_nodes(graph: Graph, names: Iterable[str]) -> Graph:
    """The graph with these weights in Constant nodes."""
    changed = graph.copy()
    for name in names:
        value = changed.weights[name]
        node = ir.node("Constant", [], {"value": value.const_value}, name=f"{name}.node")
        node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type = name, value.shape, value.type
        value.replace_all_uses_with(node.outputs[0])
        del changed.ir_model.graph.initializers[name]
        changed.ir_model.graph.insert_before(next(iter(changed.ir_model.graph)), node)
    return changed
