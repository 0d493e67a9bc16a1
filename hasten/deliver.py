"""A finished run becomes a folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hasten import report
from hasten.core.errors import OutputError
from hasten.core.paths import exists
from hasten.core.record import RunRecord
from hasten.measuring import Subject
from hasten.search.witness import FILE, Witness, write_witness
from hasten.targets.files import entries


def check_destination(folder: Path, force: bool) -> None:
    """Refuse an output folder that exists (without ``force``) or cannot be written; raises OutputError."""
    if exists(folder, OutputError) and not folder.is_dir():
        raise OutputError(f"{folder} is a file; give a folder that does not exist yet")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise OutputError(f"{folder} exists already; choose another folder or replace it with --force")
    if folder.is_dir() and force and any(folder.iterdir()) and not (folder / "hasten.json").is_file():
        raise OutputError(
            f"{folder} was not made by hasten, so --force does not replace it; choose another folder"
        )
    check_writable(folder.resolve().parent)


def check_writable(folder: Path) -> None:
    """Raise OutputError where nothing can be written to a folder, or it cannot be made."""
    while not exists(folder, OutputError):
        folder = folder.parent
    if not folder.is_dir():
        raise OutputError(f"{folder} is a file, so nothing can be in it; choose another folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder} is not writable; choose another folder")


def write_result(record: RunRecord, saved: Subject, witness: Witness, into: Path) -> RunRecord:
    """Put the files, the record and the report into ``into``; returns the record with its files.

    saved: the artifact to deploy. witness: answers it gave, for ``hasten verify``.
    """
    try:
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir(parents=True)
        for entry in saved.artifact.files:
            target = into / entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(saved.folder / entry.path, target)
        write_witness(into / FILE, witness)
        record = record.model_copy(update={"files": entries(into, sorted(p.name for p in into.iterdir()))})
        (into / "hasten.json").write_text(record.to_json(), encoding="utf-8")
        report.write(record, into / "report.html")
    except OSError as error:
        raise OutputError(f"cannot write the result to {into}: {error.strerror}") from error
    return record


def publish(result: Path, folder: Path, force: bool) -> None:
    """Move a finished result to where the user wants it, whole or not at all; raises OutputError."""
    check_destination(folder, force)
    folder = folder.resolve()  # "." has no name, and what a link leads to is meant, not the link
    staged = folder.with_name(f".{folder.name}.new")
    replaced = folder.with_name(f".{folder.name}.old")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staged, ignore_errors=True)
        shutil.copytree(result, staged)
        if folder == Path.cwd():
            _fill(folder, staged)
            return
        if folder.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            os.replace(folder, replaced)
        os.replace(staged, folder)
        shutil.rmtree(replaced, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(staged, ignore_errors=True)
        # copytree gathers its errors as (from, to, reason) and has none of its own.
        reason = error.args[0][0][2] if isinstance(error, shutil.Error) else error.strerror
        raise OutputError(f"cannot write {folder}: {reason}; the result is in {result}") from error


def _fill(folder: Path, staged: Path) -> None:
    """Move a result into the folder one is in, which would be lost from under one's feet if it were renamed.

    The record comes last: it is what makes a result of a folder.
    """
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    for entry in sorted(staged.iterdir(), key=lambda entry: entry.name == "hasten.json"):
        os.replace(entry, folder / entry.name)
    staged.rmdir()
