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


def sums_saturate() -> bool:
    """Whether this CPU's integer kernels add pairs of products of bytes in 16 bits, which may overflow.

    x86 before VNNI multiplies uint8 by int8 with VPMADDUBSW: 2 · 255 · 127 does not fit, and saturates;
    2 · 255 · 64 does, so weights of 7 bits are safe.
    """
    x86 = platform.machine().lower() in {"x86_64", "amd64", "i686"}
    return x86 and not cpu_flags() & {"avx512_vnni", "avx_vnni"}


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
