"""Predictions made of arrays, as if a model had answered them."""

from __future__ import annotations

import hashlib

import numpy as np

from hasten.core.data import StoreWriter
from hasten.measuring import Predictions


def answers(folder, **outputs):
    """Predictions with these outputs; each a sequence of arrays, one a sample."""
    name = hashlib.sha256(
        repr(sorted((k, list(map(repr, v))) for k, v in outputs.items())).encode()
    ).hexdigest()
    writer = StoreWriter(folder / name, list(outputs))
    for values in zip(*outputs.values(), strict=True):
        writer.append(dict(zip(outputs, map(np.asarray, values), strict=True)))
    return Predictions("subject", name, writer.close(), load_ms=1.0, peak_memory_bytes=1)
