"""Finished trials, written at once: a run that is cut off loses nothing it had finished."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hasten.core.errors import OutputError, RecordError
from hasten.core.record import Trial


class Journal:
    """An append-only file of trials in a run's folder; the first line says which run it belongs to.

    A line cut short by a kill is ignored on reading; every complete line is a finished trial.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "journal.jsonl"

    @property
    def begun(self) -> bool:
        """Whether there is a run to resume: one that has finished a trial, which is the second line."""
        return self._path.is_file() and self._path.read_bytes().count(b"\n") > 1

    def claim(self, resume: bool) -> None:
        """Make the run's folder, or see that it holds a run to resume.

        Raises RecordError where there is none; OutputError, and leaves all as it is, for a folder that holds
        another run or something else, or that cannot be written.
        """
        if resume:
            if not self.begun:
                raise RecordError(f"there is no unfinished run in {self.folder}; start one without --resume")
            return
        if self.begun:
            raise OutputError(f"{self.folder} holds a run: go on with resume=True, or give another folder")
        try:
            if self._path.is_file():
                self._clear()  # what a run left that came to nothing
            self.folder.mkdir(parents=True, exist_ok=True)
            taken = next(self.folder.iterdir(), None)
            if taken is None:
                self._path.touch()
        except OSError as error:
            raise OutputError(f"cannot write the run's folder {self.folder}: {error.strerror}") from error
        if taken is not None:
            raise OutputError(
                f"{self.folder} is not empty, it holds {taken.name}: give an empty or a new folder"
            )

    def _clear(self) -> None:
        """Remove all that is in the folder; the folder stays, since the lock is on it."""
        for entry in self.folder.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def begin(self, identity: Mapping[str, str]) -> dict[str, Trial]:
        """Write the first line of a new journal; returns the trials known so far, none."""
        try:
            self._append(json.dumps(dict(identity), sort_keys=True))
        except OSError as error:
            raise OutputError(f"cannot write {self._path}: {error.strerror}") from error
        return {}

    def resume(self, identity: Mapping[str, str]) -> dict[str, Trial]:
        """Read the finished trials of a run that was cut off, by id.

        Raises RecordError when it was a run of another model, data or settings.
        """
        lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        before = _identity(lines)
        if before is None:
            raise RecordError(f"{self._path} is damaged; use --force to start over")
        for key, value in identity.items():
            if before.get(key) != value:
                raise RecordError(
                    f"the unfinished run in {self.folder} had another {key}; use --force to start over"
                )
        trials: dict[str, Trial] = {}
        for line in lines[1:]:
            try:
                trial = Trial.model_validate_json(line)
            except ValidationError:
                continue
            trials[trial.id] = trial
        return trials

    def add(self, trial: Trial) -> None:
        """Append one finished trial and force it to disk; raises OutputError."""
        try:
            self._append(trial.model_dump_json())
        except OSError as error:
            raise OutputError(
                f"cannot write {self._path}: {error.strerror}; finished trials are kept"
            ) from error

    def _append(self, line: str) -> None:
        needs_break = self._path.exists() and not self._path.read_bytes().endswith(b"\n")
        with self._path.open("a", encoding="utf-8") as file:
            file.write(("\n" if needs_break and self._path.stat().st_size else "") + line + "\n")
            file.flush()
            os.fsync(file.fileno())


def _identity(lines: Sequence[str]) -> dict[str, Any] | None:
    """What the first line says of the run; None where it is damaged."""
    try:
        found = json.loads(lines[0]) if lines else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
