"""Hostile files that pass hasten's own checks go on to ONNX Runtime, in a child that may die of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hasten.core.errors import ModelError, WorkerError
from hasten.loaders.onnx import adopt_outputs, examine, open_file
from hasten.process import Worker

from .outcome import Hunt
from .seeds import NAMES, seed
from .test_onnx import CHANGED, DAMAGED, byte_cases, structure_cases

FEW = 10
"""Accepted files of each seed and kind that are opened in the default run."""

MOST_DEATHS = 8
TIMEOUT_S = 60.0


class Children:
    """Children of which each is used until it dies, and their number."""

    def __init__(self) -> None:
        self.deaths = 0
        self._alive: dict[str, Worker] = {}

    def of(self, task: str) -> Worker:
        worker = self._alive.get(task)
        if worker is not None and psutil.pid_exists(worker.pid):
            return worker
        if worker is not None:
            worker.close()
            self.deaths += 1
            assert self.deaths <= MOST_DEATHS
        self._alive[task] = Worker(task)
        return self._alive[task]

    def close(self) -> None:
        for worker in self._alive.values():
            worker.close()


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    made = Children()
    yield made
    made.close()


def accepted(name: str, count: int | None, path: Path) -> Iterator[tuple[str, bytes]]:
    """Mutated files that hasten's own checks let through, ``count`` of each kind; each is placed first."""
    for cases in (byte_cases(seed(name), DAMAGED), structure_cases(seed(name), CHANGED)):
        found = 0
        for case, content in cases:
            path.write_bytes(content)
            try:
                open_file(path)
            except ModelError:
                continue
            yield case, content
            found += 1
            if found == count:
                break


def open_in_child(children: Children, path: Path) -> None:
    """As ``hasten inspect`` does: refused by the runtime with a ModelError, or everything is answered."""
    graph, _ = open_file(path)
    adopt_outputs(graph, examine(children.of("opening"), path))
    assert all(spec.dtype != "unknown" for spec in graph.outputs)
    try:
        children.of("inspecting").request(f"{__package__}.runtime:inspect", {"model": str(path)}, TIMEOUT_S)
    except WorkerError as error:  # it crashed, hung, or raised what is not of hasten's tree
        raise AssertionError(str(error)) from None


def hunt(name: str, count: int | None, folder: Path, children: Children) -> Hunt:
    path = seed(name).place(folder / "model")
    made = Hunt(folder / "got-past", ".onnx")
    for case, content in accepted(name, count, path):
        made.run(case, content, lambda: open_in_child(children, path))
    made.finish()
    return made


@pytest.mark.parametrize("name", NAMES)
def test_what_passes_goes_to_the_runtime(name: str, tmp_path: Path, children: Children) -> None:
    made = hunt(name, FEW, tmp_path, children)
    assert made.accepted + made.refused > FEW
    assert made.accepted > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_everything_that_passes_goes_to_the_runtime(name: str, tmp_path: Path, children: Children) -> None:
    assert hunt(name, None, tmp_path, children).accepted > FEW


def test_a_child_that_dies_is_seen_and_replaced(children: Children) -> None:
    worker = children.of("dying")
    with pytest.raises(WorkerError, match="ended with status 3"):
        worker.request("os:_exit", {"status": 3})
    assert children.of("dying").pid != worker.pid
