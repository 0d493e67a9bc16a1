"""``hasten apply``: one recipe, no search."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from hasten.cli import options
from hasten.core.errors import OutputError


def command(  # noqa: PLR0913, PLR0917 - one parameter an option of the command line
    model: options.ModelArgument,
    recipe: Annotated[Path, typer.Option("--recipe", help="The recipe, as YAML or JSON.")],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="FILE", help="File to write: .onnx, or .onnx.zst to compress it too."
        ),
    ],
    data: options.MaybeDataOption = None,
    shape: options.ShapeOption = None,
    input_: options.InputOption = None,
    seed: options.SeedOption = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    json: options.JsonOption = False,
) -> None:
    """Apply one recipe to MODEL and write the changed model, without searching or measuring."""
    from hasten import api
    from hasten.cli import show
    from hasten.core.recipe import Recipe
    from hasten.graph.packed import is_packed

    _check_output(output, force)

    options.import_from_here(model, data)
    steps = Recipe.read(recipe)
    graph = api.read(model, inputs=tuple(input_ or ()), shapes=options.read_shapes(shape))
    change = api.apply(graph, steps, data, seed=seed, listener=show.note)
    _make_folder(output.parent)
    change.graph.stripped().write(output)
    if is_packed(output):
        unpacking = f"no runtime opens {output.name} as it is: unpack it first, with `zstd -d {output.name}`"
        change = replace(change, notes=(*change.notes, unpacking))
    show.change(change, output, as_json=json)


def _check_output(output: Path, force: bool) -> None:
    """Refuse, before any work, a file that cannot be written; raises OutputError."""
    from hasten.core.paths import exists
    from hasten.deliver import check_writable
    from hasten.graph.packed import SUFFIX, is_packed

    if exists(output, OutputError) and not force:
        raise OutputError(f"{output} exists already; choose another name or replace it with --force")
    if output.is_dir():
        raise OutputError(f"{output} is a folder; choose another name")
    if output.suffix != ".onnx" and not is_packed(output):
        raise OutputError(f"{output} must end in .onnx or {SUFFIX}")
    check_writable(output.absolute().parent)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}") from error
