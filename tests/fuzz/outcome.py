"""What may become of a mutated file, and the report of anything else."""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hasten.core.errors import HastenError

LONGEST_MESSAGE = 1500
LONGEST_S = 20.0
"""Far above what any of these files takes on a busy machine, far below a hang."""

MOST_SHOWN = 5


def fault_of(message: str) -> str | None:
    """What is wrong with the message of an error, or None."""
    if not message.strip():
        return "the message is empty"
    if len(message) > LONGEST_MESSAGE:
        return f"the message has {len(message)} characters: {message[:200]}…"
    if not all(c.isprintable() for c in message):
        return f"the message has line breaks or control characters: {message!r}"
    if re.search(r"Traceback|File \"|\b0x[0-9a-f]{8,}", message):
        return f"the message shows insides: {message!r}"
    return None


def _described(error: BaseException) -> str:
    """The innermost error of a chain, and the line of hasten it came through."""
    while error.__cause__ is not None:
        error = error.__cause__
    ours = [f for f in traceback.extract_tb(error.__traceback__) if "hasten" in Path(f.filename).parts] or [
        None
    ]
    through = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours[-1] else "outside hasten"
    return f"{type(error).__name__} through {through}: {str(error)[:300]!r}"


@dataclass
class Hunt:
    """Runs many inputs, keeps those that got past hasten's own errors, and fails with all of them at once."""

    folder: Path
    suffix: str
    accepted: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)

    def run(self, name: str, content: bytes, act: Callable[[], object]) -> bool:
        """Whether ``act`` accepted the input; an error of hasten's tree with a good message refuses it."""
        began = time.monotonic()
        fault: str | None = None
        accepted = False
        try:
            act()
            accepted = True
        except HastenError as error:
            fault = fault_of(str(error))
        except Exception as error:  # noqa: BLE001 - whatever gets past is what this looks for
            fault = _described(error)
        took_s = time.monotonic() - began
        if fault is None and took_s > LONGEST_S:
            fault = f"it took {took_s:.0f} s"
        if fault is not None:
            self._keep(name, content, fault)
        self.accepted += accepted
        self.refused += not accepted
        return accepted

    def _keep(self, name: str, content: bytes, fault: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{name}{self.suffix}"
        path.write_bytes(content)
        self.faults.append(f"{path}: {fault}")

    def finish(self) -> None:
        """Fail when anything got past."""
        kinds: dict[str, str] = {}
        for line in self.faults:
            kinds.setdefault(line.partition(": ")[2][:60], line)
        shown = [line[:500] for line in kinds.values()][:MOST_SHOWN]
        if self.faults:
            pytest.fail("\n".join([f"{len(self.faults)} inputs got past; saved:", *shown]), pytrace=False)
