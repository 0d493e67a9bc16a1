"""Fixing dynamic dimensions, and reading the shapes a person types."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from hasten.core.errors import InputError, MethodError, ModelError
from hasten.core.tensor import TensorSpec
from hasten.graph import Graph
from hasten.graph.shapes import infer

INPUT_DTYPES = (
    "float32", "float16", "float64", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
)  # fmt: skip
_UNNAMED = frozenset({"", "?", "-1", "None", "none", "unknown"})
"""What exporters write for a dimension that has no name; two of these need not be equal."""

_LARGEST_SIZE = 1 << 31


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Read ``NAME=1x3x224x224``; raises InputError."""
    name, _, axes = text.rpartition("=")
    sizes = axes.lower().split("x")
    if not name or not all(size.isascii() and size.isdigit() and len(size) < 12 for size in sizes):
        raise InputError(f"{text!r} is not a shape: write NAME=1x3x224x224, with a size for every axis")
    shape = tuple(int(size) for size in sizes)
    if any(not 0 < size < _LARGEST_SIZE for size in shape):
        raise InputError(f"{text!r}: every size must be at least 1 and below {_LARGEST_SIZE}")
    return name, shape


def parse_input(text: str) -> TensorSpec:
    """Read ``NAME=1x3x224x224`` (float32) or ``NAME=1x64:int64``; raises InputError."""
    head, colon, dtype = text.rpartition(":")
    if not colon or "=" in dtype:
        head, dtype = text, "float32"
    if dtype not in INPUT_DTYPES:
        raise InputError(f"{text!r}: unknown type {dtype!r}; one of {', '.join(INPUT_DTYPES)}")
    name, shape = parse_shape(head)
    return TensorSpec(name, dtype, shape)


def fix_shapes(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> Graph:
    """A copy whose inputs have the given shapes, with the shapes of all inner values inferred anew.

    shapes: whole shapes, batch axis included, by input name. A dimension of the same name gets the same size
    in every input, also in inputs not listed. Raises InputError for an unknown input, a wrong rank, or a size
    that contradicts a fixed dimension or another input; ModelError when the shapes cannot be inferred.
    """
    fixed = graph.copy()
    values = {value.name: value for value in fixed.ir_model.graph.inputs}
    specs = {spec.name: spec for spec in graph.inputs}
    bound: dict[str, tuple[int, str]] = {}
    for name, shape in shapes.items():
        if name not in specs:
            raise InputError(f"the model has no input {name!r}; it has {', '.join(specs)}")
        _bind(specs[name], shape, bound)
        values[name].shape = ir.Shape(shape)
    for owner in fixed.ir_model.graphs():
        for value in (*owner.inputs, *owner.outputs):
            _substitute(value, bound)
    try:
        return infer(fixed)
    except MethodError as error:
        raise ModelError(f"with {_written(shapes)}: {error}") from error


def _bind(spec: TensorSpec, shape: tuple[int, ...], bound: dict[str, tuple[int, str]]) -> None:
    if spec.shape is None:
        return
    if len(shape) != len(spec.shape):
        raise InputError(
            f"input {spec} has {len(spec.shape)} axes, the given shape {_axes(shape)} {len(shape)}"
        )
    for axis, (size, known) in enumerate(zip(shape, spec.shape, strict=True)):
        if size < 1:
            raise InputError(f"input {spec}: axis {axis} cannot have the size {size}")
        if isinstance(known, int) and known != size:
            raise InputError(f"input {spec}: axis {axis} is {known} in the model, it cannot be {size}")
        if isinstance(known, str) and known not in _UNNAMED:
            other, where = bound.setdefault(known, (size, spec.name))
            if other != size:
                raise InputError(
                    f"dimension {known!r} would be {other} in input {where!r} and {size} in {spec.name!r}; "
                    "it is the same dimension, give it one size"
                )


def _substitute(value: ir.Value, bound: Mapping[str, tuple[int, str]]) -> None:
    if value.shape is None or value.const_value is not None:
        return
    names = [None if isinstance(d, int) else d.value for d in value.shape]
    if any(name in bound for name in names if name is not None):
        value.shape = ir.Shape(
            [
                bound[name][0] if name is not None and name in bound else d
                for name, d in zip(names, value.shape, strict=True)
            ]
        )


def _axes(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _written(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name}={_axes(shape)}" for name, shape in shapes.items())
