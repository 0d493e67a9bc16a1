"""``hasten targets``: which runtimes work here."""

from __future__ import annotations

from hasten.cli import options


def command(json: options.JsonOption = False) -> None:
    """List the runtimes that work on this machine, and why the others do not."""
    from hasten.cli import show
    from hasten.targets import inventory

    show.inventory(inventory(), as_json=json)
