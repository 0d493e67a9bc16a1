"""Parquet: columns named as the model's inputs, read one row group at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hasten.core.data import Array
from hasten.core.errors import DataError
from hasten.core.tensor import TensorSpec
from hasten.data.preprocess import PictureReader, picture_input, read_preprocess
from hasten.data.reader import Match, Reader, Sample, Wanted, match

_ROWS_AT_ONCE = 64

Converter = Callable[[Any, str], Array]
"""One value of a column (a pyarrow scalar) and where it is, to an array."""


def open_reader(source: Path, wanted: Wanted) -> Reader:
    """Open a file; raises DataError when it is damaged or its columns do not fit the model."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(source)
        schema = file.schema_arrow
        count = file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{source.name} is not a Parquet file, or it is damaged or cut short: {error}"
        ) from error
    types = {field.name: field.type for field in schema}
    if len(types) != len(schema):
        raise DataError(f"{source.name} has two columns of the same name")
    pictures = [name for name, kind in types.items() if _is_picture(kind)]
    found = match(list(types), wanted.specs, pictures or None)
    readers, notes = _picture_readers(found, pictures, wanted)
    converters = {
        field: readers.get(field) or _converter(types[name], f"{source.name}: column {name!r}")
        for field, name in found.columns.items()
    }

    def samples(chosen: Sequence[int] | None) -> Iterator[tuple[int, Sample]]:
        try:
            yield from _samples(source, found.columns, converters, chosen)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{source.name} is damaged or cut short: {error}") from error

    return Reader(source=source.name, count=count, samples=samples, notes=(*found.notes, *notes))


def _picture_readers(
    found: Match, pictures: Sequence[str], wanted: Wanted
) -> tuple[dict[str, Converter], tuple[str, ...]]:
    """Converters of the columns that hold pictures, and notes."""
    used = [field for field, name in found.inputs.items() if name in pictures]
    if not used:
        if wanted.preprocess is not None:
            raise DataError("preprocessing is for pictures, and no column the model takes holds any")
        return {}, ()
    if wanted.specs is None:
        raise DataError("pictures do not say what the model takes; give --input NAME=1x3x224x224")
    specs = {spec.name: spec for spec in wanted.specs}
    readers: dict[str, Converter] = {}
    notes: list[str] = []
    for field in used:
        converter, said = _picture_converter(specs[field], wanted)
        readers[field] = converter
        notes += said
    return readers, tuple(notes)


def _picture_converter(spec: TensorSpec, wanted: Wanted) -> tuple[Converter, tuple[str, ...]]:
    preprocess = read_preprocess(wanted.preprocess)
    reader, notes = PictureReader.of(preprocess, picture_input((spec,), preprocess))

    def convert(value: Any, where: str) -> Array:
        content = value.as_py()
        if isinstance(content, Mapping):
            content = content["bytes"]
        if content is None:
            raise DataError(f"{where} has no picture, only a path; store the pictures' bytes in the file")
        return reader.read(content, where)

    return convert, notes


def _is_picture(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        fields = {field.name: field.type for field in kind}
        return "bytes" in fields and _is_binary(fields["bytes"])
    return _is_binary(kind)


def _is_binary(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _converter(kind: Any, where: str) -> Converter:
    """How values of a column become arrays; raises DataError for a type that holds no numbers or text."""
    import pyarrow as pa
    from pyarrow import types

    if isinstance(kind, pa.FixedShapeTensorType):
        return lambda value, place: np.asarray(value.to_numpy())
    inner = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    while _is_list(inner):
        inner = inner.value_type
    if types.is_dictionary(inner):
        inner = inner.value_type
    if not (
        types.is_integer(inner) or types.is_floating(inner) or types.is_boolean(inner) or _is_text(inner)
    ):
        raise DataError(
            f"{where} is of type {kind}; a column must hold numbers, text or nested lists of them"
        )
    return _nested


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind))


def _nested(value: Any, where: str) -> Array:
    """A number, a text, or nested lists with equal lengths at every level."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(value, pa.ExtensionScalar):
        value = value.value
    if not value.is_valid:
        raise DataError(f"{where} is missing (null); remove or fill such rows")
    if not _is_list(value.type):
        return _plain(value)
    values = value.values
    shape = [len(values)]
    while _is_list(values.type):
        if values.null_count:
            raise DataError(f"{where} has missing values (null); remove or fill such rows")
        lengths = pc.unique(pc.list_value_length(values)).to_pylist()
        if len(lengths) > 1:
            raise DataError(f"{where} has lists of different lengths, {lengths[0]} and {lengths[1]}")
        shape.append(lengths[0] if lengths else 0)
        values = values.flatten()
    if values.null_count:
        raise DataError(f"{where} has missing values (null); remove or fill such rows")
    flat = np.asarray(values.to_numpy(zero_copy_only=False))
    if flat.dtype.hasobject:
        flat = flat.astype(np.str_)
    return flat.reshape(shape)


def _plain(value: Any) -> Array:
    from pyarrow import types

    kind = value.type.value_type if types.is_dictionary(value.type) else value.type
    content = value.as_py()
    return np.asarray(content) if _is_text(kind) else np.asarray(content, dtype=kind.to_pandas_dtype())


def _samples(
    source: Path,
    columns: Mapping[str, str],
    converters: Mapping[str, Converter],
    chosen: Sequence[int] | None,
) -> Iterator[tuple[int, Sample]]:
    import pyarrow.parquet as pq

    names = sorted(set(columns.values()))
    start = 0
    with pq.ParquetFile(source) as file:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            wanted = _within(chosen, start, start + rows)
            if not len(wanted):
                start += rows
                continue
            for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=names):
                arrays = {field: batch.column(name) for field, name in columns.items()}
                for index in _within(wanted, start, start + batch.num_rows):
                    yield (
                        index,
                        {
                            field: converters[field](
                                array[index - start], f"column {columns[field]!r}, row {index}"
                            )
                            for field, array in arrays.items()
                        },
                    )
                start += batch.num_rows


def _within(chosen: Sequence[int] | None, low: int, high: int) -> Sequence[int]:
    """The numbers of ``chosen`` (ascending) in [low, high); all of them when there is no choice."""
    if chosen is None:
        return range(low, high)
    first, last = np.searchsorted(np.asarray(chosen), [low, high])
    return chosen[int(first) : int(last)]
