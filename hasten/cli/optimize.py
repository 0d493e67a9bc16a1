"""``hasten optimize``: the main job."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hasten.cli import options
from hasten.cli.interrupt import Interrupt
from hasten.core.budget import Budget, Objective, parse_drop, parse_seconds
from hasten.core.errors import OutputError

if TYPE_CHECKING:
    from hasten.core.recipe import Recipe
    from hasten.search.request import Event

KEPT = 3
INTERRUPTED = 130


def command(  # noqa: PLR0913, PLR0917 - one parameter an option of the command line
    model: options.ModelArgument,
    data: options.DataOption,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Folder to write the result to.")
    ],
    train: Annotated[
        str | None,
        typer.Option(
            "--train",
            metavar="DATA",
            help="Data to calibrate and learn from. Without it a part of --data is taken for that.",
        ),
    ] = None,
    metric: options.MetricOption = None,
    max_drop: options.DropOption = "1%",
    target: Annotated[str, typer.Option("--target", help="cpu, or one of `hasten targets`.")] = "cpu",
    objective: Annotated[
        str, typer.Option("--objective", metavar="latency|throughput|size", help="What to make best.")
    ] = "latency",
    time_budget: Annotated[
        str, typer.Option("--time-budget", metavar="TIME", help="For the search: 90s, 5m, 1h30m.")
    ] = "5m",
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="Try this recipe alone (YAML or JSON).")
    ] = None,
    shape: options.ShapeOption = None,
    input_: options.InputOption = None,
    batch: options.BatchOption = 1,
    threads: options.MostThreadsOption = None,
    seed: options.SeedOption = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was cut off.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier result or run.")] = False,
    json: options.JsonOption = False,
) -> None:
    """Find the fastest version of MODEL that keeps its quality on DATA, and save it with the evidence."""
    drop, points = parse_drop(max_drop)
    budget = Budget(
        max_drop=drop, points=points, time_s=parse_seconds(time_budget), objective=_objective(objective)
    )
    shapes = options.read_shapes(shape)
    work = _claim(output, resume, force)

    from hasten import api
    from hasten.cli import show
    from hasten.cli.live import Display

    options.import_from_here(model, data, train, metric)
    try:
        with Interrupt() as interrupt, Display() as display:

            def listen(event: Event) -> None:
                interrupt.check()
                display.show(event)

            result = api.optimize(
                model,
                data,
                train=train,
                metric=metric,
                budget=budget,
                target=target,
                recipe=_recipe(recipe),
                inputs=tuple(input_ or ()),
                shapes=shapes,
                batch=batch,
                threads=threads,
                seed=seed,
                folder=work,
                resume=resume,
                listener=listen,
            )
    except (KeyboardInterrupt, ValueError) as error:
        if not interrupted(error):
            raise
        kept = "finished trials are kept, --resume continues" if _begun(work) else "nothing was tried yet"
        typer.echo(f"hasten: interrupted; {kept}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        _tidy(work)
    result.save(output, force=force)
    shutil.rmtree(work, ignore_errors=True)
    show.notes(result.record.data)
    if json:
        typer.echo(result.record.to_json())
    else:
        from hasten import report

        typer.echo("\n".join(report.summary(result.record, output)))
    if result.record.verdict == "kept":
        raise typer.Exit(KEPT)


def interrupted(error: BaseException | None) -> bool:
    """Whether it is an interrupt, or was raised on the way out of one.

    A zip file that is being written raises a ValueError of its own when it is closed by an interrupt.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _objective(text: str) -> Objective:
    match text:
        case "latency" | "throughput" | "size":
            return text
    raise typer.BadParameter(f"{text!r} is none of latency, throughput, size", param_hint="--objective")


def _recipe(path: Path | None) -> Recipe | None:
    if path is None:
        return None
    from hasten import methods
    from hasten.core.recipe import Recipe

    recipe = Recipe.read(path)
    methods.validate(recipe)
    return recipe


def _claim(output: Path, resume: bool, force: bool) -> Path:
    """The folder of the run beside the output; raises OutputError when either is in the way."""
    from hasten.core.paths import exists
    from hasten.deliver import check_destination
    from hasten.search.occupied import occupied

    check_destination(output, force)
    work = output.resolve().with_name(f".{output.resolve().name}.run")
    if exists(work, OutputError) and not resume:
        with occupied(work):
            if _begun(work) and not force:
                raise OutputError(
                    f"an unfinished run for {output} is in {work}; "
                    "continue it with --resume or discard it with --force"
                )
            if force:
                shutil.rmtree(work, ignore_errors=True)
    return work


def _tidy(work: Path) -> None:
    """Remove the folder of a run that has nothing to resume, unless another run is using it."""
    from hasten.search.occupied import occupied

    if work.is_dir() and not _begun(work):
        with suppress(OutputError), occupied(work):
            shutil.rmtree(work, ignore_errors=True)


def _begun(work: Path) -> bool:
    """Whether a run's folder has something to resume."""
    from hasten.search.journal import Journal

    return Journal(work).begun
