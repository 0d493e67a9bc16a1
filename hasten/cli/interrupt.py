"""Ctrl-C that is not lost."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any


class Interrupt:
    """Raises KeyboardInterrupt at Ctrl-C while it is entered, and again at ``check`` where it was lost.

    Python raises it wherever it happens to be. In a destructor, or in what C calls back, it is printed and
    forgotten, and a long run would go on as if nobody had asked.
    """

    def __init__(self) -> None:
        self._asked = False
        self._before: Any = None

    def __enter__(self) -> Interrupt:
        self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raise KeyboardInterrupt where one was asked for."""
        if self._asked:
            raise KeyboardInterrupt
