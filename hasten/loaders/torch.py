"""PyTorch: modules, exported programs and ``.pt2`` files.

A file is opened in a child process, so that this one never imports torch and whatever the code does to itself
stays there. Every conversion is checked against the source's own answers.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from hasten.core.errors import ModelError, Unavailable, WorkerError
from hasten.core.recipe import Json
from hasten.loaders.conversion import TIMEOUT_S, convert_in_child, finish, workspace
from hasten.loaders.loaded import Loaded, Request
from hasten.process import Worker


def load(request: Request) -> Loaded:
    """Convert to ONNX and check the answers; raises Unavailable, InputError or ModelError."""
    require(request)
    with workspace(request) as folder:
        if isinstance(request.source, str | Path):
            made = convert_in_child(request, "torch_export:convert_file", folder)
            return replace(finish(request, made, folder), format="pt2")
        from hasten.loaders.torch_export import convert

        return finish(request, convert(request.source, request.inputs, request.samples, folder), folder)


def require(request: Request) -> None:
    """Raise Unavailable where PyTorch is not installed."""
    if find_spec("torch") is None:
        raise Unavailable(
            f"{request.name} needs PyTorch, which is not installed", "pip install 'hasten[torch]'"
        )


def answers_of(program: Path, feeds: Path, answers: Path) -> None:
    """Run a ``.pt2`` program on feeds in a child process; raises ModelError."""
    arguments: dict[str, Json] = {"program": str(program), "feeds": str(feeds), "answers": str(answers)}
    with Worker("running the PyTorch program") as worker:
        try:
            worker.request(f"{__package__}.torch_export:answer", arguments, TIMEOUT_S)
        except WorkerError as error:
            raise ModelError(f"PyTorch cannot run its program: {error}") from error
