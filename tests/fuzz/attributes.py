"""Attributes of nodes: of the wrong type, absent, doubled, out of all proportion."""

from __future__ import annotations

from random import Random

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from .parts import NAMES, SIZES, some_attribute, some_node


def drop_attribute(rng: Random, model: onnx.ModelProto) -> None:
    node = some_node(rng, model)
    if node is not None and node.attribute:
        del node.attribute[rng.randrange(len(node.attribute))]


def duplicate_attribute(rng: Random, model: onnx.ModelProto) -> None:
    node = some_node(rng, model)
    if node is not None and node.attribute:
        node.attribute.append(rng.choice(node.attribute))


def rename_attribute(rng: Random, model: onnx.ModelProto) -> None:
    attribute = some_attribute(rng, model)
    if attribute is not None:
        attribute.name = rng.choice((*NAMES, "axis", "axes", "kernel_shape", "value", "body"))


def retype_attribute(rng: Random, model: onnx.ModelProto) -> None:
    """The declared type no longer is that of the value."""
    attribute = some_attribute(rng, model)
    if attribute is not None:
        attribute.type = rng.choice(range(15))


def absurd_numbers(rng: Random, model: onnx.ModelProto) -> None:
    attribute = some_attribute(rng, model)
    if attribute is None:
        return
    attribute.i = rng.choice(SIZES) if attribute.HasField("i") else attribute.i
    attribute.f = (
        rng.choice((float("nan"), float("inf"), -0.0, 3e38)) if attribute.HasField("f") else attribute.f
    )
    for i in range(len(attribute.ints)):
        attribute.ints[i] = rng.choice(SIZES)


def absurd_counts(rng: Random, model: onnx.ModelProto) -> None:
    attribute = some_attribute(rng, model)
    if attribute is not None and attribute.ints:
        attribute.ints.extend([rng.choice(SIZES)] * rng.choice((1, 5, 3000)))


def replace_attribute(rng: Random, model: onnx.ModelProto) -> None:
    """Same name, a value of any other type."""
    attribute = some_attribute(rng, model)
    if attribute is None:
        return
    made = rng.choice(
        (
            helper.make_attribute("v", 1),
            helper.make_attribute("v", 0.5),
            helper.make_attribute("v", b"\xff\xfe\0"),
            helper.make_attribute("v", "text"),
            helper.make_attribute("v", [1, -1]),
            helper.make_attribute("v", [b"\xff", b""]),
            helper.make_attribute("v", numpy_helper.from_array(np.ones(3, np.float32))),
            helper.make_attribute("v", helper.make_tensor_type_proto(1, [2, "n"])),
            helper.make_attribute("v", onnx.GraphProto(name="empty")),
            AttributeProto(
                name="v", type=AttributeProto.GRAPHS, graphs=[onnx.GraphProto(), onnx.GraphProto()]
            ),
            AttributeProto(name="v", type=AttributeProto.SPARSE_TENSOR),
        )
    )
    name = attribute.name
    attribute.CopyFrom(made)
    attribute.name = name


def strange_attribute(rng: Random, model: onnx.ModelProto) -> None:
    node = some_node(rng, model)
    if node is not None:
        made = node.attribute.add(name=rng.choice(("", "extra", "axis", "\0", "to")))
        made.type = rng.choice(range(15))
        made.s = b"\x80 not utf-8"
        made.ref_attr_name = rng.choice(("", "", "elsewhere"))


def nested_graph(rng: Random, model: onnx.ModelProto) -> None:
    """Graphs in graphs, up to about as deep as a parser follows."""
    node = some_node(rng, model)
    if node is None:
        return
    inner = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "leaf", [], [])
    for _ in range(rng.choice((1, 5, 20, 28))):
        holder = helper.make_node("If", ["x"], ["y"])
        holder.attribute.add(name="then_branch", type=AttributeProto.GRAPH).g.CopyFrom(inner)
        inner = onnx.GraphProto(name="level", node=[holder])
    node.attribute.add(name="body", type=AttributeProto.GRAPH).g.CopyFrom(inner)


def constant_of_every_kind(rng: Random, model: onnx.ModelProto) -> None:
    """A Constant whose value is missing, doubled, or huge in what it claims."""
    kinds: tuple[dict[str, object], ...] = (
        {},
        {"value_float": 1.0, "value_int": 1},
        {"value_strings": [b"\xff"]},
        {"value": TensorProto(data_type=1, dims=[1 << 40])},
        {"value": TensorProto(data_type=8, dims=[1], string_data=[b"\xff\xfe"])},
        {"value_ints": [1] * 2000},
    )
    model.graph.node.insert(0, helper.make_node("Constant", [], ["fuzzed"], name="c", **rng.choice(kinds)))
    if rng.random() < 0.5:
        model.graph.output.append(helper.make_tensor_value_info("fuzzed", 1, None))


def huge_at_run_time(rng: Random, model: onnx.ModelProto) -> None:
    """A tensor that is small in the file and beyond any memory once it is computed."""
    size = rng.choice((1 << 20, 1 << 40, (1 << 62) + 7))
    model.graph.initializer.append(numpy_helper.from_array(np.array([size, size]), "huge_shape"))
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["huge_shape"], ["huge"], name="huge"))
    if rng.random() < 0.5:
        model.graph.output.append(helper.make_tensor_value_info("huge", 1, None))
