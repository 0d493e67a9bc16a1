"""The page: one HTML file that opens offline, made from the record alone."""

from __future__ import annotations

import os
from pathlib import Path

from hasten.core.errors import OutputError
from hasten.core.record import RunRecord


def render(record: RunRecord) -> str:
    """The report as one self-contained HTML page; a pure function of the record.

    Everything that comes from the record is escaped. Raises RecordError when the record names a trial
    that it does not hold.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("hasten.report"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("report.html").render(record=record)


def write(record: RunRecord, path: Path) -> None:
    """Write the page to ``path``, whole or not at all; raises OutputError and RecordError."""
    page = render(record).encode("utf-8")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            with temporary.open("wb") as file:
                file.write(page)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(
            f"{path}: {error.strerror}; give a folder that exists, is writable and has room"
        ) from error
