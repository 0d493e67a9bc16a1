"""ONNX files that can be run come in as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from small_graphs import GRAPHS, feeds_of

from hasten.core.errors import InputError, ModelError
from hasten.graph.evaluate import Evaluator
from hasten.loaders import check, read
from loaders.files import external, linear, model, node, save, value, weight

X = np.arange(8, dtype=np.float32).reshape(2, 4)


def run(graph, **feeds):
    return Evaluator(graph).run(feeds)


def expected(made: onnx.ModelProto, **feeds):
    """What the ONNX reference implementation answers."""
    return ReferenceEvaluator(made).run(None, feeds)


@pytest.mark.parametrize("name", GRAPHS)
def test_answers_as_the_file_does(name: str, tmp_path: Path) -> None:
    graph = GRAPHS[name]()
    graph.write(tmp_path / "model.onnx")
    loaded = read(tmp_path / "model.onnx", samples=[feeds_of(graph), feeds_of(graph, batch=1)])
    assert (loaded.source, loaded.format, loaded.notes) == ("model.onnx", "onnx", ())
    assert loaded.graph.inputs == graph.inputs
    assert loaded.original == tmp_path / "model.onnx"
    differences = check(loaded, [feeds_of(graph)])
    assert set(differences) == {o.name for o in graph.outputs}
    assert max(differences.values()) == 0.0


def test_dynamic_dimensions_stay(tmp_path: Path) -> None:
    loaded = read(str(save(linear(), tmp_path)))
    assert str(loaded.graph.inputs[0]) == "x: float32[Nx4]"
    assert run(loaded.graph, x=X)["y"] == pytest.approx(expected(linear(), x=X)[0], rel=1e-5)


@pytest.mark.parametrize("size", [-1, -3])
def test_sizes_below_zero_are_unknown_ones(size: int, tmp_path: Path) -> None:
    """Paddle's exporter writes -1, and ONNX Runtime takes any number at all."""
    made = model([node("Relu", "x", "y")], inputs=[value("x", [size, 4])], outputs=[value("y", [size, 4])])
    loaded = read(save(made, tmp_path), samples=[{"x": X}])
    assert [spec.shape for spec in (*loaded.graph.inputs, *loaded.graph.outputs)] == [(None, 4)] * 2
    assert check(loaded, [{"x": X}]) == {"y": 0.0}


def test_an_old_file_with_weights_among_the_inputs(tmp_path: Path) -> None:
    made = linear()
    made.ir_version = 3
    made.opset_import[0].version = 11
    made.graph.input.extend([value("w", [4, 3]), value("b", [3])])
    graph = read(save(made, tmp_path), samples=[{"x": X}]).graph
    assert [spec.name for spec in graph.inputs] == ["x"]
    assert graph.opset == 11
    assert set(graph.weights) == {"w", "b"}
    assert run(graph, x=X)["y"] == pytest.approx(expected(linear(), x=X)[0], rel=1e-5)


@pytest.mark.parametrize("opset", [7, 11, 13, 18, onnx.defs.onnx_opset_version()])
def test_opsets(opset: int, tmp_path: Path) -> None:
    made = linear()
    made.opset_import[0].version = opset
    assert read(save(made, tmp_path)).graph.opset == opset


@pytest.mark.parametrize(
    ("dtype", "array"),
    [
        (TensorProto.INT32, np.array([[1, 2]], np.int32)),
        (TensorProto.UINT8, np.array([[1, 2]], np.uint8)),
        (TensorProto.BOOL, np.array([[True, False]])),
        (TensorProto.FLOAT16, np.array([[1, 2]], np.float16)),
        (TensorProto.STRING, np.array([["a", "b"]])),
    ],
)
def test_inputs_of_any_dtype(dtype: int, array: np.ndarray, tmp_path: Path) -> None:
    made = model(
        [node("Identity", "x", "y")],
        inputs=[value("x", ["N", 2], dtype)],
        outputs=[value("y", ["N", 2], dtype)],
    )
    loaded = read(save(made, tmp_path), samples=[{"x": array}])
    assert loaded.graph.inputs[0].dtype in (array.dtype.name, "str")


def test_external_data_become_part_of_the_graph(tmp_path: Path) -> None:
    path = external(tmp_path)
    graph = read(path, samples=[{"x": X}]).graph
    (tmp_path / "weights.bin").unlink()
    assert run(graph, x=X)["y"] == pytest.approx(expected(linear(), x=X)[0], rel=1e-5)


def test_external_data_of_an_attribute(tmp_path: Path) -> None:
    path = external(tmp_path)
    made = onnx.load(path, load_external_data=False)
    constant = helper.make_node("Constant", [], ["w"], name="make_w")
    constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR, t=made.graph.initializer[0])
    del made.graph.initializer[0]
    made.graph.node.insert(0, constant)
    graph = read(save(made, tmp_path)).graph
    assert run(graph, x=X)["y"] == pytest.approx(expected(linear(), x=X)[0], rel=1e-5)


def test_a_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    path = external(tmp_path, location="link.bin")
    (tmp_path / "link.bin").symlink_to("weights.bin")
    assert read(path).graph.parameters == 15


def test_nodes_out_of_order_are_put_in_order(tmp_path: Path) -> None:
    made = linear()
    nodes = [made.graph.node[i] for i in (2, 0, 1)]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    loaded = read(save(made, tmp_path), samples=[{"x": X}])
    assert [n.op_type for n in loaded.graph.ir_model.graph] == ["MatMul", "Add", "Relu"]
    assert loaded.notes == ("nodes were put in the order in which they are computed",)


def test_sparse_weights_become_dense(tmp_path: Path) -> None:
    made = linear()
    dense = onnx.numpy_helper.to_array(made.graph.initializer[0]).copy()
    dense[np.abs(dense) < 0.5] = 0
    made.graph.initializer[0].CopyFrom(weight("w", dense))
    sparse = linear()
    del sparse.graph.initializer[0]
    places = np.flatnonzero(dense)
    sparse.graph.sparse_initializer.append(
        helper.make_sparse_tensor(
            weight("w", dense.ravel()[places]), weight("w_indices", places), list(dense.shape)
        )
    )
    loaded = read(save(sparse, tmp_path), samples=[{"x": X}])
    assert loaded.notes == ("sparse weights were made dense",)
    assert run(loaded.graph, x=X)["y"] == pytest.approx(expected(made, x=X)[0], rel=1e-5)


def test_functions_defined_in_the_model(tmp_path: Path) -> None:
    made = model([node("Twice", "x", "y", domain="mine")], opsets={"": 17, "mine": 1})
    made.functions.append(
        helper.make_function(
            "mine", "Twice", ["a"], ["b"], [node("Add", "a a", "b")], [helper.make_opsetid("", 17)]
        )
    )
    loaded = read(save(made, tmp_path), samples=[{"x": X}])
    assert run(loaded.graph, x=X)["y"] == pytest.approx(2 * X)


def test_operators_of_the_runtime(tmp_path: Path) -> None:
    made = model([node("Gelu", "x", "y", domain="com.microsoft")], opsets={"": 17, "com.microsoft": 1})
    assert run(read(save(made, tmp_path)).graph, x=X)["y"].shape == (2, 4)


def test_subgraphs_see_outer_values(tmp_path: Path) -> None:
    branches = {
        name: helper.make_graph([node(op, "x w", f"{name}_out")], name, [], [value(f"{name}_out", None)])
        for name, op in (("then_branch", "Add"), ("else_branch", "Sub"))
    }
    made = model(
        [node("If", "flag", "y", **branches)],
        [weight("w", np.ones(4, np.float32))],
        inputs=[value("x"), value("flag", [], TensorProto.BOOL)],
    )
    graph = read(save(made, tmp_path), samples=[{"x": X, "flag": np.array(True)}]).graph
    assert run(graph, x=X, flag=np.array(False))["y"] == pytest.approx(X - 1)


def test_types_of_outputs_that_the_file_leaves_out(tmp_path: Path) -> None:
    made = model([node("ArgMax", "x", "y", axis=1)], outputs=[onnx.ValueInfoProto(name="y")])
    graph = read(save(made, tmp_path)).graph
    assert str(graph.outputs[0]) == "y: int64[Nx1]"


def test_exporters_notes_go_and_the_models_own_stay(tmp_path: Path) -> None:
    made = linear()
    made.doc_string = made.graph.doc_string = "/home/someone/model.py"
    made.metadata_props.add(key="character", value="a b c")
    made.metadata_props.add(key="pkg.torch.stack", value="/home/someone/model.py")
    for n in made.graph.node:
        n.doc_string = "/home/someone/model.py"
        n.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="File /home/someone/model.py")
    made.graph.input[0].doc_string = made.graph.initializer[0].doc_string = "/home/someone/model.py"
    graph = read(save(made, tmp_path)).graph
    assert b"someone" not in graph.to_bytes()
    assert graph.ir_model.metadata_props == {"character": "a b c"}


def test_objects_are_read_and_left_as_they_are(tmp_path: Path) -> None:
    made = linear()
    before = made.SerializeToString()
    loaded = read(made, samples=[{"x": X}])
    assert (loaded.source, loaded.original) == ("ModelProto", None)
    assert made.SerializeToString() == before
    again = read(loaded.graph)
    assert again.graph.fingerprint == loaded.graph.fingerprint


def test_an_object_with_external_data_has_no_folder(tmp_path: Path) -> None:
    made = onnx.load(external(tmp_path), load_external_data=False)
    with pytest.raises(ModelError, match=r"weights 'w' lies in an external file.*give the path"):
        read(made)


def test_samples_that_lack_an_input() -> None:
    with pytest.raises(InputError, match=r"ModelProto: the model's inputs are .*, the data have other"):
        read(linear(), samples=[{"other": np.zeros(1)}])


def test_loaders_of_other_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "toy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hasten.loaders]\n.toy = toy_loader\n")
    (tmp_path / "toy_loader.py").write_text(
        "from hasten.loaders import onnx\n"
        "def load(request):\n"
        "    graph, notes = onnx.open_file(request.source.with_suffix('.onnx'))\n"
        "    return onnx.Loaded(graph=graph, source=request.name, format='toy', notes=notes)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    save(linear(), tmp_path)
    (tmp_path / "model.toy").write_text("a toy")
    loaded = read(tmp_path / "model.toy")
    assert (loaded.format, loaded.source, loaded.graph.parameters) == ("toy", "model.toy", 15)


def test_a_file_that_says_what_it_takes_is_not_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="says what it takes; leave --input out"):
        read(save(linear(), tmp_path), inputs=["x=1x5"])
