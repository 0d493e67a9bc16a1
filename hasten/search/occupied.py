"""One run at a time in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hasten.core.errors import OutputError

try:
    import fcntl
except ImportError:  # not on Windows, where nothing keeps two runs apart
    fcntl = None  # type: ignore[assignment]


@contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Keep a run's folder, which is made where there is none, to this process.

    The system forgets the lock with the process, so what was killed leaves none. Raises OutputError where
    another run is using the folder, or where it cannot be made.
    """
    made = not folder.is_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write the run's folder {folder}: {error.strerror}") from error
    lock = None if fcntl is None else os.open(folder, os.O_RDONLY)
    try:
        if lock is not None:
            _lock(lock, folder)
        yield
    finally:
        if lock is not None:
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_UN)  # closing may free it later
            os.close(lock)
        if made:
            with suppress(OSError):
                folder.rmdir()  # what nothing was written to


def _lock(opened: int, folder: Path) -> None:
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(
            f"another run is using {folder}; wait until it has ended, or choose another output"
        ) from error
    except OSError:
        pass  # some network file systems have no locks
