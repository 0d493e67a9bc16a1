"""``hasten verify``: do the recorded claims hold here and now?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hasten.cli import options

REFUTED = 3


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `hasten optimize` wrote.")],
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="MODEL", help="The original, to check speed-up and quality."),
    ] = None,
    data: options.MaybeDataOption = None,
    json: options.JsonOption = False,
) -> None:
    """Hash and run the files of DIR again, measure them beside the original, and say which claims hold here.

    Without the original and its data nothing is measured. Ends with status 3 when a claim does not hold.
    """
    from hasten.cli import show
    from hasten.search.verify import verify

    options.import_from_here(model, data)
    checks = verify(folder, model, data)
    show.checks(checks, as_json=json)
    if any(check.holds is False for check in checks):
        raise typer.Exit(REFUTED)
