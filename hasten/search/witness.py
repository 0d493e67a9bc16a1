"""A few inputs with the answers the saved model gave: with them another machine can see whether it agrees.

The same quantized file can answer differently where the CPU's integer instructions differ, so a hash of the
file alone proves little. Written as ``check.npz`` beside the model; arrays are numbered, since names in a
model may be anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hasten.core.data import Array, Dataset, Store
from hasten.core.errors import RecordError
from hasten.core.tensor import TensorSpec

FILE = "check.npz"
_MOST_SAMPLES = 8
_MOST_BYTES = 2_000_000

Sample = dict[str, Array]


@dataclass(frozen=True)
class Witness:
    """Samples of a role and the answers of the saved model to them, in the role's order."""

    data: Dataset
    answers: Store
    inputs: tuple[TensorSpec, ...]


def write_witness(path: Path, witness: Witness) -> None:
    """Write the first samples and the answers to them, up to some 2 MB."""
    data, answers = witness.data, witness.answers
    names = [spec.name for spec in witness.inputs]
    arrays: dict[str, Array] = {
        "inputs": np.array(names, dtype=np.str_),
        "outputs": np.array(answers.fields, dtype=np.str_),
    }
    written = 0
    for number, index in enumerate(data.indices[:_MOST_SAMPLES]):
        fields = [data.store.value(name, index) for name in names]
        given = [answers.value(name, number) for name in answers.fields]
        written += sum(a.nbytes for a in (*fields, *given))
        if number and written > _MOST_BYTES:
            break
        arrays |= {f"i{number}_{k}": a for k, a in enumerate(fields)}
        arrays |= {f"o{number}_{k}": a for k, a in enumerate(given)}
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def read_witness(path: Path) -> tuple[list[Sample], list[Sample]]:
    """The inputs and the answers, sample by sample; raises RecordError when the file cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            names = {"i": [str(n) for n in file["inputs"]], "o": [str(n) for n in file["outputs"]]}
            count = len({key.partition("_")[0] for key in file.files if key.startswith("i") and "_" in key})
            samples = {
                kind: [{n: file[f"{kind}{s}_{k}"] for k, n in enumerate(names[kind])} for s in range(count)]
                for kind in ("i", "o")
            }
    except (OSError, ValueError, KeyError) as error:
        raise RecordError(f"{path} cannot be read: {error}") from error
    return samples["i"], samples["o"]


def disagreement(expected: list[Sample], found: list[Sample]) -> float:
    """Normalized error of the worst output over all samples; infinite where shapes differ."""
    worst = 0.0
    for name in expected[0] if expected else ():
        wrong = total = 0.0
        for e, f in zip(expected, found, strict=True):
            if name not in f or e[name].shape != f[name].shape:
                return float("inf")
            if e[name].dtype.kind not in "fiub":
                wrong += float((e[name] != f[name]).sum())
                total += e[name].size
                continue
            difference = e[name].astype(np.float64) - f[name].astype(np.float64)
            wrong += float(np.square(difference).sum())
            total += float(np.square(e[name].astype(np.float64)).sum())
        worst = max(worst, wrong / total if total else wrong)
    return worst
