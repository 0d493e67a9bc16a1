"""Calibration, selection and holdout never share a sample."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hasten.core.data import Calibration, Holdout, Roles, Selection, Store, StoreWriter, split
from hasten.core.errors import DataError
from hasten.core.tensor import TensorSpec


def _store(folder: Path, count: int) -> Store:
    writer = StoreWriter(folder, ["x"])
    for i in range(count):
        writer.append({"x": np.asarray(i)})
    return writer.close()


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 60), st.integers(0, 2**32 - 1), st.integers(1, 20))
def test_roles_divide_the_samples(count: int, seed: int, most_compared: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = _store(Path(folder), count)
        roles = split(store, seed, most_compared=most_compared)
        parts = [roles.calibration.indices, roles.selection.indices, roles.holdout.indices]
        assert all(parts)
        assert sorted(i for part in parts for i in part) == list(range(count))
        assert len(roles.selection) == len(roles.holdout) <= most_compared
        assert len(roles.calibration) >= count // 5
        again = split(store, seed, most_compared=most_compared)
        assert [again.calibration.indices, again.selection.indices, again.holdout.indices] == parts


def test_another_seed_divides_otherwise(tmp_path: Path) -> None:
    store = _store(tmp_path, 50)
    assert split(store, 0).holdout.indices != split(store, 1).holdout.indices


def test_calibration_from_other_data_has_nothing_that_is_compared_on(tmp_path: Path) -> None:
    roles = split(_store(tmp_path / "s", 11), 0, calibrate=False)
    assert (len(roles.calibration), len(roles.selection), len(roles.holdout)) == (0, 5, 5)
    writer = StoreWriter(roles.train_folder, ["x", "labels"])
    for i in range(4, 15):
        writer.append({"x": np.asarray(i), "labels": np.asarray(0)})
    roles.taught_by(writer.close()).save()
    again = Roles.open(tmp_path / "s")
    taught = [int(again.calibration.store.value("x", i)) for i in again.calibration.indices]
    compared = {*roles.selection.indices, *roles.holdout.indices}
    assert taught == [i for i in range(4, 15) if i not in compared]
    assert set(taught) >= {11, 12, 13, 14}
    assert again.calibration.has_labels
    assert not again.selection.has_labels


def test_some_are_taken_at_even_distances(tmp_path: Path) -> None:
    samples = Calibration(_store(tmp_path, 10), range(10))
    assert samples.take(4).indices == (0, 2, 5, 7)
    assert samples.take(20) is samples


def test_roles_are_types_and_survive_a_save(tmp_path: Path) -> None:
    roles = split(_store(tmp_path, 10), 3)
    roles.save()
    again = Roles.open(tmp_path)
    assert (type(again.calibration), type(again.selection), type(again.holdout)) == (
        Calibration,
        Selection,
        Holdout,
    )
    assert again.holdout.indices == roles.holdout.indices
    assert isinstance(again.selection.take(2), Selection)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_samples(tmp_path: Path, count: int) -> None:
    with pytest.raises(DataError, match=f"have {count} samples; at least 3"):
        split(_store(tmp_path, count), 0)


def test_batches_are_what_a_model_takes(tmp_path: Path) -> None:
    data = split(_store(tmp_path, 50), 0).calibration.take(5)
    fixed, free = TensorSpec("x", "float32", (2,)), TensorSpec("x", "float32", ("batch",))
    made = list(data.batches_for([fixed], 3))
    assert [len(batch.indices) for batch in made] == [2, 2, 2]
    assert made[-1].indices == (data.indices[4], data.indices[0])
    assert [len(batch.indices) for batch in data.batches_for([free], 3)] == [3, 2]
    assert len(next(data.take(1).batches_for([fixed])).indices) == 2
    assert not list(Calibration(data.store, []).batches_for([fixed]))
