"""What a loader is asked for, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hasten.core.data import Array

if TYPE_CHECKING:
    from hasten.graph import Graph


@dataclass(frozen=True, kw_only=True)
class Request:
    """One model to load.

    source: a path, a name ``package.module:function`` or an object. name: how messages call it. inputs:
    example inputs as ``NAME=1x3x224x224`` or ``NAME=1x64:int64``. samples: real inputs, by name, with the
    batch axis. work: an existing folder for files that outlive the call, or None.
    """

    source: Any
    name: str
    inputs: Sequence[str] = ()
    samples: Sequence[Mapping[str, Array]] | None = None
    work: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model as a checked graph.

    source: the name a person knows it by. format: what it came from (``onnx``, ``torch``, ``pt2``, ``keras``,
    ``tensorflow``). notes: what was done to it on the way. eager: a ``.pt2`` program that runs it in PyTorch,
    or None. reference: writes the source's answers to a file of feeds (both as ``write_runs`` does), or None;
    raises ModelError. original: the ``.onnx`` file it was read from, or None.
    """

    graph: Graph
    source: str
    format: str
    notes: tuple[str, ...] = ()
    eager: Path | None = None
    reference: Callable[[Path, Path], None] | None = None
    original: Path | None = None
