"""Data in memory or made on the fly: a mapping of arrays, (inputs, labels), or any iterable of batches.

Arrays may be numpy's, PyTorch's, nested lists, or lists of samples of differing shapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hasten.core.data import LABELS, Array
from hasten.core.errors import DataError, one_line
from hasten.core.named import resolve, user_code
from hasten.core.tensor import TensorSpec
from hasten.data.reader import LABEL_NAMES, Match, Reader, Sample, Wanted, match

Column = Array | list[Array]
"""Samples of one field: stacked along the first axis, or a list when their shapes differ."""

_END = object()


def open_reader(source: Any, wanted: Wanted) -> Reader:
    """Open an object, or what ``package.module:function`` returns; raises DataError."""
    if wanted.preprocess is not None:
        raise DataError("preprocessing is for files of pictures; give arrays as the model takes them")
    name = source if isinstance(source, str) else f"a {type(source).__name__}"
    made = resolve(source) if isinstance(source, str) else source
    if callable(made) and not isinstance(made, Iterable):
        with user_code(f"calling {name}", DataError):
            made = made()
    if isinstance(made, Mapping | tuple | np.ndarray) or _is_tensor(made):
        return _whole(made, name, wanted)
    if not isinstance(made, Iterable):
        raise DataError(
            f"{name} gives a {type(made).__name__}; data are a mapping of arrays, a tuple (inputs, labels) "
            "or an iterable of such batches"
        )
    return _stream(made, name, wanted)


def _whole(made: Any, name: str, wanted: Wanted) -> Reader:
    columns = _columns(made, wanted.specs)
    found = match(list(columns), wanted.specs)
    rows = _Rows(columns, found, "the data")

    def samples(chosen: Sequence[int] | None) -> Iterator[tuple[int, Sample]]:
        for index in range(len(rows)) if chosen is None else chosen:
            yield index, rows.row(index)

    return Reader(source=name, count=len(rows), samples=samples, notes=found.notes)


def _stream(made: Iterable[Any], name: str, wanted: Wanted) -> Reader:
    batches = _batches(made, name)
    first = next(batches, None)
    if first is None:
        raise DataError(f"{name}: the data are empty, there is not one batch")
    found = match(list(_columns(first, wanted.specs)), wanted.specs)

    def samples(chosen: Sequence[int] | None) -> Iterator[tuple[int, Sample]]:
        assert chosen is None, "only data of known length are chosen from"
        index = 0
        batch: Any = first
        number = 0
        while batch is not None:
            rows = _Rows(_columns(batch, wanted.specs), found, f"batch {number}")
            for i in range(len(rows)):
                yield index, rows.row(i)
                index += 1
            batch = next(batches, None)
            number += 1

    return Reader(source=name, count=None, samples=samples, notes=found.notes)


def _batches(made: Iterable[Any], name: str) -> Iterator[Any]:
    with user_code(f"iterating over {name}", DataError):
        iterator = iter(made)
    while True:
        with user_code(f"iterating over {name}", DataError):
            batch = next(iterator, _END)
        if batch is _END:
            return
        if batch is None:
            raise DataError(f"{name} gave None instead of a batch")
        yield batch


def _columns(batch: Any, specs: Sequence[TensorSpec] | None) -> dict[str, Column]:
    """The fields of a batch by name: a mapping, (inputs, labels), the inputs in order, or one array."""
    if isinstance(batch, Mapping):
        return {str(name): _column(value, f"{name!r}") for name, value in batch.items()}
    if isinstance(batch, tuple | list) and batch and not np.isscalar(batch[0]):
        return _positional(batch, specs)
    return {_names(specs, 1)[0]: _column(batch, "the batch")}


def _positional(batch: Sequence[Any], specs: Sequence[TensorSpec] | None) -> dict[str, Column]:
    inputs, labels = list(batch), None
    nested = len(batch) == 2 and isinstance(batch[0], Mapping | tuple | list)
    if nested and isinstance(batch[0], Mapping):
        return _labelled(_columns(batch[0], specs), batch[1])
    if nested and not _is_row(batch[0]):
        inputs, labels = list(batch[0]), batch[1]
    elif len(batch) == (len(specs) + 1 if specs is not None else 2):
        inputs, labels = list(batch[:-1]), batch[-1]
    if specs is not None and len(inputs) != len(specs):
        raise DataError(
            f"a batch has {len(batch)} parts, the model takes {len(specs)} inputs "
            f"({', '.join(spec.name for spec in specs)}); give (inputs, labels), or a mapping by name"
        )
    named = dict(zip(_names(specs, len(inputs)), inputs, strict=True))
    found = {name: _column(value, f"{name!r}") for name, value in named.items()}
    return _labelled(found, labels)


def _labelled(columns: dict[str, Column], labels: Any) -> dict[str, Column]:
    return columns if labels is None else columns | {LABELS: _column(labels, "the labels")}


def _is_row(value: Any) -> bool:
    """Whether a list holds numbers (one array written as a list) rather than several arrays."""
    return bool(value) and np.isscalar(value[0])


def _names(specs: Sequence[TensorSpec] | None, count: int) -> list[str]:
    if specs is not None:
        return [spec.name for spec in specs]
    return ["input"] if count == 1 else [f"input_{i}" for i in range(count)]


def _column(value: Any, what: str) -> Column:
    if isinstance(value, list | tuple) and value and not np.isscalar(value[0]):
        samples = [_array(sample, what) for sample in value]
        return np.stack(samples) if len({s.shape for s in samples}) == 1 else samples
    array = _array(value, what)
    if array.ndim == 0:
        raise DataError(f"{what} is a single value; the first axis of every array must count the samples")
    return array


def _array(value: Any, what: str) -> Array:
    if _is_tensor(value):
        return _of_tensor(value, what)
    if np.ma.is_masked(value):
        raise DataError(f"{what} has masked values; remove or fill them")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise DataError(f"{what} is not an array: {error}") from error
    if array.dtype.hasobject:
        raise DataError(f"{what} holds Python objects; give an array of numbers or strings")
    return array


def _of_tensor(tensor: Any, what: str) -> Array:
    try:
        tensor = tensor.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":  # numpy has no such type
            tensor = tensor.float()
        return np.asarray(tensor.numpy())
    except (TypeError, RuntimeError) as error:  # sparse, quantized, on no device, of 8-bit floats, ...
        raise DataError(f"{what} is a tensor that cannot become an array: {one_line(str(error))}") from error


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "detach") and hasattr(value, "cpu")


class _Rows:
    """The samples of columns of equal length, under the fields' names; raises DataError."""

    def __init__(self, columns: Mapping[str, Column], found: Match, what: str) -> None:
        absent = [name for name in found.columns.values() if name not in columns]
        if absent:
            raise DataError(f"{what} has no {absent[0]!r}, which earlier batches have")
        late = [n for n in LABEL_NAMES if n in columns and n not in found.columns.values()]
        if late and found.label is None:
            raise DataError(
                f"{what} has {late[0]!r}, which earlier batches have not; give all of them or none"
            )
        self._columns = {field: columns[name] for field, name in found.columns.items()}
        lengths = {name: len(columns[name]) for name in found.columns.values()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            raise DataError(f"{what}: the arrays have different numbers of samples: {listed}")
        self._length = next(iter(lengths.values()), 0)

    def __len__(self) -> int:
        return self._length

    def row(self, index: int) -> Sample:
        return {field: np.asarray(column[index]) for field, column in self._columns.items()}
