"""TensorFlow: SavedModel folders, through tf2onnx.

The graph is looked into first (``saved_model``); TensorFlow then opens it in a child process, so that its
weight, its threads and whatever the program does stay there. The graph is checked against the SavedModel's
own answers.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from hasten.core.errors import ModelError, Unavailable, WorkerError
from hasten.core.recipe import Json
from hasten.loaders.conversion import TIMEOUT_S, convert_in_child, finish, workspace
from hasten.loaders.loaded import Loaded, Request
from hasten.loaders.saved_model import screen
from hasten.process import Worker

_ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}
"""Quiet, and on the CPU: a GPU would be filled for a few runs."""


def load(request: Request) -> Loaded:
    """Convert to ONNX and check the answers; raises Unavailable, InputError or ModelError."""
    path = Path(request.source)
    with workspace(request) as folder:
        screen(path)
        for module, name in (("tensorflow", "TensorFlow"), ("tf2onnx", "tf2onnx")):
            if find_spec(module) is None:
                raise Unavailable(
                    f"{request.name} needs {name}, which is not installed", "pip install 'hasten[tensorflow]'"
                )
        made = convert_in_child(request, "tensorflow_export:convert_folder", folder, _ENVIRONMENT)
        return finish(request, made, folder, lambda feeds, answers: _answer(path, feeds, answers))


def _answer(path: Path, feeds: Path, answers: Path) -> None:
    arguments: dict[str, Json] = {"source": str(path), "feeds": str(feeds), "answers": str(answers)}
    with Worker("running the SavedModel", _ENVIRONMENT) as worker:
        try:
            worker.request(f"{__package__}.tensorflow_export:answer_folder", arguments, TIMEOUT_S)
        except WorkerError as error:
            raise ModelError(f"TensorFlow cannot run it: {error}") from error
