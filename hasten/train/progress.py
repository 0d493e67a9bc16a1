"""A live bar on a terminal: steps, loss, metric and the time left."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from hasten.train.history import Event


class Bar:
    """A listener that shows what it hears; a context manager that tidies the terminal.

    Where standard error is no terminal it says nothing.
    """

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console(stderr=True, highlight=False)
        self._metric = ""
        self._task: TaskID | None = None
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
            console=console,
            transient=True,
            disable=not (console.is_terminal or sys.stderr.isatty()),
        )

    def __call__(self, event: Event) -> None:
        """Show how far it is."""
        if event.evaluation is not None:
            row = event.evaluation
            figure = "" if row.metric is None else f", {event.metric} {row.metric:.4f}"
            self._metric = f"; held back: loss {row.loss:.4g}{figure}"
        loss = "" if event.loss is None else f"loss {event.loss:.4g}"
        left = "" if event.seconds_left is None else f"; {_time(event.seconds_left)} left"
        said = loss + self._metric + left
        if self._task is None:
            self._task = self._progress.add_task("training", total=event.steps, said=said)
        self._progress.update(self._task, completed=event.step, total=event.steps, said=said)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
