"""Do the claims of a record hold here and now?"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

from hasten import data as data_room
from hasten import measuring
from hasten.core.budget import Objective
from hasten.core.data import Roles, Selection, StoreWriter, split
from hasten.core.errors import InputError, RecordError, TrialError
from hasten.core.measurement import Comparison, Record, ratio_text
from hasten.core.recipe import Recipe
from hasten.core.record import Best, Quality, RunRecord, Scorecard
from hasten.measuring import Conditions, Subject
from hasten.search.build import Workshop
from hasten.search.prepare import to_trace
from hasten.search.witness import FILE, disagreement, read_witness

_SAME_ANSWERS = 1e-3
"""Normalized error up to which two machines are said to agree: the noise of float32 kernels is far below it,
saturating integer kernels are far above it."""

_TOLERANCE = 0.1
"""How far a speed-up found here may lie below the recorded interval and still confirm it."""

_SIZE_TOLERANCE = 0.01
"""Other versions of a runtime write the original in a few bytes more or less."""


class Check(Record):
    """One claim: what was recorded, what was found, and whether it holds (None: not checked)."""

    claim: str
    holds: bool | None
    recorded: str
    found: str


def verify(folder: Path, model: Any = None, data: Any = None) -> list[Check]:
    """Check what can be checked: the files alone, and with the original and its data speed-up and quality.

    Raises RecordError when there is no valid record or it names no files, InputError when model or data
    cannot be read.
    """
    record = RunRecord.read(folder)
    checks = [*_files(record, folder)]
    if not all(check.holds for check in checks):
        return checks
    checks.append(_answers(record, folder))
    if model is not None and data is not None:
        return [*checks, *_measured(record, folder, model, data)]
    return [*checks, _unmeasured(record)]


def _unmeasured(record: RunRecord) -> Check:
    """What is not checked: nothing can be without model and data, and where the original was kept."""
    nothing = "none is claimed: what was saved is the original"
    more = "give --model and --data, the original and its data, to measure them again"
    return Check(
        claim="speed-up, size and quality",
        holds=None,
        recorded=record.headline,
        found=nothing if record.best is None else more,
    )


def _files(record: RunRecord, folder: Path) -> list[Check]:
    artifact = _subject(record, folder).artifact
    needed = {artifact.entry, *(file.path for file in artifact.files), FILE}
    unhashed = needed - {entry.path for entry in record.files}
    if unhashed:
        raise RecordError(
            f"{folder}: the record has no hash of {', '.join(sorted(unhashed))}, so nothing it says of them "
            "can be checked; write it again with `hasten optimize`"
        )
    checks = []
    for entry in record.files:
        path = folder / entry.path
        if not path.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{folder}: the record names {entry.path!r}, which is outside the folder")
        found = _digest(path) if path.is_file() else "missing"
        checks.append(
            Check(
                claim=f"{entry.path} is the recorded file",
                holds=found == entry.sha256,
                recorded=entry.sha256[:12],
                found=found[:12],
            )
        )
    return checks


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _subject(record: RunRecord, folder: Path) -> Subject:
    trial = record.trial(record.best.trial) if record.best else record.baseline
    if trial.artifact is None or not trial.artifact.files:
        raise InputError(f"{folder}: the record names no files for trial {trial.id}")
    return Subject(trial.artifact, folder, "saved")


def _answers(record: RunRecord, folder: Path) -> Check:
    """Run the saved model on the inputs saved with it, in a fresh process."""
    inputs, expected = read_witness(folder / FILE)
    with tempfile.TemporaryDirectory(prefix="hasten-") as work:
        writer = StoreWriter(Path(work) / "store", list(inputs[0]))
        for sample in inputs:
            writer.append(sample)
        role = Selection(writer.close(), range(len(inputs)))
        try:
            answers = measuring.predict(
                _subject(record, folder), role, _conditions(record), Path(work) / "answers"
            )
        except TrialError as error:
            return Check(claim="it runs here", holds=False, recorded=record.machine.cpu, found=str(error))
        apart = disagreement(expected, [answers.store.sample(i) for i in range(len(inputs))])
    return Check(
        claim=f"it gives the recorded answers to {len(inputs)} inputs",
        holds=apart <= _SAME_ANSWERS,
        recorded=f"normalized error at most {_SAME_ANSWERS:g}",
        found=f"normalized error {apart:.2g}",
    )


def _conditions(record: RunRecord) -> Conditions:
    budget = record.budget
    return Conditions(
        batch=budget.batch,
        threads=budget.threads,
        seed=budget.seed,
        throughput=budget.objective == "throughput",
    )


def _measured(record: RunRecord, folder: Path, model: Any, data: Any) -> list[Check]:
    """Measure the original and the saved model side by side on the same holdout."""
    from hasten import loaders

    shapes = {n: tuple(map(int, s.split("x"))) for n, s in record.budget.shapes.items()}
    with tempfile.TemporaryDirectory(prefix="hasten-") as name:
        work = Path(name)
        inputs = record.budget.inputs
        samples = None if inputs else to_trace(model, data)
        loaded = loaders.read(model, inputs=inputs, shapes=shapes, samples=samples, work=work)
        same_model = loaded.graph.fingerprint == record.model.sha256
        store, _ = data_room.ingest(data, loaded.graph.inputs, work / "store", seed=record.budget.seed)
        same_data = store.sha256 == record.data.sha256
        checks = [
            _same(
                "the original is the recorded model",
                same_model,
                record.model.sha256,
                loaded.graph.fingerprint,
            ),
            _same("the data are the recorded data", same_data, record.data.sha256, store.sha256),
        ]
        if record.best is None:
            return [*checks, _unmeasured(record)]
        if not (same_model and same_data):
            return checks
        original = work / "original.onnx"
        loaded.graph.stripped().write(original)
        settings = {
            "seed": record.budget.seed,
            "threads": record.budget.threads,
            "batch": record.budget.batch,
        }
        workshop = Workshop(original, work / "store", work, settings)
        baseline = record.baseline
        built = workshop.apply(Recipe())
        artifact, place = workshop.export(built, baseline.target, baseline.options, {}, "original")
        workshop.close()
        roles: Roles = split(store, record.budget.seed, calibrate=record.data.train is None)
        asked = record.budget.metric_asked
        reference, found = measuring.compare(
            [Subject(artifact, place, "original"), _subject(record, folder)],
            roles.holdout,
            # A metric of the user's own is not in the record: what else was claimed is measured without it.
            "agreement" if asked is None else asked or None,
            _conditions(record),
            work,
            budget=record.budget.to_budget(),
        )
        assert isinstance(reference, Scorecard)  # its error would have been raised
        if isinstance(found, TrialError):
            raise found
        return [*checks, *_claims(record, record.best, reference, found)]


def _same(claim: str, holds: bool, recorded: str, found: str) -> Check:
    return Check(claim=claim, holds=holds, recorded=recorded[:12], found=found[:12])


def _claims(record: RunRecord, best: Best, reference: Scorecard, found: Scorecard) -> list[Check]:
    """What was recorded beside what was found; a claim fails where what was found is worse."""
    recorded, objective = best.holdout, record.budget.objective
    checks = []
    if record.verdict == "smaller" or objective == "size":
        checks += _size(record.baseline.size_bytes, recorded.size_bytes, reference, found)
    was, now = recorded.gain(objective), found.gain(objective)
    if was is not None and now is not None:
        checks.append(_speed(was, now, objective))
    if recorded.quality is not None and found.quality is not None:
        checks.append(_quality(recorded.quality, found.quality))
    return checks


def _size(before: int | None, after: int | None, reference: Scorecard, found: Scorecard) -> list[Check]:
    if not (before and after and reference.size_bytes and found.size_bytes) or after >= before:
        return []
    was, now = before / after, reference.size_bytes / found.size_bytes
    return [
        Check(
            claim="it is smaller than the original by the recorded factor",
            holds=now > 1 and now >= (1 - _SIZE_TOLERANCE) * was,
            recorded=f"{ratio_text(was)} ({before:,} to {after:,} bytes)",
            found=f"{ratio_text(now)} ({reference.size_bytes:,} to {found.size_bytes:,} bytes)",
        )
    ]


def _speed(was: Comparison, now: Comparison, objective: Objective) -> Check:
    faster = was.verdict == "better"
    more, less = (
        ("it answers more samples a second than the original", "it answers no fewer samples a second")
        if objective == "throughput"
        else ("it is faster than the original", "it is no slower")
    )
    return Check(
        claim=f"{more} by the recorded factor" if faster else f"{less} than recorded",
        # Where no gain was claimed none is asked for: a size result is as fast, or as slow, as it was.
        holds=now.ci95[1] >= (1 - _TOLERANCE) * was.ci95[0] and (now.verdict == "better" or not faster),
        recorded=_with_interval(was),
        found=_with_interval(now),
    )


def _with_interval(gain: Comparison) -> str:
    low, high = gain.ci95
    return f"{ratio_text(gain.median)} ({ratio_text(low)} to {ratio_text(high)})"


def _quality(before: Quality, after: Quality) -> Check:
    same = before.metric == after.metric
    found = f"{after.value:.4f}, drop {after.drop:+.4f} ({after.budget})"
    return Check(
        claim=f"it keeps its {before.metric} on the holdout",
        holds=after.budget != "missed" if same else None,
        recorded=f"{before.value:.4f}, drop {before.drop:+.4f} ({before.budget})",
        found=found if same else f"the record names this metric but does not hold it; {after.metric} {found}",
    )
