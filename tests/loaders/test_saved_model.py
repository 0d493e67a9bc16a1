"""A SavedModel whose graph could do harm is refused before TensorFlow sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hasten.core.errors import ModelError
from hasten.loaders import read
from hasten.loaders.saved_model import _message, screen


def honest() -> Any:
    """What tf.saved_model.save writes, in small: a function to serve, and two that only the saver calls."""
    saved = _message("SavedModel")()
    part = saved.meta_graphs.add()
    part.saver_def.save_tensor_name = "saving:0"
    part.saver_def.restore_op_name = "restoring"
    part.object_graph_def.concrete_functions.add(key="serve")
    for node, function in (("serving", "serve"), ("saving", "save"), ("restoring", "restore")):
        called = part.graph_def.node.add(name=node, op="StatefulPartitionedCall").attr.add(key="f")
        called.value.func.name = function
    for name, ops in (
        ("serve", ("MatMul", "inner")),
        ("inner", ("Relu",)),
        ("save", ("SaveV2", "MergeV2Checkpoints")),
        ("restore", ("RestoreV2",)),
    ):
        function = part.graph_def.library.function.add()
        function.signature.name = name
        for op in ops:
            function.node_def.add(name=f"make_{op}", op=op)
    return saved


def write(saved: Any, folder: Path) -> Path:
    (folder / "saved_model.pb").write_bytes(saved.SerializeToString())
    return folder


def body(saved: Any, name: str) -> Any:
    functions = saved.meta_graphs[0].graph_def.library.function
    return next(function.node_def for function in functions if function.signature.name == name)


def test_an_honest_graph_passes(tmp_path: Path) -> None:
    screen(write(honest(), tmp_path))


@pytest.mark.parametrize(
    "op",
    [
        "ReadFile",
        "WriteFile",
        "MatchingFiles",
        "PyFunc",
        "EagerPyFunc",
        "PyFuncStateless",
        "ImmutableConst",
        "PrintV2",
        "TFRecordReaderV2",
        "TextLineDataset",
        "InitializeTableFromTextFileV2",
        "DebugIdentityV3",
        "WriteScalarSummary",
        "RpcCall",
        "SaveV2",
        "RestoreV2",
    ],
)
@pytest.mark.parametrize("where", ["serve", "inner"])
def test_operators_that_reach_out(op: str, where: str, tmp_path: Path) -> None:
    saved = honest()
    body(saved, where).add(name="evil", op=op)
    with pytest.raises(ModelError, match=rf"node 'evil' in function '{where}' is a '{op}', which can reach"):
        screen(write(saved, tmp_path))


def test_such_operators_outside_of_functions(tmp_path: Path) -> None:
    saved = honest()
    saved.meta_graphs[0].graph_def.node.add(name="evil", op="WriteFile")
    with pytest.raises(ModelError, match=rf"{tmp_path.name}: node 'evil' in its graph is a 'WriteFile'"):
        read(write(saved, tmp_path))


def call_saver_by_attribute(saved: Any) -> None:
    body(saved, "inner").add(name="call", op="While").attr.add(key="body").value.func.name = "save"


def call_saver_in_a_list(saved: Any) -> None:
    body(saved, "inner").add(name="call", op="Case").attr.add(key="b").value.list.func.add(name="save")


def call_saver_as_an_operator(saved: Any) -> None:
    body(saved, "inner").add(name="call", op="save")


def offer_saver(saved: Any) -> None:
    saved.meta_graphs[0].object_graph_def.concrete_functions.add(key="save")


@pytest.mark.parametrize(
    "change",
    [call_saver_by_attribute, call_saver_in_a_list, call_saver_as_an_operator, offer_saver],
)
def test_savers_that_something_else_reaches(change: Any, tmp_path: Path) -> None:
    saved = honest()
    change(saved)
    with pytest.raises(ModelError, match="in function 'save' is a 'SaveV2'"):
        screen(write(saved, tmp_path))


def test_two_functions_of_a_name(tmp_path: Path) -> None:
    saved = honest()
    saved.meta_graphs[0].graph_def.library.function.add().signature.name = "serve"
    with pytest.raises(ModelError, match="two functions of the same name"):
        screen(write(saved, tmp_path))


def test_models_of_tensorflow_1(tmp_path: Path) -> None:
    saved = honest()
    saved.meta_graphs[0].ClearField("object_graph_def")
    with pytest.raises(ModelError, match=r"written by TensorFlow 1; .*tf\.saved_model\.save"):
        screen(write(saved, tmp_path))


@pytest.mark.parametrize("content", [b"", b"not a model", bytes(range(256)) * 8])
def test_files_that_are_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(content)
    with pytest.raises(ModelError, match="not a SavedModel, or it is damaged"):
        screen(tmp_path)


def test_a_folder_without_a_graph(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="it cannot be read"):
        screen(tmp_path)
