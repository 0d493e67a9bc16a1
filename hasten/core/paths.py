"""Is there such a file? What the user names may be no name at all, or out of reach."""

from __future__ import annotations

from pathlib import Path

from hasten.core.errors import InputError, ModelError


def exists(path: Path, error_type: type[InputError] = InputError) -> bool:
    """Whether there is such a file or folder; raises ``error_type`` where that cannot be told."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise error_type(f"{path} cannot be looked at: {error.strerror}") from error
    except ValueError as error:  # a null byte
        raise error_type(f"{str(path)!r} is not a path: {error}") from error
    return True


def size_of(path: Path) -> int:
    """The bytes of a model's file; raises ModelError for no file or an empty one, OSError out of reach."""
    if not path.is_file():
        raise ModelError("there is no such file" if not path.exists() else "it is not a file")
    size = path.stat().st_size
    if size == 0:
        raise ModelError("the file is empty")
    return size
