"""Samples as tensors, augmented by chance that depends on nothing but seed, epoch and sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from hasten.bridge.dtypes import from_numpy
from hasten.core.data import Array, Dataset
from hasten.core.errors import DataError

_LEAST_AREA, _ASPECT = 0.35, 4 / 3
"""Of the part that ``zoom`` shows: least share of the area, and how much wider or higher it may be."""


@dataclass(frozen=True)
class Batch:
    """Samples of equal shapes as tensors, stacked along the first axis, as a loss is given them."""

    inputs: dict[str, Tensor]
    labels: Tensor | None
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()}
        labels = None if self.labels is None else self.labels.to(device, non_blocking=True)
        return Batch(moved, labels, self.indices)


class Samples:
    """Loads batches of a role's samples; raises DataError for what cannot be augmented or made a tensor."""

    def __init__(self, data: Dataset, augment: Sequence[str], seed: int) -> None:
        self._data = data
        self._augment = tuple(augment)
        self._seed = seed

    def load(self, indices: Sequence[int], epoch: int | None) -> Batch:
        """The samples with these numbers; ``epoch`` augments them, None leaves them as they are."""
        gathered = self._data.gather(indices)
        inputs = gathered.inputs
        if self._augment and epoch is not None:
            inputs = self._augmented(inputs, indices, epoch)
        labels = gathered.labels
        if labels is not None and labels.dtype.kind in "OSU":
            labels = None
        if labels is not None and labels.dtype.kind in "biu":
            labels = labels.astype(np.int64)  # torch reckons with no other unsigned integers than bytes
        return Batch(
            {name: _tensor(name, array) for name, array in inputs.items()},
            None if labels is None else from_numpy(labels),
            tuple(indices),
        )

    def _augmented(self, inputs: dict[str, Array], indices: Sequence[int], epoch: int) -> dict[str, Array]:
        pictures = [name for name, array in inputs.items() if is_picture(array)]
        if not pictures:
            raise DataError(
                "there is no picture to augment: no input has 4 axes of which the last two are large"
            )
        changed = dict(inputs)
        for row, index in enumerate(indices):
            rng = np.random.default_rng([self._seed, epoch, index])
            flipped = "flip" in self._augment and rng.random() < 0.5
            moved = rng.uniform(-1, 1, 2) if "crop" in self._augment else None
            box = _box(rng) if "zoom" in self._augment else None
            for name in pictures:
                if row == 0:
                    changed[name] = changed[name].copy()
                picture = changed[name][row]
                if flipped:
                    picture = picture[..., ::-1].copy()
                if moved is not None:
                    picture = _moved(picture, moved)
                changed[name][row] = picture if box is None else _zoomed(picture, box)
        return changed


def is_picture(array: Array) -> bool:
    """Whether a batch looks like pictures, channels first."""
    return array.ndim == 4 and array.shape[1] <= 4 and min(array.shape[2:]) >= 8


def _moved(picture: Array, shares: Array) -> Array:
    """A picture (C, H, W) moved by up to an eighth of its size; what comes in from outside is zero."""
    _, height, width = picture.shape
    down, right = (round(float(s) * size / 8) for s, size in zip(shares, (height, width), strict=True))
    result = np.zeros_like(picture)
    result[:, max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)] = picture[
        :, max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)
    ]
    return result


def _box(rng: np.random.Generator) -> Array:
    """Height, width, top and left of a part of a picture, as shares of its height and width.

    A part of the area and an aspect by chance: Szegedy et al. 2015, "Going Deeper with Convolutions", section
    6, with larger parts, since what is learned here is often a model's answers to few pictures.
    """
    area, aspect = rng.uniform(_LEAST_AREA, 1), np.exp(rng.uniform(-1, 1) * np.log(_ASPECT))
    height, width = min(1.0, np.sqrt(area * aspect)), min(1.0, np.sqrt(area / aspect))
    top, left = rng.uniform(0, 1 - height), rng.uniform(0, 1 - width)
    return np.array([height, width, top, left])


def _zoomed(picture: Array, box: Array) -> Array:
    """The part of a picture (C, H, W), resized to the whole's size; its numbers stay in their range."""
    _, rows, columns = picture.shape
    height, top = max(1, round(box[0] * rows)), int(box[2] * rows)
    width, left = max(1, round(box[1] * columns)), int(box[3] * columns)
    part = torch.from_numpy(picture[:, top : top + height, left : left + width].astype(np.float32))
    resized = interpolate(part[None], (rows, columns), mode="bilinear", align_corners=False, antialias=True)
    whole = resized[0].numpy()
    return (np.rint(whole) if picture.dtype.kind in "iu" else whole).astype(picture.dtype)


def _tensor(name: str, array: Array) -> Tensor:
    if array.dtype.kind in "OSU":
        raise DataError(f"input {name!r} holds text, and torch has no tensors of text")
    return from_numpy(array)
