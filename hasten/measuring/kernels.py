"""What does the runtime really execute? Its kernels for a subject, read in a fresh process."""

from __future__ import annotations

from typing import Any

from hasten.core.data import Dataset
from hasten.core.record import Kernel
from hasten.measuring.feeds import choose_feeds
from hasten.measuring.subject import Conditions, Subject
from hasten.measuring.workers import Lane


def kernels(subject: Subject, data: Dataset, conditions: Conditions) -> tuple[Kernel, ...]:
    """Every operation the runtime executes for one batch of the data, in order; none where it says nothing.

    Times are the profiler's, which has a cost of its own: their shares count, their sum is no latency.
    Raises TrialError when the artifact cannot be opened or run, WorkerError when its process dies or hangs.
    """
    batches: Any = choose_feeds(data, conditions)[:1]
    with Lane(subject, conditions) as lane:
        lane.open(conditions)
        lane.ask("preload", store=str(data.store.folder.resolve()), batches=batches, batch=conditions.batch)
        found: Any = lane.ask("read_kernels")
    return tuple(Kernel.model_validate(kernel) for kernel in found)
