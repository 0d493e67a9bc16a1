"""The mathematics of resizing one axis: which input elements make each output element, with what weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Float = type[np.float32] | type[np.float64]


@dataclass(frozen=True)
class Axis:
    """One axis to resize: its size before and after, their scale, and the part that is looked at."""

    size: int
    target: int
    scale: float
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True)
class Rule:
    """The attributes of the Resize operator that say how one axis is resized."""

    mode: str
    coordinates: str
    nearest: str
    cubic_a: float
    exclude_outside: bool
    antialias: bool


def coordinates(rule: Rule, axis: Axis, kind: Float) -> Array:
    """Where in the input each output element lies, [target]; computed in ``kind``.

    Source: the ONNX operator Resize, attribute ``coordinate_transformation_mode``. The output's size counts
    as the product of size and scale, which need not be whole.
    """
    place: Array = np.arange(axis.target, dtype=kind)
    size, scale = kind(axis.size), kind(axis.scale)
    width, half = size * scale, kind(0.5)
    start, end = kind(axis.start) * (size - 1), kind(axis.end) * (size - 1)
    single = axis.target == 1
    ways: dict[str, Callable[[], Array]] = {
        "align_corners": lambda: place * ((size - 1) / (width - 1) if width != 1 else 0),
        "asymmetric": lambda: place / scale,
        "half_pixel": lambda: (place + half) / scale - half,
        "half_pixel_symmetric": lambda: (
            size * half * (1 - axis.target / width) + (place + half) / scale - half
        ),
        "pytorch_half_pixel": lambda: place if single else (place + half) / scale - half,
        "tf_crop_and_resize": lambda: (
            place + (start + end) / 2 if single else start + place * (end - start) / kind(axis.target - 1)
        ),
        "tf_half_pixel_for_nn": lambda: (place + half) / scale,
    }
    return ways[rule.coordinates]()


def nearest_index(rule: Rule, axis: Axis) -> Array:
    """The input element that each output element is, [target] of int64."""
    # In 32 bits as runtimes do: a quotient that is whole there must not fall just below it.
    place = coordinates(rule, axis, np.float32)
    ways: dict[str, Callable[[], Array]] = {
        "floor": lambda: np.floor(place),
        "ceil": lambda: np.ceil(place),
        "round_prefer_floor": lambda: np.ceil(place - np.float32(0.5)),
        "round_prefer_ceil": lambda: np.floor(place + np.float32(0.5)),
    }
    return np.clip(ways[rule.nearest](), 0, axis.size - 1).astype(np.int64)


COORDINATES = frozenset(
    {
        "align_corners",
        "asymmetric",
        "half_pixel",
        "half_pixel_symmetric",
        "pytorch_half_pixel",
        "tf_crop_and_resize",
        "tf_half_pixel_for_nn",
    }
)
NEAREST = frozenset({"ceil", "floor", "round_prefer_ceil", "round_prefer_floor"})
MODES = frozenset({"cubic", "linear", "nearest"})


def _linear(distance: Array) -> Array:
    hat: Array = np.maximum(1 - np.abs(distance), 0)
    return hat


def _cubic(a: float) -> Callable[[Array], Array]:
    """Keys, "Cubic convolution interpolation for digital image processing" (1981), equation 4."""

    def kernel(distance: Array) -> Array:
        d = np.abs(distance)
        near = ((a + 2) * d - (a + 3)) * d**2 + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        return np.where(d <= 1, near, np.where(d < 2, far, 0.0))

    return kernel


def weights(rule: Rule, axis: Axis) -> Array:
    """The matrix [target, size] that resizes the axis, linearly or by cubic convolution.

    Elements beyond the edge are those at the edge, or count for nothing where ``exclude_outside`` says so.
    """
    kernel, reach = (_linear, 1) if rule.mode == "linear" else (_cubic(rule.cubic_a), 2)
    stretch = min(axis.scale, 1.0) if rule.antialias else 1.0
    place = coordinates(rule, axis, np.float64)
    span = int(np.ceil(reach / stretch))
    taps = np.floor(place).astype(np.int64)[:, None] + np.arange(-span, span + 2)
    parts = kernel((taps - place[:, None]) * stretch)
    if rule.exclude_outside:
        parts = np.where((taps >= 0) & (taps < axis.size), parts, 0.0)
    if rule.exclude_outside or rule.antialias:
        total = parts.sum(1, keepdims=True)
        parts = parts / np.where(total == 0, 1.0, total)
    matrix = np.zeros((axis.target, axis.size))
    rows = np.broadcast_to(np.arange(axis.target)[:, None], taps.shape)
    np.add.at(matrix, (rows, np.clip(taps, 0, axis.size - 1)), parts)
    return matrix


def outside(rule: Rule, axis: Axis) -> Array:
    """Which output elements lie outside the input, [target] of bool: those of a crop that reaches beyond."""
    if rule.coordinates != "tf_crop_and_resize":
        return np.zeros(axis.target, bool)
    place = coordinates(rule, axis, np.float64)
    beyond: Array = (place < 0) | (place > axis.size - 1)
    return beyond
