"""Keras 3: ``.keras`` files and model objects, on PyTorch or TensorFlow.

A file is looked into first (``keras_file``) and then opened in a child process, in Keras' safe mode and
without what it was trained with. Every conversion is checked against the model's own answers.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from hasten.core.errors import ModelError, Unavailable, WorkerError
from hasten.core.recipe import Json
from hasten.loaders.conversion import TIMEOUT_S, convert_in_child, finish, workspace
from hasten.loaders.keras_backend import CONVERTIBLE, backend_environment
from hasten.loaders.keras_file import screen
from hasten.loaders.loaded import Loaded, Request
from hasten.process import Worker

REMEDY = "pip install 'hasten[keras]' (Keras on PyTorch), or Keras and TensorFlow"


def load(request: Request) -> Loaded:
    """Convert to ONNX and check the answers; raises Unavailable, InputError or ModelError."""
    if isinstance(request.source, str | Path):
        return _load_file(request, Path(request.source))
    from hasten.loaders.keras_export import answer, convert

    model = request.source
    with workspace(request) as folder:
        made = convert(model, request.inputs, request.samples, folder)
        return finish(request, made, folder, lambda feeds, answers: answer(model, feeds, answers))


def _load_file(request: Request, path: Path) -> Loaded:
    with workspace(request) as folder:
        screen(path)
        if find_spec("keras") is None:
            raise Unavailable(f"{request.name} needs Keras 3, which is not installed", REMEDY)
        if not any(find_spec(name) for name in CONVERTIBLE):
            raise Unavailable(f"{request.name} needs PyTorch or TensorFlow under Keras", REMEDY)
        made = convert_in_child(request, "keras_export:convert_file", folder, backend_environment())
        return finish(request, made, folder, lambda feeds, answers: _answer_in_child(path, feeds, answers))


def _answer_in_child(path: Path, feeds: Path, answers: Path) -> None:
    arguments: dict[str, Json] = {"source": str(path), "feeds": str(feeds), "answers": str(answers)}
    with Worker("running the Keras model", backend_environment()) as worker:
        try:
            worker.request(f"{__package__}.keras_export:answer_file", arguments, TIMEOUT_S)
        except WorkerError as error:
            raise ModelError(f"Keras cannot run it: {error}") from error
