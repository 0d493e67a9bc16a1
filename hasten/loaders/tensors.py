"""Tensors of an untrusted ONNX file: is what they declare what they carry, and where does it lie?

Everything is checked with Python's unbounded integers before anything is allocated or opened.
Source: onnx.proto3, message TensorProto, and the specification of external data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
import onnx_ir as ir

from hasten.core.errors import ModelError
from hasten.loaders.names import label, shown

_FIELDS = {
    "float_data": ("FLOAT", "COMPLEX64"),
    "double_data": ("DOUBLE", "COMPLEX128"),
    "int64_data": ("INT64",),
    "uint64_data": ("UINT32", "UINT64"),
    "string_data": ("STRING",),
}
"""Which element types each typed field holds; ``int32_data`` holds all others."""

_MOST_AXES = 64
"""What numpy can hold; no operator is defined on tensors of half as many."""


def tensors(
    graph: onnx.GraphProto | onnx.FunctionProto, main: bool = True
) -> Iterator[tuple[onnx.TensorProto, str]]:
    """Every tensor of a graph, subgraphs included, and where it is, in words.

    main: whether initializers are named as such; those of subgraphs say so.
    """
    if isinstance(graph, onnx.GraphProto):
        kind = "weights" if main else "weights of a subgraph"
        yield from ((tensor, f"{kind} {shown(tensor.name)}") for tensor in graph.initializer)
        for sparse in graph.sparse_initializer:
            yield sparse.values, f"values of sparse weights {shown(sparse.values.name)}"
            yield sparse.indices, f"indices of sparse weights {shown(sparse.values.name)}"
    for node in graph.node:
        for attribute in node.attribute:
            where = f"attribute {shown(attribute.name)} of {label(node)}"
            if attribute.HasField("t"):
                yield attribute.t, where
            yield from ((tensor, where) for tensor in attribute.tensors)
            for sparse in (
                *attribute.sparse_tensors,
                *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
            ):
                yield sparse.values, where
                yield sparse.indices, where
            for inner in subgraphs(attribute):
                yield from tensors(inner, main=False)


def subgraphs(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    """The graphs an attribute holds."""
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def element_type(number: int, where: str) -> ir.DataType:
    """The element type with that number in onnx.proto; raises ModelError for none."""
    try:
        dtype = ir.DataType(number)
    except ValueError:
        dtype = ir.DataType.UNDEFINED
    if dtype == ir.DataType.UNDEFINED:
        raise ModelError(f"{where}: {number} is not an element type of ONNX")
    return dtype


def check_tensor(tensor: onnx.TensorProto, where: str) -> int:
    """The bytes a tensor's elements take; raises ModelError when what it carries inside does not fit them.

    External data are not looked at here.
    """
    dtype = element_type(tensor.data_type, where)
    if len(tensor.dims) > _MOST_AXES:
        raise ModelError(f"{where} has {len(tensor.dims)} axes; tensors have at most {_MOST_AXES}")
    if any(size < 0 for size in tensor.dims):
        raise ModelError(f"{where}: the shape {_listed(tensor.dims)} has a negative dimension")
    if tensor.HasField("segment"):
        raise ModelError(f"{where} is stored in segments, which no runtime reads")
    elements = math.prod(tensor.dims)
    expected_bytes = 0 if dtype == ir.DataType.STRING else -(-elements * dtype.bitwidth // 8)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        if dtype == ir.DataType.STRING:
            raise ModelError(f"{where}: strings cannot be stored outside the model file")
        return expected_bytes
    shape = _listed(tensor.dims)
    if tensor.HasField("raw_data"):
        if dtype == ir.DataType.STRING or len(tensor.raw_data) != expected_bytes:
            raise ModelError(
                f"{where}: {shape} of {dtype.name} takes {expected_bytes} bytes, the file has "
                f"{len(tensor.raw_data)}; it is damaged or cut short"
            )
        return expected_bytes
    _check_typed(tensor, where, dtype, elements)
    return expected_bytes


def _listed(axes: Sequence[int]) -> str:
    return "x".join(map(str, axes[:8])) + ("x…" if len(axes) > 8 else "") or "()"


def _check_typed(tensor: onnx.TensorProto, where: str, dtype: ir.DataType, elements: int) -> None:
    field = next((name for name, types in _FIELDS.items() if dtype.name in types), "int32_data")
    entries = elements
    if dtype.name.startswith("COMPLEX"):
        entries = 2 * elements
    elif dtype != ir.DataType.STRING and dtype.bitwidth < 8:
        per_entry = 8 // dtype.bitwidth
        entries = -(-elements // per_entry)
    found = len(getattr(tensor, field))
    if found != entries:
        raise ModelError(
            f"{where}: the shape {_listed(tensor.dims)} of {dtype.name} needs {entries} values, "
            f"the file has {found}; it is damaged or cut short"
        )


class ExternalData:
    """The files beside a model that hold its weights; none may lie outside the model's folder.

    folder: where the model file lies, or None for a model that came without a file.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self.total_bytes = 0

    def claim(self, tensor: onnx.TensorProto, where: str, expected_bytes: int) -> tuple[Path, int]:
        """The file and offset of a tensor's bytes, all of which exist; raises ModelError."""
        if self._folder is None:
            raise ModelError(
                f"{where} lies in an external file, and a model object has no folder to look for it in; "
                "give the path of the .onnx file instead"
            )
        entries = {entry.key: entry.value for entry in tensor.external_data}
        path = self._inside(entries.get("location", ""), where)
        offset = _number(entries.get("offset", "0"), f"{where}: offset")
        length = _number(entries.get("length", str(expected_bytes)), f"{where}: length")
        if length != expected_bytes:
            raise ModelError(
                f"{where}: its shape {_listed(tensor.dims)} takes {expected_bytes} bytes, "
                f"its external data are said to be {length}"
            )
        available = path.stat().st_size
        if offset + length > available:
            raise ModelError(
                f"{where} needs bytes {offset} to {offset + length} of {path.name}, which has {available}; "
                "the file is incomplete, copy or download it again"
            )
        self.total_bytes += length
        return path, offset

    def _inside(self, location: str, where: str) -> Path:
        assert self._folder is not None
        windows = PureWindowsPath(location)
        escapes = PurePosixPath(location).is_absolute() or windows.is_absolute() or windows.drive
        if not location or "\0" in location or escapes or ".." in windows.parts:
            raise ModelError(
                f"{where}: external data at {shown(location)}; they must lie in the model's own folder, "
                "given by a relative path without '..'"
            )
        path = self._folder / location
        try:
            inside = path.resolve().is_relative_to(self._folder.resolve())
            found = path.is_file()
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
            raise ModelError(f"{where}: external data {shown(location)} cannot be opened: {error}") from error
        if not inside:
            raise ModelError(
                f"{where}: {shown(location)} is a link that leads out of the model's folder; "
                "put a copy of the file there (cp -L)"
            )
        if not found:
            raise ModelError(
                f"{where}: the file {shown(location)} with its data is missing; put it beside the model"
            )
        return path


def _number(text: str, where: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise ModelError(f"{where} is {text[:40]!r}, which is not a number of bytes")
    return int(text)
