"""Which torch function is which ONNX operator? One file a family; importing a file enters its factories."""

from __future__ import annotations

from hasten.bridge.ops import (
    activation,
    arithmetic,
    attention,
    casting,
    chance,
    convolution,
    linear,
    linear_attention,
    logic,
    loss,
    normalization,
    pooling,
    recurrent,
    reduction,
    signal,
)

__all__ = [
    "activation",
    "arithmetic",
    "attention",
    "casting",
    "chance",
    "convolution",
    "linear",
    "linear_attention",
    "logic",
    "loss",
    "normalization",
    "pooling",
    "recurrent",
    "reduction",
    "signal",
]
