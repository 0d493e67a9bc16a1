"""Mappings, tuples, loaders and functions of the user's come in batch by batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from data.models import IDS, X, batches, rows, take
from hasten.core.errors import DataError, InputError
from hasten.data import example

GOOD = np.arange(12, dtype=np.float32).reshape(4, 3)
LABELS = np.array([3, 1, 2, 0])


@pytest.mark.parametrize(
    "data",
    [
        {"x": GOOD, "labels": LABELS},
        (GOOD, LABELS),
        ({"x": GOOD}, LABELS),
        ((GOOD,), LABELS),
        {"x": torch.from_numpy(GOOD), "label": LABELS.tolist()},
        [(GOOD[:3], LABELS[:3]), (GOOD[3:], LABELS[3:])],
        [{"x": GOOD[:1], "labels": LABELS[:1]}, {"labels": LABELS[1:], "x": GOOD[1:]}],
        DataLoader(TensorDataset(torch.from_numpy(GOOD), torch.from_numpy(LABELS)), batch_size=3),
        lambda: [(GOOD, LABELS)],
    ],
    ids=["mapping", "tuple", "nested", "tuples", "tensors", "batches", "mappings", "loader", "function"],
)
def test_one_input_with_labels(data: Any, tmp_path: Path) -> None:
    store, notes = take(data, X, tmp_path)
    assert rows(store, "x") == GOOD.tolist()
    assert rows(store, "labels") == LABELS.tolist()
    assert notes.notes == ()


@pytest.mark.parametrize("data", [GOOD, {"x": GOOD}, (GOOD, None), [GOOD[:2], GOOD[2:]], (GOOD,)])
def test_one_input_without_labels(data: Any, tmp_path: Path) -> None:
    store, _ = take(data, X, tmp_path)
    assert store.fields == ("x",)
    assert rows(store, "x") == GOOD.tolist()


@pytest.mark.parametrize("labelled", [True, False])
def test_several_inputs_in_order(labelled: bool, tmp_path: Path) -> None:
    ids, mask = np.arange(6).reshape(2, 3), np.ones((2, 3), int)
    for data in ([(ids, mask, [7, 8])], [((ids, mask), [7, 8])]) if labelled else ([(ids, mask)],):
        store, _ = take(data, IDS, tmp_path)
        assert rows(store, "ids") == ids.tolist()
        assert rows(store, "mask") == mask.tolist()
        assert ("labels" in store.fields) == labelled


def test_samples_of_differing_shapes(tmp_path: Path) -> None:
    lengths = [2, 5, 3]
    ids = [np.arange(n) for n in lengths]
    store, _ = take({"ids": ids, "mask": [np.ones(n, int) for n in lengths]}, IDS, tmp_path)
    assert [len(row) for row in rows(store, "ids")] == lengths


def test_a_function_by_name(tmp_path: Path) -> None:
    store, notes = take("data.models:batches", X, tmp_path)
    assert rows(store, "labels") == [0, 0, 1, 1, 2, 2]
    assert notes.source == "data.models:batches"


def test_of_an_unknown_number_the_first_are_taken(tmp_path: Path) -> None:
    store, notes = take(batches(), X, tmp_path, limit=3)
    assert rows(store, "labels") == [0, 0, 1]
    assert notes.notes == ("the first 3 samples were used, there are more",)
    _, notes = take(batches(), X, tmp_path, limit=6)
    assert notes.notes == ()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("data.models:failing", "iterating over data.models:failing failed: KeyError: 'row 17'"),
        ("data.models:nothing", "data.models:nothing gives a int; data are a mapping of arrays"),
        ("data.models:empty", "data.models:empty: the data are empty, there is not one batch"),
        ("data.models:absent", "module 'data.models' has no 'absent'"),
        ([], "the data are empty"),
        (3, "a int gives a int"),
        ([None], "gave None instead of a batch"),
        ([(GOOD, GOOD, GOOD)], r"a batch has 3 parts, the model takes 1 inputs \(x\)"),
        ([(GOOD, [[1], [2, 3], [4], {}])], "Python objects"),
        ([{"x": GOOD}, {"y": GOOD}], "batch 1 has no 'x', which earlier batches have"),
        ([{"x": GOOD}, {"x": GOOD, "label": LABELS}], "batch 1 has 'label', which earlier batches have not"),
        ([(GOOD, None), (GOOD, LABELS)], "batch 1 has 'labels', which earlier batches have not"),
        ([{"x": GOOD, "labels": LABELS[:2]}], "batch 0: the arrays have different numbers of samples"),
        ([(GOOD[0], 1)], "the labels is a single value"),
        ([{"x": GOOD[0]}], "sample 0 has shape"),
        ({"x": torch.from_numpy(GOOD).to_sparse()}, "'x' is a tensor that cannot become an array"),
        (
            {"x": torch.from_numpy(GOOD).to(torch.float8_e4m3fn)},
            "'x' is a tensor that cannot become an array",
        ),
        ({"x": torch.empty(4, 3, device="meta")}, "'x' is a tensor that cannot become an array"),
        ({"x": np.ma.masked_greater(GOOD, 5)}, "'x' has masked values"),
    ],
)
def test_what_is_no_data(data: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        take(data, X, tmp_path)
    assert not (tmp_path / "store").exists()


def test_bfloat16_tensors_come_as_float32(tmp_path: Path) -> None:
    store, _ = take({"x": torch.from_numpy(GOOD).to(torch.bfloat16)}, X, tmp_path)
    assert rows(store, "x") == GOOD.tolist()


def test_the_first_sample_for_tracing() -> None:
    assert example([{"a": GOOD, "labels": LABELS}])["a"].tolist() == [GOOD[0].tolist()]
    assert list(example([(GOOD, LABELS)])) == ["input"]
    assert list(example(batches)) == ["x"]
    assert list(example("data.models:batches")) == ["x"]
    with pytest.raises(DataError, match="a int gives a int"):
        example(3)
    with pytest.raises(DataError, match="only once; say what the module takes with --input"):
        example(batches())
