"""Any model files, measured side by side: what ``hasten measure`` does."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hasten import data as data_room
from hasten import measuring, targets
from hasten.core.budget import Budget
from hasten.core.data import Array, Selection
from hasten.core.errors import InputError, TrialError
from hasten.core.paths import exists
from hasten.core.record import RunRecord, Scalar, Scorecard
from hasten.core.tensor import TensorSpec
from hasten.measuring import Conditions, Subject
from hasten.process import call
from hasten.search.request import Event, Listener, silent

_RANDOM_SAMPLES = 8


def measure_files(
    paths: Sequence[Path],
    data: Any,
    metric: Any,
    conditions: Conditions,
    budget: Budget,
    listener: Listener = silent,
) -> list[Scorecard | TrialError]:
    """Measure models side by side; the first is the reference.

    paths: ``.onnx``, OpenVINO ``.xml`` or ``.pt2`` files, or folders that ``hasten optimize`` wrote. data:
    None for random inputs; quality is then left out, since agreement on noise says little.
    listener: told what was assumed of the data.
    Raises InputError when the reference cannot be opened or the data do not fit it.
    """
    if not paths:
        raise InputError("give at least one model to measure")
    subjects = [_subject(path, conditions) for path in paths]
    specs = _signature(subjects[0])
    with tempfile.TemporaryDirectory(prefix="hasten-") as name:
        work = Path(name)
        source = data if data is not None else list(_random_batches(specs, conditions.seed))
        store, notes = data_room.ingest(source, specs, work / "store", seed=conditions.seed)
        for note in notes.notes if data is not None else ():
            listener(Event(f"{notes.source}: {note}"))
        role = Selection(store, range(len(store)))
        judged = metric if data is not None else _unjudged
        try:
            cards = measuring.compare(subjects, role, judged, conditions, work / "measuring", budget=budget)
        except TrialError as error:
            raise InputError(f"{paths[0]} cannot be measured: {error}") from error
    if data is None:
        return [c.model_copy(update={"quality": None}) if isinstance(c, Scorecard) else c for c in cards]
    return cards


def _unjudged(outputs: dict[str, Array], labels: Array | None) -> float:
    """A metric for made-up inputs, of which nothing is said: the answers to them may well be NaN."""
    return 0.0


def _subject(path: Path, conditions: Conditions) -> Subject:
    if exists(path / "hasten.json"):
        record = RunRecord.read(path)
        trial = record.trial(record.best.trial) if record.best else record.baseline
        if trial.artifact is None:
            raise InputError(f"{path}: the record names no files for trial {trial.id}")
        return Subject(trial.artifact, path, str(path))
    threads: dict[str, Scalar] = {"threads": conditions.threads}
    artifact, folder = targets.artifact_of(path, threads)
    return Subject(artifact, folder, str(path))


def _signature(subject: Subject) -> tuple[TensorSpec, ...]:
    """The inputs of a model, read in a child process, since the file may be anything; raises InputError."""
    artifact: Any = subject.artifact.model_dump(mode="json")
    arguments = {"artifact": artifact, "folder": str(subject.folder.absolute())}
    try:
        answer: Any = call(
            f"opening {subject.name}", "hasten.search.side_by_side:signature_in_child", arguments
        )
    except TrialError as error:
        raise InputError(str(error)) from error
    return tuple(
        TensorSpec(name, dtype, None if shape is None else tuple(shape)) for name, dtype, shape in answer
    )


def signature_in_child(artifact: dict[str, Any], folder: str) -> list[list[Any]]:
    """Child side: name, dtype and shape of every input of an artifact."""
    from hasten.core.record import Artifact

    opened = Artifact.model_validate(artifact)
    options = targets.options(opened.target, opened.options)
    runner = targets.find(opened.target).open(opened, Path(folder), options)
    return [[s.name, s.dtype, None if s.shape is None else list(s.shape)] for s in runner.inputs]


def _random_batches(specs: Sequence[TensorSpec], seed: int) -> Iterator[dict[str, Array]]:
    """Seeded inputs of the declared shapes; a dynamic first axis is the batch. Raises InputError."""
    rng = np.random.default_rng(seed)
    for _ in range(_RANDOM_SAMPLES):
        yield {spec.name: _random(spec, rng) for spec in specs}


def _random(spec: TensorSpec, rng: np.random.Generator) -> Array:
    if spec.shape is None or any(not isinstance(size, int) for size in spec.shape[1:]):
        raise InputError(f"input {spec} has dynamic dimensions, so its data cannot be made up; give --data")
    shape = [size if isinstance(size, int) else 1 for size in spec.shape]
    if spec.dtype == "str":
        raise InputError(f"input {spec} takes strings, which cannot be made up; give --data")
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)
