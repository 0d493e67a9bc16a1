"""What does a subject answer? Every sample of a role, in a fresh process, kept on disk."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from hasten.core.data import Array, Dataset, Store
from hasten.core.errors import TrialError
from hasten.measuring.subject import Conditions, Progress, Subject
from hasten.measuring.workers import Lane

_SLICE_S = 5.0
"""The process reports back this often, so that a hang is told from much data."""
_COST = "cost.json"


@dataclass(frozen=True)
class Predictions:
    """What a subject answered to every sample of a role, on disk, and what its fresh process cost.

    key: tells artifact, options, data and conditions apart. store: one field an output, one sample a sample
    of the role, in the role's order, without batch axis. load_ms: to open the files, the runtime being
    imported. peak_memory_bytes: resident, of the whole process, weights loaded, after the first inference.
    """

    subject: str
    key: str
    store: Store
    load_ms: float
    peak_memory_bytes: int

    def __len__(self) -> int:
        return len(self.store)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in the model's order."""
        return self.store.fields

    def value(self, output: str, position: int) -> Array:
        """One output for the sample at this position of the role; raises TrialError when there is none."""
        if output not in self.store.fields:
            raise TrialError(
                f"{self.subject} has no output {output!r}; it has {', '.join(self.store.fields)}"
            )
        return self.store.value(output, position)

    def values(self, output: str) -> Iterator[Array]:
        """One output of every sample, read one at a time; raises TrialError when there is none."""
        return (self.value(output, i) for i in range(len(self)))


def predict(
    subject: Subject,
    data: Dataset,
    conditions: Conditions,
    work: Path,
    *,
    progress: Progress | None = None,
) -> Predictions:
    """Run every sample through the subject in a fresh process; kept in ``work`` and not repeated.

    Batches of ``conditions.batch``, or of the only size the model takes. Raises TrialError when the artifact
    cannot be opened or run, WorkerError when its process dies or hangs.
    """
    key = key_of(subject, data, conditions)
    folder = work / key
    if not (folder / _COST).exists():
        work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=work, prefix=f".{key}-") as scratch:
            _answer(subject, data, conditions, Path(scratch) / "answers", progress)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(Path(scratch) / "answers", folder)
    cost = json.loads((folder / _COST).read_text(encoding="utf-8"))
    return Predictions(subject.name, key, Store(folder), cost["load_ms"], cost["peak_memory_bytes"])


def _answer(
    subject: Subject, data: Dataset, conditions: Conditions, folder: Path, progress: Progress | None
) -> None:
    with Lane(subject, conditions) as lane:
        lane.open(conditions)
        peak = lane.ask(
            "begin_answers",
            store=str(data.store.folder.resolve()),
            indices=list(data.indices),
            batch=conditions.batch,
            out=str(folder.resolve()),
        )
        while (done := cast("int", lane.ask("continue_answers", seconds=_SLICE_S))) >= 0:
            if progress:
                progress(f"answers of {subject.name}", done / len(data))
        cost = {"load_ms": lane.load_ms, "peak_memory_bytes": peak}
    (folder / _COST).write_text(json.dumps(cost), encoding="utf-8")


def key_of(subject: Subject, data: Dataset, conditions: Conditions) -> str:
    """What tells one run of a subject's files over a role's samples from all others."""
    artifact = subject.artifact
    what = {
        "files": sorted(f.sha256 for f in artifact.files) or _stamp(subject),
        "entry": artifact.entry,
        "target": artifact.target,
        "options": artifact.options,
        "store": data.store.sha256,
        "indices": data.indices,
        "batch": conditions.batch,
        "threads": artifact.options.get("threads") or conditions.threads,
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:24]


def _stamp(subject: Subject) -> list[str]:
    """An artifact recorded without hashes is told apart by where and when it was written."""
    path = (subject.folder / subject.artifact.entry).resolve()
    try:
        return [str(path), str(path.stat().st_mtime_ns)]
    except OSError as error:
        raise TrialError(f"{subject.name}: {path.name}: {error.strerror}") from error


__all__ = ["Predictions", "key_of", "predict"]
