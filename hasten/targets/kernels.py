"""What several runtimes' files need to report kernels: runs under a profiler, and typical times."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

_WARM_UPS = 2
_MOST_RUNS = 12
_LIMIT_S = 3.0


def profiled_runs(run: Callable[[], object]) -> int:
    """Call ``run`` for some seconds at most; returns how many of the last calls are past the warm-up."""
    deadline = time.perf_counter() + _LIMIT_S
    for _ in range(_WARM_UPS):
        run()
    runs = 0
    while runs < 1 or (runs < _MOST_RUNS and time.perf_counter() < deadline):
        run()
        runs += 1
    return runs


def typical_us(times: Sequence[float]) -> float | None:
    """The mean of the faster half, microseconds: what other work on the machine cost does not count.

    Not the median, as profilers count whole microseconds and many kernels take but a few. None of no times.
    """
    if not times:
        return None
    return round(statistics.fmean(sorted(times)[: (len(times) + 1) // 2]), 3)
