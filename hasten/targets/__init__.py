"""Where will it run? One file a runtime; here the contract and the table.

A target's module has

- ``Options``: a frozen, keyword-only pydantic dataclass of run-time options, validated on construction;
- ``spec() -> TargetSpec``: what it offers on this machine; raises Unavailable;
- ``export(graph, folder, options) -> Artifact``: files on disk, hashed; the folder exists and is empty;
- ``open(artifact, folder, options) -> Runner``: sees files, never an in-memory graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from pydantic import TypeAdapter, ValidationError

from hasten.core.data import Array
from hasten.core.errors import InputError, Unavailable
from hasten.core.layers import Kernel
from hasten.core.record import Artifact, Scalar
from hasten.core.target import TargetSpec
from hasten.core.tensor import TensorSpec
from hasten.targets.files import artifact_of

if TYPE_CHECKING:
    # A process that only opens files must not pay for onnx: its memory is one of the things measured.
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
    """An opened model.

    inputs, outputs: as the file declares them, in its order. Several threads may call ``run`` at once;
    ``callers`` of them keep the runtime busy.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    callers: int

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One inference, synchronous; the outputs belong to the caller. Raises TrialError."""

    def kernels(self, feeds: Mapping[str, Array]) -> tuple[Kernel, ...]:
        """What the runtime executes for these feeds, in order, with each operation's precision and time.

        The model is opened once more for it, with the runtime's profiler on, so that this runner stays as it
        was. Empty where a runtime compiles nothing. Raises TrialError.
        """


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


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A registered target on this machine: what it offers, or why it is not available and the remedy."""

    name: str
    spec: TargetSpec | None = None
    reason: str = ""
    remedy: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON values: name, available, and the spec or the reason and the remedy."""
        if self.spec is None:
            return {"name": self.name, "available": False, "reason": self.reason, "remedy": self.remedy}
        return {
            "name": self.name,
            "available": True,
            "runtime": self.spec.runtime,
            "version": self.spec.version,
            "device": self.spec.device,
            "compute_dtypes": sorted(self.spec.compute_dtypes),
            "instructions": sorted(self.spec.instructions),
        }


def describe(name: str) -> Entry:
    """One target on this machine; raises InputError for an unknown name."""
    try:
        return Entry(name=name, spec=find(name).spec())
    except Unavailable as error:
        return Entry(name=name, reason=error.reason, remedy=error.remedy)


def inventory() -> tuple[Entry, ...]:
    """Every registered target, available here or not."""
    return tuple(describe(name) for name in names())


__all__ = [
    "GROUPS",
    "TABLE",
    "Entry",
    "Runner",
    "Target",
    "artifact_of",
    "describe",
    "find",
    "inventory",
    "names",
    "options",
]
