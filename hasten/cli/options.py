"""Arguments and options that several commands share, so that they are spelled and explained once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from hasten.core.paths import exists

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="An .onnx, .onnx.zst, .pt2 or .keras file, a SavedModel folder, or package.module:function that "
        "returns a torch module or a Keras model.",
    ),
]
DataOption = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="DATA",
        help="An .npz or .parquet file, an image folder, or package.module:function.",
    ),
]
MaybeDataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DATA",
        help="An .npz or .parquet file, an image folder, or package.module:function.",
    ),
]
MetricOption = Annotated[
    str | None,
    typer.Option(
        "--metric",
        metavar="NAME",
        help="accuracy, top5, f1, mse, mae, spearman, agreement, or package.module:function. "
        "By default accuracy with class labels and agreement with the original without labels.",
    ),
]
DropOption = Annotated[
    str,
    typer.Option("--max-drop", metavar="DROP", help="Largest loss: 1% of the original's value, or 0.5pt."),
]
BatchOption = Annotated[int, typer.Option("--batch", min=1, help="Samples in one inference.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="Cores to use; by default all.")]
MostThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="Cores to use; by default all, and fewer if faster.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of every random choice.")]
ShapeOption = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="NAME=1x3x224x224", help="Fix an input's shape. May be repeated."),
]
InputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input", metavar="NAME=1x3x224x224[:dtype]", help="What a torch module takes. May be repeated."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


def import_from_here(*sources: str | None) -> None:
    """Let ``package.module:function`` name modules of the current folder, as ``python -m`` does."""
    here = str(Path.cwd())
    if any(s and ":" in s and not exists(Path(s)) for s in sources) and here not in sys.path:
        sys.path.insert(0, here)


def read_shapes(given: list[str] | None) -> dict[str, tuple[int, ...]]:
    """Read ``NAME=1x3x224x224`` options; raises InputError."""
    if not given:
        return {}
    from hasten.loaders.shapes import parse_shape

    return dict(parse_shape(text) for text in given)
