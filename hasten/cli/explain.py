"""``hasten explain``: what became of each layer, and why it is not faster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hasten.cli import options


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `hasten optimize` wrote.")],
    all_: Annotated[bool, typer.Option("--all", help="List every layer, not only the first 15.")] = False,
    json: options.JsonOption = False,
) -> None:
    """Say which layers of DIR cost quality, in which precision each really runs, and which samples changed.

    Everything is read from DIR/hasten.json; nothing is run.
    """
    from hasten.cli import show
    from hasten.core.record import RunRecord

    show.explanation(RunRecord.read(folder), everything=all_, as_json=json)
