"""PyTorch: modules, exported programs, ``.pt2`` files and functions that return one of them.

A file or a function is opened in a child process, so that this one never imports torch and whatever the code
does to itself stays there. Every conversion is checked against the source's own answers.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx_ir as ir

from hasten.core.errors import InputError, ModelError, Unavailable, WorkerError
from hasten.core.recipe import Json
from hasten.graph import Graph
from hasten.loaders.agree import compare, read_runs, write_runs
from hasten.loaders.loaded import Loaded, Request
from hasten.loaders.onnx import examine, naming, open_file
from hasten.process import Worker

_TIMEOUT_S = 3600.0
_BATCH = "batch"


def load(request: Request) -> Loaded:
    """Convert to ONNX and check the answers; raises Unavailable, InputError or ModelError."""
    if find_spec("torch") is None:
        raise Unavailable(
            f"{request.name} needs PyTorch, which is not installed", "pip install 'hasten[torch]'"
        )
    keep = nullcontext(str(request.work)) if request.work else tempfile.TemporaryDirectory()
    with keep as folder, naming(request.name):
        made = _convert(request, Path(folder))
        path = Path(made["onnx"])
        graph, notes = open_file(path)
        if request.work is None and path.with_name(path.name + ".data").exists():
            raise ModelError("its weights take 2 GiB or more: a folder to keep them in is needed (work=...)")
        _check(path, made)
        _tidy(Path(folder))
        if "program" not in made:
            return Loaded(graph=graph, source=request.name, format="onnx", notes=notes)
        graph.ir_model.metadata_props.clear()
        _name_batch(graph)
        return Loaded(
            graph=graph,
            source=request.name,
            format="pt2" if request.name.endswith(".pt2") else "torch",
            notes=(*made["notes"], *notes),
            eager=Path(made["program"]) if request.work else None,
        )


def _convert(request: Request, folder: Path) -> Mapping[str, Any]:
    """The fields of ``torch_export.Conversion``; for an ONNX model only ``onnx``."""
    if not isinstance(request.source, str | Path):
        from hasten.loaders.torch_export import convert

        return vars(convert(request.source, request.inputs, request.samples, folder))
    source = str(request.source)
    samples = None
    if request.samples:
        samples = folder / "imported-samples.npz"
        write_runs(samples, request.samples)
    arguments: dict[str, Json] = {
        "source": source,
        "inputs": list(request.inputs),
        "samples": None if samples is None else str(samples),
        "work": str(folder),
    }
    with Worker("converting") as worker:
        try:
            made = worker.request(f"{__package__}.torch_export:convert_named", arguments, _TIMEOUT_S)
        except WorkerError as error:
            raise ModelError(f"it cannot be converted: {error}") from error
        except ModelError:
            raise
        except InputError as error:
            raise InputError(f"{request.name}: {error}") from error
    assert isinstance(made, dict)
    return made


def _check(path: Path, made: Mapping[str, Any]) -> None:
    """Raise ModelError unless the ONNX file opens and answers as its source did."""
    with Worker("checking the conversion") as worker:
        if "program" not in made:
            examine(worker, path)
            return
        ours = path.with_name("imported-answers-onnx.npz")
        examine(worker, path, Path(made["feeds"]), ours)
    compare(read_runs(Path(made["answers"])), read_runs(ours), "the PyTorch module")


def _tidy(folder: Path) -> None:
    """Remove what only the check needed; weights kept outside the graph stay."""
    for leftover in (*folder.glob("imported*.npz"), folder / "imported.onnx"):
        leftover.unlink(missing_ok=True)


def _name_batch(graph: Graph) -> None:
    """Call the first axis of the inputs ``batch``, in place, where torch gave it a number."""
    symbols = set()
    for value in graph.ir_model.graph.inputs:
        if value.shape is not None and len(value.shape) > 0 and not isinstance(value.shape[0], int):
            symbols.add(value.shape[0].value)
    symbols.discard(None)
    if not symbols:
        return
    pattern = re.compile(r"\b(?:" + "|".join(re.escape(str(symbol)) for symbol in symbols) + r")\b")
    for owner in graph.ir_model.graphs():
        made = (value for node in owner for value in node.outputs)
        for value in (*owner.inputs, *made):
            if value.shape is not None:
                value.shape = ir.Shape([_renamed(axis, pattern) for axis in value.shape])


def _renamed(axis: int | ir.SymbolicDim, pattern: re.Pattern[str]) -> int | str | None:
    if isinstance(axis, int):
        return axis
    return None if axis.value is None else pattern.sub(_BATCH, axis.value)


def answers_of(program: Path, feeds: Path, answers: Path) -> None:
    """Run a ``.pt2`` program on feeds in a child process; raises ModelError."""
    arguments = {"program": str(program), "feeds": str(feeds), "answers": str(answers)}
    with Worker("running the PyTorch program") as worker:
        try:
            worker.request(f"{__package__}.torch_export:answer", arguments, _TIMEOUT_S)
        except WorkerError as error:
            raise ModelError(f"PyTorch cannot run its program: {error}") from error
