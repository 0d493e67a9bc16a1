"""Example inputs for a model that says what it takes: real samples, or made up to its shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hasten.core.data import Array
from hasten.core.errors import InputError
from hasten.core.tensor import TensorSpec
from hasten.loaders.shapes import parse_input

_FREE_SIZE = 32
"""Example size of an axis that the model leaves open, when neither data nor --input say one."""
_EXAMPLES = 2


def example_runs(
    specs: Sequence[TensorSpec], inputs: Sequence[str], samples: Sequence[Mapping[str, Array]] | None
) -> tuple[dict[str, Array], ...]:
    """The samples, or one run made up; and the first run again with every open axis doubled.

    specs: of the model's inputs; open axes are None. inputs: sizes for open axes, as ``NAME=1x64x64x3``; the
    batch size in them does not count. Raises InputError when either does not fit the model.
    """
    given = {spec.name: spec for spec in map(parse_input, inputs)}
    names = [spec.name for spec in specs]
    if set(given) - set(names):
        raise InputError(f"the model's inputs are {', '.join(names)}, --input names {', '.join(given)}")
    if samples:
        if set(samples[0]) != set(names):
            raise InputError(
                f"the model's inputs are {', '.join(names)}, the data have {', '.join(samples[0])}"
            )
        runs = [{s.name: np.ascontiguousarray(run[s.name], s.dtype) for s in specs} for run in samples]
    else:
        runs = [{s.name: _filled(_example_shape(s, given.get(s.name)), s.dtype) for s in specs}]
    return (*runs, _doubled(specs, runs[0]))


def _example_shape(spec: TensorSpec, given: TensorSpec | None) -> tuple[int, ...]:
    sizes = spec.shape or ()
    wanted = sizes if given is None else (given.shape or ())
    if len(wanted) != len(sizes):
        raise InputError(f"input {spec} has {len(sizes)} axes, --input gives {len(wanted)}")
    made = []
    for axis, (size, other) in enumerate(zip(sizes, wanted, strict=True)):
        if axis and isinstance(size, int) and isinstance(other, int) and size != other:
            raise InputError(f"input {spec}: axis {axis} is {size} in the model, it cannot be {other}")
        if isinstance(size, int):
            made.append(size)
        elif axis == 0:
            made.append(_EXAMPLES)
        else:
            made.append(other if isinstance(other, int) else _FREE_SIZE)
    return tuple(made)


def _filled(shape: tuple[int, ...], dtype: str) -> Array:
    """Normal values for floats, ones otherwise: any index is valid, any mask lets through."""
    if dtype.startswith("float"):
        return np.random.default_rng(0).normal(size=shape).astype(dtype)
    return np.ones(shape, dtype)


def _doubled(specs: Sequence[TensorSpec], run: Mapping[str, Array]) -> dict[str, Array]:
    """The same values repeated along every open axis."""
    return {
        spec.name: np.tile(run[spec.name], [2 if axis is None else 1 for axis in spec.shape or ()])
        for spec in specs
    }
