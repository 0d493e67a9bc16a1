"""Where will it run? One file a runtime; here the contract and the table.

A target's module has

- ``Options``: a frozen, keyword-only pydantic dataclass of run-time options, validated on construction;
- ``spec() -> TargetSpec``: what it offers on this machine; raises Unavailable;
- ``export(graph, folder, options) -> Artifact``: files on disk, hashed; the folder exists and is empty;
- ``open(artifact, folder, options) -> Runner``: sees files, never an in-memory graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, cast

from pydantic import TypeAdapter, ValidationError

from hasten.core.data import Array
from hasten.core.errors import InputError
from hasten.core.record import Artifact, Scalar
from hasten.core.target import TargetSpec
from hasten.core.tensor import TensorSpec
from hasten.graph import Graph

TABLE = {
    "onnxruntime": "hasten.targets.onnxruntime",
    "openvino": "hasten.targets.openvino",
    "torch": "hasten.targets.torch",
}
"""Name to module. Other packages add theirs through the entry point group ``hasten.targets``."""

GROUPS = {"cpu": ("onnxruntime", "openvino")}
"""What ``--target`` accepts besides single names: a device, meaning every runtime for it."""


class Runner(Protocol):
    """An opened model."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One inference, synchronous; the outputs belong to the caller."""


class Target(Protocol):
    """The shape of a target's module."""

    Options: type[Any]

    def spec(self) -> TargetSpec:
        """What this target offers here; raises Unavailable."""

    def export(self, graph: Graph, folder: Path, options: Any) -> Artifact:
        """Write the deployable files; raises TrialError when the runtime cannot take this graph."""

    def open(self, artifact: Artifact, folder: Path, options: Any) -> Runner:
        """Open an artifact from its files; raises TrialError."""


def names() -> tuple[str, ...]:
    """All registered targets, hasten's own first."""
    return (*TABLE, *(e.name for e in entry_points(group="hasten.targets") if e.name not in TABLE))


def find(name: str) -> Target:
    """The module of a target; raises InputError for an unknown name."""
    if name in TABLE:
        return cast("Target", import_module(TABLE[name]))
    for entry in entry_points(group="hasten.targets"):
        if entry.name == name:
            return cast("Target", entry.load())
    raise InputError(f"unknown target {name!r}; `hasten targets` lists {', '.join((*GROUPS, *names()))}")


def options(name: str, raw: Mapping[str, Scalar]) -> Any:
    """The validated run-time options of a target; raises InputError naming the option."""
    target = find(name)
    try:
        return TypeAdapter(target.Options).validate_python(dict(raw))
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"option {name}.{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
