"""What a piece of hardware, with a runtime on it, offers."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class TargetSpec:
    """Facts about one target on this machine, from which the search derives what is worth trying.

    compute_dtypes: dtypes in which its kernels calculate natively (``float32``, ``bfloat16``, ``int8`` …).
    instructions: the instruction sets those kernels use here (``avx512_vnni`` …).
    """

    name: str
    runtime: str
    version: str
    device: str
    compute_dtypes: frozenset[str]
    instructions: frozenset[str] = field(default_factory=frozenset)


@cache
def cpu_flags() -> frozenset[str]:
    """Instruction-set flags of this CPU as Linux names them; empty where they cannot be read."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


@cache
def cpu_name() -> str:
    """The CPU's model name, as the operating system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """The number of cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
