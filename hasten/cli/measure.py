"""``hasten measure``: models side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hasten.cli import options
from hasten.core.budget import Budget, parse_drop


def command(  # noqa: PLR0913, PLR0917 - one parameter an option of the command line
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL...",
            help="Files (.onnx, .onnx.zst, .xml, .pt2) or saved folders; the first is the reference.",
        ),
    ],
    data: options.MaybeDataOption = None,
    metric: options.MetricOption = None,
    max_drop: options.DropOption = "1%",
    batch: options.BatchOption = 1,
    threads: options.ThreadsOption = None,
    seed: options.SeedOption = 0,
    json: options.JsonOption = False,
) -> None:
    """Measure models side by side: speed in interleaved rounds, size, memory, and with DATA the quality."""
    from hasten import api
    from hasten.cli import show

    options.import_from_here(data, metric)
    drop, points = parse_drop(max_drop)
    cards = api.measure(
        models,
        data,
        metric=metric,
        budget=Budget(max_drop=drop, points=points),
        batch=batch,
        threads=threads,
        seed=seed,
        listener=show.note,
    )
    show.scorecards([str(m) for m in models], cards, as_json=json)
