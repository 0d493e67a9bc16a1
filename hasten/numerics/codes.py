"""Integer codes of few bits: packed four to a byte, and how small an entropy coder could make them.

Source: Shannon 1948, "A Mathematical Theory of Communication", section 6 (entropy).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PER_BYTE = 4
"""Codes of two bits in a byte."""


def pack(codes: NDArray[Any]) -> NDArray[np.uint8]:
    """Codes of two bits, four to a byte, the first in the lowest bits; signed ones in two's complement.

    codes: any shape whose size four divides, otherwise ValueError. Returns one dimension.
    """
    if codes.size % PER_BYTE:
        raise ValueError(f"{codes.size} codes do not fill whole bytes")
    quads = (codes.astype(np.int16) & 3).astype(np.uint8).reshape(-1, PER_BYTE)
    return np.asarray(np.bitwise_or.reduce(quads << np.arange(0, 8, 2, dtype=np.uint8), axis=1))


def unpacked(*, signed: bool) -> NDArray[Any]:
    """The four codes in each of the 256 bytes: shape (256, 4), int8 (-2 … 1) or uint8 (0 … 3)."""
    bytes_ = np.arange(256, dtype=np.int16)[:, None]
    codes = (bytes_ >> np.arange(0, 8, 2)) & 3
    return np.where(codes > 1, codes - 4, codes).astype(np.int8) if signed else codes.astype(np.uint8)


def entropy_bits(codes: NDArray[Any]) -> float:
    """Bits a code that the codes' frequencies allow: -Σ p log2 p, the limit of any coder of single codes."""
    counts = np.unique(codes, return_counts=True)[1].astype(np.float64)
    shares = counts / counts.sum()
    return abs(float(shares @ np.log2(shares)))
