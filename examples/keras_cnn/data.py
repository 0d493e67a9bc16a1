"""The pictures of examples/fashion_mnist, with the channel last as Keras has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def pictures() -> dict[str, NDArray[np.generic]]:
    """``image`` (4000, 28, 28, 1) float32 in [0, 1] and ``labels`` (4000,) int64."""
    with np.load(Path(__file__).parents[1] / "fashion_mnist" / "data.npz", allow_pickle=False) as file:
        return {"image": file["image"].transpose(0, 2, 3, 1), "labels": file["labels"]}
