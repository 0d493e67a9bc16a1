"""``hasten methods``: what can be done to a model."""

from __future__ import annotations

from typing import Annotated

import typer

from hasten.cli import options


def command(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A method, to see its card.")] = None,
    json: options.JsonOption = False,
) -> None:
    """List what can be done to a model, or show one method's parameters."""
    from hasten.cli import show

    show.methods(name, as_json=json)
