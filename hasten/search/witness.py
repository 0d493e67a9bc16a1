"""A few inputs with the answers the saved model gave: with them another machine can see whether it agrees.

The same quantized file can answer differently where the CPU's integer instructions differ, so a hash of the
file alone proves little. Written as ``check.npz`` beside the model; arrays are numbered, since names in a
model may be anything.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hasten.core.data import Array, Dataset, Store
from hasten.core.errors import RecordError
from hasten.core.tensor import TensorSpec

FILE = "check.npz"
_MOST_SAMPLES = 8
_MOST_BYTES = 2_000_000

_NOT_A_ZIP = (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
_OTHER_ARRAYS = (ValueError, LookupError, TypeError, AttributeError, MemoryError)
"""What zipfile and numpy raise for a file that is cut, changed or encrypted, or holds something else."""

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
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            names = {"i": [str(n) for n in file["inputs"]], "o": [str(n) for n in file["outputs"]]}
            count = len({key.partition("_")[0] for key in file.files if key.startswith("i") and "_" in key})
            samples = {
                kind: [{n: file[f"{kind}{s}_{k}"] for k, n in enumerate(names[kind])} for s in range(count)]
                for kind in ("i", "o")
            }
    except (*_NOT_A_ZIP, *_OTHER_ARRAYS) as error:
        raise RecordError(f"{path} cannot be read: {error}") from error
    if not count:
        raise RecordError(f"{path} holds no inputs; write the folder again with `hasten optimize`")
    return samples["i"], samples["o"]


def disagreement(expected: list[Sample], found: list[Sample]) -> float:
    """Normalized error of the worst output over all samples; infinite where shapes or NaN differ."""
    worst = 0.0
    for name in expected[0] if expected else ():
        wrong = total = 0.0
        for e, f in zip(expected, found, strict=True):
            if name not in f or e[name].shape != f[name].shape:
                return float("inf")
            if not {e[name].dtype.kind, f[name].dtype.kind} <= set("fiub"):
                wrong += float((e[name] != f[name]).sum())
                total += e[name].size
                continue
            wanted, given = (np.asarray(v[name], dtype=np.float64) for v in (e, f))
            finite = np.isfinite(wanted)
            # NaN would compare as no error at all: what is not finite must be so in both.
            if not np.array_equal(given[~finite], wanted[~finite], equal_nan=True):
                return float("inf")
            if not np.all(np.isfinite(given[finite])):
                return float("inf")
            wrong += float(np.square(wanted[finite] - given[finite]).sum())
            total += float(np.square(wanted[finite]).sum())
        worst = max(worst, wrong / total if total else wrong)
    return worst
