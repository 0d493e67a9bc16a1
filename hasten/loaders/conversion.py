"""What a converter leaves on disk, and how that becomes a checked graph; common to all frameworks."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from hasten.core.errors import InputError, ModelError, WorkerError
from hasten.core.recipe import Json
from hasten.graph import Graph
from hasten.loaders.agree import compare, read_runs, write_runs
from hasten.loaders.loaded import Loaded, Request
from hasten.loaders.onnx import examine, naming, open_file
from hasten.process import Worker

TIMEOUT_S = 3600.0
_BATCH = "batch"


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """The files a conversion leaves.

    format: what was converted (``torch``, ``keras`` …). onnx: the model. feeds, answers: example inputs and
    the source's outputs to them, as ``write_runs`` writes them; None for a model that is its own source.
    program: a ``.pt2`` of the same, where PyTorch is what runs the source.
    """

    format: str
    onnx: Path
    feeds: Path | None = None
    answers: Path | None = None
    program: Path | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """As a child process returns it."""
        paths = {name: getattr(self, name) for name in ("onnx", "feeds", "answers", "program")}
        texts = {name: None if path is None else str(path) for name, path in paths.items()}
        return {"format": self.format, **texts, "notes": list(self.notes)}

    @classmethod
    def from_json(cls, fields: Json) -> Conversion:
        """What ``to_json`` wrote."""
        assert isinstance(fields, dict)
        paths = {name: fields[name] for name in ("onnx", "feeds", "answers", "program")}
        given = {name: None if text is None else Path(str(text)) for name, text in paths.items()}
        notes = fields["notes"]
        assert isinstance(notes, list)
        return cls(format=str(fields["format"]), notes=tuple(map(str, notes)), **given)  # type: ignore[arg-type]


WHO = {"torch": "the PyTorch module", "keras": "the Keras model", "tensorflow": "the SavedModel"}
"""How messages call the source, by format."""


@contextmanager
def workspace(request: Request) -> Iterator[Path]:
    """The folder to convert in: the one that was asked for, or one that is removed; names errors too."""
    keep = nullcontext(str(request.work)) if request.work else tempfile.TemporaryDirectory()
    with keep as folder, naming(request.name):
        yield Path(folder)


def convert_in_child(
    request: Request, function: str, folder: Path, environment: Mapping[str, str] | None = None
) -> Conversion:
    """Have ``function(source, inputs, samples, work)`` of this package convert the source in a child process.

    It returns ``Conversion.to_json``. Raises InputError or ModelError.
    """
    samples = None
    if request.samples:
        samples = folder / "imported-samples.npz"
        write_runs(samples, request.samples)
    arguments: dict[str, Json] = {
        "source": str(request.source),
        "inputs": list(request.inputs),
        "samples": None if samples is None else str(samples),
        "work": str(folder),
    }
    with Worker("converting", environment) as worker:
        try:
            made = worker.request(f"{__package__}.{function}", arguments, TIMEOUT_S)
        except WorkerError as error:
            raise ModelError(f"it cannot be converted: {error}") from error
        except ModelError:
            raise
        except InputError as error:
            raise InputError(f"{request.name}: {error}") from error
    return Conversion.from_json(made)


def finish(
    request: Request,
    made: Conversion,
    folder: Path,
    reference: Callable[[Path, Path], None] | None = None,
) -> Loaded:
    """The converted model as a graph, which opens and answers as its source did; removes what is left over.

    reference: see ``Loaded``. Raises ModelError.
    """
    graph, notes = open_file(made.onnx)
    if request.work is None and made.onnx.with_name(made.onnx.name + ".data").exists():
        raise ModelError("its weights take 2 GiB or more: a folder to keep them in is needed (work=...)")
    _check(made)
    _tidy(folder)
    if made.answers is None:
        return Loaded(graph=graph, source=request.name, format="onnx", notes=notes)
    graph.ir_model.metadata_props.clear()
    _name_batch(graph)
    return Loaded(
        graph=graph,
        source=request.name,
        format=made.format,
        notes=(*made.notes, *notes),
        eager=made.program if request.work else None,
        reference=reference,
    )


def _check(made: Conversion) -> None:
    """Raise ModelError unless the ONNX file opens and answers as its source did."""
    with Worker("checking the conversion") as worker:
        if made.feeds is None or made.answers is None:
            examine(worker, made.onnx)
            return
        ours = made.onnx.with_name("imported-answers-onnx.npz")
        examine(worker, made.onnx, made.feeds, ours)
    compare(read_runs(made.answers), read_runs(ours), WHO[made.format])


def _tidy(folder: Path) -> None:
    """Remove what only the check needed; weights kept outside the graph stay."""
    for leftover in (*folder.glob("imported*.npz"), folder / "imported.onnx"):
        leftover.unlink(missing_ok=True)


def _name_batch(graph: Graph) -> None:
    """Call the first open first axis of an input ``batch``, in place, if the exporter called it otherwise."""
    shapes = [value.shape for value in graph.ir_model.graph.inputs if value.shape]
    firsts = [str(shape[0]) for shape in shapes if not isinstance(shape[0], int)]
    # Of several names each stands for a size of its own.
    symbol = next((name for name in firsts if not name.isdigit() and name != "None"), _BATCH)
    if _BATCH in firsts:
        symbol = _BATCH
    pattern = re.compile(rf"\b{re.escape(symbol)}\b")
    for owner in graph.ir_model.graphs():
        made = (value for node in owner for value in node.outputs)
        for value in (*owner.inputs, *made):
            if value.shape is not None:
                value.shape = ir.Shape([_renamed(axis, pattern) for axis in value.shape])


def _renamed(axis: int | ir.SymbolicDim, pattern: re.Pattern[str]) -> int | str | None:
    if isinstance(axis, int) or axis.value is None:
        return axis if isinstance(axis, int) else None
    # torch writes the size of an axis that it found to be fixed as the name of the axis.
    return int(axis.value) if axis.value.isdigit() else pattern.sub(_BATCH, axis.value)
