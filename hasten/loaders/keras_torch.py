"""A Keras model on PyTorch, as the ``torch.nn.Module`` it is, to ONNX and to a ``.pt2`` program."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import keras
import torch

from hasten.core.data import Array
from hasten.loaders import keras_call, torch_call
from hasten.loaders.conversion import Conversion
from hasten.loaders.torch_export import capture, fits, fixed_axes, write


class KerasModel(torch.nn.Module):
    """A Keras model with one argument an input, and a tuple of outputs."""

    def __init__(self, call: keras_call.Call) -> None:
        super().__init__()
        self.model = call.model
        self.arguments = call.arguments

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs for inputs in the order of ``Call.specs``."""
        outputs = self.model(*self.arguments(tensors), training=False)
        return tuple(leaf for leaf in keras.tree.flatten(outputs) if isinstance(leaf, torch.Tensor))


def convert_torch(call: keras_call.Call, answers: Sequence[Mapping[str, Array]], work: Path) -> Conversion:
    """Trace with every open axis dynamic where the model allows it; raises ModelError.

    The modes of the model's modules are as before afterwards.
    """
    model = call.model
    modes = [(module, module.training) for module in model.modules()]
    flat = KerasModel(call).eval()
    runs = [tuple(torch.from_numpy(run[spec.name]) for spec in call.specs) for run in call.runs]
    how = torch_call.Call(
        names=tuple(spec.name for spec in call.specs),
        by_keyword=False,
        runs=tuple(runs),
        varying=tuple(
            frozenset(axis for axis, size in enumerate(spec.shape or ()) if axis and size is None)
            for spec in call.specs
        ),
    )
    try:
        with torch.no_grad():
            program, notes = capture(flat, how)
            _name_weights(program)
            fixed = fixed_axes(program)
            # The last run only tries what is open in the model; the program may be narrower.
            count = len(runs) if fits(runs[-1], fixed) else len(runs) - 1
            notes += _axis_notes(call, fixed)
            made = write(program, call.runs[:count], answers[:count], work, notes)
    finally:
        for module, training in modes:
            module.training = training
    return replace(made, format="keras")


def _name_weights(program: torch.export.ExportedProgram) -> None:
    """Call weights as Keras does, in place, with dots: ``conv2d.kernel`` for ``model.….conv2d/kernel``."""
    specs = [spec for spec in program.graph_signature.input_specs if spec.target in program.state_dict]
    taken: set[str] = set()
    for spec in specs:
        old = str(spec.target)
        short = re.sub(r"[^\w.]", "_", old.rpartition("_torch_params.")[2].replace("/", "."))
        name = short if short not in taken else re.sub(r"[^\w.]", "_", old)
        taken.add(name)
        program.state_dict[name] = program.state_dict.pop(old)
        spec.target = name


def _axis_notes(call: keras_call.Call, fixed: Sequence[Mapping[int, int]]) -> tuple[str, ...]:
    return tuple(
        f"axis {axis} of input {spec.name!r} is fixed at {sizes[axis]}, the size in the example: PyTorch "
        "traced the model for this size alone; with KERAS_BACKEND=tensorflow it stays open"
        for spec, sizes in zip(call.specs, fixed, strict=True)
        for axis, size in enumerate(spec.shape or ())
        if axis and size is None and axis in sizes
    )
