"""How a Keras model is called: its inputs by name and structure, example values, its outputs by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from hasten.core.data import Array
from hasten.core.errors import InputError, ModelError
from hasten.core.named import user_code
from hasten.core.tensor import TensorSpec
from hasten.loaders.inputs import example_runs
from hasten.loaders.shapes import parse_input

_NOT_INPUTS = frozenset({"self", "training", "mask", "return_attention_scores"})


@dataclass(frozen=True)
class Call:
    """How a model is called.

    specs: of the inputs, in order; open axes are None. structure: the positional arguments, nested as the
    model wants them, with the number of the input in place of each. runs: examples by name; the last is the
    first with all open axes doubled.
    """

    model: Any
    specs: tuple[TensorSpec, ...]
    structure: Any
    runs: tuple[dict[str, Array], ...]

    @classmethod
    def of(cls, model: Any, inputs: Sequence[str], samples: Sequence[Mapping[str, Array]] | None) -> Call:
        """Match what the model takes with ``--input`` specs and real samples; raises InputError."""
        tensors = getattr(model, "inputs", None)
        if tensors:
            specs = tuple(_spec(tensor) for tensor in tensors)
            nested = tensors[0] if isinstance(model, keras.Sequential) else model.input
            # A dictionary is walked in the order it was made in, while inputs are in that of its keys.
            numbers = {id(tensor): number for number, tensor in enumerate(tensors)}
            structure = [keras.tree.map_structure(lambda tensor: numbers[id(tensor)], nested)]
        else:
            specs = _described(model, [parse_input(text) for text in inputs], samples)
            structure = _structure(model, [spec.name for spec in specs])
        return cls(model, specs, structure, example_runs(specs, inputs, samples))

    def arguments(self, arrays: Sequence[Any]) -> list[Any]:
        """Positional arguments for a call with these arrays or tensors, in the order of ``specs``."""
        return [keras.tree.map_structure(lambda number: arrays[number], part) for part in self.structure]

    def answer(self, run: Mapping[str, Array]) -> dict[str, Array]:
        """The model's outputs by name; raises ModelError."""
        arrays = [np.asarray(run[spec.name]) for spec in self.specs]
        with user_code(f"running {type(self.model).__name__}", ModelError):
            outputs = self.model(*self.arguments(arrays), training=False)
        leaves = keras.tree.flatten_with_path(outputs)
        flat = [(path, _to_numpy(value)) for path, value in leaves if keras.ops.is_tensor(value)]
        taken = {spec.name for spec in self.specs}
        return dict(zip(self._names([path for path, _ in flat], taken), [a for _, a in flat], strict=True))

    def _names(self, paths: Sequence[tuple[Any, ...]], taken: set[str]) -> list[str]:
        """Keys of dictionaries; else the names of the layers that give the outputs; else ``output``."""
        layers = list(getattr(self.model, "output_names", None) or ())
        if isinstance(self.model, keras.Sequential):
            layers = [self.model.layers[-1].name]
        names: list[str] = []
        for index, path in enumerate(paths):
            if any(isinstance(key, str) for key in path):
                name = "_".join(map(str, path))
            elif len(layers) == len(paths):
                name = layers[index]
            else:
                name = "_".join(["output", *map(str, path)])
            while name in taken:
                name += "_out"
            taken.add(name)
            names.append(name)
        return names


def _spec(tensor: Any) -> TensorSpec:
    """Called as its input layer is: the same in the program and in the file it saves."""
    history = getattr(tensor, "_keras_history", None)
    name = history.operation.name if history is not None else tensor.name
    return TensorSpec(str(name), str(tensor.dtype), tuple(tensor.shape))


def _described(
    model: Any, given: Sequence[TensorSpec], samples: Sequence[Mapping[str, Array]] | None
) -> tuple[TensorSpec, ...]:
    """What a subclassed model takes, which only its caller knows."""
    if given:
        return tuple(TensorSpec(s.name, s.dtype, (None, *(s.shape or ())[1:])) for s in given)
    if samples:
        return tuple(
            TensorSpec(name, array.dtype.name, (None, *array.shape[1:])) for name, array in samples[0].items()
        )
    raise InputError(
        f"what does {type(model).__name__} take? its call is call({', '.join(_parameters(model))}); "
        "give --input NAME=1x28x28x1 (or NAME=1x64:int64) for each input, or data"
    )


def _parameters(model: Any) -> list[str]:
    return [name for name in inspect.signature(model.call).parameters if name not in _NOT_INPUTS]


def _structure(model: Any, names: list[str]) -> list[Any]:
    """Arguments by name, or in order; several inputs of a model with one argument are a dictionary."""
    parameters = _parameters(model)
    if set(names) <= set(parameters):
        if parameters[: len(names)] != sorted(names, key=parameters.index):
            raise InputError(f"call({', '.join(parameters)}) cannot be called with {', '.join(names)} alone")
        return [names.index(name) for name in parameters[: len(names)]]
    if len(parameters) == 1 and len(names) > 1:
        return [{name: index for index, name in enumerate(names)}]
    return list(range(len(names)))


def _to_numpy(value: Any) -> Array:
    return np.asarray(keras.ops.convert_to_numpy(value))
