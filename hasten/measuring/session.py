"""The child's side: one artifact, opened in a process of its own, answers and is timed.

Every function takes and returns JSON values; the session is this process's only state.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from hasten import targets
from hasten.core.data import Array, Batch, Dataset, Store, StoreWriter
from hasten.core.errors import DataError, TrialError
from hasten.core.record import Artifact, Scalar
from hasten.core.tensor import TensorSpec

_WINDOW_S = 0.02
"""Length of a warm-up window; also enough runs for a median."""
_SETTLED = 0.02
"""Windows in a row whose medians differ by less are the end of the warm-up."""
_REST_STEP_S, _REST_LIMIT_S = 0.003, 0.2


class Session:
    """What this process has opened, prepared and begun."""

    def __init__(self) -> None:
        self.runner: targets.Runner | None = None
        self.feeds: list[dict[str, Array]] = []
        self.batch = 1
        self.answers: Iterator[int] | None = None
        self.pool: ThreadPoolExecutor | None = None

    @property
    def opened(self) -> targets.Runner:
        """The runner; a request that needs it before ``open_artifact`` is a fault of the parent."""
        assert self.runner is not None
        return self.runner


_session = Session()


def stay_on(cores: list[int]) -> None:
    """Keep this process to these cores, where the operating system can do that; empty: any."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def import_runtime(target: str) -> None:
    """Import what the target needs, so that opening an artifact does not wait for it; raises Unavailable."""
    targets.find(target).spec()


def open_artifact(artifact: dict[str, Any], folder: str, threads: int) -> float:
    """Open an artifact and return how many milliseconds that took, without importing the runtime."""
    record = Artifact.model_validate(artifact)
    target = targets.find(record.target)
    import_runtime(record.target)
    options = targets.options(record.target, _with_threads(target, dict(record.options), threads))
    began = time.perf_counter()
    _session.runner = target.open(record, Path(folder), options)
    return (time.perf_counter() - began) * 1e3


def _with_threads(target: targets.Target, options: dict[str, Scalar], threads: int) -> dict[str, Scalar]:
    if options.get("threads") is None and any(
        f.name == "threads" for f in dataclasses.fields(target.Options)
    ):
        options["threads"] = threads
    return options


def begin_answers(store: str, indices: list[int], batch: int, out: str) -> int:
    """Prepare to answer samples of a store into a new one; returns the peak memory after the first answer."""
    data = Dataset(Store(Path(store)), indices)
    runner = _session.opened
    size = fixed_batch(runner.inputs, data) or batch
    _session.answers = _answer(data, size, Path(out))
    next(_session.answers)
    return peak_memory_bytes()


def continue_answers(seconds: float) -> int:
    """Answer samples for about this long; returns how many are done, -1 once the store is whole."""
    assert _session.answers is not None
    deadline = time.monotonic() + seconds
    for done in _session.answers:
        if time.monotonic() > deadline:
            return done
    return -1


def _answer(data: Dataset, size: int, out: Path) -> Iterator[int]:
    runner = _session.opened
    names = [spec.name for spec in runner.outputs]
    writer = StoreWriter(out, names)
    done = 0
    for batch in data.batches(size):
        count = len(batch.indices)
        outputs = runner.run(_feeds(batch, size))
        fed = size if _takes_only(size) else count
        rows = {name: _rows(name, outputs[name], fed, count) for name in names}
        for i in range(count):
            writer.append({name: rows[name][i] for name in names})
        done += count
        yield done
    writer.close()


def _feeds(batch: Batch, size: int) -> dict[str, Array]:
    """The feeds of a batch, filled up with its last sample where the model takes whole batches only."""
    specs = _session.opened.inputs
    count = len(batch.indices)
    if count < size and _takes_only(size):
        fill = [*range(count), *[count - 1] * (size - count)]
        inputs = {name: value[fill] for name, value in batch.inputs.items()}
        batch = Batch(inputs, None, tuple(batch.indices[i] for i in fill))
    try:
        return batch.feeds(specs)
    except DataError as error:
        raise TrialError(str(error)) from error


def _takes_only(size: int) -> bool:
    """Whether the model's signature says that it takes this many samples at a time."""
    return any(spec.shape and spec.shape[0] == size for spec in _session.opened.inputs)


def _rows(name: str, output: Array, fed: int, count: int) -> Sequence[Array]:
    """The output of each of the first ``count`` of ``fed`` samples, without its batch axis.

    A batch of one is taken whole where its first axis is not 1: such an output has no batch axis.
    """
    if output.dtype.kind == "V" or output.dtype.name == "bfloat16":
        output = output.astype(np.float32)  # files know no bfloat16; float32 holds it exactly
    if output.ndim and len(output) == fed:
        return [output[i] for i in range(count)]
    if fed == 1:
        return [output]
    raise TrialError(
        f"output {name!r} has shape {output.shape} for a batch of {fed}: it has no batch axis; "
        "measure with a batch of 1"
    )


def fixed_batch(specs: Sequence[TensorSpec], data: Dataset) -> int | None:
    """The only batch size a model takes, or None when it takes any; raises TrialError without samples."""
    if not len(data):
        raise TrialError("there are no samples to run on")
    return data.fixed_batch(specs)


def preload(store: str, batches: list[list[int]], batch: int) -> int | None:
    """Read the batches that timing cycles through; each is a list of sample numbers of equal shapes.

    Raises TrialError when the model takes another batch size only.
    """
    opened = Store(Path(store))
    everything = Dataset(opened, [i for numbers in batches for i in numbers])
    only = fixed_batch(_session.opened.inputs, everything)
    if only is not None and only != batch:
        raise TrialError(f"the model takes batches of {only} only; measure it with a batch of {only}")
    _session.batch = batch
    _session.feeds = [
        _feeds(b, batch) for numbers in batches for b in Dataset(opened, numbers).batches(batch)
    ]
    return len(_session.feeds)


def warm_up(limit_s: float) -> float:
    """Run every feed once, then one of them until the median settles; returns a run's milliseconds."""
    run, feeds = _session.opened.run, _session.feeds
    for feed in feeds:
        run(feed)
    gc.disable()
    deadline = time.perf_counter() + limit_s
    medians: list[float] = []
    while len(medians) < 3 or time.perf_counter() < deadline:
        medians.append(statistics.median(_window(feeds[0])))
        if len(medians) >= 3 and all(
            abs(medians[-1] - earlier) <= _SETTLED * medians[-1] for earlier in medians[-3:-1]
        ):
            break
    return medians[-1]


def _window(feed: dict[str, Array]) -> list[float]:
    times: list[float] = []
    while sum(times) < _WINDOW_S * 1e3 or len(times) < 3:
        times.append(_run_ms(feed))
    return times


def _run_ms(feed: dict[str, Array]) -> float:
    run = _session.opened.run
    began = time.perf_counter_ns()
    run(feed)
    return (time.perf_counter_ns() - began) / 1e6


def time_round(number: int, runs: int) -> list[float]:
    """Milliseconds of each of ``runs`` runs on the feed of this round, after one that does not count.

    That one brings back what the other subjects' rounds have driven out of the caches and wakes threads.
    """
    feed = _session.feeds[number % len(_session.feeds)]
    _run_ms(feed)
    times = [_run_ms(feed) for _ in range(runs)]
    _come_to_rest()
    return times


def _come_to_rest() -> None:
    """Wait until this process uses no more CPU, so that it does not disturb the next subject's round.

    The threads of a runtime wait busily for more work: ONNX Runtime's for about 35 ms of a core after a run
    of two threads (measured), OpenVINO's for less than 1 ms. Turning that off would change what is measured.
    """
    deadline = time.perf_counter() + _REST_LIMIT_S
    before = time.process_time()
    while time.perf_counter() < deadline:
        time.sleep(_REST_STEP_S)
        used = time.process_time() - before
        if used < 0.1 * _REST_STEP_S:
            return
        before += used


def load_round(number: int, seconds: float, most_callers: int) -> float:
    """Samples a second with as many requests under way as keep the runtime busy, on this round's feed."""
    runner, feed = _session.opened, _session.feeds[number % len(_session.feeds)]
    callers = max(1, min(runner.callers, most_callers))
    if _session.pool is None:
        # The same threads in every round: each has its request and warm caches from the first one on.
        _session.pool = ThreadPoolExecutor(callers)
        list(_session.pool.map(lambda _: runner.run(feed), range(2 * callers)))

    def work(_: int) -> int:
        runs = 0
        while time.perf_counter() < deadline:
            runner.run(feed)
            runs += 1
        return runs

    began = time.perf_counter()
    deadline = began + seconds
    runs = sum(_session.pool.map(work, range(callers)))
    elapsed = time.perf_counter() - began
    _come_to_rest()
    return runs * _session.batch / elapsed


def read_kernels() -> list[dict[str, Any]]:
    """What the runtime executes for the first feed that was read in, as records."""
    return [kernel.model_dump(mode="json") for kernel in _session.opened.kernels(_session.feeds[0])]


def peak_memory_bytes() -> int:
    """The largest resident size this process has had."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: there a process inherits the peak of the one that started it.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    if os.name == "nt":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
