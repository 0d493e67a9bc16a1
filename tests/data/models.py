"""Signatures to feed, and functions that make data, also by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hasten.core.data import Store
from hasten.core.tensor import TensorSpec
from hasten.data import DataNotes, ingest

X = TensorSpec("x", "float32", ("batch", 3))
IMAGE = TensorSpec("image", "float32", ("batch", 3, 8, 8))
IDS = (TensorSpec("ids", "int64", ("batch", "length")), TensorSpec("mask", "int64", ("batch", "length")))


def take(source: Any, specs: Any, folder: Path, **options: Any) -> tuple[Store, DataNotes]:
    """``ingest`` into a new folder below ``folder``."""
    return ingest(source, [specs] if isinstance(specs, TensorSpec) else specs, folder / "store", **options)


def rows(store: Store, field: str) -> list[Any]:
    return [store.value(field, i).tolist() for i in range(len(store))]


def batches() -> Iterator[dict[str, np.ndarray]]:
    for i in range(3):
        yield {"x": np.full((2, 3), i, np.float32), "labels": np.array([i, i])}


def failing() -> Iterator[dict[str, np.ndarray]]:
    yield {"x": np.zeros((1, 3), np.float32)}
    raise KeyError("row 17")


def nothing() -> int:
    return 3


def empty() -> list[Any]:
    return []
