"""``hasten report``: write report.html again from the record."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `hasten optimize` wrote.")],
) -> None:
    """Write DIR/report.html again from DIR/hasten.json, and print the verdict."""
    from hasten import report
    from hasten.core.record import RunRecord

    record = RunRecord.read(folder)
    report.write(record, folder / "report.html")
    typer.echo("\n".join(report.summary(record, folder)))
