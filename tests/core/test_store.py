"""What goes into a store comes out of it, bit by bit."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hasten.core.data import LABELS, Dataset, Store, StoreWriter
from hasten.core.errors import DataError
from hasten.core.tensor import TensorSpec

dtypes = st.one_of(
    arrays.boolean_dtypes(),
    arrays.integer_dtypes(endianness="="),
    arrays.unsigned_integer_dtypes(endianness="="),
    arrays.floating_dtypes(endianness="=", sizes=(16, 32, 64)),
    arrays.unicode_string_dtypes(endianness="=", max_len=5),
)
values = dtypes.flatmap(lambda d: arrays.arrays(d, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(values, values), max_size=6))
def test_round_trip_of_any_dtype_and_shape(samples: list[tuple[np.ndarray, np.ndarray]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        writer = StoreWriter(Path(folder) / "store", ["a", "b"])
        for a, b in samples:
            writer.append({"a": a, "b": b})
        written = writer.close()
        store = Store(Path(folder) / "store")
        assert len(store) == len(samples)
        assert store.sha256 == written.sha256
        for i, (a, b) in enumerate(samples):
            for name, value in (("a", a), ("b", b)):
                again = store.value(name, i)
                assert again.dtype == value.dtype
                assert again.shape == value.shape
                assert again.tobytes() == value.tobytes()


def _store(folder: Path, shapes: list[int]) -> Store:
    writer = StoreWriter(folder, ["x", LABELS])
    for i, size in enumerate(shapes):
        writer.append({"x": np.full(size, i, np.float32), LABELS: np.asarray(i)})
    return writer.close()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=12), st.integers(1, 5))
def test_batches_hold_equal_shapes_in_order(sizes: list[int], batch_size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = Dataset(_store(Path(folder), sizes), range(len(sizes)))
        batches = list(data.batches(batch_size))
        assert [i for batch in batches for i in batch.indices] == list(range(len(sizes)))
        for batch in batches:
            assert 1 <= len(batch.indices) <= batch_size
            assert batch.inputs["x"].shape == (len(batch.indices), sizes[batch.indices[0]])
            assert batch.labels is not None
            assert batch.labels.tolist() == list(batch.indices)
        # A batch ends for one of two reasons: it is full, or the next sample has another shape.
        for a, b in pairwise(batches):
            assert len(a.indices) == batch_size or a.inputs["x"].shape[1] != b.inputs["x"].shape[1]


def test_the_hash_tells_data_apart(tmp_path: Path) -> None:
    same = _store(tmp_path / "a", [2, 3]), _store(tmp_path / "b", [2, 3])
    assert same[0].sha256 == same[1].sha256
    assert _store(tmp_path / "c", [3, 2]).sha256 != same[0].sha256


def test_objects_are_refused(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "store", ["x"])
    with pytest.raises(DataError, match="Python objects"):
        writer.append({"x": np.asarray([{}, None], dtype=object)})
    writer.discard()
    assert not (tmp_path / "store").exists()


def test_labels_of_differing_shapes_cannot_be_stacked(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, ["x", LABELS])
    for size in (1, 2):
        writer.append({"x": np.zeros(1), LABELS: np.zeros(size)})
    with pytest.raises(DataError, match="different shapes"):
        Dataset(writer.close(), [0, 1]).labels()


def test_feeds_leave_the_batch_axis_out_where_the_model_has_none(tmp_path: Path) -> None:
    data = Dataset(_store(tmp_path, [4, 4]), [0, 1])
    batched = TensorSpec("x", "float32", ("batch", 4))
    bare = TensorSpec("x", "float32", (4,))
    pair = next(data.batches(2))
    single = next(data.batches(1))
    assert pair.feeds([batched])["x"].shape == (2, 4)
    assert single.feeds([bare])["x"].shape == (4,)
    with pytest.raises(DataError, match="no batch axis"):
        pair.feeds([bare])
    with pytest.raises(DataError, match="'y' has no data; the data have x"):
        pair.feeds([TensorSpec("y", "float32", None)])
