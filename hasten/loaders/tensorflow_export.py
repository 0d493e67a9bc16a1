"""The child's side of ``hasten.loaders.tensorflow``: imports TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf2onnx

from hasten.core.data import Array
from hasten.core.errors import InputError, ModelError
from hasten.core.named import user_code
from hasten.core.recipe import Json
from hasten.core.tensor import TensorSpec
from hasten.loaders.agree import read_runs, write_runs
from hasten.loaders.exported import record
from hasten.loaders.inputs import example_runs

SIGNATURE = "serving_default"
_OPSET = 18


def convert_folder(source: str, inputs: list[str], samples: str | None, work: str) -> dict[str, Json]:
    """Convert a SavedModel, as ``Conversion.to_json``; raises InputError, ModelError."""
    function = _signature(source)
    specs = _specs(function)
    given = None if samples is None else read_runs(Path(samples))
    runs = example_runs(specs, inputs, given)
    answers = [_run(function, run) for run in runs]
    path = Path(work) / "imported.onnx"
    _export(function, specs, path)
    return record("tensorflow", path, runs, answers).to_json()


def answer_folder(source: str, feeds: str, answers: str) -> None:
    """Write a SavedModel's answers to feeds; raises ModelError."""
    function = _signature(source)
    write_runs(Path(answers), [_run(function, run) for run in read_runs(Path(feeds))])


def _signature(source: str) -> Any:
    with user_code(f"opening it in TensorFlow {tf.__version__}", ModelError):
        loaded = tf.saved_model.load(source)
    known = list(loaded.signatures)
    if SIGNATURE not in known:
        raise ModelError(
            f"it has no signature {SIGNATURE!r}, only {', '.join(known) or 'none'}; export the forward pass "
            "with model.export('folder') or tf.saved_model.save(model, 'folder', signatures=...)"
        )
    function = loaded.signatures[SIGNATURE]
    function.owner = loaded  # a signature alone does not keep its variables
    return function


def _specs(function: Any) -> tuple[TensorSpec, ...]:
    specs = []
    for name, tensor in function.structured_input_signature[1].items():
        if tensor.shape.rank is None:
            raise ModelError(f"input {name!r} has no known number of axes; export it with an input signature")
        if not tensor.dtype.is_numpy_compatible or tensor.dtype == tf.string:
            raise ModelError(f"input {name!r} is {tensor.dtype.name}; hasten takes numbers and booleans")
        specs.append(TensorSpec(name, tensor.dtype.name, tuple(tensor.shape.as_list())))
    if not specs:
        raise InputError(f"its signature {SIGNATURE!r} takes nothing, so there is nothing to run")
    return tuple(specs)


def _run(function: Any, run: Mapping[str, Array]) -> dict[str, Array]:
    with user_code("running the SavedModel", ModelError):
        outputs = function(**{name: tf.constant(array) for name, array in run.items()})
    return {name: np.asarray(tensor) for name, tensor in sorted(outputs.items())}


def _export(function: Any, specs: Sequence[TensorSpec], path: Path) -> None:
    names = [spec.name for spec in specs]
    wanted = [tf.TensorSpec(spec.shape, spec.dtype, name=spec.name) for spec in specs]

    @tf.function(input_signature=wanted)  # type: ignore[untyped-decorator]
    def call(*tensors: Any) -> list[Any]:
        outputs = function(**dict(zip(names, tensors, strict=True)))
        return [outputs[name] for name in sorted(outputs)]

    with user_code(f"tf2onnx {tf2onnx.__version__}", ModelError):
        tf2onnx.convert.from_function(call, wanted, opset=_OPSET, output_path=str(path))
