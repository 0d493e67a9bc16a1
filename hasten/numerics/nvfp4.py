"""NVFP4: floats of 4 bits in blocks of 16 with a float8 scale each, and a float32 scale for the tensor.

A value is element · block scale · tensor scale; the element is E2M1, the block's scale E4M3. The tensor's
scale puts the scales of blocks into the range of E4M3, where they lie densest in proportion to their size.

Sources: NVIDIA 2025, "Pretraining Large Language Models with NVFP4", arXiv 2509.25149, appendix on the
quantization; NVIDIA 2025, "Introducing NVFP4 for Efficient and Accurate Low-Precision Inference".
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from hasten.numerics.blocks import largest_of
from hasten.numerics.floats import FORMATS, Scaled

BLOCK = 16
"""Values along one axis that share a scale."""
_ELEMENTS, _SCALES = FORMATS["e2m1"], FORMATS["e4m3"]
_SMALLEST_SCALE = 2.0**-9
"""The smallest positive E4M3 number; a block of zeros has it too, so that nothing is divided by zero."""


@dataclass(frozen=True)
class TwoLevels:
    """The scales of a tensor.

    tensor: one float32. blocks: E4M3, of the tensor's rank, an entry for each block along ``axis``.
    """

    tensor: NDArray[np.float32]
    blocks: NDArray[ml_dtypes.float8_e4m3fn]
    axis: int

    @property
    def quantizer(self) -> Scaled:
        """The quantizer with both scales multiplied, in float32."""
        scale = self.blocks.astype(np.float32) * self.tensor
        return Scaled(_ELEMENTS, scale, self.axis, BLOCK)

    def round_trip(self, x: ArrayLike) -> NDArray[np.float32]:
        """The values that ``x`` is rounded to."""
        return self.quantizer.round_trip(x)


def two_levels(x: ArrayLike, axis: int) -> TwoLevels:
    """The scales of a tensor: max|x| / (6 · 448) of all, and of each block max|x| / 6 over that, in E4M3.

    Where the scale of a block was rounded down, its largest values saturate, by less than 6.3 %.
    """
    largest = largest_of(x, axis, BLOCK).astype(np.float64)
    reach = _ELEMENTS.largest * _SCALES.largest
    # Below this the product of both scales would be a denormal float32.
    least = float(np.finfo(np.float32).tiny) / _SMALLEST_SCALE
    tensor = np.float32(max(float(largest.max(initial=0.0)) / reach, least))
    exact = largest / _ELEMENTS.largest / float(tensor)
    blocks = np.clip(exact, _SMALLEST_SCALE, _SCALES.largest).astype(np.float32)
    return TwoLevels(np.asarray(tensor), blocks.astype(_SCALES.dtype), axis)
