"""Do the samples fit the model? Rank, sizes, dtype and finiteness, sample by sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from hasten.core.data import LABELS, Array
from hasten.core.errors import DataError
from hasten.core.tensor import TensorSpec
from hasten.data.reader import Sample

_NOT_NUMBERS = {
    "O": "Python objects",
    "V": "records",
    "M": "dates",
    "m": "time spans",
    "c": "complex numbers",
}


class Fitter:
    """Checks samples against the inputs of a model, and casts where that loses nothing but float precision.

    notes: the casts made so far, each said once.
    """

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self._specs = tuple(specs)
        self._dtypes = {spec.name: _numpy_dtype(spec) for spec in specs}
        self._notes: dict[str, None] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """What was cast."""
        return tuple(self._notes)

    def fit(self, sample: Sample, index: int) -> dict[str, Array]:
        """The sample as the model takes it; raises DataError naming the input and the sample."""
        fitted = {}
        for spec in self._specs:
            where = f"input {spec.name!r}, sample {index}"
            array = sample[spec.name]
            _check_shape(array, spec, index)
            fitted[spec.name] = self._cast(array, self._dtypes[spec.name], where, spec)
            _check_finite(fitted[spec.name], where)
        if LABELS in sample:
            fitted[LABELS] = check_labels(sample[LABELS], index)
        return fitted

    def _cast(self, array: Array, dtype: np.dtype[np.generic] | None, where: str, spec: TensorSpec) -> Array:
        if array.dtype == dtype:
            return array
        if array.dtype.kind in _NOT_NUMBERS:
            raise DataError(f"{where} holds {_NOT_NUMBERS[array.dtype.kind]}; give an array of {spec.dtype}")
        if dtype is None:
            return array
        if dtype.kind == "U" or array.dtype.kind in "US":
            return _text(array, dtype, where)
        cast = _cast_numbers(array, dtype, where)
        if array.dtype.name != dtype.name:
            self._notes[f"input {spec.name!r}: cast {array.dtype.name} to {dtype.name}"] = None
        return cast


def _numpy_dtype(spec: TensorSpec) -> np.dtype[np.generic] | None:
    if spec.dtype == "unknown":
        return None
    # Files know no bfloat16; the runtimes take float32 for it.
    known = {"str": "U", "bfloat16": "float32"}
    try:
        return np.dtype(known.get(spec.dtype, spec.dtype))
    except TypeError as error:
        raise DataError(
            f"input {spec.name!r} takes {spec.dtype}, which has no numpy array; export the model with "
            "float32 inputs"
        ) from error


def _check_shape(array: Array, spec: TensorSpec, index: int) -> None:
    """Sizes of a sample against the fixed ones; an input of a sample's own rank has no batch axis."""
    if spec.shape is None:
        return
    first = len(spec.shape) - array.ndim
    if first not in (0, 1):
        raise DataError(
            f"input {spec}: sample {index} has shape {_axes(array.shape)}, but the model takes samples of "
            f"{max(0, len(spec.shape) - 1)} axes; the first axis of the data counts the samples"
        )
    for axis, (size, wanted) in enumerate(zip(array.shape, spec.shape[first:], strict=True)):
        if isinstance(wanted, int) and size != wanted:
            fixed = Counter(d for d in spec.shape[first:] if isinstance(d, int))
            hint = "; the axes seem to stand in another order, transpose them"
            raise DataError(
                f"input {spec}: sample {index} has shape {_axes(array.shape)}: its axis {axis} is {size}, "
                f"the model takes {wanted}" + (hint if fixed and fixed <= Counter(array.shape) else "")
            )


def _cast_numbers(array: Array, dtype: np.dtype[np.generic], where: str) -> Array:
    have, want = array.dtype.kind, dtype.kind
    if want == "f" and array.dtype == np.uint8:
        raise DataError(
            f"{where} holds uint8, the model takes {dtype.name}: scale the pixels as for training, "
            f"for instance (x / 255).astype({dtype.name!r})"
        )
    if want in "iub" and have == "f":
        raise DataError(
            f"{where} holds {array.dtype.name}, the model takes {dtype.name}: convert the data themselves, "
            f"for instance x.astype({dtype.name!r})"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        cast: Array = array.astype(dtype)
        back: Array = cast if have == "f" else cast.astype(array.dtype)
    if have == "f" and not np.array_equal(np.isfinite(cast), np.isfinite(array)):
        raise DataError(f"{where} has values too large for {dtype.name}")
    if have != "f" and not (_fits(array, dtype) and np.array_equal(back, array)):
        raise DataError(
            f"{where} holds {array.dtype.name} values from {array.min()} to {array.max()}, "
            f"which {dtype.name} cannot hold exactly"
        )
    return cast


def _fits(array: Array, dtype: np.dtype[np.generic]) -> bool:
    """Whether whole numbers are within the range of a type of whole numbers (others: yes)."""
    if dtype.kind not in "iu" or array.dtype.kind == "b" or array.size == 0:
        return True
    limits = np.iinfo(dtype.name)
    return limits.min <= int(array.min()) and int(array.max()) <= limits.max


def _text(array: Array, dtype: np.dtype[np.generic], where: str) -> Array:
    if dtype.kind != "U" or array.dtype.kind not in "US":
        wanted = "text" if dtype.kind == "U" else dtype.name
        has = "text" if array.dtype.kind in "US" else array.dtype.name
        raise DataError(f"{where} holds {has}, the model takes {wanted}")
    try:
        return np.asarray(np.char.decode(array, "utf-8")) if array.dtype.kind == "S" else array
    except UnicodeDecodeError as error:
        raise DataError(f"{where} holds bytes that are not UTF-8 text") from error


def _check_finite(array: Array, where: str) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(np.atleast_1d(array)))[0])
        value = np.atleast_1d(array)[place]
        raise DataError(f"{where} holds {value} at {list(place)}; remove or repair such samples")


def check_labels(array: Array, index: int) -> Array:
    """The label of a sample, bytes as the text that a model answers with.

    Raises DataError for NaN and for what is neither number nor text.
    """
    if array.dtype.kind in _NOT_NUMBERS:
        raise DataError(f"the label of sample {index} holds {_NOT_NUMBERS[array.dtype.kind]}; give numbers")
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise DataError(f"the label of sample {index} is NaN; remove such samples")
    if array.dtype.kind == "S":
        return _text(array, np.dtype("U"), f"the label of sample {index}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _axes(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "()"
