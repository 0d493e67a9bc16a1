"""Would 16-bit sums of 8-bit products overflow? The integer arithmetic of x86 CPUs without VNNI.

VPMADDUBSW multiplies uint8 by int8 and adds each two neighbouring products in 16 bits, where a sum beyond
[-32768, 32767] saturates: 255 · 127 + 255 · 127 = 64770 does. With VNNI (VPDPBUSD) sums are 32 bits wide.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, PMADDUBSW and VPDPBUSD.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_LOW, _HIGH = -(1 << 15), (1 << 15) - 1
_AT_ONCE = 1 << 22
"""Sums held at once."""


def saturating_share(activations: NDArray[Any], weights: NDArray[Any]) -> float:
    """The share of outputs in which at least one sum of two neighbouring products saturates, 0 to 1.

    activations: uint8, of shape (positions, size). weights: int8, of shape (outputs, size). A last product
    without a neighbour cannot saturate.
    """
    pairs = activations.shape[1] // 2
    if not pairs or not len(activations) or not len(weights):
        return 0.0
    left = activations[:, : 2 * pairs].reshape(-1, 1, pairs, 2).astype(np.int32)
    right = weights[:, : 2 * pairs].reshape(1, -1, pairs, 2).astype(np.int32)
    step = max(1, _AT_ONCE // (len(activations) * pairs))
    spoilt = 0
    for start in range(0, len(weights), step):
        part = right[:, start : start + step]
        sums = left[..., 0] * part[..., 0] + left[..., 1] * part[..., 1]
        spoilt += int(np.any((sums < _LOW) | (sums > _HIGH), axis=2).sum())
    return spoilt / (len(activations) * len(weights))
