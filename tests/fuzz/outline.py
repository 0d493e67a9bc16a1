"""What surrounds the graph: versions, types of inputs and outputs, functions, metadata."""

from __future__ import annotations

from random import Random

import onnx
from onnx import helper

from .parts import NAMES, SIZES, some_graph, some_node

_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "mine", "\0", "ai.onnx.preview.training")
_INT32 = (-(1 << 31), (1 << 31) - 1)


def opset_version(rng: Random, model: onnx.ModelProto) -> None:
    if model.opset_import:
        versions = (-1, 0, 1, 6, 7, 9, 11, 13, 15, 17, 19, 21, 23, 26, 27, 99, 1 << 31, (1 << 63) - 1)
        rng.choice(model.opset_import).version = rng.choice(versions)


def more_opsets(rng: Random, model: onnx.ModelProto) -> None:
    model.opset_import.add(domain=rng.choice(_DOMAINS), version=rng.choice((-1, 0, 1, 13, 18, 21, 1 << 31)))


def drop_opsets(rng: Random, model: onnx.ModelProto) -> None:
    del model.opset_import[rng.randrange(2) :]


def ir_version(rng: Random, model: onnx.ModelProto) -> None:
    model.ir_version = rng.choice((*range(-1, 15), 1 << 31, (1 << 63) - 1))


def drop_graph(rng: Random, model: onnx.ModelProto) -> None:
    if rng.random() < 0.5:
        model.ClearField("graph")
    else:
        model.graph.Clear()


def dimension_of_value(rng: Random, model: onnx.ModelProto) -> None:
    graph = some_graph(rng, model)
    values = [*graph.input, *graph.output, *graph.value_info]
    found = [d for value in values for d in value.type.tensor_type.shape.dim]
    if not found:
        return
    dim = rng.choice(found)
    if rng.random() < 0.5:
        dim.dim_value = rng.choice(SIZES)
    else:
        dim.dim_param = rng.choice(
            (*NAMES, "batch", "n-1", "2*n", "0", "-1", "floor(n/0)", "__import__('os')")
        )


def rank_of_value(rng: Random, model: onnx.ModelProto) -> None:
    graph = some_graph(rng, model)
    values = [*graph.input, *graph.output]
    if not values:
        return
    shape = rng.choice(values).type.tensor_type.shape
    if rng.random() < 0.4:
        del shape.dim[rng.randrange(len(shape.dim) + 1) :]
    for _ in range(rng.choice((1, 1, 3, 100, 3000))):
        shape.dim.add(dim_value=rng.choice((1, 2)))


def type_of_value(rng: Random, model: onnx.ModelProto) -> None:
    graph = some_graph(rng, model)
    values = [*graph.input, *graph.output]
    if not values:
        return
    value = rng.choice(values)
    kind = rng.randrange(6)
    if kind == 0:
        value.ClearField("type")
    elif kind == 1:
        inner = helper.make_tensor_type_proto(1, [2])
        value.type.CopyFrom(helper.make_sequence_type_proto(inner))
    elif kind == 2:
        value.type.optional_type.elem_type.tensor_type.elem_type = 1
    elif kind == 3:
        value.type.map_type.key_type = 8
    else:
        value.type.tensor_type.elem_type = rng.choice((*range(27), 99, *_INT32))


def stale_value_info(rng: Random, model: onnx.ModelProto) -> None:
    """Shapes of inner values that are not theirs."""
    graph = some_graph(rng, model)
    for node in graph.node:
        for name in node.output:
            dims = [rng.choice((1, 2, 7, "n", 1 << 40, -1)) for _ in range(rng.randrange(5))]
            graph.value_info.append(helper.make_tensor_value_info(name, rng.choice((1, 7, 0, 9)), dims))


def self_calling_function(rng: Random, model: onnx.ModelProto) -> None:
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    names = [f"F{i}" for i in range(rng.choice((1, 2, 30)))]
    for name, callee in zip(names, [*names[1:], names[0]], strict=True):
        body = [helper.make_node(callee, ["a"], ["b"], domain="mine")]
        model.functions.append(helper.make_function("mine", name, ["a"], ["b"], body, imports))
    model.opset_import.add(domain="mine", version=1)
    node = some_node(rng, model)
    if node is not None and rng.random() < 0.8:
        node.op_type, node.domain = names[0], "mine"


def call_doubling_functions(model: onnx.ModelProto, node: onnx.NodeProto, count: int) -> None:
    """Make ``node`` call a function that calls another twice, and so on: inlined, 2^count nodes."""
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    for i in range(count):
        callee, domain = (f"D{i + 1}", "mine") if i < count - 1 else ("Neg", "")
        body = [
            helper.make_node(callee, ["a"], ["m"], domain=domain),
            helper.make_node(callee, ["m"], ["b"], domain=domain),
        ]
        model.functions.append(helper.make_function("mine", f"D{i}", ["a"], ["b"], body, imports))
    if not any(entry.domain == "mine" for entry in model.opset_import):
        model.opset_import.add(domain="mine", version=1)
    node.op_type, node.domain = "D0", "mine"
    del node.input[1:], node.output[1:], node.attribute[:]


def doubling_functions(rng: Random, model: onnx.ModelProto) -> None:
    node = some_node(rng, model)
    if node is not None:
        call_doubling_functions(model, node, rng.choice((3, 6, 40)))


def function_of_a_standard_name(rng: Random, model: onnx.ModelProto) -> None:
    """A function that takes the place of an operator, or has none of what a function has."""
    node = some_node(rng, model)
    if node is None:
        return
    made = onnx.FunctionProto(name=node.op_type, domain=rng.choice((node.domain, "ai.onnx", "mine")))
    made.input.extend(["a"] * rng.choice((0, 1, 2)))
    made.output.extend(rng.choice((["a"], ["lost"], [])))
    model.functions.append(made)


def drop_function(rng: Random, model: onnx.ModelProto) -> None:
    if model.functions:
        del model.functions[rng.randrange(len(model.functions))]


def edit_function(rng: Random, model: onnx.ModelProto) -> None:
    if not model.functions:
        return
    function = rng.choice(model.functions)
    for names in (function.input, function.output, function.attribute):
        if names and rng.random() < 0.5:
            names[rng.randrange(len(names))] = rng.choice(NAMES)
    if function.opset_import and rng.random() < 0.3:
        rng.choice(function.opset_import).version = rng.choice((-1, 1, 5, 13, 99))
    function.overload = rng.choice(("", "", "2"))


def metadata(rng: Random, model: onnx.ModelProto) -> None:
    model.metadata_props.add(key=rng.choice(NAMES), value=rng.choice(NAMES) * 3)
    model.graph.metadata_props.add(key=rng.choice(NAMES), value="/home/somebody/model.py")
    model.doc_string = model.graph.doc_string = "line\n\x1b[2J" * rng.choice((1, 50))
    model.producer_name = model.domain = rng.choice(NAMES)
    model.graph.name = rng.choice(NAMES)


def training_and_annotations(rng: Random, model: onnx.ModelProto) -> None:
    model.training_info.add().algorithm.CopyFrom(onnx.GraphProto(name="algorithm"))
    annotation = model.graph.quantization_annotation.add(tensor_name=rng.choice(NAMES))
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="nowhere")
    model.configuration.add(name=rng.choice(NAMES), num_devices=rng.choice((-1, 2)))
