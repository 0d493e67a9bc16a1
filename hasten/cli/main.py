"""The command ``hasten``: registers the commands and turns errors into exit statuses.

0 done (``optimize``: a better model was saved), 1 a fault of hasten's own, 2 bad arguments or input,
3 ``optimize`` kept the original, 130 interrupted.
"""

from __future__ import annotations

import sys
import traceback

import typer

from hasten import __version__
from hasten.cli import apply, explain, inspect, measure, methods, optimize, report, targets, verify
from hasten.core.errors import HastenError

FAULT = 1
BAD_INPUT = 2

app = typer.Typer(
    name="hasten",
    help="Give it a trained model, data and a budget; back comes the fastest version that keeps its quality, "
    "with the evidence.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"hasten {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    pass


for module in (optimize, inspect, apply, measure, verify, explain, report, targets, methods):
    app.command(name=module.__name__.rpartition(".")[2])(module.command)


def _report_fault() -> None:
    """The last resort: a fault of hasten's own keeps its traceback, and says how to report it."""
    traceback.print_exc()
    print(
        f"\nThis is a fault of hasten {__version__}, not of your input. Please report it to the project's "
        "issue tracker with the lines above and the command you typed.",
        file=sys.stderr,
    )


def main() -> None:
    """Run the command line; ends the process with the exit status of the command."""
    try:
        app()
    except HastenError as error:
        print(f"hasten: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except Exception:  # noqa: BLE001 - whatever it is, it was not meant to happen
        _report_fault()
        sys.exit(FAULT)


if __name__ == "__main__":
    main()
