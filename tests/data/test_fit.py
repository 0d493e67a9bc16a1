"""Samples that do not fit the model are refused, with the place and the way out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from data.models import IDS, IMAGE, X, rows, take
from hasten.core.errors import DataError, OutputError
from hasten.core.tensor import TensorSpec
from hasten.data.fit import Fitter

GOOD = np.arange(12, dtype=np.float32).reshape(4, 3)


def spec(dtype: str, *shape: int | str | None) -> TensorSpec:
    return TensorSpec("x", dtype, shape)


def test_what_fits_is_kept_as_it_is(tmp_path: Path) -> None:
    store, notes = take({"x": GOOD, "labels": [3, 1, 2, 0]}, X, tmp_path)
    assert store.fields == ("x", "labels")
    assert rows(store, "x") == GOOD.tolist()
    assert rows(store, "labels") == [3, 1, 2, 0]
    assert (notes.source, notes.notes) == ("a dict", ())


@pytest.mark.parametrize(
    ("array", "wanted", "message"),
    [
        (np.zeros((2, 3)), spec("float32", "n", 4), "its axis 0 is 3, the model takes 4"),
        (np.zeros((2, 8, 8, 3)), IMAGE, "stand in another order, transpose them"),
        (np.zeros((2, 3, 8, 7)), IMAGE, r"its axis 2 is 7, the model takes 8$"),
        (
            np.zeros((3, 8, 8)),
            IMAGE,
            "shape 8x8, but the model takes samples of 3 axes; the first axis of the data",
        ),
        (np.zeros((2, 1, 3, 8, 8, 1)), IMAGE, "takes samples of 3 axes"),
        (np.zeros((2, 3), np.uint8), X, r"holds uint8.*\(x / 255\)\.astype\('float32'\)"),
        (
            np.ones((2, 3)),
            spec("int64", "n", 3),
            r"holds float64, the model takes int64.*x\.astype\('int64'\)",
        ),
        (np.full((2, 3), 300), spec("uint8", "n", 3), "from 300 to 300, which uint8 cannot hold exactly"),
        (np.full((2, 3), -1), spec("uint8", "n", 3), "which uint8 cannot hold exactly"),
        (np.full((2, 3), 2), spec("bool", "n", 3), "which bool cannot hold exactly"),
        (np.full((2, 3), 2**53 + 1), spec("float64", "n", 3), "which float64 cannot hold exactly"),
        (np.full((2, 3), 2**63 - 1), spec("float32", "n", 3), "which float32 cannot hold exactly"),
        (np.full((2, 3), 1e300), X, "sample 0 has values too large for float32"),
        (np.full((2, 3), "a"), X, "holds text, the model takes float32"),
        (np.zeros((2, 3)), spec("str", "n", 3), "holds float64, the model takes text"),
        (np.zeros((2, 3), complex), X, "holds complex numbers"),
        (np.zeros((2, 3), "M8[s]"), X, "holds dates"),
        (np.zeros((2, 3), [("a", "f4")]), X, "holds records"),
        (np.full((2, 3), {}), X, "holds Python objects"),
        (np.full((2, 3), b"\xff"), spec("str", "n", 3), "not UTF-8 text"),
        (np.zeros((2, 3)), spec("bfloat16x", "n", 3), "which has no numpy array"),
        ([[1.0, 2.0, 3.0], [1.0, 2.0]], X, "sample 1 has shape 2: its axis 0 is 2, the model takes 3"),
        (np.zeros((0, 3)), X, "the data are empty"),
        (np.float32(3), X, "first axis of every array must count the samples"),
    ],
)
def test_what_does_not_fit(array: Any, wanted: TensorSpec, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        take({wanted.name: array}, wanted, tmp_path)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(value: float, tmp_path: Path) -> None:
    array = GOOD.copy()
    array[2, 1] = value
    with pytest.raises(DataError, match=rf"input 'x', sample 2 holds {value} at \[1\]"):
        take({"x": array}, X, tmp_path)


@pytest.mark.parametrize(
    ("array", "wanted", "note"),
    [
        (GOOD.astype(np.float64), X, "cast float64 to float32"),
        (GOOD.astype(np.float16), X, "cast float16 to float32"),
        (GOOD.astype(np.int64), X, "cast int64 to float32"),
        (GOOD > 5, X, "cast bool to float32"),
        (GOOD.astype(np.int64), spec("int32", "n", 3), "cast int64 to int32"),
        (GOOD.astype(np.uint8), spec("int64", "n", 3), "cast uint8 to int64"),
        ((GOOD > 5).astype(np.int8), spec("bool", "n", 3), "cast int8 to bool"),
    ],
)
def test_lossless_casts_are_noted_once(array: Any, wanted: TensorSpec, note: str, tmp_path: Path) -> None:
    store, notes = take({"x": array}, wanted, tmp_path)
    assert notes.notes == (f"input 'x': {note}",)
    assert store.value("x", 3).dtype == np.dtype(wanted.dtype)
    assert rows(store, "x") == array.tolist()


def test_text(tmp_path: Path) -> None:
    store, _ = take({"x": np.array([[b"caf\xc3\xa9"], [b"b"]])}, spec("str", "n", 1), tmp_path)
    assert rows(store, "x") == [["café"], ["b"]]


def test_labels_of_bytes_are_text(tmp_path: Path) -> None:
    store, _ = take({"x": GOOD[:2], "labels": np.array([b"caf\xc3\xa9", b"b"])}, X, tmp_path)
    assert rows(store, "labels") == ["café", "b"]
    with pytest.raises(DataError, match="the label of sample 1 holds bytes that are not UTF-8 text"):
        take({"x": GOOD[:2], "labels": np.array([b"a", b"\xff"])}, X, tmp_path)


def test_bfloat16_is_kept_as_float32(tmp_path: Path) -> None:
    import ml_dtypes  # noqa: F401 - makes numpy know the name, as whatever reads a model does

    store, _ = take({"x": GOOD.astype(np.float64)}, spec("bfloat16", "n", 3), tmp_path)
    assert store.value("x", 3).dtype == np.float32
    assert rows(store, "x") == GOOD.tolist()


def test_another_byte_order_is_turned(tmp_path: Path) -> None:
    store, notes = take({"x": GOOD.astype(">f4"), "labels": np.arange(4, dtype=">i8")}, X, tmp_path)
    assert store.value("x", 1).dtype == np.dtype("<f4")
    assert store.value("labels", 1).dtype == np.dtype("<i8")
    assert rows(store, "x") == GOOD.tolist()
    assert notes.notes == ()


def test_an_input_without_a_batch_axis_takes_whole_samples(tmp_path: Path) -> None:
    store, _ = take({"x": GOOD}, spec("float32", 3), tmp_path)
    assert store.value("x", 0).shape == (3,)
    with pytest.raises(DataError, match="axis 0 is 3, the model takes 5"):
        take({"x": GOOD}, spec("float32", 5), tmp_path)


def test_an_input_of_unknown_shape_and_type_takes_anything(tmp_path: Path) -> None:
    store, _ = take({"x": GOOD}, TensorSpec("x", "unknown", None), tmp_path)
    assert store.value("x", 0).dtype == np.float32


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"ids": [[1]], "Mask": [[1]]},
            "no 'mask': .* takes 'ids', 'mask', .* 'ids', 'Mask'; rename 'Mask' to 'mask'",
        ),
        ({"ids": [[1]], "attention_mask": [[1]]}, "the data have no 'mask'"),
        ({"labels": [1]}, "the data have no 'ids', 'mask': .*the data have nothing"),
        ({"ids": [[1], [2]], "mask": [[1]]}, "different numbers of samples: ids has 2, mask has 1"),
        ({"ids": [[1]], "mask": [[1]], "labels": [1, 2]}, "labels has 2"),
        ({"ids": [[1]], "mask": [[1]], "labels": [np.nan]}, "the label of sample 0 is NaN"),
        ({"ids": [[1]], "mask": [[1]], "labels": [{}]}, "Python objects"),
    ],
)
def test_names_and_lengths(data: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        take(data, IDS, tmp_path)


def test_the_only_array_feeds_the_only_input(tmp_path: Path) -> None:
    store, notes = take({"features": GOOD, "label": np.arange(4)}, X, tmp_path)
    assert store.fields == ("x", "labels")
    assert notes.notes == ("'features' was taken as the input 'x', the only one",)
    with pytest.raises(DataError, match="the data have no 'x'"):
        take({"a": GOOD, "b": GOOD}, X, tmp_path)


def test_arrays_the_model_does_not_take_are_said(tmp_path: Path) -> None:
    _, notes = take({"x": GOOD, "id": np.arange(4), "more": GOOD}, X, tmp_path)
    assert notes.notes == ("not used: 'id', 'more'",)


def test_an_input_named_labels(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="which hasten keeps for labels"):
        take({"labels": GOOD}, TensorSpec("labels", "float32", ("n", 3)), tmp_path)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_sampling_is_seeded_without_repeats_and_in_order(count: int, limit: int, seed: int) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        data = {"x": np.repeat(np.arange(count, dtype=np.float32)[:, None], 3, axis=1)}
        store, notes = take(data, X, Path(folder) / "a", limit=limit, seed=seed)
        kept = [row[0] for row in rows(store, "x")]
        assert len(kept) == min(count, limit)
        assert kept == sorted(set(kept))
        again, _ = take(data, X, Path(folder) / "b", limit=limit, seed=seed)
        assert again.sha256 == store.sha256
        drawn = f"{limit} of {count} samples were drawn at random (seed {seed})"
        assert notes.notes == ((drawn,) if count > limit else ())


@settings(max_examples=60)
@given(
    arrays.arrays(
        st.sampled_from([np.int8, np.uint16, np.int64, np.float16, np.float64, np.bool_]), 4
    ).filter(lambda a: np.isfinite(a).all()),
    st.sampled_from(["int8", "uint8", "int32", "int64", "float16", "float32", "float64", "bool"]),
)
def test_a_cast_never_changes_a_whole_number(array: np.ndarray, wanted: str) -> None:
    try:
        fitted = Fitter([spec(wanted, 4)]).fit({"x": array}, 0)["x"]
    except DataError:
        return
    assert fitted.dtype == wanted
    if array.dtype.kind != "f":
        assert fitted.tolist() == array.tolist()


def test_no_space_left(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / "field0.bin").symlink_to("/dev/full")
    with pytest.raises(
        OutputError, match=r"cannot write the samples to .*: No space left on device; free space"
    ):
        take({"x": np.zeros((400, 3), np.float32)}, X, tmp_path)
    assert not folder.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        take({"x": GOOD}, X, tmp_path)


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("mine")
    with pytest.raises(OutputError, match="cannot write the samples"):
        take({"x": GOOD}, X, tmp_path)
    assert (tmp_path / "store").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("data.csv", r"does not read \.csv; give \.npz"),
        ("data", "files without a suffix"),
        ("data.npy", "npz"),
    ],
)
def test_other_files(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("1,2")
    with pytest.raises(DataError, match=message):
        take(tmp_path / name, X, tmp_path)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        take(str(tmp_path / "absent.npz"), X, tmp_path)
