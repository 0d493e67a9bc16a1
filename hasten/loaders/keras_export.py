"""From a Keras model to an ONNX file, with its answers to example inputs; imports Keras.

On TensorFlow, Keras' own exporter writes the file. On PyTorch a Keras model is a ``torch.nn.Module`` and is
exported as one: Keras' exporter would trace it by TorchScript there, which (Keras 3.15, torch 2.13) fails for
LayerNormalization and attention with a dynamic batch, and gives a GRU that answers wrongly for other lengths.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import keras

from hasten.core.data import Array
from hasten.core.errors import ModelError, Unavailable
from hasten.core.named import user_code
from hasten.core.recipe import Json
from hasten.loaders.agree import read_runs, write_runs
from hasten.loaders.conversion import Conversion
from hasten.loaders.exported import record
from hasten.loaders.keras_call import Call
from hasten.loaders.memory import limit_memory


def convert_file(source: str, inputs: list[str], samples: str | None, work: str) -> dict[str, Json]:
    """Child side: convert a ``.keras`` file, as ``Conversion.to_json``; raises InputError, ModelError."""
    given = None if samples is None else read_runs(Path(samples))
    return convert(open_file(Path(source)), inputs, given, Path(work)).to_json()


def answer_file(source: str, feeds: str, answers: str) -> None:
    """Child side: the answers of a ``.keras`` file to feeds."""
    answer(open_file(Path(source)), Path(feeds), Path(answers))


def open_file(path: Path) -> Any:
    """A screened file as a model, in safe mode; raises ModelError."""
    limit_memory()
    with user_code(f"opening it in Keras {keras.__version__} on {keras.backend.backend()}", ModelError):
        return keras.saving.load_model(path, compile=False, safe_mode=True)


def answer(model: Any, feeds: Path, answers: Path) -> None:
    """Run the model on feeds and write its answers; raises ModelError."""
    runs = read_runs(feeds)
    call = Call.of(model, (), runs)
    with _no_gradients():
        write_runs(answers, [call.answer(run) for run in runs])


def convert(
    model: Any, inputs: Sequence[str], samples: Sequence[Mapping[str, Array]] | None, work: Path
) -> Conversion:
    """Convert to ONNX with the batch axis dynamic; raises Unavailable, InputError or ModelError."""
    backend = keras.backend.backend()
    if backend not in ("torch", "tensorflow"):
        raise Unavailable(
            f"Keras runs on {backend} here, and models come in from PyTorch or TensorFlow",
            "set KERAS_BACKEND=torch, or save the model as a .keras file and give that",
        )
    call = Call.of(model, inputs, samples)
    with _no_gradients():
        answers = [call.answer(run) for run in call.runs]
    if backend == "torch":
        from hasten.loaders.keras_torch import convert_torch

        return convert_torch(call, answers, work)
    return _convert_tensorflow(call, answers, work)


def _no_gradients() -> Any:
    if keras.backend.backend() != "torch":
        return nullcontext()
    import torch

    return torch.no_grad()


def _convert_tensorflow(call: Call, answers: Sequence[Mapping[str, Array]], work: Path) -> Conversion:
    path = work / "imported.onnx"
    shapes = [(None, *(spec.shape or ())[1:]) for spec in call.specs]
    specs = [
        keras.InputSpec(shape=shape, dtype=spec.dtype, name=spec.name)
        for shape, spec in zip(shapes, call.specs, strict=True)
    ]
    # The exporter's remarks are about itself; errors are raised all the same.
    with warnings.catch_warnings(), user_code("Keras' ONNX export", ModelError):
        warnings.simplefilter("ignore")
        call.model.export(str(path), format="onnx", verbose=False, input_signature=call.arguments(specs))
    return record("keras", path, call.runs, answers)
