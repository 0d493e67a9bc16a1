"""A .pt2 file that could run code when opened is refused before torch sees it."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hasten.core.errors import ModelError
from hasten.loaders import read
from hasten.loaders.pt2 import open_program, screen
from loaders import modules

PROGRAM = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "net.pt2"
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(
        modules.ConvNet().eval(), (torch.zeros(2, 3, 12, 12),), dynamic_shapes=({0: batch},)
    )
    torch.export.save(program, path)
    return path


@pytest.fixture
def changed(good: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes a copy with a member edited as JSON, or with members added."""

    def make(member: str = PROGRAM, edit: Callable[[Any], object] | None = None, **added: bytes) -> Path:
        path = tmp_path / "net.pt2"
        with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w") as new:
            for entry in old.infolist():
                content = old.read(entry)
                if edit is not None and entry.filename.endswith(member):
                    tree = json.loads(content)
                    edit(tree)
                    content = json.dumps(tree).encode()
                new.writestr(entry.filename, content)
            for name, content in added.items():
                new.writestr(f"net/{name}", content)
        return path

    return make


def graph_of(tree: Any) -> Any:
    return tree["graph_module"]["graph"]


def test_an_honest_program_passes(good: Path, changed: Callable[..., Path]) -> None:
    screen(good)
    screen(changed(edit=lambda tree: None))
    program = open_program(good)
    assert program.module()(torch.zeros(5, 3, 12, 12)).shape == (5, 5)


def set_target(text: str) -> Callable[[Any], None]:
    def edit(tree: Any) -> None:
        graph_of(tree)["nodes"][0]["target"] = text

    return edit


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.hub.load",
        "torch.ops.load_library",
        "torch.ops.aten.__class__",
        "torch.ops.aten.add.__class__",
        "torch.ops.__class__.x",
        "torch.load",
        "_operator.methodcaller",
        "_operator.attrgetter",
        "math.__loader__",
        "#extension",
        "torch.ops.aten.add.Tensor\n",
    ],
)
def test_targets_that_are_no_operators(target: str, changed: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match="is not an operator of torch"):
        screen(changed(edit=set_target(target)))


@pytest.mark.parametrize(
    "target",
    ["torch.ops.aten.add.Tensor", "torch.ops.aten.__and__.Tensor", "torch.sym_max", "_operator.getitem"],
)
def test_targets_that_are_operators(target: str, changed: Callable[..., Path]) -> None:
    screen(changed(edit=set_target(target)))


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "Symbol('s0').__class__",
        "(lambda: 1)()",
        "[x for x in (1,)]",
        "sympify('1')",
        "lambdify(1, 1)",
        "Symbol('s0) + exec(')",
        "s0; 1",
        "eval",
        "",
        "1 +",
    ],
)
def test_sizes_that_are_more_than_arithmetic(expression: str, changed: Callable[..., Path]) -> None:
    def edit(tree: Any) -> None:
        sizes = next(
            meta["sizes"]
            for meta in graph_of(tree)["tensor_values"].values()
            if any("as_expr" in size for size in meta["sizes"])
        )
        next(size for size in sizes if "as_expr" in size)["as_expr"]["expr_str"] = expression

    with pytest.raises(ModelError, match="the size"):
        screen(changed(edit=edit))


def test_names_that_would_become_code(changed: Callable[..., Path]) -> None:
    def node(tree: Any) -> None:
        graph_of(tree)["nodes"][0]["name"] = "x):\n    import os"

    def key(tree: Any) -> None:
        graph_of(tree)["tensor_values"]["a b"] = {}

    def argument(tree: Any) -> None:
        signature = tree["graph_module"]["module_call_graph"][0]["signature"]
        signature["forward_arg_names"] = ["image=print()"]

    for edit in (node, key, argument):
        with pytest.raises(ModelError, match="is not a name"):
            screen(changed(edit=edit))


def test_pickled_weights(changed: Callable[..., Path]) -> None:
    def pickled(tree: Any) -> None:
        next(iter(tree["config"].values()))["use_pickle"] = True

    def custom(tree: Any) -> None:
        next(iter(tree["config"].values()))["path_name"] = "opaque_obj_0"

    for edit in (pickled, custom):
        with pytest.raises(ModelError, match="pickled object"):
            screen(changed(WEIGHTS, edit))
    with pytest.raises(ModelError, match="list of weights is malformed"):
        screen(changed(WEIGHTS, lambda tree: tree.update(config=[])))


@pytest.mark.parametrize(
    "name", ["data/aotinductor/model/lib.so", "data/weights/../../x", "models/other.json", "evil.py"]
)
def test_members_that_do_not_belong(name: str, changed: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match=r"which torch\.export.save does not write"):
        screen(changed(**{name: b"x"}))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_a_name(changed: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match="two files of the same name"):
        screen(changed(**{PROGRAM: b"{}"}))


def test_a_bomb(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"net/{PROGRAM}", b"[" * (1 << 24))
    with pytest.raises(ModelError, match="more than the whole file has"):
        screen(path)


def test_guards_are_dropped(changed: Callable[..., Path], tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    def edit(tree: Any) -> None:
        tree["guards_code"] = [f"open({str(mark)!r}, 'w')"]

    program = open_program(changed(edit=edit))
    program.module()(torch.zeros(2, 3, 12, 12))
    assert not mark.exists()


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.mark), "w")


def test_example_inputs_are_not_unpickled(good: Path, tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "net.pt2"
    torch.save((Payload(mark),), tmp_path / "payload.pt")
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            hostile = entry.filename.endswith("sample_inputs/model.pt")
            new.writestr(
                entry.filename, (tmp_path / "payload.pt").read_bytes() if hostile else old.read(entry)
            )
    with pytest.raises(ModelError, match=r"net\.pt2: it cannot be converted: .*[Ww]eights"):
        read(path)
    assert not mark.exists()
    with pytest.raises(pickle.UnpicklingError):
        open_program(path)
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"x" * 100])
def test_files_that_are_no_archive(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"not a \.pt2 file, or it is damaged"):
        screen(path)


def test_archives_that_hold_something_else(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(2)}, tmp_path / "net.pt2")
    with pytest.raises(ModelError, match="it holds no program"):
        screen(tmp_path / "net.pt2")


def test_reading_says_the_file_and_the_reason(changed: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match=r"net\.pt2: a node of it calls 'torch\.os\.system'"):
        read(changed(edit=set_target("torch.os.system")))
