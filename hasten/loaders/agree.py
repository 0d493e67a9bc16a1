"""Do two programs answer alike? Runs exchanged as files, and the comparison of their outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hasten.core.data import Array
from hasten.core.errors import ModelError

TOLERANCES = {"float16": 2e-2}
DEFAULT_TOLERANCE = 1e-3
"""Largest accepted difference of an output, over its largest magnitude.

Float32 rounds to 2⁻²⁴ an operation; sums of some thousand terms and a hundred layers between two
implementations bring that to some 10⁻⁴ of the largest value, while a wrong operator shows at 10⁻² and above.
Float16 (2⁻¹¹ an operation) needs more. Integer outputs: the share of elements that differ.
"""

_SMALLEST_SCALE = 1e-6


def write_runs(path: Path, runs: Sequence[Mapping[str, Array]]) -> None:
    """Write the arrays of several runs, all with the same names, as ``.npz``."""
    names = list(runs[0]) if runs else []
    arrays = {f"{i}_{j}": _plain(run[name]) for i, run in enumerate(runs) for j, name in enumerate(names)}
    with path.open("wb") as file:
        np.savez(file, names=np.asarray(names, dtype=np.str_), **arrays)  # type: ignore[arg-type]


def _plain(array: Array) -> Array:
    """ONNX Runtime gives strings as Python objects."""
    return array.astype(np.str_) if array.dtype.hasobject else array


def read_runs(path: Path) -> list[dict[str, Array]]:
    """Read what ``write_runs`` wrote."""
    with np.load(path, allow_pickle=False) as file:
        names = [str(name) for name in file["names"]]
        count = (len(file.files) - 1) // max(1, len(names))
        return [{name: file[f"{i}_{j}"] for j, name in enumerate(names)} for i in range(count)]


def difference(expected: Array, got: Array) -> float:
    """How far two arrays are apart, over the largest magnitude of ``expected``; inf for unequal shapes.

    Integers, booleans and strings: the share of elements that differ. Elements that are not finite must be
    so, and equal, in both.
    """
    if expected.shape != got.shape:
        return float("inf")
    if expected.size == 0:
        return 0.0
    if expected.dtype.kind not in "fc":
        return float(np.mean(expected.astype(got.dtype) != got))
    finite = np.isfinite(expected)
    if not np.array_equal(expected[~finite], got[~finite], equal_nan=True):
        return float("inf")
    wide = np.result_type(expected.dtype, np.float64)
    a, b = expected[finite].astype(wide), got[finite].astype(wide)
    if a.size == 0:
        return 0.0
    return float(np.abs(a - b).max() / max(float(np.abs(a).max()), _SMALLEST_SCALE))


def compare(
    expected: Sequence[Mapping[str, Array]], got: Sequence[Mapping[str, Array]], who: str
) -> dict[str, float]:
    """The largest difference of every output over all runs; outputs correspond by position.

    who: what gave ``expected``, for the message. Raises ModelError when an output differs too much.
    """
    worst: dict[str, float] = {}
    for reference, answer in zip(expected, got, strict=True):
        if len(reference) != len(answer):
            raise ModelError(f"{who} has {len(reference)} outputs, the imported graph {len(answer)}")
        for (name, array), theirs in zip(answer.items(), reference.values(), strict=True):
            gap = difference(theirs, array)
            limit = TOLERANCES.get(theirs.dtype.name, DEFAULT_TOLERANCE)
            if not gap <= limit:
                raise ModelError(_disagreement(name, theirs, array, gap, who))
            worst[name] = max(worst.get(name, 0.0), gap)
    return worst


def _disagreement(name: str, theirs: Array, ours: Array, gap: float, who: str) -> str:
    if theirs.shape != ours.shape:
        detail = f"its shape is {list(ours.shape)} instead of {list(theirs.shape)}"
    elif theirs.dtype.kind not in "fc":
        detail = f"{gap:.1%} of its elements differ"
    else:
        detail = f"the largest difference is {gap:.3g} of its largest value"
    return (
        f"the imported graph does not answer as {who} does on the same inputs: output {name!r}, {detail}; "
        "unless that draws random numbers (dropout that is always on), this is a fault of the conversion: "
        "please report it with the model"
    )
