"""What does the runtime really execute? Its kernels for a subject, read in a fresh process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from hasten.core.data import Dataset
from hasten.core.record import Kernel
from hasten.measuring.feeds import choose_feeds
from hasten.measuring.predict import key_of
from hasten.measuring.subject import Conditions, Subject
from hasten.measuring.workers import Lane

_KERNELS = TypeAdapter(tuple[Kernel, ...])


def kernels(subject: Subject, data: Dataset, conditions: Conditions, work: Path) -> tuple[Kernel, ...]:
    """Every operation the runtime executes for one batch of the data, in order; none where it says nothing.

    Times are the profiler's, which has a cost of its own: their shares count, their sum is no latency. They
    are kept in ``work`` and not taken again: times vary, and a run that is resumed has to decide as it did.
    Raises TrialError when the artifact cannot be opened or run, WorkerError when its process dies or hangs.
    """
    path = work / f"{key_of(subject, data, conditions)}.json"
    if not path.exists():
        batches: Any = choose_feeds(data, conditions)[:1]
        with Lane(subject, conditions) as lane:
            lane.open(conditions)
            store = str(data.store.folder.resolve())
            lane.ask("preload", store=store, batches=batches, batch=conditions.batch)
            found = _KERNELS.validate_python(lane.ask("read_kernels"))
        work.mkdir(parents=True, exist_ok=True)
        whole = path.with_suffix(".part")
        whole.write_bytes(_KERNELS.dump_json(found))
        whole.replace(path)
    return _KERNELS.validate_json(path.read_bytes())
