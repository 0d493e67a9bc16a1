"""How do samples get in? One file a format; every format becomes a store of samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from hasten.core.data import LABELS, Array, Store, StoreWriter
from hasten.core.errors import DataError, OutputError
from hasten.core.named import is_name
from hasten.core.paths import exists
from hasten.core.tensor import TensorSpec
from hasten.data.reader import Reader, Wanted

TABLE = {
    ".npz": "hasten.data.npz",
    ".parquet": "hasten.data.parquet",
    "folder": "hasten.data.images",
    "object": "hasten.data.iterables",
}
"""Suffix of a file, ``folder`` of pictures, or ``object`` (an iterable, a function's name) to module."""

LIMIT = 20_000
"""Samples taken of larger data unless told otherwise; two thousand each decide and confirm."""


class Format(Protocol):
    """The shape of a format's module."""

    def open_reader(self, source: Any, wanted: Wanted) -> Reader:
        """The opened source; raises DataError."""


@dataclass(frozen=True)
class DataNotes:
    """Where the samples came from, and what was assumed or done on the way."""

    source: str
    notes: tuple[str, ...] = ()


def ingest(
    source: Any,
    specs: Sequence[TensorSpec],
    folder: Path,
    *,
    limit: int = LIMIT,
    seed: int = 0,
    preprocess: Any = None,
) -> tuple[Store, DataNotes]:
    """Copy samples that fit a model into a store in ``folder``, one at a time.

    source: a path (``.npz``, ``.parquet``, a folder of pictures), ``package.module:function``, a mapping of
    arrays, a tuple (inputs, labels), or any iterable of batches. limit: of more samples, this many are drawn
    at random where their number is known, and the first ones are taken otherwise. preprocess: how pictures
    become inputs (``hasten.data.preprocess``).
    Raises DataError when the data cannot be read or do not fit, OutputError when they cannot be written.
    """
    reader = _open(source, Wanted(specs=tuple(specs), preprocess=preprocess))
    notes = list(reader.notes)
    chosen: list[int] | None = None
    if reader.count == 0:
        raise DataError(f"{reader.source}: the data are empty")
    if reader.count is not None and reader.count > limit:
        drawn = np.random.default_rng(seed).choice(reader.count, size=limit, replace=False)
        chosen = np.sort(drawn).tolist()
        notes.append(f"{limit} of {reader.count} samples were drawn at random (seed {seed})")
    store, made = _copy(reader, chosen, specs, folder, limit)
    return store, DataNotes(reader.source, (*notes, *made))


def example(source: Any) -> dict[str, Array]:
    """The first sample by name, with a batch axis of 1, for tracing a module whose inputs are not known yet.

    float64 is given as float32. Raises DataError when there is none, or when looking would use it up.
    """
    if isinstance(source, Iterator):
        raise DataError("this iterator can be read only once; say what the module takes with --input")
    reader = _open(source, Wanted(specs=None))
    for _, sample in reader.samples(None):
        arrays = {name: np.asarray(value)[np.newaxis] for name, value in sample.items() if name != LABELS}
        return {n: a.astype(np.float32) if a.dtype == np.float64 else a for n, a in arrays.items()}
    raise DataError(f"{reader.source}: the data are empty")


def specs_of(source: Any) -> tuple[TensorSpec, ...]:
    """What data hold besides labels, for a module that does not say what it takes; raises DataError."""
    return tuple(
        TensorSpec(name, str(array.dtype), (None,) * array.ndim) for name, array in example(source).items()
    )


def _copy(
    reader: Reader, chosen: Sequence[int] | None, specs: Sequence[TensorSpec], folder: Path, limit: int
) -> tuple[Store, tuple[str, ...]]:
    from hasten.data.fit import Fitter

    fitter = Fitter(specs)
    samples = reader.samples(chosen)
    first = next(samples, None)
    if first is None:
        raise DataError(f"{reader.source}: the data are empty")
    fields = [spec.name for spec in specs] + ([LABELS] if LABELS in first[1] else [])
    written = 0
    notes: tuple[str, ...] = ()
    with ExitStack() as undo:
        with _writing(folder):
            writer = StoreWriter(folder, fields)
        undo.callback(writer.discard)
        for index, sample in _chain(first, samples):
            if written == limit:
                notes = (f"the first {limit} samples were used, there are more",)
                break
            try:
                fitted = fitter.fit(sample, index)
            except DataError as error:
                raise DataError(f"{reader.source}: {error}") from error
            with _writing(folder):
                writer.append(fitted)
            written += 1
        with _writing(folder):
            store = writer.close()
        undo.pop_all()
    return store, (*notes, *fitter.notes)


def _chain(first: tuple[int, Any], rest: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    yield first
    yield from rest


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write the samples to {folder}: {error.strerror}; free space, or choose another folder"
        ) from error


def _open(source: Any, wanted: Wanted) -> Reader:
    if not isinstance(source, str | Path):
        return _format("object").open_reader(source, wanted)
    path = Path(source)
    if not exists(path, DataError):
        if isinstance(source, str) and is_name(source):
            return _format("object").open_reader(source, wanted)
        raise DataError(f"{source}: there is no such file, and it is not of the form package.module:function")
    if path.is_dir():
        return _format("folder").open_reader(path, wanted)
    if path.suffix.lower() not in TABLE:
        raise DataError(
            f"{path.name}: hasten does not read {path.suffix or 'files without a suffix'}; give .npz "
            "(np.savez(file, NAME=array, labels=array)), .parquet, a folder of pictures or "
            "package.module:function"
        )
    return _format(path.suffix.lower()).open_reader(path, wanted)


def _format(key: str) -> Format:
    return cast("Format", import_module(TABLE[key]))
