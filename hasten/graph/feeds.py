"""Random inputs that a graph can run on, for checks that need inputs but not meaningful ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from hasten.core.data import Array
from hasten.core.tensor import TensorSpec

SIZES = (64, 32, 48, 224, 128, 320, 256, 16, 8, 4, 2, 1)
"""What a dynamic dimension other than the batch is tried with: convolution nets need multiples of their
strides and room for all of them, some models one height only."""


def random_feeds(
    specs: Sequence[TensorSpec], seed: int, *, batch: int = 1, size: int = SIZES[0]
) -> dict[str, Array]:
    """Normal numbers; 0 or 1 for integers, which every table of embeddings has rows for; random booleans.

    A dynamic first dimension gets ``batch``, every other dynamic one ``size``. Inputs of unknown rank are
    scalars, strings are words.
    """
    rng = np.random.default_rng(seed)
    return {spec.name: _random(spec, rng, batch, size) for spec in specs}


def feeds_to_try(specs: Sequence[TensorSpec], seed: int, *, batch: int = 1) -> Iterator[dict[str, Array]]:
    """Random inputs with one guess after another for the dynamic dimensions."""
    dynamic = any(spec.shape and any(not isinstance(d, int) for d in spec.shape[1:]) for spec in specs)
    for size in SIZES if dynamic else SIZES[:1]:
        yield random_feeds(specs, seed, batch=batch, size=size)


def _random(spec: TensorSpec, rng: np.random.Generator, batch: int, size: int) -> Array:
    shape = [
        d if isinstance(d, int) and d >= 0 else (batch if axis == 0 else size)
        for axis, d in enumerate(spec.shape or ())
    ]
    if spec.dtype == "str":
        return rng.choice(np.asarray(["a", "b"], dtype=object), size=shape)
    if spec.dtype == "bool":
        return rng.integers(0, 2, shape).astype(np.bool_)
    if spec.dtype.startswith(("int", "uint")):
        return rng.integers(0, 2, shape).astype(spec.dtype)
    if spec.dtype == "bfloat16":
        import ml_dtypes

        return rng.normal(size=shape).astype(ml_dtypes.bfloat16)
    return rng.normal(size=shape).astype(spec.dtype)
