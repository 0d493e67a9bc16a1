"""The real models that are mutated: the bundled one, and small ones with all a file may hold."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from small_graphs import GRAPHS

FLOAT = TensorProto.FLOAT
BUNDLED = Path(__file__).parents[2] / "examples" / "fashion_mnist" / "model.onnx"
DATA_FILE = "weights.bin"


@dataclass(frozen=True)
class Seed:
    """A valid model; ``content`` are its bytes, ``files`` lie beside it."""

    name: str
    content: bytes
    files: dict[str, bytes] = field(default_factory=dict)

    def message(self) -> onnx.ModelProto:
        """A copy to mutate."""
        return onnx.ModelProto.FromString(self.content)

    def place(self, folder: Path) -> Path:
        """Put the files that belong to it into a folder; returns where the model goes."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        return folder / "model.onnx"


def _value(name: str, shape: list[object] | None, dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def _model(graph: onnx.GraphProto, functions: list[onnx.FunctionProto] | None = None) -> onnx.ModelProto:
    imports = [helper.make_opsetid("", 18), *([helper.make_opsetid("mine", 1)] if functions else [])]
    made = helper.make_model(graph, opset_imports=imports, ir_version=9, functions=functions or [])
    onnx.checker.check_model(made)
    return made


def _weight(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.random.default_rng(5).normal(size=shape).astype(np.float32), name)


def branches() -> onnx.ModelProto:
    """If and Loop, whose bodies use values of the graph around them; a weight lies in a branch."""
    then = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["t"])],
        "then",
        [],
        [_value("t", ["n", 4])],
        [_weight("w", 4, 4)],
    )
    other = helper.make_graph([helper.make_node("Neg", ["x"], ["e"])], "else", [], [_value("e", ["n", 4])])
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["more"], ["again"]),
            helper.make_node("Add", ["state", "x"], ["state_out"]),
        ],
        "body",
        [_value("i", [], TensorProto.INT64), _value("more", [], TensorProto.BOOL), _value("state", ["n", 4])],
        [_value("again", [], TensorProto.BOOL), _value("state_out", ["n", 4])],
    )
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
            helper.make_node("Greater", ["s", "zero"], ["c"]),
            helper.make_node("If", ["c"], ["h"], then_branch=then, else_branch=other),
            helper.make_node("Loop", ["steps", "", "h"], ["y"], body=body),
        ],
        "branches",
        [_value("x", ["n", 4])],
        [_value("y", ["n", 4])],
        [
            numpy_helper.from_array(np.array(0, np.float32), "zero"),
            numpy_helper.from_array(np.array(3), "steps"),
        ],
    )
    return _model(graph)


def functions() -> onnx.ModelProto:
    """Functions of the model's own, one calling the other, with an attribute passed on."""
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    leaky = helper.make_node("LeakyRelu", ["a"], ["b"])
    leaky.attribute.append(onnx.AttributeProto(name="alpha", type=FLOAT, ref_attr_name="slope"))
    inner = helper.make_function("mine", "Bend", ["a"], ["b"], [leaky], imports, attributes=["slope"])
    outer = helper.make_function(
        "mine",
        "Twice",
        ["p"],
        ["q"],
        [
            helper.make_node("Bend", ["p"], ["r"], domain="mine", slope=0.1),
            helper.make_node("Bend", ["r"], ["q"], domain="mine", slope=0.2),
        ],
        imports,
    )
    graph = helper.make_graph(
        [helper.make_node("Twice", ["x"], ["h"], domain="mine"), helper.make_node("Gemm", ["h", "w"], ["y"])],
        "functions",
        [_value("x", ["n", 4])],
        [_value("y", ["n", 3])],
        [_weight("w", 4, 3)],
    )
    return _model(graph, [inner, outer])


def contents() -> onnx.ModelProto:
    """Tensors in every way a message holds them: typed, four bits, half, strings, sparse, in a Constant."""
    nodes = [
        helper.make_node("Constant", [], ["k"], value=_weight("", 3)),
        helper.make_node("Constant", [], ["axes"], value_ints=[1]),
        helper.make_node("DequantizeLinear", ["q", "scale"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Add", ["a", "k"], ["b"]),
        helper.make_node("Cast", ["half"], ["full"], to=FLOAT),
        helper.make_node("Add", ["b", "full"], ["c"]),
        helper.make_node("MatMul", ["c", "sparse"], ["d"]),
        helper.make_node("Unsqueeze", ["d", "axes"], ["y"]),
        helper.make_node("Identity", ["text"], ["said"]),
    ]
    graph = helper.make_graph(
        nodes,
        "contents",
        [_value("x", ["n", 4])],
        [_value("y", ["n", 1, 3]), _value("said", [2], TensorProto.STRING)],
        [
            helper.make_tensor("q", TensorProto.INT8, [4, 3], list(range(12))),
            helper.make_tensor("scale", FLOAT, [], [0.05]),
            helper.make_tensor("half", TensorProto.FLOAT16, [3], np.array([1, 2, 3], np.float16)),
            helper.make_tensor("four", TensorProto.INT4, [5], [1, -2, 3, -4, 5]),
            helper.make_tensor("text", TensorProto.STRING, [2], [b"yes", b"no"]),
        ],
        sparse_initializer=[
            helper.make_sparse_tensor(
                numpy_helper.from_array(np.ones(3, np.float32), "sparse"),
                numpy_helper.from_array(np.array([0, 4, 8]), "places"),
                [3, 3],
            )
        ],
    )
    return _model(graph)


def _outside() -> Seed:
    """The perceptron, with the weights in a file beside it."""
    model = onnx.ModelProto.FromString(GRAPHS["mlp"]().to_bytes())
    stored = bytearray()
    for tensor in model.graph.initializer:
        offset, length = len(stored), len(tensor.raw_data)
        stored += tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", DATA_FILE), ("offset", str(offset)), ("length", str(length))):
            tensor.external_data.add(key=key, value=value)
    return Seed("outside", model.SerializeToString(), {DATA_FILE: bytes(stored)})


def _small(name: str) -> Callable[[], Seed]:
    return lambda: Seed(name, GRAPHS[name]().to_bytes())


def _built(name: str) -> Callable[[], Seed]:
    return lambda: Seed(name, getattr(sys.modules[__name__], name)().SerializeToString())


_MAKERS: dict[str, Callable[[], Seed]] = {
    "bundled": lambda: Seed("bundled", BUNDLED.read_bytes()),
    "conv_net": _small("conv_net"),
    "lstm": _small("lstm"),
    "attention": _small("attention"),
    "branches": _built("branches"),
    "functions": _built("functions"),
    "contents": _built("contents"),
    "outside": _outside,
}
NAMES = tuple(_MAKERS)


@cache
def seed(name: str) -> Seed:
    """The seed of that name."""
    return _MAKERS[name]()
