"""One positive factor for each channel that passes between layers, so that both sides quantize better.

A layer that makes channel k divides it by s_k, and every layer that reads it multiplies its weights by s_k:
for operators in between that are positively homogeneous, f(x / s) = f(x) / s, the function stays the same.
With u_k, the largest magnitude on the making side, and r_k, that of the weights that read the channel,

    s_k = u_k^a / r_k^(1-a)

With u of the weights that make the channel and a = ½, both sides end with the range √(u·r): that is
cross-layer equalization. With u of the channel's own values on calibration samples it is SmoothQuant.

Sources: Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section
4.1; Meller et al. 2019, "Same, Same But Different", section 3; Xiao et al. 2023,
"SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", equation 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_SCALE = 1024.0
"""Factors stay between this and its inverse: a channel of nearly nothing is not worth more."""
CONVERGED = 0.01
"""Rounds end when no factor changes by more than this part; factors that near to 1 are 1."""

STRENGTHS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0)
"""Exponents that are compared where none is given."""


@dataclass(frozen=True, eq=False)
class Weight:
    """Magnitudes of a layer's weights, and which channels each of them makes and reads.

    made, read: numbers of channels, of shapes that broadcast to that of ``magnitude``; 0 is no channel.
    """

    magnitude: NDArray[Any]
    made: NDArray[np.intp]
    read: NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class _Set:
    """Channels that change together, and the weights on both sides of them."""

    channels: NDArray[np.intp]
    makers: list[Weight]
    readers: list[Weight]


@dataclass(frozen=True, eq=False)
class Values:
    """What channels hold on samples: the largest magnitudes and the mean squares, of shape (count,)."""

    largest: NDArray[np.float64]
    square: NDArray[np.float64]


def equalize(weights: Sequence[Weight], count: int, *, strength: float, rounds: int) -> NDArray[np.float64]:
    """The factors s, of shape (count,), that balance weights with weights; that of channel 0 is 1.

    strength: the exponent a, from 0 to 1. Since the weights between two sets of channels belong to both, sets
    are balanced in turn, ``rounds`` times or until they no longer change.
    """
    found, sets = np.ones(count), _sets(weights)
    for _ in range(rounds):
        before = found.copy()
        for item in sets:
            made = _largest(item.makers, found, made=True)[item.channels]
            read = _largest(item.readers, found, made=False)[item.channels]
            found[item.channels] = bounded(found[item.channels] * balance(made, read, strength))
        if np.abs(np.log(found / before)).max(initial=0.0) < CONVERGED:
            break
    return settled(found)


def smooth(
    weights: Sequence[Weight], values: Values, *, strength: float | None, bits: int
) -> NDArray[np.float64]:
    """The factors s, of shape (count,), that balance values with the weights that read them.

    strength: the exponent a; None: for each set of channels that of ``STRENGTHS`` for which
    ``predicted_error`` is least, or no factors where none makes it less. bits: of the weights in that
    prediction.
    """
    found = np.ones(len(values.largest))
    for item in _sets(weights):
        read = _largest(item.readers, np.ones_like(found), made=False)[item.channels]
        best = np.ones(len(item.channels))
        least = _predicted(item, found, best, values, bits)
        for a in STRENGTHS if strength is None else (strength,):
            factors = bounded(balance(values.largest[item.channels], read, a))
            error = _predicted(item, found, factors, values, bits)
            if strength is not None or error < least:
                best, least = factors, error
        found[item.channels] = best
    return settled(found)


def _predicted(
    item: _Set, found: NDArray[np.float64], factors: NDArray[np.float64], values: Values, bits: int
) -> float:
    scales = found.copy()
    scales[item.channels] = factors
    return sum(predicted_error(weight, scales, values, bits) for weight in item.readers)


def predicted_error(weight: Weight, scales: NDArray[np.float64], values: Values, bits: int) -> float:
    """The expected squared error of a layer's outputs, before they are scaled, once it is quantized.

    Values are rounded to 8 bits with one scale, weights to ``bits`` with one for each output; a rounding with
    step d adds d²/12, independent of all others.
    """
    size = weight.magnitude * scales[weight.read]
    row = tuple(axis for axis, length in enumerate(weight.made.shape) if length == 1)
    step = (values.largest / scales)[weight.read].max() / 2.0**8
    steps = size.max(axis=row, keepdims=True) / 2.0 ** (bits - 1)
    squares = np.broadcast_to((values.square / scales**2)[weight.read], size.shape)
    of_values = np.square(size).sum() * step**2
    of_weights = (np.square(steps) * squares.sum(axis=row, keepdims=True)).sum()
    return float(of_values + of_weights) / 12


def bounded(factors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Factors between ``LARGEST_SCALE`` and its inverse."""
    return np.clip(factors, 1 / LARGEST_SCALE, LARGEST_SCALE)


def settled(found: NDArray[np.float64]) -> NDArray[np.float64]:
    """The factors, those within ``CONVERGED`` of 1 as 1."""
    return np.where(np.abs(np.log(found)) < CONVERGED, 1.0, found)


def balance(made: NDArray[Any], read: NDArray[Any], strength: float) -> NDArray[np.float64]:
    """u^a / r^(1-a) of each channel, divided by the median of all of them; 1 where u or r is 0.

    A common factor helps neither side, so it is left out, and values keep their size.
    """
    steps = np.ones(len(made))
    usable = (made > 0) & (read > 0) & np.isfinite(made) & np.isfinite(read)
    if usable.any():
        logs = strength * np.log(made[usable]) - (1 - strength) * np.log(read[usable])
        steps[usable] = np.exp(logs - np.median(logs))
    return steps


def scaled(array: NDArray[Any], made: NDArray[Any], read: NDArray[Any]) -> NDArray[np.float64]:
    """A weight with the factors of the channels it makes taken out and of those it reads put in."""
    return np.asarray(array.astype(np.float64) * (read / made))


def _sets(weights: Sequence[Weight]) -> list[_Set]:
    """The sets of channels, in the order of the layers, with the layers on both sides."""
    made, read = [_channels(w.made) for w in weights], [_channels(w.read) for w in weights]
    found = []
    for channels in together(w.made for w in weights):
        makers = [w for w, has in zip(weights, made, strict=True) if np.isin(has, channels).any()]
        readers = [w for w, has in zip(weights, read, strict=True) if np.isin(has, channels).any()]
        found.append(_Set(channels, makers, readers))
    return found


def together(made: Iterable[NDArray[np.intp]]) -> list[NDArray[np.intp]]:
    """The channels that each layer makes, without 0, in order; once where several make the same."""
    sets = map(_channels, made)
    return list({channels.tobytes(): channels for channels in sets if len(channels)}.values())


def _channels(labels: NDArray[np.intp]) -> NDArray[np.intp]:
    channels = np.unique(labels)
    return channels[channels > 0]


def _largest(weights: Sequence[Weight], found: NDArray[np.float64], *, made: bool) -> NDArray[np.float64]:
    """The largest magnitude that each channel meets on that side, with the factors found so far."""
    largest = np.zeros(len(found))
    for weight in weights:
        size = weight.magnitude * (found[weight.read] / found[weight.made])
        labels = weight.made if made else weight.read
        accumulate(largest, size, labels)
    return largest


def accumulate(largest: NDArray[np.float64], size: NDArray[Any], labels: NDArray[np.intp]) -> None:
    """Raise, in place, each channel's largest magnitude to that of the elements it labels.

    labels has as many axes as ``size``, each of the same length or 1.
    """
    alike = tuple(axis for axis, length in enumerate(labels.shape) if length == 1)
    if size.size:
        np.maximum.at(largest, labels, size.max(axis=alike, keepdims=True))


def add_squares(
    squares: NDArray[np.float64], counts: NDArray[np.float64], values: NDArray[Any], labels: NDArray[np.intp]
) -> None:
    """Add, in place, the squares of each channel's elements, and how many there are."""
    alike = tuple(axis for axis, length in enumerate(labels.shape) if length == 1)
    sums = np.square(values).sum(axis=alike, keepdims=True, dtype=np.float64)
    np.add.at(squares, labels, sums)
    np.add.at(counts, labels, values.size / max(sums.size, 1))
