"""Eager PyTorch: opens a ``.pt2`` program, the reference for what the user runs today.

Nothing is exported for it. Format: https://docs.pytorch.org/docs/stable/export/pt2_archive.html
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from hasten.core.data import Array
from hasten.core.errors import ModelError, TrialError
from hasten.core.layers import Kernel
from hasten.core.record import Artifact
from hasten.core.target import TargetSpec, cpu_flags, cpu_name, usable_cores
from hasten.core.tensor import TensorSpec
from hasten.targets.failure import one_line, runtime

if TYPE_CHECKING:
    from hasten.graph import Graph

_PACKAGE = "hasten[torch]"
_FAILURES = (RuntimeError, ValueError, TypeError, AssertionError)
_REFUSALS = (ModelError, KeyError, OSError, UnpicklingError)


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Options:
    """How a program is run. threads: of one operator (None: all usable cores)."""

    threads: int | None = Field(default=None, ge=1)


def spec() -> TargetSpec:
    """What eager PyTorch offers here; raises Unavailable."""
    torch = runtime("torch", _PACKAGE)
    return TargetSpec(
        name="torch",
        runtime="PyTorch eager",
        version=str(torch.__version__),
        device=cpu_name(),
        compute_dtypes=frozenset({"float32"}),
        instructions=cpu_flags() & {"avx2", "avx512f", "avx512_bf16", "amx_bf16"},
    )


def export(graph: Graph, folder: Path, options: Options) -> Artifact:
    """Not what this target is for: always raises TrialError."""
    raise TrialError("eager PyTorch is a reference to measure against; export to onnxruntime or openvino")


def open(artifact: Artifact, folder: Path, options: Options) -> Program:
    """Load the ``.pt2`` program; raises Unavailable, and TrialError when it cannot be loaded safely."""
    torch = runtime("torch", _PACKAGE)
    from hasten.loaders.pt2 import open_program

    torch.set_num_threads(options.threads or usable_cores())
    try:
        with _tensors_only():
            return Program(open_program(folder / artifact.entry), _names(folder / artifact.entry))
    except (*_REFUSALS, *_FAILURES) as error:
        raise TrialError(f"PyTorch cannot load {artifact.entry}: {one_line(error)}") from error


def _names(program: Path) -> dict[str, list[str]]:
    """What the loader called inputs and outputs, where it left word beside the program."""
    from hasten.loaders.pt2 import SIGNATURE_SUFFIX

    path = program.with_suffix(SIGNATURE_SUFFIX)
    names: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return names


@contextlib.contextmanager
def _tensors_only() -> Iterator[None]:
    """Hold every ``torch.load`` inside to plain tensors, also those whose caller asks for more."""
    key = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(key)
    os.environ[key] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[key]
        else:
            os.environ[key] = before


class Program:
    """A loaded program, run eagerly; see ``hasten.targets.Runner``."""

    callers = 1

    def __init__(self, program: Any, names: Mapping[str, list[str]]) -> None:
        import torch

        self._torch = torch
        self._module = program.module()
        self._call = program.call_spec.in_spec
        values = {node.name: node.meta.get("val") for node in program.graph.nodes}
        signature = program.graph_signature
        inner = {"inputs": signature.user_inputs, "outputs": signature.user_outputs}
        self.inputs, self.outputs = (
            tuple(
                replace(_spec(name, values[name]), name=known)
                for name, known in zip(inner[kind], names.get(kind, inner[kind]), strict=True)
            )
            for kind in ("inputs", "outputs")
        )

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One inference; the outputs belong to the caller. Raises TrialError."""
        torch = self._torch
        try:
            given = [
                torch.from_numpy(np.require(feeds[s.name], requirements=["C", "W"])) for s in self.inputs
            ]
            # What was passed by name when the program was exported must be passed by name again.
            args, kwargs = torch.utils._pytree.tree_unflatten(given, self._call)
            with torch.inference_mode():
                found = self._module(*args, **kwargs)
        except KeyError as error:
            raise TrialError(f"input {error.args[0]!r} has no data") from error
        except _FAILURES as error:
            raise TrialError(f"PyTorch failed: {one_line(error)}") from error
        leaves = torch.utils._pytree.tree_leaves(found)
        return {s.name: _to_numpy(v) for s, v in zip(self.outputs, leaves, strict=True)}

    def kernels(self, feeds: Mapping[str, Array]) -> tuple[Kernel, ...]:
        """Eager PyTorch compiles nothing that could be read: none."""
        return ()


def _to_numpy(tensor: Any) -> Array:
    array = tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor
    return np.array(array.numpy())


def _spec(name: str, value: Any) -> TensorSpec:
    if not hasattr(value, "shape"):
        raise ValueError(f"{name!r} is not a tensor")
    axes = tuple(d if isinstance(d, int) else str(d) for d in value.shape)
    return TensorSpec(name, str(value.dtype).removeprefix("torch."), axes)
