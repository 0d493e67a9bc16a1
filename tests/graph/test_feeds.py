"""Random inputs that fit a signature."""

import numpy as np
import pytest

from hasten.core.tensor import TensorSpec
from hasten.graph.feeds import feeds_to_try, random_feeds


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int64", "int32", "uint8", "bool"])
def test_types_and_shapes(dtype):
    feeds = random_feeds([TensorSpec("x", dtype, ("n", 3, None, -1))], 0, batch=2, size=5)
    assert feeds["x"].dtype == dtype
    assert feeds["x"].shape == (2, 3, 5, 5)


def test_strings_scalars_and_bfloat16():
    feeds = random_feeds(
        [TensorSpec("s", "str", (2,)), TensorSpec("r", "float32", None), TensorSpec("b", "bfloat16", (2,))], 0
    )
    assert set(feeds["s"].tolist()) <= {"a", "b"}
    assert feeds["r"].shape == ()
    assert feeds["b"].dtype.name == "bfloat16"


def test_whole_numbers_are_rows_of_any_table():
    feeds = random_feeds([TensorSpec("ids", "int64", (100,))], 0)
    assert set(np.unique(feeds["ids"])) == {0, 1}


def test_the_seed_decides():
    specs = [TensorSpec("x", "float32", (4,))]
    assert np.array_equal(random_feeds(specs, 3)["x"], random_feeds(specs, 3)["x"])
    assert not np.array_equal(random_feeds(specs, 3)["x"], random_feeds(specs, 4)["x"])


def test_guesses_only_where_there_is_something_to_guess():
    assert len(list(feeds_to_try([TensorSpec("x", "float32", ("n", 3))], 0))) == 1
    sizes = [feeds["x"].shape[1] for feeds in feeds_to_try([TensorSpec("x", "float32", ("n", "h"))], 0)]
    assert len(sizes) == len(set(sizes)) > 5
