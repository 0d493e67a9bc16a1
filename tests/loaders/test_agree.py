"""Differences are told apart as the docstring says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hasten.core.errors import ModelError
from hasten.loaders.agree import compare, difference, read_runs, write_runs

floats = arrays.arrays(np.float32, 5, elements=st.floats(-100, 100, width=32))


@given(floats)
def test_nothing_differs_from_itself(x: np.ndarray) -> None:
    assert difference(x, x.copy()) == 0.0


@given(floats, st.integers(0, 4))
def test_a_change_counts_relative_to_the_largest_value(x: np.ndarray, place: int) -> None:
    changed = x.copy()
    changed[place] += 1.0
    largest = max(float(np.abs(x).max()), 1e-6)
    # Float32 rounds the sum to 2⁻²⁴ of a value of at most 101.
    assert difference(x, changed) * largest == pytest.approx(1.0, abs=1e-5)


def test_what_is_not_finite_must_be_the_same() -> None:
    x = np.array([1.0, np.nan, np.inf])
    assert difference(x, x) == 0.0
    assert difference(x, np.array([1.0, 2.0, np.inf])) == np.inf
    assert difference(x, np.array([1.0, np.nan, -np.inf])) == np.inf
    assert difference(np.zeros(2), np.array([0.0, np.nan])) != 0.0
    assert difference(np.zeros(2), np.zeros(3)) == np.inf
    assert difference(np.zeros(0), np.zeros(0)) == 0.0
    assert difference(np.full(1, np.nan), np.full(1, np.nan)) == 0.0


def test_whole_numbers_and_text_count_elements() -> None:
    assert difference(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])) == 0.25
    assert difference(np.array(["a", "b"]), np.array(["a", "c"])) == 0.5


def test_compare_names_the_output() -> None:
    good = [{"a": np.ones(3, np.float32), "n": np.arange(3)}]
    assert compare(good, good, "it") == {"a": 0.0, "n": 0.0}
    fine, numbers = np.ones(3, np.float32), np.arange(3)
    for wrong, message in (
        ({"a": fine * np.float32(1.1), "n": numbers}, "output 'a', the largest difference is 0.1"),
        ({"a": fine, "n": np.array([0, 1, 7])}, r"output 'n', 33\.3% of its elements differ"),
        ({"a": np.ones(4, np.float32), "n": numbers}, r"output 'a', its shape is \[4\] instead of \[3\]"),
        ({"a": np.array([1, 1, np.nan], np.float32), "n": numbers}, "output 'a'"),
        ({"a": fine}, "it has 2 outputs, the imported graph 1"),
    ):
        with pytest.raises(ModelError, match=message):
            compare(good, [wrong], "it")


def test_runs_travel_as_files(tmp_path: Path) -> None:
    runs = [
        {"a/b": np.arange(3), "../c": np.array("text")},
        {"a/b": np.zeros((2, 2), np.float16), "../c": np.array(["x", "yy"], dtype=object)},
    ]
    write_runs(tmp_path / "runs.npz", runs)
    again = read_runs(tmp_path / "runs.npz")
    assert [list(run) for run in again] == [["a/b", "../c"]] * 2
    assert again[1]["a/b"].dtype == np.float16
    assert again[1]["../c"].tolist() == ["x", "yy"]
