"""The signature of a model: what goes in and what comes out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    dtype: numpy's name (``float32``, ``int64``, ``bool``, ``str``) or that of ml_dtypes (``bfloat16`` …).
    shape: an entry per axis: a size, the name of a dynamic dimension, or None for an unnamed one; or None
        when not even the rank is known.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None

    @property
    def is_dynamic(self) -> bool:
        """Whether any axis is not a fixed size."""
        return self.shape is None or any(not isinstance(d, int) for d in self.shape)

    def __str__(self) -> str:
        axes = "?" if self.shape is None else "x".join("?" if d is None else str(d) for d in self.shape)
        return f"{self.name}: {self.dtype}[{axes}]"
