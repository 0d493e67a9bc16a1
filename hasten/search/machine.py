"""The machine a claim holds on, and the targets that work on it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from hasten import targets
from hasten.core.errors import InputError, Unavailable
from hasten.core.record import MachineInfo
from hasten.core.target import TargetSpec, cpu_flags, cpu_name, usable_cores

_PACKAGES = ("numpy", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "openvino", "torch")


def describe_machine() -> MachineInfo:
    """CPU, memory, system and the versions that matter for a measurement."""
    import psutil

    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return MachineInfo(
        cpu=cpu_name(),
        cores=usable_cores(),
        flags=tuple(
            sorted(f for f in cpu_flags() if f.startswith(("avx", "amx", "sse4", "asimd", "sve", "i8mm")))
        ),
        memory_bytes=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        versions=versions,
    )


def usable_targets(name: str) -> tuple[TargetSpec, ...]:
    """The specs of a target or of a group's members that work here; raises InputError or Unavailable."""
    found: list[TargetSpec] = []
    missing: list[Unavailable] = []
    for member in targets.GROUPS.get(name, (name,)):
        try:
            found.append(targets.find(member).spec())
        except Unavailable as error:
            missing.append(error)
    if not found:
        if missing:
            raise missing[0]
        raise InputError(f"target {name!r} has no runtime")
    return tuple(found)
