"""Changes to a model's structure: each a valid protobuf message, and a model nobody exported.

A change edits the message in place; where the model has nothing of the kind, it leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

import onnx

from . import attributes, outline, tensors, wiring

Change = Callable[[Random, onnx.ModelProto], None]

CHANGES: dict[str, Change] = {
    name: change
    for module in (wiring, tensors, attributes, outline)
    for name, change in vars(module).items()
    if getattr(change, "__module__", "") == module.__name__ and change.__code__.co_argcount == 2
}
"""Every function ``change(rng, model)`` of the four modules, by name."""


def changed(rng: Random, model: onnx.ModelProto, first: str) -> bytes:
    """The model after the change of that name and up to two more."""
    names = [first, *rng.choices(list(CHANGES), k=rng.choice((0, 0, 1, 2)))]
    for name in names:
        CHANGES[name](rng, model)
    return model.SerializeToString()


def cases(count: int) -> Iterator[tuple[str, int]]:
    """``count`` pairs of a change and a number, every change in turn."""
    names = list(CHANGES)
    return ((names[i % len(names)], i) for i in range(count))
