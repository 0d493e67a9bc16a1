"""Progress: a live display on a terminal, plain lines otherwise; always on standard error."""

from __future__ import annotations

import sys
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from hasten.core.record import Trial
    from hasten.search.request import Event


class Display:
    """Shows events as they come; a context manager that tidies the terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._began = monotonic()
        self._live = sys.stderr.isatty()
        self._status = self._console.status("starting") if self._live else None

    def show(self, event: Event) -> None:
        """Show what is being done, or what came of a trial."""
        if event.trial is not None:
            self._line(f"{_outcome(event.trial)}  {event.what}")
            return
        left = "" if event.seconds_left is None else f", {max(0.0, event.seconds_left):.0f} s left"
        best = "" if event.best is None else f"; best so far {_speed(event.best)}"
        if self._status is not None:
            self._status.update(escape(f"{event.what} ({monotonic() - self._began:.0f} s{left}{best})"))
        elif event.seconds_left is None:
            self._line(event.what)

    def _line(self, text: str) -> None:
        printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
        self._console.print(escape(f"{monotonic() - self._began:6.1f} s  {printable}"), soft_wrap=True)

    def __enter__(self) -> Display:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()


def _speed(trial: Trial) -> str:
    from hasten.core.measurement import ratio_text

    gain = trial.throughput_gain or trial.speedup
    if gain is None:
        return "not timed"
    if gain.verdict == "indistinguishable":
        return "no faster"
    return f"{ratio_text(gain.median)}x"


def _outcome(trial: Trial) -> str:
    if trial.status == "ok":
        drop = f", drop {trial.quality.drop:+.4f}" if trial.quality else ""
        return f"{_speed(trial):>9}{drop}"
    return (
        f"{trial.status:>9} ({_speed(trial)}): {trial.reason}"
        if trial.speedup
        else f"{trial.status}: {trial.reason}"
    )
