"""What does the runtime really execute? Its kernels for subjects, each read in a fresh process."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from hasten.core.data import Dataset
from hasten.core.layers import Kernel
from hasten.measuring.feeds import choose_feeds
from hasten.measuring.predict import key_of
from hasten.measuring.subject import Conditions, Subject
from hasten.measuring.workers import Lane

_KERNELS = TypeAdapter(list[tuple[Kernel, ...]])
_TURNS = 3


def kernels(
    subjects: Sequence[Subject], data: Dataset, conditions: Conditions, work: Path
) -> list[tuple[Kernel, ...]]:
    """Every operation the runtime executes for one batch of the data, in order; none where it says nothing.

    Times are the profiler's, which has a cost of its own: their shares count, their sum is no latency.
    Several subjects are read in turns, and of each kernel counts the turn in which it took least: what else
    the machine did meanwhile is then not taken for a difference between them. Times are kept in ``work`` and
    not taken again: they vary, and a run that is resumed has to decide as it did.
    Raises TrialError when an artifact cannot be opened or run, WorkerError when its process dies or hangs.
    """
    keys = ":".join(key_of(subject, data, conditions) for subject in subjects)
    path = work / f"{hashlib.sha256(keys.encode()).hexdigest()[:16]}.json"
    if not path.exists():
        found = _in_turns(subjects, data, conditions)
        work.mkdir(parents=True, exist_ok=True)
        whole = path.with_suffix(".part")
        whole.write_bytes(_KERNELS.dump_json(found))
        whole.replace(path)
    return _KERNELS.validate_json(path.read_bytes())


def _in_turns(subjects: Sequence[Subject], data: Dataset, conditions: Conditions) -> list[tuple[Kernel, ...]]:
    batches: Any = choose_feeds(data, conditions)[:1]
    store = str(data.store.folder.resolve())
    with ExitStack() as stack:
        lanes = [stack.enter_context(Lane(subject, conditions)) for subject in subjects]
        for lane in lanes:
            lane.open(conditions)
            lane.ask("preload", store=store, batches=batches, batch=conditions.batch)
        turns = [
            _KERNELS.validate_python([lane.ask("read_kernels") for lane in lanes])
            for _ in range(_TURNS if len(lanes) > 1 else 1)
        ]
    return [_least(read) for read in zip(*turns, strict=True)]


def _least(turns: Sequence[tuple[Kernel, ...]]) -> tuple[Kernel, ...]:
    """Each kernel as it took least; where control flow ran others in each turn, the turn that took least."""
    names = [[kernel.name for kernel in turn] for turn in turns]
    if any(other != names[0] for other in names[1:]):
        return min(turns, key=lambda turn: sum(map(_us, turn)))
    return tuple(min(same, key=_us) for same in zip(*turns, strict=True))


def _us(kernel: Kernel) -> float:
    return kernel.time_us or 0.0
