"""Which torch function is which ONNX operator? One file a family; importing a file enters its factories."""

from __future__ import annotations

from hasten.bridge.ops import arithmetic, linear

__all__ = ["arithmetic", "linear"]
