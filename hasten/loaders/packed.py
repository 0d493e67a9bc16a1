"""Compressed ONNX files (``.onnx.zst``), as untrusted input."""

from __future__ import annotations

from pathlib import Path

from hasten.graph.packed import unpack
from hasten.loaders.loaded import Loaded, Request
from hasten.loaders.onnx import adopt_outputs, examine_graph, naming, parse, to_graph
from hasten.process import Worker


def load(request: Request) -> Loaded:
    """Load a compressed file; its weights must be inside. Raises ModelError."""
    with Worker(f"opening {request.name}") as worker, naming(request.name):
        graph, notes = to_graph(parse(unpack(Path(str(request.source)))), None)
        adopt_outputs(graph, examine_graph(worker, graph))
        return Loaded(graph=graph, source=request.name, format="onnx", notes=notes)
