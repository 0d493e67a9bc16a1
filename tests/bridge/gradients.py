"""Gradients of the bridge's operators against finite differences, on the node tests of the onnx package."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import numpy_helper

from hasten.bridge import to_torch
from hasten.bridge.dtypes import from_numpy
from hasten.graph import Graph

from .node_tests import NodeTest, all_node_tests
from .test_contrib import CASES, model_of

MOST_NUMBERS = 400
"""Float inputs a test may have together: finite differences run the model twice for each number."""
_NARROW = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "stash_type", "softmax_precision", "output_dtype"})

_INTEGERS = "its outputs are integers"
_BOOLEANS = "its outputs are truth values"
_NO_FLOATS = "it computes with integers or truth values"
_NO_INPUT = "it makes a value from attributes, shapes or integers alone"
_ROUNDS = "it rounds; its gradient is the straight-through estimate, not the derivative (zero)"
_QUANTIZED = ("Add", "AveragePool", "Concat", "GlobalAveragePool", "LeakyRelu", "Mul", "Sigmoid", "Softmax")
_RANDOM = "it draws random values that no input moves smoothly"

NOT_DIFFERENTIABLE: dict[str, str] = {
    **dict.fromkeys(("ArgMax", "ArgMin", "BitCast", "NonMaxSuppression", "NonZero"), _INTEGERS),
    **dict.fromkeys(("SequenceLength", "Shape", "Size"), _INTEGERS),
    **dict.fromkeys(
        ("Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual"), _BOOLEANS
    ),
    "OptionalHasElement": _BOOLEANS,
    **dict.fromkeys(("QLinearConv", "QLinearMatMul"), _INTEGERS),
    "QuantizeLinear": _ROUNDS,
    "Range": "its bounds and step are read as numbers; how long it is jumps with them",
    **dict.fromkeys(("And", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor"), _NO_FLOATS),
    **dict.fromkeys(("ConvInteger", "MatMulInteger", "Not", "Or", "Xor"), _NO_FLOATS),
    **dict.fromkeys(("BlackmanWindow", "Constant", "ConstantOfShape", "EyeLike", "HammingWindow"), _NO_INPUT),
    **dict.fromkeys(("HannWindow", "MelWeightMatrix", "SequenceEmpty"), _NO_INPUT),
    **dict.fromkeys(("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike"), _RANDOM),
    **dict.fromkeys(("RandomUniform", "RandomUniformLike"), _RANDOM),
    **dict.fromkeys(("com.microsoft.NhwcMaxPool", "com.microsoft.QuantizeLinear"), _INTEGERS),
    **{f"com.microsoft.QLinear{name}": _INTEGERS for name in _QUANTIZED},
    "com.microsoft.DynamicQuantizeMatMul": _ROUNDS,
    "Hardmax": "it is piecewise constant: ones at the largest, zeros elsewhere",
}
"""Operators without a gradient to check, with the reason."""

FIXED_INPUTS: dict[str, frozenset[int]] = {
    "Dropout": frozenset({1}),
    "NegativeLogLikelihoodLoss": frozenset({2}),
    "SoftmaxCrossEntropyLoss": frozenset({2}),
}
"""Inputs that are settings rather than data: no gradient is asked for."""


def _model(signature: str, body: str, opset: int = 21) -> str:
    return f'<ir_version: 10, opset_import: ["" : {opset}]> agraph ({signature}) {{ {body} }}'


WRITTEN: dict[str, str] = {
    "Cast": _model("float[2,3] x) => (float[2,3] y", "y = Cast <to = 1> (x)"),
    "CastLike": _model("float[2,3] x, float[1] t) => (float[2,3] y", "y = CastLike (x, t)"),
    "ConcatFromSequence": _model(
        "float[2,3] x) => (float[4,3] y", "s = SequenceConstruct (x, x) y = ConcatFromSequence <axis = 0> (s)"
    ),
    "Erf": _model("float[2,3] x) => (float[2,3] y", "y = Erf (x)"),
    "GlobalLpPool": _model("float[1,2,3,3] x) => (float[1,2,1,1] y", "y = GlobalLpPool <p = 3> (x)"),
    "If": _model(
        "bool c, float[2,3] x) => (float[2,3] y",
        "y = If (c) <then_branch = yes () => (float[2,3] a) { a = Exp (x) },"
        " else_branch = no () => (float[2,3] b) { b = Neg (x) }>",
    ),
    "LRN": _model("float[1,4,2,2] x) => (float[1,4,2,2] y", "y = LRN <size = 3, alpha = 0.5> (x)"),
    "MaxRoiPool": _model(
        "float[1,1,6,6] x) => (float[1,1,2,2] y",
        "r = Constant <value = float[1,5] {0.0, 0.0, 0.0, 4.0, 4.0}> ()"
        " y = MaxRoiPool <pooled_shape = [2, 2]> (x, r)",
    ),
    "Mish": _model("float[2,3] x) => (float[2,3] y", "y = Mish (x)", 22),
    "OneHot": _model(
        "int64[2] i, float[2] v) => (float[2,3] y", "d = Constant <value_int = 3> () y = OneHot (i, d, v)"
    ),
    "Optional": _model(
        "float[2,3] x) => (float[2,3] y", "o = Optional (x) z = OptionalGetElement (o) y = Exp (z)"
    ),
    "SequenceAt": _model(
        "float[2,3] x) => (float[2,3] y",
        "s = SequenceConstruct (x, x) i = Constant <value_int = 1> () z = SequenceAt (s, i) y = Exp (z)",
    ),
    "SequenceConstruct": _model(
        "float[2,3] x) => (float[2,2,3] y",
        "s = SequenceConstruct (x, x) y = ConcatFromSequence <axis = 0, new_axis = 1> (s)",
    ),
    "SequenceErase": _model(
        "float[2,3] x) => (float[2,3] y",
        "e = Exp (x) s = SequenceConstruct (x, e) r = SequenceErase (s) i = Constant <value_int = 0> ()"
        " y = SequenceAt (r, i)",
    ),
    "SequenceInsert": _model(
        "float[2,3] x) => (float[4,3] y",
        "e = Exp (x) s = SequenceConstruct (x) r = SequenceInsert (s, e)"
        " y = ConcatFromSequence <axis = 0> (r)",
    ),
    "SimplifiedLayerNormalization": _model(
        "float[2,3,4] x, float[4] w) => (float[2,3,4] y",
        "y = SimplifiedLayerNormalization <axis = -1, stash_type = 11> (x, w)",
    ),
    "Slice": _model(
        "float[4,3] x) => (float[2,3] y",
        "a = Constant <value_ints = [-1]> () b = Constant <value_ints = [-10]> ()"
        " c = Constant <value_ints = [0]> () d = Constant <value_ints = [-2]> () y = Slice (x, a, b, c, d)",
    ),
    "Trilu": _model("float[3,4] x) => (float[3,4] y", "y = Trilu <upper = 0> (x)"),
    "Upsample": _model(
        "float[1,1,2,2] x) => (float[1,1,4,4] y",
        'f = Constant <value = float[4] {1.0, 1.0, 2.0, 2.0}> () y = Upsample <mode = "linear"> (x, f)',
        9,
    ),
}
"""Models, in ONNX's text format, for operators whose node tests have no float input small enough."""


def doubled(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with float64 wherever it had narrower floats."""
    model = copy.deepcopy(model)
    _double_graph(model.graph)
    return model


def _double_graph(graph: onnx.GraphProto) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        _double_type(value.type)
    for tensor in graph.initializer:
        _double_tensor(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _double_tensor(attribute.t)
            elif attribute.type == onnx.AttributeProto.GRAPH:
                _double_graph(attribute.g)
            elif attribute.name in _TYPE_ATTRIBUTES and attribute.i in _NARROW:
                attribute.i = onnx.TensorProto.DOUBLE
        given = {attribute.name for attribute in node.attribute}
        if node.op_type == "LayerNormalization" and "stash_type" not in given:
            node.attribute.append(onnx.helper.make_attribute("stash_type", onnx.TensorProto.DOUBLE))


def _double_type(kind: onnx.TypeProto) -> None:
    match kind.WhichOneof("value"):
        case "tensor_type":
            if kind.tensor_type.elem_type in _NARROW:
                kind.tensor_type.elem_type = onnx.TensorProto.DOUBLE
        case "sequence_type":
            _double_type(kind.sequence_type.elem_type)
        case "optional_type":
            _double_type(kind.optional_type.elem_type)


def _double_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _NARROW:
        array = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _feeds(test: NodeTest, rng: np.random.Generator) -> list[Any]:
    """The test's inputs, floats as float64 a little off their place: node tests like ties and corners."""

    def moved(value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, list):
            return [moved(v) for v in value]
        tensor = from_numpy(np.asarray(value))
        if not tensor.is_floating_point():
            return tensor
        noise = from_numpy(np.asarray(rng.uniform(0.2, 1.0, tensor.shape) * 1e-2))
        return tensor.to(torch.float64) + noise

    return [moved(value) for value in test.cases[0][0]]


def _numbers(value: Any) -> int:
    """How many floats a feed holds."""
    if isinstance(value, list):
        return sum(map(_numbers, value))
    array = np.asarray(value)
    is_float = value is not None and (array.dtype.kind == "f" or array.dtype.name == "bfloat16")
    return int(array.size) if is_float else 0


@functools.cache
def _tests_by_operator() -> dict[str, list[NodeTest]]:
    """Node tests of one operator each, those with the fewest floats first."""
    found: dict[str, list[NodeTest]] = {}
    for test in all_node_tests().values():
        names = {f"{n.domain}.{n.op_type}" if n.domain else n.op_type for n in test.model.graph.node}
        if len(names) == 1 and "_expanded" not in test.name and test.cases:
            found.setdefault(names.pop(), []).append(test)
    for tests in found.values():
        tests.sort(key=lambda test: _numbers(test.cases[0][0]))
    return found


def small_tests(name: str) -> list[NodeTest]:
    """One or two small tests of an operator with float inputs: the smallest, and one with more inputs."""
    if name in WRITTEN:
        return [_written(name)]
    if name.startswith("com.microsoft."):
        return _contrib_tests(name)
    fit = [t for t in _tests_by_operator().get(name, ()) if 0 < _numbers(t.cases[0][0]) <= MOST_NUMBERS]
    fit = [t for t in fit if t.out_of_scope is None]
    richest = max(fit, key=lambda t: sum(map(bool, map(_numbers, t.cases[0][0]))), default=None)
    return fit[:1] if richest is None or richest is fit[0] else [fit[0], richest]


def _contrib_tests(name: str) -> list[NodeTest]:
    """The cases in which ONNX Runtime's own operator makes floats of floats."""
    found = []
    for label, case in CASES.items():
        if f"com.microsoft.{case.op_type}" == name and np.float32 in case.outputs:
            model, feeds = model_of(replace(case, domain="com.microsoft"))
            found.append(NodeTest(label, model, [(list(feeds.values()), [])], 0.0, 0.0))
    return found


def _written(name: str) -> NodeTest:
    model = onnx.parser.parse_model(WRITTEN[name])
    rng = np.random.default_rng(0)
    feeds = []
    for value in model.graph.input:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        feeds.append((rng.standard_normal(shape) if kind.kind == "f" else np.ones(shape)).astype(kind))
    return NodeTest(f"written_{name}", model, [(feeds, [])], 0.0, 0.0)


def _floats(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, list | tuple):
        for one in value:
            yield from _floats(one)
    elif isinstance(value, torch.Tensor) and value.is_floating_point():
        yield value


def _replaced(value: Any, floats: Iterator[torch.Tensor]) -> Any:
    """The feed with its float tensors taken from ``floats`` instead."""
    if isinstance(value, list):
        return [_replaced(one, floats) for one in value]
    is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
    return next(floats) if is_float else value


def check(name: str, test: NodeTest) -> None:
    """Raise GradcheckError when a gradient is not the finite difference, AssertionError when none flows."""
    module = to_torch(Graph(ir.from_proto(doubled(test.model)))).eval()
    feeds = _feeds(test, np.random.default_rng(0))
    fixed = FIXED_INPUTS.get(name, frozenset())
    free = [feed for i, feed in enumerate(feeds) if i not in fixed]
    learned = [tensor.requires_grad_() for tensor in _floats(free)]
    assert learned, "no float input"

    def run(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        floats = iter(given)
        values = [feed if i in fixed else _replaced(feed, floats) for i, feed in enumerate(feeds)]
        torch.manual_seed(0)
        return tuple(_floats(_as_list(module(*values))))

    outputs = run(*learned)
    assert any(output.requires_grad for output in outputs), "no gradient flows"
    _gradcheck(run, learned)


def _as_list(found: Any) -> list[Any]:
    return list(found) if isinstance(found, tuple) else [found]


def _gradcheck(run: Callable[..., Any], learned: list[torch.Tensor]) -> None:
    assert torch.autograd.gradcheck(run, learned, eps=1e-6, atol=1e-6, rtol=1e-4)
