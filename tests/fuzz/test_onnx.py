"""Thousands of damaged and hostile ONNX files: each is a graph, or a refusal in one line; nothing else.

Every case is drawn from a generator seeded with its name, so that a failure comes back when run again.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from hasten.core.errors import ModelError
from hasten.graph import Graph
from hasten.loaders.onnx import open_file

from .damage import damaged, places
from .outcome import Hunt
from .outline import call_doubling_functions
from .seeds import NAMES, Seed, seed
from .structure import CHANGES, cases, changed

DAMAGED = 350
CHANGED = 2 * len(CHANGES)
MANY_TIMES = 15
"""How many more in the slow run."""

MOST_MEMORY_BYTES = 1 << 30
"""No file here has a megabyte; what a tensor claims to be must not be allocated."""


def byte_cases(chosen: Seed, count: int, first: int = 0) -> Iterator[tuple[str, bytes]]:
    """Names and contents of damaged files."""
    model = chosen.message()
    where = places(chosen.content, [tensor.raw_data for tensor in model.graph.initializer])
    other = seed(NAMES[(NAMES.index(chosen.name) + 3) % len(NAMES)]).content
    for i in range(first, first + count):
        name = f"{chosen.name}-damaged-{i}"
        yield name, damaged(Random(name), chosen.content, where, other)


def structure_cases(chosen: Seed, count: int) -> Iterator[tuple[str, bytes]]:
    """Names and contents of files whose structure is changed."""
    for change, i in cases(count):
        name = f"{chosen.name}-{change}-{i}"
        yield name, changed(Random(name), chosen.message(), change)


def questions(graph: Graph) -> None:
    """What every command asks of a graph first; a graph that was accepted must have answers."""
    assert graph.outputs
    assert graph.opset >= 0
    assert all(str(spec) for spec in (*graph.inputs, *graph.outputs))
    assert graph.parameters >= 0
    assert graph.weight_bytes >= 0
    assert len(graph.fingerprint) == 64
    assert graph.stripped().to_bytes()


def open_and_ask(path: Path) -> None:
    questions(open_file(path)[0])


def hunt(chosen: Seed, cases_of_it: Iterator[tuple[str, bytes]], folder: Path) -> Hunt:
    path = chosen.place(folder / "model")
    made = Hunt(folder / "got-past", ".onnx")
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, content in cases_of_it:
        path.write_bytes(content)
        made.run(name, content, lambda: open_and_ask(path))
    grown_bytes = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib)
    made.finish()
    assert grown_bytes < MOST_MEMORY_BYTES
    return made


@pytest.mark.parametrize("name", NAMES)
def test_damaged_bytes(name: str, tmp_path: Path) -> None:
    made = hunt(seed(name), byte_cases(seed(name), DAMAGED), tmp_path)
    assert made.accepted + made.refused == DAMAGED
    assert made.refused > DAMAGED / 5


@pytest.mark.parametrize("name", NAMES)
def test_changed_structure(name: str, tmp_path: Path) -> None:
    made = hunt(seed(name), structure_cases(seed(name), CHANGED), tmp_path)
    assert made.accepted > CHANGED / 20
    assert made.refused > CHANGED / 5


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_many_more(name: str, tmp_path: Path) -> None:
    hunt(seed(name), byte_cases(seed(name), MANY_TIMES * DAMAGED, first=DAMAGED), tmp_path / "bytes")
    hunt(seed(name), structure_cases(seed(name), MANY_TIMES * CHANGED), tmp_path / "structure")


def field(number: int, content: bytes) -> bytes:
    """A field of a protobuf message whose content has a length (wire type 2)."""
    length, size = len(content), b""
    while length >= 128:
        size, length = size + bytes([length % 128 + 128]), length // 128
    return bytes([number * 8 + 2]) + size + bytes([length]) + content


@pytest.mark.parametrize("levels", [30, 40, 1000, 20_000])
def test_graphs_nested_deeper_than_a_parser_follows(levels: int, tmp_path: Path) -> None:
    graph = b""
    for _ in range(levels):
        graph = field(1, field(4, b"If") + field(5, field(1, b"then_branch") + field(6, graph)))
    made = Hunt(tmp_path, ".onnx")
    path = tmp_path / "model.onnx"
    content = field(7, graph)
    path.write_bytes(content)
    assert not made.run(f"nested-{levels}", content, lambda: open_and_ask(path))
    made.finish()


@pytest.mark.parametrize("count", [16, 40, 500])
def test_functions_that_call_each_other_twice(count: int, tmp_path: Path) -> None:
    model = seed("functions").message()
    call_doubling_functions(model, model.graph.node[0], count)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="call each other so often"):
        open_file(path)


def test_sparse_weights_that_would_fill_the_memory(tmp_path: Path) -> None:
    model = seed("contents").message()
    model.graph.sparse_initializer[0].dims[:] = [20_000, 20_000]
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="too large"):
        open_file(path)


def test_every_kind_of_change_changes_something() -> None:
    for change in CHANGES:
        made = {
            seed(name).content != changed(Random(i), seed(name).message(), change)
            for name in NAMES
            for i in range(3)
        }
        assert True in made, change


def test_the_seeds_themselves_are_accepted(tmp_path: Path) -> None:
    for name in NAMES:
        path = seed(name).place(tmp_path / name)
        path.write_bytes(seed(name).content)
        open_and_ask(path)


def test_cases_come_back() -> None:
    first, second = ([content for _, content in structure_cases(seed("branches"), 60)] for _ in range(2))
    assert first == second
    first, second = ([content for _, content in byte_cases(seed("branches"), 60)] for _ in range(2))
    assert first == second
