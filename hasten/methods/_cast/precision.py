"""The two 16-bit floating-point formats, and what of a tensor they cannot hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array


@dataclass(frozen=True)
class Precision:
    """A 16-bit format. largest: its largest finite number. headroom: the largest number values may reach.

    since: the first operator set whose convolutions and pooling compute in it.

    Sources: IEEE 754-2008, binary16 (65504 = (2 - 2⁻¹⁰) · 2¹⁵); bfloat16 is float32 with its last 16 bits
    cut off.
    """

    name: str
    dtype: ir.DataType
    largest: float
    since: int

    @property
    def headroom(self) -> float:
        """Half the largest number: values seen on a few samples grow a little on others."""
        return self.largest / 2

    @property
    def type_text(self) -> str:
        """How operator schemas write a tensor of it."""
        return f"tensor({self.name})"

    def convert(self, array: Array) -> Array:
        """The nearest numbers of this format; saturates nothing."""
        with np.errstate(over="ignore"):
            return array.astype(self.dtype.numpy())

    def loss(self, array: Array) -> str | None:
        """Why a stored float32 tensor cannot be kept in this format, or None."""
        finite = array[np.isfinite(array)]
        if not finite.size:
            return None
        most = float(np.abs(finite).max())
        if most > self.largest:
            return f"holds {most:.4g}, beyond {self.name}'s largest number {self.largest:.6g}"
        if most > 0 and not np.any(self.convert(finite).astype(np.float32)):
            return f"holds nothing larger than {most:.4g}, which {self.name} rounds to zero"
        return None


PRECISIONS = {
    "float16": Precision("float16", ir.DataType.FLOAT16, (2 - 2**-10) * 2.0**15, since=1),
    "bfloat16": Precision("bfloat16", ir.DataType.BFLOAT16, (2 - 2**-7) * 2.0**127, since=22),
}
