"""Samples on disk, and the three roles they play.

Data of any origin are copied once into a *store*: a folder with one file of samples a field, each
sample an ``.npy`` record, so that samples of differing shapes, any dtype and any number need only the
memory of one batch, and every process of a run reads the same bytes. Roles are disjoint, seeded sets of
sample numbers; which role a function takes is part of its type.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hasten.core.errors import DataError
from hasten.core.tensor import TensorSpec

Array: TypeAlias = NDArray[Any]
LABELS = "labels"
"""The field that holds the labels; every other field is an input of the model."""
_HEADER_BYTES = 1 << 17
"""More than the largest header of a version 1.0 ``.npy`` record, which has 16 bits for its length."""


@dataclass(frozen=True)
class Batch:
    """Samples of equal shapes, stacked along a new leading axis.

    indices: their numbers in the store, in order.
    """

    inputs: dict[str, Array]
    labels: Array | None
    indices: tuple[int, ...]

    def feeds(self, specs: Sequence[TensorSpec]) -> dict[str, Array]:
        """The arrays to feed a model with these inputs.

        An input whose rank is that of a sample has no batch axis and takes the sample itself; the batch
        must then hold one sample. Raises DataError when an input has no data.
        """
        made = {}
        for spec in specs:
            if spec.name not in self.inputs:
                raise DataError(f"input {spec.name!r} has no data; the data have {', '.join(self.inputs)}")
            array = self.inputs[spec.name]
            unbatched = spec.shape is not None and len(spec.shape) == array.ndim - 1
            if unbatched and len(array) != 1:
                raise DataError(f"input {spec.name!r} has no batch axis: only one sample fits at a time")
            made[spec.name] = array[0] if unbatched else array
        return made


class StoreWriter:
    """Writes a store sample by sample; nothing but one sample is held in memory."""

    def __init__(self, folder: Path, fields: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._fields = tuple(fields)
        self._files = [(folder / f"field{i}.bin").open("wb") for i in range(len(fields))]
        self._offsets: list[list[int]] = [[0] for _ in fields]
        self._digest = hashlib.sha256(json.dumps(self._fields).encode())

    def append(self, sample: Mapping[str, Array]) -> None:
        """Append one sample, given without its batch axis; object arrays are refused with DataError."""
        for i, name in enumerate(self._fields):
            array = np.asarray(sample[name])
            if array.dtype.hasobject:
                raise DataError(f"data {name!r} holds Python objects; give an array of numbers or strings")
            record = io.BytesIO()
            np.lib.format.write_array(
                record, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False
            )
            payload = record.getvalue()
            self._files[i].write(payload)
            self._offsets[i].append(self._offsets[i][-1] + len(payload))
            self._digest.update(payload)

    def close(self) -> Store:
        """Finish the files and open the store for reading."""
        for file, offsets, i in zip(self._files, self._offsets, range(len(self._files)), strict=True):
            file.close()
            np.save(self._folder / f"field{i}.npy", np.asarray(offsets, dtype=np.int64))
        meta = {"fields": self._fields, "sha256": self._digest.hexdigest()}
        (self._folder / "store.json").write_text(json.dumps(meta), encoding="utf-8")
        return Store(self._folder)

    def discard(self) -> None:
        """Close the files and remove the folder: what was written is not a store and never will be."""
        for file in self._files:
            with contextlib.suppress(OSError):
                file.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class Store:
    """Random access to the samples of a folder written by StoreWriter."""

    def __init__(self, folder: Path) -> None:
        meta = json.loads((folder / "store.json").read_text(encoding="utf-8"))
        self.folder = folder
        self.fields: tuple[str, ...] = tuple(meta["fields"])
        self.sha256: str = meta["sha256"]
        self._offsets = [np.load(folder / f"field{i}.npy") for i in range(len(self.fields))]
        self._bytes = [_map(folder / f"field{i}.bin") for i in range(len(self.fields))]

    def __len__(self) -> int:
        return len(self._offsets[0]) - 1 if self._offsets else 0

    def value(self, field: str, index: int) -> Array:
        """One field of one sample, without its batch axis."""
        i = self.fields.index(field)
        record = bytearray(self._bytes[i][self._offsets[i][index] : self._offsets[i][index + 1]])
        header = _header(record)
        shape, fortran, dtype = _described(header) if header else ((), True, np.dtype(np.void))
        if fortran or not dtype.itemsize:
            return np.asarray(np.lib.format.read_array(io.BytesIO(record), allow_pickle=False))
        return np.frombuffer(record, dtype, offset=len(header)).reshape(shape)

    def shape(self, field: str, index: int) -> tuple[int, ...]:
        """The shape of one field of one sample, read from its header alone."""
        i = self.fields.index(field)
        low, high = self._offsets[i][index], self._offsets[i][index + 1]
        header = _header(self._bytes[i][low : min(high, low + _HEADER_BYTES)])
        return _described(header)[0] if header else self.value(field, index).shape

    def sample(self, index: int) -> dict[str, Array]:
        """All fields of one sample."""
        return {field: self.value(field, index) for field in self.fields}

    def digest(self, index: int) -> bytes:
        """What tells a sample from others by all that it holds but its labels."""
        told = hashlib.sha256()
        for i, field in enumerate(self.fields):
            if field != LABELS:
                low, high = self._offsets[i][index], self._offsets[i][index + 1]
                told.update(self._bytes[i][low:high].tobytes())
        return told.digest()


def _header(record: bytearray | NDArray[np.uint8]) -> bytes:
    """What stands before the numbers of a record of version 1.0, which plain dtypes get; else nothing."""
    if tuple(record[6:8]) != (1, 0):
        return b""
    return bytes(record[: 10 + int.from_bytes(bytes(record[8:10]), "little")])


@lru_cache(maxsize=1024)
def _described(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and dtype: numpy parses Python source for it, sample by sample."""
    record = io.BytesIO(header)
    np.lib.format.read_magic(record)
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(record)
    return tuple(shape), bool(fortran) and len(shape) > 1, dtype


def _map(path: Path) -> NDArray[np.uint8]:
    if path.stat().st_size == 0:
        return np.empty(0, dtype=np.uint8)
    return np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)


class Dataset:
    """A role: some of a store's samples, in a fixed order."""

    role: ClassVar[str] = "dataset"

    def __init__(self, store: Store, indices: Sequence[int]) -> None:
        self.store = store
        self.indices = tuple(int(i) for i in indices)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def has_labels(self) -> bool:
        """Whether the samples carry labels."""
        return LABELS in self.store.fields

    @property
    def axes(self) -> dict[str, int]:
        """How many axes a sample of each input has."""
        inputs = (name for name in self.store.fields if name != LABELS)
        return {name: len(self.store.shape(name, self.indices[0])) for name in inputs}

    def fixed_batch(self, specs: Sequence[TensorSpec]) -> int | None:
        """The only number of samples that a model with these inputs takes at a time; None when it takes any.

        An input with as many axes as a sample has none for samples, and takes one.
        """
        axes = self.axes
        known = [
            (spec.shape, axes[spec.name]) for spec in specs if spec.shape is not None and spec.name in axes
        ]
        sizes = [1 if len(shape) == count else shape[0] for shape, count in known if shape or not count]
        return min((size for size in sizes if isinstance(size, int)), default=None)

    def labels(self) -> Array:
        """All labels, stacked; raises DataError when there are none, or when their shapes differ."""
        if not self.has_labels:
            raise DataError(f"the data have no {LABELS!r}")
        try:
            return np.stack([self.store.value(LABELS, i) for i in self.indices])
        except ValueError as error:
            raise DataError(f"{LABELS!r} have different shapes from sample to sample") from error

    def take(self, count: int) -> Self:
        """``count`` of the samples at even distances, since data are often sorted; all if there are fewer."""
        have = len(self)
        if have <= count:
            return self
        return type(self)(self.store, [self.indices[i * have // count] for i in range(count)])

    def gather(self, indices: Sequence[int]) -> Batch:
        """The samples with these numbers in the store, stacked; raises DataError when their shapes differ."""
        samples = [self.store.sample(index) for index in indices]
        if not all(_stackable(samples[0], sample) for sample in samples):
            raise DataError("samples of different shapes cannot be stacked")
        return _stack(samples, indices)

    def batches(self, size: int = 1) -> Iterator[Batch]:
        """Consecutive samples stacked up to ``size``; a change of shape begins a new batch."""
        pending: list[dict[str, Array]] = []
        numbers: list[int] = []
        for index in self.indices:
            sample = self.store.sample(index)
            if pending and (len(pending) == size or not _stackable(pending[0], sample)):
                yield _stack(pending, numbers)
                pending, numbers = [], []
            pending.append(sample)
            numbers.append(index)
        if pending:
            yield _stack(pending, numbers)

    def batches_for(self, specs: Sequence[TensorSpec], size: int = 1) -> Iterator[Batch]:
        """Batches that a model with these inputs takes: of the only size it takes, else of up to ``size``.

        Of an only size the last batch is filled with the first samples once more.
        """
        fixed = self.fixed_batch(specs) if len(self) else None
        if fixed is None:
            return self.batches(size)
        again = (self.indices[i % len(self)] for i in range(-len(self) % fixed))
        return type(self)(self.store, [*self.indices, *again]).batches(fixed)


def _stackable(a: Mapping[str, Array], b: Mapping[str, Array]) -> bool:
    return all(a[k].shape == b[k].shape for k in a)


def _stack(samples: Sequence[Mapping[str, Array]], numbers: Sequence[int]) -> Batch:
    stacked = {name: np.stack([s[name] for s in samples]) for name in samples[0]}
    labels = stacked.pop(LABELS, None)
    return Batch(stacked, labels, tuple(numbers))


class Calibration(Dataset):
    """Sets ranges, trains, finds the layers to blame. The only role a method may see."""

    role = "calibration"


class Selection(Dataset):
    """Compares candidates."""

    role = "selection"


class Holdout(Dataset):
    """Makes the final claim; opened once, by ``hasten.optimize``."""

    role = "holdout"


_TRAIN = "train"


@dataclass(frozen=True)
class Roles:
    """The three disjoint roles: of one store, or with calibration from another one (``taught_by``)."""

    store: Store
    calibration: Calibration
    selection: Selection
    holdout: Holdout

    @property
    def train_folder(self) -> Path:
        """Where a store that calibration comes from belongs, so that ``open`` finds it."""
        return self.store.folder / _TRAIN

    def taught_by(self, train: Store) -> Roles:
        """The same with calibration from a store of its own, in ``train_folder``.

        Samples of it that are compared on too are left out: what is learned by heart proves nothing.
        """
        compared = {self.store.digest(i) for i in (*self.selection.indices, *self.holdout.indices)}
        apart = [i for i in range(len(train)) if train.digest(i) not in compared]
        return replace(self, calibration=Calibration(train, apart))

    def save(self) -> None:
        """Write the roles beside the samples, so that another process can open them."""
        roles = {r.role: r.indices for r in (self.calibration, self.selection, self.holdout)}
        (self.store.folder / "roles.json").write_text(json.dumps(roles), encoding="utf-8")

    @classmethod
    def everything(cls, store: Store) -> Roles:
        """All samples calibrate, none is compared on: for applying a recipe without judging it."""
        return cls(store, Calibration(store, range(len(store))), Selection(store, ()), Holdout(store, ()))

    @classmethod
    def open(cls, folder: Path) -> Roles:
        """Open what ``save`` wrote."""
        store, train = Store(folder), folder / _TRAIN
        raw = json.loads((folder / "roles.json").read_text(encoding="utf-8"))
        return cls(
            store,
            Calibration(Store(train) if train.is_dir() else store, raw[Calibration.role]),
            Selection(store, raw[Selection.role]),
            Holdout(store, raw[Holdout.role]),
        )


def split(store: Store, seed: int, *, calibrate: bool = True, most_compared: int = 2000) -> Roles:
    """Divide a store's samples once, by a seeded permutation.

    A fifth calibrates (at least 1 sample), two fifths select and two fifths are held out; with many
    samples selection and holdout take at most ``most_compared`` each and calibration takes the rest.
    Without ``calibrate`` half of them select, half are held out, and calibration is left empty.
    With too few samples to divide: raises DataError.
    """
    count = len(store)
    fewest, roles = (3, "calibrate, select and hold out") if calibrate else (2, "select and hold out")
    if count < fewest:
        raise DataError(f"the data have {count} samples; at least {fewest} are needed to {roles}")
    order = np.random.default_rng(seed).permutation(count)
    compared = max(1, min(most_compared, (2 * count) // 5 if calibrate else count // 2))
    return Roles(
        store,
        Calibration(store, np.sort(order[2 * compared :]).tolist() if calibrate else []),
        Selection(store, np.sort(order[:compared]).tolist()),
        Holdout(store, np.sort(order[compared : 2 * compared]).tolist()),
    )
