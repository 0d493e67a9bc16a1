"""ONNX files and ``onnx.ModelProto`` objects, as untrusted input.

The protobuf message is parsed and checked here in Python; ONNX Runtime then opens the file in a child
process, started first so that its start-up costs no time.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnx_ir as ir
from google.protobuf.message import DecodeError, EncodeError

from hasten.core.errors import ModelError, WorkerError, one_line
from hasten.core.paths import size_of
from hasten.core.recipe import Json
from hasten.graph import Graph
from hasten.graph.graph import PROTOBUF_LIMIT_BYTES
from hasten.loaders.loaded import Loaded, Request
from hasten.loaders.names import shown
from hasten.loaders.structure import check_model
from hasten.loaders.tensors import ExternalData, check_tensor, element_type, tensors
from hasten.process import Worker

_LARGEST_MESSAGE_BYTES = (1 << 31) - 1
_TIMEOUT_S = 300.0
_EXPORTER_NOTES = "pkg."
"""Prefix under which exporters keep notes of their own in a model's metadata (onnx_ir's convention)."""
_LARGEST_DENSE_BYTES = 256 << 20
"""What sparse weights may take made dense: a few bytes of them can claim any size."""
_LONGEST_MESSAGE = 800
"""Names come from the file, and nothing limits their length."""


def load(request: Request) -> Loaded:
    """Load a path or a ``ModelProto``; raises ModelError for whatever ONNX Runtime could not run."""
    source = request.source
    with Worker(f"opening {request.name}") as worker, naming(request.name):
        if isinstance(source, onnx.ModelProto):
            copied = onnx.ModelProto()
            copied.CopyFrom(source)
            graph, notes = to_graph(copied, None)
            adopt_outputs(graph, examine_graph(worker, graph))
            return Loaded(graph=graph, source=request.name, format="onnx", notes=notes)
        path = Path(str(source))
        graph, notes = open_file(path)
        adopt_outputs(graph, examine(worker, path))
        return Loaded(graph=graph, source=request.name, format="onnx", notes=notes, original=path)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Put the model's name before the message of a ModelError, and the message on one line."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{name}: {one_line(str(error), _LONGEST_MESSAGE)}") from error


def open_file(path: Path) -> tuple[Graph, tuple[str, ...]]:
    """The checked graph of a file, and notes; no native code but the protobuf parser runs.

    Raises ModelError.
    """
    return to_graph(parse(_content(path)), path.parent)


def _content(path: Path) -> bytes:
    try:
        size = size_of(path)
        if size > _LARGEST_MESSAGE_BYTES:
            raise ModelError(
                f"the file has {size} bytes, but a protobuf message holds at most 2 GiB; save the model "
                "with its weights as external data (onnx.save(..., save_as_external_data=True))"
            )
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"it cannot be read: {error.strerror}") from error


def parse(content: bytes) -> onnx.ModelProto:
    """The message in a file's bytes; raises ModelError."""
    try:
        model = onnx.ModelProto()
        model.ParseFromString(content)
    except DecodeError as error:
        raise ModelError(
            "it is not an ONNX model, or it is damaged or cut short; copy or download it again"
        ) from error
    return model


def to_graph(model: onnx.ModelProto, folder: Path | None) -> tuple[Graph, tuple[str, ...]]:
    """The checked graph of a message, and notes; ``folder`` is where its external data may lie.

    External data are read into the graph, unless the model would then no longer fit a protobuf message;
    in that case they stay where they are and are mapped on use. The message is changed. Raises ModelError.
    """
    notes = []
    try:
        in_order = check_model(model)
        _check_signature(model.graph)
        _free_negative_sizes(model.graph)
        external = _check_tensors(model, folder)
        if _densify(model.graph):
            notes.append("sparse weights were made dense")
        ir_model = ir.serde.deserialize_model(model)
        if external:
            ir.external_data.set_base_dir(ir_model.graph, folder or "")
        if not in_order:
            ir_model.graph.sort()
            notes.append("nodes were put in the order in which they are computed")
        graph = _cleaned(Graph(ir_model))
        # What cannot be written again (names that are not UTF-8, attributes without a type) fails here.
        ir.serde.serialize_model(graph.without_weights())
    except ModelError as error:
        raise ModelError(one_line(str(error), _LONGEST_MESSAGE)) from error
    except (ir.serde.SerdeError, DecodeError, EncodeError, ValueError, TypeError, LookupError) as error:
        raise ModelError(f"it is malformed: {_innermost(error)}") from error
    return graph, tuple(notes)


def _innermost(error: BaseException) -> str:
    """The first cause of a chain; the outer messages repeat whole parts of the file."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, UnicodeDecodeError):
        return "a name in it is not valid UTF-8"
    return one_line(f"{type(error).__name__}: {error}")


def _check_signature(graph: onnx.GraphProto) -> None:
    """Raise ModelError for inputs and outputs that are not tensors, or inputs without a type."""
    defaults = {tensor.name for tensor in graph.initializer}
    for kind, values in (("input", graph.input), ("output", graph.output)):
        names = [value.name for value in values]
        doubled = next((name for name in names if names.count(name) > 1), None)
        if doubled is not None:
            raise ModelError(f"it has two {kind}s of the name {shown(doubled)}")
        for value in values:
            held = value.type.WhichOneof("value")
            if held is None and (kind == "output" or value.name in defaults):
                continue
            if held != "tensor_type":
                what = (held or "value without a type").removesuffix("_type").replace("_", " ")
                raise ModelError(
                    f"{kind} {shown(value.name)} is a {what}, not a tensor; export the model with plain "
                    "tensors (for scikit-learn models: zipmap=False)"
                )
            if kind == "input" or value.type.tensor_type.elem_type:
                element_type(value.type.tensor_type.elem_type, f"{kind} {shown(value.name)}")


def _free_negative_sizes(graph: onnx.GraphProto) -> None:
    """Let sizes below zero be unknown ones, as ONNX Runtime does: Paddle's exporter writes -1 for them."""
    for value in (*graph.input, *graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_value < 0:
                dimension.ClearField("dim_value")


def _check_tensors(model: onnx.ModelProto, folder: Path | None) -> bool:
    """Check all tensors and take external data in; whether any stay outside."""
    files = ExternalData(folder)
    inside_bytes = 0
    outside = []
    for part in (model.graph, *model.functions):
        for tensor, where in tensors(part):
            expected_bytes = check_tensor(tensor, where)
            inside_bytes += expected_bytes
            tensor.ClearField("doc_string")
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                outside.append((tensor, where, *files.claim(tensor, where, expected_bytes), expected_bytes))
    if not outside:
        return False
    if inside_bytes > PROTOBUF_LIMIT_BYTES:
        for _, where, path, _, _ in outside:
            if path.stat().st_nlink > 1:  # onnx_ir maps no such file: it may be another one in disguise
                raise ModelError(f"{where}: {path.name} has several hard links; put a copy of it there")
        return True
    for tensor, where, path, offset, length in outside:
        _take_in(tensor, where, path, (offset, length))
    return False


def _take_in(tensor: onnx.TensorProto, where: str, path: Path, span: tuple[int, int]) -> None:
    offset, length = span
    try:
        with path.open("rb") as file:
            file.seek(offset)
            content = file.read(length)
    except OSError as error:
        raise ModelError(f"{where}: {path.name} cannot be read: {error.strerror}") from error
    if len(content) != length:
        raise ModelError(f"{where}: {path.name} was cut short while it was read")
    tensor.raw_data = content
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")


def _densify(graph: onnx.GraphProto) -> bool:
    """Turn sparse initializers into dense ones, as ONNX Runtime does too; whether there were any."""
    for sparse in graph.sparse_initializer:
        name = sparse.values.name
        elements = int(np.prod([int(d) for d in sparse.dims], dtype=object))
        if sparse.indices.data_type != onnx.TensorProto.INT64:
            raise ModelError(f"sparse weights {shown(name)} have indices that are not int64")
        values = onnx.numpy_helper.to_array(sparse.values)
        if elements * values.itemsize > _LARGEST_DENSE_BYTES or any(d < 0 for d in sparse.dims):
            raise ModelError(f"sparse weights {shown(name)} of shape {list(sparse.dims)} are too large")
        dense = np.zeros(elements, dtype=values.dtype)
        indices = onnx.numpy_helper.to_array(sparse.indices)
        if indices.ndim == 2:
            indices = np.ravel_multi_index(tuple(indices.T), tuple(sparse.dims))
        if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < elements:
            raise ModelError(f"sparse weights {shown(name)} have an index outside their shape")
        dense[indices] = values
        graph.initializer.append(onnx.numpy_helper.from_array(dense.reshape(tuple(sparse.dims)), name))
    had_any = bool(graph.sparse_initializer)
    graph.ClearField("sparse_initializer")
    return had_any


def _cleaned(graph: Graph) -> Graph:
    """A copy without doc strings and exporters' notes; the model's own metadata (labels, …) stay."""
    clean = graph.stripped()
    model = clean.ir_model
    model.doc_string = None
    for key in [key for key in model.metadata_props if key.startswith(_EXPORTER_NOTES)]:
        del model.metadata_props[key]
    for owner in model.graphs():
        owner.doc_string = None
        owner.metadata_props.clear()
        made = (value for node in owner for value in node.outputs)
        for value in (*owner.inputs, *owner.outputs, *owner.initializers.values(), *made):
            value.doc_string = None
            value.metadata_props.clear()
    return clean


def examine(
    worker: Worker, path: Path, feeds: Path | None = None, answers: Path | None = None
) -> list[list[object]]:
    """Open, and with feeds run, a file in the child; the outputs as the runtime sees them.

    Raises ModelError.
    """
    arguments: dict[str, Json] = {
        "model": str(path),
        "feeds": None if feeds is None else str(feeds),
        "answers": None if answers is None else str(answers),
    }
    try:
        seen = worker.request(f"{__package__}.check:examine", arguments, _TIMEOUT_S)
    except WorkerError as error:
        raise ModelError(
            f"ONNX Runtime cannot {'run' if feeds else 'open'} it: {condensed(error)}"
        ) from error
    assert isinstance(seen, dict)
    return seen["outputs"]  # type: ignore[return-value]


def condensed(error: WorkerError) -> str:
    """ONNX Runtime's message on one line, without its error code, source positions and paths."""
    text = re.sub(r"^.*?\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error), flags=re.DOTALL)
    text = re.sub(r"\S*/onnxruntime\S*\.(?:cc|h):\d+ [^\n]*?\)(?: const)? ", "", text)
    text = re.sub(r"Load model from .*? failed:", "", text)
    return one_line(text)


def examine_graph(
    worker: Worker, graph: Graph, feeds: Path | None = None, answers: Path | None = None
) -> list[list[object]]:
    """As ``examine``, for a graph in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        graph.write(path)
        return examine(worker, path, feeds, answers)


def adopt_outputs(graph: Graph, seen: list[list[object]]) -> None:
    """Fill in, in place, types and shapes of outputs that the file leaves out, as the runtime infers them."""
    types = {"float": "FLOAT", "double": "DOUBLE"}
    known = {str(name): (str(kind), axes) for name, kind, axes in seen}
    for value in graph.ir_model.graph.outputs:
        if value.name not in known:
            continue
        kind, axes = known[value.name]
        element = kind.removeprefix("tensor(").removesuffix(")")
        if not kind.startswith("tensor("):
            raise ModelError(
                f"output {shown(value.name)} is a {kind}, not a tensor; export it with plain tensors"
            )
        if value.dtype is None or value.dtype == ir.DataType.UNDEFINED:
            value.type = ir.TensorType(ir.DataType[types.get(element, element.upper())])
        if value.shape is None and isinstance(axes, list) and axes:
            value.shape = ir.Shape(axes)
