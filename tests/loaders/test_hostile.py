"""Damaged and hostile ONNX files are refused with a message that names the place, whatever they hold."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from hasten.core.errors import InputError, ModelError
from hasten.graph import Graph
from hasten.loaders import read
from hasten.loaders.onnx import examine, open_file
from hasten.process import Worker
from loaders.files import FLOAT, external, linear, model, node, save, value, weight


def refuse(made: onnx.ModelProto, folder: Path, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        open_file(save(made, folder))


def without_data(name: str = "w", dims: tuple[int, ...] = (4, 3), dtype: int = FLOAT) -> onnx.ModelProto:
    """``linear`` whose first weight carries no data."""
    made = linear()
    made.graph.initializer[0].CopyFrom(TensorProto(name=name, data_type=dtype, dims=dims))
    return made


def doubled_function() -> onnx.ModelProto:
    made = model([node("F", "x", "y", domain="mine")], opsets={"": 17, "mine": 1})
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    for name, body in (("F", "G"), ("G", "F")):
        called = [node(body, "a", "b", domain="mine")]
        made.functions.append(helper.make_function("mine", name, ["a"], ["b"], called, imports))
    return made


def with_subgraph() -> onnx.ModelProto:
    body = helper.make_graph([node("Relu", "nowhere", "out")], "body", [], [value("out", None)])
    flag = value("flag", [], TensorProto.BOOL)
    return model([node("If", "flag", "y", then_branch=body, else_branch=body)], inputs=[value("x"), flag])


def two_opsets() -> onnx.ModelProto:
    made = linear()
    made.opset_import.append(helper.make_opsetid("ai.onnx", 12))
    return made


def newer_ir() -> onnx.ModelProto:
    made = linear()
    made.ir_version = 99
    return made


def sequence_input() -> onnx.ModelProto:
    sequence = helper.make_tensor_sequence_value_info("x", FLOAT, None)
    return model([node("SequenceAt", "x i", "y")], [weight("i", np.array(0))], inputs=[sequence])


def cut_typed_data() -> onnx.ModelProto:
    made = linear()
    short = TensorProto(name="w", data_type=FLOAT, dims=[4, 3], float_data=[1.0, 2.0])
    made.graph.initializer[0].CopyFrom(short)
    return made


def sparse_outside() -> onnx.ModelProto:
    made = linear()
    del made.graph.initializer[0]
    made.graph.sparse_initializer.append(
        helper.make_sparse_tensor(weight("w", np.ones(1, np.float32)), weight("i", np.array([77])), [4, 3])
    )
    return made


HOSTILE = {
    "no graph": (onnx.ModelProto(ir_version=8), "no graph"),
    "no outputs": (model([node("Relu", "x", "y")], outputs=[]), "no outputs"),
    "newer IR": (newer_ir(), "IR version 99.*upgrade"),
    "old opset": (model([node("Relu", "x", "y")], opsets={"": 6}), "opset 6; 7 is the oldest"),
    "new opset": (model([node("Relu", "x", "y")], opsets={"": 999}), "opset 999, newer than"),
    "two opsets": (two_opsets(), "two versions of the operator set 'ai.onnx'"),
    "unknown operator": (model([node("Foo", "x", "y")]), r"node 'make_y' \(Foo\).*no operator 'Foo'"),
    "removed operator": (model([node("Upsample", "x s", "y")], [weight("s", np.ones(2, "f4"))]), "Upsample"),
    "unknown domain": (
        model([node("Foo", "x", "y", domain="a.b")], opsets={"": 17, "a.b": 1}),
        r"node 'make_y' \(Foo\) is of the domain 'a.b'",
    ),
    "domain not imported": (model([node("Relu", "x", "y", domain="a.b")]), "'a.b', which the model does not"),
    "undefined value": (model([node("Relu", "lost", "y")]), r"node 'make_y' \(Relu\) uses 'lost'"),
    "undefined output": (model([node("Relu", "x", "z")]), "output 'y' is made by no node"),
    "undefined in a subgraph": (with_subgraph(), r"node 'make_out' \(Relu\) uses 'nowhere'"),
    "cycle": (
        model([node("Add", "x b", "a"), node("Relu", "a", "b"), node("Relu", "b", "y")]),
        "cycle: node 'make_[ab]'.* -> node 'make_[ab]'",
    ),
    "own input": (model([node("Add", "x y", "y")]), "cycle: node 'make_y'"),
    "not SSA": (
        model([node("Relu", "x", "y"), node("Neg", "x", "y")]),
        r"'y' is defined twice, as node 'make_y' \(Relu\)",
    ),
    "input made again": (model([node("Relu", "x", "x"), node("Relu", "x", "y")]), "'x' is defined twice"),
    "two weights of a name": (
        model([node("Add", "x w", "y")], [weight("w", np.ones(4, "f4"))] * 2),
        "'w' is defined twice",
    ),
    "two inputs of a name": (
        model([node("Relu", "x", "y")], inputs=[value("x")] * 2),
        "'x' is defined twice",
    ),
    "two outputs of a name": (
        model([node("Relu", "x", "y")], outputs=[value("y"), value("y")]),
        "two outputs of the name 'y'",
    ),
    "nameless weight": (model([node("Relu", "x", "y")], [weight("", np.ones(4))]), "no name"),
    "function calls itself": (doubled_function(), "function 'mine::[FG]' calls itself"),
    "sequence input": (sequence_input(), "input 'x' is a sequence, not a tensor"),
    "input without type": (model([node("Relu", "x", "y")], inputs=[value("x", [4], 0)]), "element type"),
    "no data": (without_data(), r"weights 'w'.*needs 12 values, the file has 0"),
    "huge weight": (without_data(dims=(1 << 40, 1 << 40)), r"weights 'w'.*needs 1208925819614629174706176"),
    "negative weight size": (without_data(dims=(-1, 3)), "weights 'w'.*negative dimension"),
    "unknown element type": (without_data(dtype=77), "weights 'w': 77 is not an element type"),
    "typed data cut short": (cut_typed_data(), "weights 'w'.*needs 12 values, the file has 2"),
    "sparse index outside": (sparse_outside(), "sparse weights 'w' have an index outside"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_malformed_graphs(case: str, tmp_path: Path) -> None:
    refuse(*HOSTILE[case][:1], tmp_path, HOSTILE[case][1])


def test_raw_data_cut_short(tmp_path: Path) -> None:
    made = linear()
    made.graph.initializer[0].raw_data = made.graph.initializer[0].raw_data[:-1]
    refuse(made, tmp_path, r"weights 'w': 4x3 of FLOAT takes 48 bytes, the file has 47")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "/etc/hostname"}, "'/etc/hostname'; they must lie in the model's own folder"),
        ({"location": "../weights.bin"}, r"without '\.\.'"),
        ({"location": "a/../../weights.bin"}, r"without '\.\.'"),
        ({"location": "..\\weights.bin"}, r"without '\.\.'"),
        ({"location": "C:\\weights.bin"}, "own folder"),
        ({"location": ""}, "own folder"),
        ({"location": "out.bin"}, "'out.bin' is a link that leads out of the model's folder"),
        ({"location": "loop.bin"}, "'loop.bin'"),
        ({"location": "missing.bin"}, "the file 'missing.bin' with its data is missing"),
        ({"location": "."}, "'.' with its data is missing"),
        ({"location": "*/_ORT_MEM_ADDR_/*", "offset": "4096"}, "ORT_MEM_ADDR.*missing"),
        ({"offset": "17"}, "needs bytes 17 to 65 of weights.bin, which has 64"),
        ({"offset": "-1"}, "offset is '-1', which is not a number of bytes"),
        ({"offset": "9" * 30}, "not a number of bytes"),
        ({"length": "49"}, "takes 48 bytes, its external data are said to be 49"),
        ({"length": "x"}, "length is 'x'"),
    ],
)
def test_external_data_that_lead_astray(entries: dict[str, str], message: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(b"\0" * 64)
    (folder / "out.bin").symlink_to(tmp_path / "weights.bin")
    (folder / "loop.bin").symlink_to("loop.bin")
    with pytest.raises(ModelError, match=f"weights 'w'.*{message}"):
        open_file(external(folder, **entries))


def test_a_folder_that_is_a_link_leads_out(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(b"\0" * 64)
    (folder / "sub").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(ModelError, match="link that leads out"):
        open_file(external(folder, location="sub/weights.bin"))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"\x89PNG\r\n", "model.onnx: "), (b"not a model at all", "model.onnx: ")],
)
def test_files_that_hold_something_else(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        read(path)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        read(tmp_path / "absent.onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ModelError, match="it is not a file"):
        read(tmp_path / "folder.onnx")
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(ModelError, match="it is not a file"):
        read(tmp_path / "pipe.onnx")


def test_truncated_files(tmp_path: Path) -> None:
    content = linear(40, 30).SerializeToString()
    path = tmp_path / "model.onnx"
    for length in range(1, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(ModelError):
            open_file(path)


def test_what_the_runtime_refuses_names_the_node(tmp_path: Path) -> None:
    made = model([node("Add", "x i", "y")], [weight("i", np.ones(4, np.int64))], outputs=[value("y", None)])
    with pytest.raises(ModelError, match=r"model\.onnx: ONNX Runtime cannot open it: .*make_y") as caught:
        read(save(made, tmp_path))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_what_fails_only_when_run(tmp_path: Path) -> None:
    made = model([node("Reshape", "x s", "y")], [weight("s", np.array([5, 5]))])
    path = save(made, tmp_path)
    assert read(path).graph.parameters == 2
    with pytest.raises(ModelError, match=r"ONNX Runtime cannot run it: .*make_y"):
        read(path, samples=[{"x": np.zeros((1, 4), np.float32)}])


def test_a_model_that_eats_all_memory(tmp_path: Path) -> None:
    made = model(
        [node("Expand", "x s", "big"), node("ReduceSum", "big", "y")],
        [weight("s", np.array([1 << 20, 1 << 20, 1, 4]))],
    )
    with pytest.raises(ModelError, match="ONNX Runtime cannot run it"):
        read(save(made, tmp_path), samples=[{"x": np.zeros((1, 4), np.float32)}])


def test_names_in_messages_are_escaped(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"uses '\\x1b\[31mlost\\n'"):
        open_file(save(model([helper.make_node("Relu", ["\x1b[31mlost\n"], ["y"])]), tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.keras", r"not a \.keras file"),
        ("model.h5", r"model\.save\('model\.keras'\)"),
        ("model.hdf5", r"model\.save\('model\.keras'\)"),
        ("model.pb", "SavedModel folder"),
        ("model.xml", "hasten measure"),
        ("model.tflite", "Keras model or SavedModel"),
        ("model.pt", "torch.export.save"),
        ("model.pth", "pickle"),
        ("model.safetensors", "package.module:function"),
        ("model.ort", "give the .onnx file"),
        ("model.txt", r"hasten does not read \.txt; give one of \.onnx, \.onnx\.zst, \.pt2"),
        ("model", "hasten does not read files without a suffix"),
    ],
)
def test_other_kinds_of_files_say_the_way_out(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=message):
        read(tmp_path / name)


def test_other_kinds_of_folders_and_objects(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a folder; give the \.onnx file in it"):
        read(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"x")
    with pytest.raises(ModelError, match="not a SavedModel, or it is damaged"):
        read(tmp_path)
    with pytest.raises(InputError, match=r"a builtins\.int is not a model"):
        read(3)
    with pytest.raises(InputError, match=r"no such file, and it is not of the form package\.module:function"):
        read("nothing/here")


def mutated(data: st.DataObject, content: bytes) -> bytes:
    """Bytes flipped, removed, repeated or put in."""
    made = bytearray(content)
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(made) - 1))
        kind = data.draw(st.sampled_from(["set", "cut", "insert", "repeat"]))
        if kind == "set":
            made[at] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del made[at : at + data.draw(st.integers(1, 16))]
        elif kind == "insert":
            made[at:at] = data.draw(st.binary(min_size=1, max_size=8))
        else:
            made[at:at] = made[at : at + 24]
        made = made or bytearray(b"\0")
    return bytes(made)


SEEDS = [
    linear().SerializeToString(),
    with_subgraph().SerializeToString(),
    doubled_function().SerializeToString(),
]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), seed=st.sampled_from(SEEDS))
def test_mutated_files_are_read_or_refused(data: st.DataObject, seed: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(mutated(data, seed))
    graph, message = opened(path)
    assert (graph is None) != (message is None)
    assert graph is None or graph.outputs
    assert message is None or "\n" not in message


def opened(path: Path) -> tuple[Graph | None, str | None]:
    """The graph, or the message with which it was refused; anything else that is raised fails the test."""
    try:
        return open_file(path)[0], None
    except ModelError as error:
        return None, str(error)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), seed=st.sampled_from(SEEDS))
def test_mutated_files_never_crash_this_process(data: st.DataObject, seed: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(mutated(data, seed))
    graph, _ = opened(path)
    if graph is not None:
        with Worker("opening") as worker, contextlib.suppress(ModelError):
            assert examine(worker, path)
