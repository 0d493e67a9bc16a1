"""``.npz``: named arrays, read row by row, so that a member may be larger than memory.

Nothing is unpickled. Source of the layout: NEP 1, "A simple file format for NumPy arrays".
"""

from __future__ import annotations

import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from hasten.core.data import Array
from hasten.core.errors import DataError
from hasten.data.reader import Reader, Sample, Wanted, match

_LARGEST_COLUMN_MAJOR_BYTES = 1 << 30
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, UnicodeDecodeError)
"""What zipfile raises for damaged, encrypted (RuntimeError), misnamed and otherwise unreadable members."""

_MALFORMED_HEADER = (ValueError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError)
"""What numpy raises for a header that is not a Python literal; the last two for one that is nested deeply."""


@dataclass(frozen=True)
class _Member:
    """An array of the file: shape, dtype, and where in its member the numbers begin."""

    file_name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    column_major: bool
    start: int

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize


def open_reader(source: Path, wanted: Wanted) -> Reader:
    """Open a file; raises DataError when it is damaged or its arrays do not go together."""
    if wanted.preprocess is not None:
        raise DataError("preprocessing is for pictures; give the arrays of an .npz as the model takes them")
    members = _members(source)
    found = match(list(members), wanted.specs)
    used = {field: members[name] for field, name in found.columns.items()}
    if not found.inputs:
        raise DataError(f"{source.name} holds no arrays for inputs")
    for name in found.columns.values():
        _check_kind(members[name], f"{source.name}: {name!r}")
    lengths = {name: members[name].shape[0] for name in found.columns.values()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise DataError(f"{source.name}: the arrays have different numbers of samples: {listed}")

    def samples(chosen: Sequence[int] | None) -> Iterator[tuple[int, Sample]]:
        return _samples(source, used, chosen)

    count = next(iter(lengths.values()))
    return Reader(source=source.name, count=count, samples=samples, notes=found.notes)


def _members(source: Path) -> dict[str, _Member]:
    try:
        with zipfile.ZipFile(source) as archive:
            found: dict[str, _Member] = {}
            for entry in archive.infolist():
                name = entry.filename.removesuffix(".npy")
                if name in found:
                    raise DataError(f"{source.name} holds two arrays of the name {name!r}")
                with archive.open(entry) as file:
                    found[name] = _header(file, entry, f"{source.name}: {name!r}")
            return found
    except _DAMAGE as error:
        raise DataError(
            f"{source.name} is not an .npz file, or it is damaged or cut short: {error}"
        ) from error


def _header(file: IO[bytes], entry: zipfile.ZipInfo, where: str) -> _Member:
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, column_major, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, column_major, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise DataError(f"{where} is a record array; give one array for each input")
    except _MALFORMED_HEADER as error:
        raise DataError(f"{where} is not an array: its header is malformed; save it with np.savez") from error
    member = _Member(entry.filename, tuple(shape), dtype, column_major, file.tell())
    size = math.prod(member.shape) * dtype.itemsize
    negative = any(axis < 0 for axis in member.shape)
    if not dtype.hasobject and (negative or member.start + size != entry.file_size):
        raise DataError(
            f"{where}: shape {member.shape} of {dtype} takes {size} bytes, the file has "
            f"{entry.file_size - member.start}; it is damaged"
        )
    return member


def _check_kind(member: _Member, where: str) -> None:
    if not member.shape:
        raise DataError(f"{where} is a single number; its first axis must count the samples")
    if member.dtype.hasobject:
        raise DataError(f"{where} holds Python objects, which are not unpickled; save it as a plain array")
    if member.dtype.names is not None:
        raise DataError(f"{where} is a record array; give one array for each input")
    size = math.prod(member.shape) * member.dtype.itemsize
    if member.column_major and len(member.shape) > 1 and size > _LARGEST_COLUMN_MAJOR_BYTES:
        raise DataError(
            f"{where} is in column-major order and too large to turn; save np.ascontiguousarray(array)"
        )


def _samples(
    source: Path, used: dict[str, _Member], chosen: Sequence[int] | None
) -> Iterator[tuple[int, Sample]]:
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(source))
            rows = {field: _rows(stack, archive, member, chosen) for field, member in used.items()}
            count = next(iter(used.values())).shape[0]
            for index in range(count) if chosen is None else chosen:
                yield index, {field: next(row) for field, row in rows.items()}
        except _DAMAGE as error:
            raise DataError(f"{source.name} is damaged or cut short: {error}") from error


def _rows(
    stack: ExitStack, archive: zipfile.ZipFile, member: _Member, chosen: Sequence[int] | None
) -> Iterator[Array]:
    file = stack.enter_context(archive.open(member.file_name))
    file.seek(member.start)
    wanted = range(member.shape[0]) if chosen is None else chosen
    if member.column_major and len(member.shape) > 1:
        content = np.frombuffer(file.read(member.row_bytes * member.shape[0]), dtype=member.dtype)
        whole = content.reshape(member.shape[::-1]).T
        yield from (whole[index] for index in wanted)
        return
    position = 0
    for index in wanted:
        if index != position:
            file.seek((index - position) * member.row_bytes, os.SEEK_CUR)
        row = file.read(member.row_bytes)
        if len(row) != member.row_bytes:
            raise EOFError(f"{member.file_name} ends after {index} samples")
        position = index + 1
        yield np.frombuffer(row, dtype=member.dtype).reshape(member.shape[1:])
