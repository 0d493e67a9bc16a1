"""``hasten inspect``: what a model is made of."""

from __future__ import annotations

import typer

from hasten.cli import options


def command(
    model: options.ModelArgument,
    shape: options.ShapeOption = None,
    input_: options.InputOption = None,
    json: options.JsonOption = False,
) -> None:
    """Show what MODEL is made of: operators, cost per layer, what would be tried for latency."""
    from hasten.cli import show
    from hasten.search.inspect import inspect

    options.import_from_here(model)
    found = inspect(model, inputs=tuple(input_ or ()), shapes=options.read_shapes(shape))
    if json:
        typer.echo(found.model_dump_json(indent=1))
    else:
        show.inspection(found)
