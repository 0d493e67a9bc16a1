"""Dynamic dimensions are fixed alike everywhere, and shapes are read as people write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_graphs import attention, conv_net, feeds_of

from hasten.core.errors import InputError, ModelError
from hasten.core.tensor import TensorSpec
from hasten.graph.evaluate import Evaluator
from hasten.loaders import read
from hasten.loaders.shapes import fix_shapes, parse_input, parse_shape
from loaders.files import model, node, save, value, weight


def test_a_fixed_graph_answers_the_same() -> None:
    graph = conv_net()
    fixed = fix_shapes(graph, {"image": (3, 3, 16, 16)})
    assert [str(spec) for spec in (*fixed.inputs, *fixed.outputs)] == [
        "image: float32[3x3x16x16]",
        "logits: float32[3x10]",
    ]
    feeds = feeds_of(graph, batch=3)
    assert Evaluator(fixed).run(feeds)["logits"] == pytest.approx(Evaluator(graph).run(feeds)["logits"])
    assert graph.inputs[0].is_dynamic


def test_inner_values_are_static_afterwards() -> None:
    fixed = fix_shapes(attention(), {"ids": (2, 8)})
    for n in fixed.ir_model.graph:
        for out in n.outputs:
            assert out.shape is not None
            assert out.shape.is_static(), f"{n.name}: {out.shape}"


def test_a_dimension_of_the_same_name_is_the_same_in_every_input() -> None:
    fixed = fix_shapes(attention(), {"ids": (2, 8)})
    assert {spec.name: spec.shape for spec in fixed.inputs} == {"ids": (2, 8), "mask": (2, 8)}
    with pytest.raises(InputError, match="dimension 'length' would be 8 in input 'ids' and 9 in 'mask'"):
        fix_shapes(attention(), {"ids": (2, 8), "mask": (2, 9)})


def test_question_marks_are_not_a_name(tmp_path: Path) -> None:
    made = model(
        [node("Transpose", "b", "c", perm=[1, 0]), node("Concat", "a c", "y", axis=1)],
        inputs=[value("a", ["?", "?"]), value("b", ["?", "?"])],
    )
    loaded = read(save(made, tmp_path), shapes={"a": (2, 3), "b": (4, 2)})
    assert loaded.graph.outputs[0].shape == (2, 7)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"picture": (1, 3, 16, 16)}, "no input 'picture'; it has image"),
        ({"image": (1, 3, 16)}, "has 4 axes, the given shape 1x3x16 3"),
        ({"image": (1, 4, 16, 16)}, "axis 1 is 3 in the model, it cannot be 4"),
        ({"image": (0, 3, 16, 16)}, "axis 0 cannot have the size 0"),
    ],
)
def test_shapes_that_do_not_fit(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fix_shapes(conv_net(), shapes)


def test_shapes_the_graph_cannot_take(tmp_path: Path) -> None:
    made = model(
        [node("Add", "x w", "y")],
        [weight("w", np.ones((5, 7), np.float32))],
        inputs=[value("x", ["N", "M"])],
    )
    with pytest.raises(ModelError, match="ONNX Runtime cannot open it"):
        read(save(made, tmp_path), shapes={"x": (2, 3)})


def test_weights_among_the_inputs_are_not_inputs(tmp_path: Path) -> None:
    made = model(
        [node("Add", "x w", "y")],
        [weight("w", np.ones(4, np.float32))],
        inputs=[value("x"), value("w", [4])],
        ir_version=3,
    )
    assert read(save(made, tmp_path), shapes={"x": (2, 4)}).graph.outputs[0].shape == (2, 4)
    with pytest.raises(InputError, match="no input 'w'; it has x"):
        read(save(made, tmp_path), shapes={"w": (4,)})


def test_shapes_are_read() -> None:
    assert parse_shape("x=1x3x224x224") == ("x", (1, 3, 224, 224))
    assert parse_shape("a=b:0=7") == ("a=b:0", (7,))
    assert parse_input("ids=1x64:int64") == TensorSpec("ids", "int64", (1, 64))
    assert parse_input("in:0=1X64") == TensorSpec("in:0", "float32", (1, 64))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "x=",
        "=1x2",
        "x=1x",
        "x=1,3",
        "x=1x-3",
        "x=ax3",
        "x=1x0",
        "x=1x99999999999",
        "x=1 x 3",
        "x=1x²",
    ],
)
def test_bad_shapes_say_how_to_write_one(text: str) -> None:
    with pytest.raises(InputError, match="x"):
        parse_shape(text)
    with pytest.raises(InputError, match="x"):
        parse_input(text)


def test_bad_types_say_which_there_are() -> None:
    with pytest.raises(InputError, match="unknown type 'integer'; one of float32"):
        parse_input("x=1x3:integer")
