"""One positive factor for each channel that passes between layers, so that both sides quantize better.

A layer that makes channel k divides it by s_k, and every layer that reads it multiplies its weights by s_k: for
operators in between that are positively homogeneous, f(x / s) = f(x) / s, the function stays the same. With
u_k, the largest magnitude on the making side, and r_k, that of the weights that read the channel,

    s_k = u_k^a / r_k^(1-a)

With u of the weights that make the channel and a = ½, both sides end with the range √(u·r): that is cross-layer
equalization. With u of the channel's own values on calibration samples it is SmoothQuant.

Sources: Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section
4.1 and appendix A (equation 11); Meller et al. 2019, "Same, Same But Different", section 3; Xiao et al. 2023,
"SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", equation 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_SCALE = 1024.0
"""Factors stay between this and its inverse: a channel of nearly nothing is not worth more."""
CONVERGED = 0.01
"""Rounds end when no factor changes by more than this part; factors that near to 1 are 1."""


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


def equalize(
    weights: Sequence[Weight],
    count: int,
    *,
    strength: float,
    rounds: int,
    values: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """The factors s, of shape (count,); that of channel 0 is 1.

    strength: the exponent a, from 0 to 1. values: the largest magnitude of each channel's values, of shape
    (count,), to be used instead of that of the weights that make it. Since the weights between two sets of
    channels belong to both, sets are balanced in turn, ``rounds`` times or until they no longer change.
    """
    found = np.ones(count)
    sets = _sets(weights)
    for _ in range(rounds):
        before = found.copy()
        for item in sets:
            made = _largest(item.makers, found, made=True) if values is None else values / found
            read = _largest(item.readers, found, made=False)
            steps = balance(made[item.channels], read[item.channels], strength)
            moved = found[item.channels] * steps
            found[item.channels] = np.clip(moved, 1 / LARGEST_SCALE, LARGEST_SCALE)
        if np.abs(np.log(found / before)).max(initial=0.0) < CONVERGED:
            break
    found[np.abs(np.log(found)) < CONVERGED] = 1.0
    return found


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
    """What each layer makes, in the order of the layers; once, where several make the same channels."""
    made, read = [_channels(w.made) for w in weights], [_channels(w.read) for w in weights]
    found: dict[bytes, _Set] = {}
    for channels in made:
        key = channels.tobytes()
        if not len(channels) or key in found:
            continue
        makers = [w for w, has in zip(weights, made, strict=True) if np.isin(has, channels).any()]
        readers = [w for w, has in zip(weights, read, strict=True) if np.isin(has, channels).any()]
        found[key] = _Set(channels, makers, readers)
    return list(found.values())


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
