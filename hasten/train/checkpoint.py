"""What must be kept for a training to go on as if it had never stopped, and how it is kept.

A checkpoint is a folder ``step-00000100`` of safetensors and JSON, nothing pickled: ``state.json`` names
every other file with its SHA-256. It is written under another name, flushed to the disk, and renamed: it is
there whole or not at all. The last two are kept, so that a damaged one is replaced by the one before.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from hasten.bridge.module import GraphModule
from hasten.core.errors import InputError, OutputError

VERSION = 3
_KEPT = 2
_STATE = "state.json"
Tensors = dict[str, Tensor]


@dataclass
class Checkpoint:
    """The state after ``step`` optimizer steps. tensors: by kind (model, ema, best, optimizer, random).

    state: numbers and texts. identity: what must be the same for the training to go on.
    """

    step: int
    tensors: dict[str, Tensors]
    state: dict[str, Any]
    identity: dict[str, Any] = field(default_factory=dict)


def write(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint and remove those before the last two; raises OutputError, which leaves all.

    Those of later steps go as well: they are damaged, since the training went on from an earlier one.
    """
    name = f"step-{checkpoint.step:08d}"
    partial = folder / f".{name}.partial"
    final = folder / name
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        files = {}
        for kind, tensors in checkpoint.tensors.items():
            if tensors:
                payload = safetensors.torch.save({k: _plain(v) for k, v in tensors.items()})
                files[f"{kind}.safetensors"] = _put(partial / f"{kind}.safetensors", payload)
        content = {
            "version": VERSION,
            "step": checkpoint.step,
            "files": files,
            "identity": checkpoint.identity,
            "state": checkpoint.state,
        }
        text = json.dumps(content).encode()
        _put(partial / _STATE, text)
        _put(partial / f"{_STATE}.sha256", hashlib.sha256(text).hexdigest().encode())
        _flush(partial)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        _flush(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        kept = ", ".join(p.name for p in found(folder)[:1]) or "none"
        raise OutputError(
            f"cannot write a checkpoint to {folder}: {error.strerror}; the last whole one is {kept}: "
            "free space and go on with resume=True"
        ) from error
    whole = [path for path in found(folder) if path.name <= name][:_KEPT]
    for old in set(found(folder)).difference(whole):
        shutil.rmtree(old, ignore_errors=True)
    return final


def found(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the newest first."""
    return sorted((p for p in folder.glob("step-*") if p.is_dir()), reverse=True)


def open_folder(folder: Path, resume: bool) -> None:
    """Make the folder, or refuse to write among the checkpoints of another training; raises OutputError."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder} for checkpoints: {error.strerror}") from error
    if not resume and found(folder):
        raise OutputError(f"{folder} holds checkpoints: go on with resume=True, or give another folder")


def newest(folder: Path, device: torch.device) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """The newest checkpoint that is whole, and what was wrong with those after it."""
    notes: list[str] = []
    for path in found(folder):
        try:
            return read(path, device), tuple(notes)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            notes.append(f"the checkpoint {path.name} is damaged and was passed over: {error}")
    return None, tuple(notes)


def read(path: Path, device: torch.device) -> Checkpoint:
    """Read a checkpoint; raises OSError, ValueError, KeyError or SafetensorError when it is not whole."""
    text = (path / _STATE).read_bytes()
    if hashlib.sha256(text).hexdigest() != (path / f"{_STATE}.sha256").read_text(encoding="ascii"):
        raise ValueError(f"{_STATE} is not as it was written")
    content = json.loads(text)
    if content["version"] != VERSION:
        raise ValueError(f"it has version {content['version']}, this is {VERSION}")
    tensors: dict[str, Tensors] = {}
    for name, digest in content["files"].items():
        payload = (path / name).read_bytes()
        if hashlib.sha256(payload).hexdigest() != digest:
            raise ValueError(f"{name} is not as it was written")
        loaded = safetensors.torch.load(payload)
        kind = name.removesuffix(".safetensors")
        tensors[kind] = loaded if kind == "random" else {k: v.to(device) for k, v in loaded.items()}
    return Checkpoint(content["step"], tensors, content["state"], content["identity"])


def check_identity(saved: Mapping[str, Any], given: Mapping[str, Any], path: Path) -> None:
    """Raise InputError naming what differs between the training that stopped and the one to go on."""
    differing = []
    for key in sorted({*saved, *given}):
        before, now = saved.get(key), given.get(key)
        if before != now:
            short = len(str(before)) < 40 and len(str(now)) < 40
            differing.append(f"{key} ({before} before, {now} now)" if short else key)
    if differing:
        raise InputError(
            f"the training in {path} cannot go on with other {', '.join(differing)}: give the same again, "
            "or start anew in another folder"
        )


def random_state(*modules: nn.Module) -> tuple[Tensors, dict[str, Any]]:
    """The random states of this process: torch's as tensors, the others' and the modules' as numbers."""
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, numbers, next_gauss = random.getstate()
    plain = {
        "python": [version, list(numbers), next_gauss],
        "numpy": [name, np.asarray(keys).tolist(), int(position), int(has_gauss), float(gauss)],
        "drawn": [dict(graph.drawn) for graph in _graphs(modules)],
    }
    return tensors, plain


def restore_random_state(tensors: Tensors, plain: Mapping[str, Any], *modules: nn.Module) -> None:
    """Put back what ``random_state`` gave of the same modules."""
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
    version, numbers, next_gauss = plain["python"]
    random.setstate((version, tuple(numbers), next_gauss))
    name, keys, position, has_gauss, gauss = plain["numpy"]
    np.random.set_state((name, np.asarray(keys, dtype=np.uint32), position, has_gauss, gauss))
    for graph, drawn in zip(_graphs(modules), plain["drawn"], strict=True):
        graph.drawn = dict(drawn)


def _graphs(modules: Sequence[nn.Module]) -> list[GraphModule]:
    """The graphs among modules and in them."""
    return [part for module in modules for part in module.modules() if isinstance(part, GraphModule)]


def _plain(tensor: Tensor) -> Tensor:
    """A copy of its own on the CPU: safetensors stores neither views nor shared memory."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _put(path: Path, payload: bytes) -> str:
    """Write a file to the disk itself; returns its SHA-256."""
    with path.open("wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(payload).hexdigest()


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
