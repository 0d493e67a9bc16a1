"""Random numbers: Dropout, Bernoulli, RandomNormal, RandomUniform and their Like forms, Multinomial.

What a node with the attribute ``seed`` draws follows from the seed and from how often it has drawn: two
modules of one graph draw the same numbers, and a training that goes on draws those that would have come. All
others draw from torch's generator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from hasten.bridge.dtypes import carrier
from hasten.bridge.operator import Call, Function, Scope, operator

_FURTHER = 0x9E3779B97F4A7C15
"""Between the seeds of two draws: 2⁶⁴ over the golden ratio, so that those of near seeds are far apart."""


def _generator(call: Call) -> Callable[[Scope, torch.device], torch.Generator | None]:
    """The generator of the node's next draw on a device; None where the node has no seed."""
    if not call.given("seed"):
        return lambda scope, device: None
    # Dropout's seed is an integer, the others' a float.
    seed = call.integer("seed") if call.op_type == "Dropout" else int(call.real("seed"))

    def generator(scope: Scope, device: torch.device) -> torch.Generator:
        count = scope.drawn.get(call.name, 0)
        scope.drawn[call.name] = count + 1
        return torch.Generator(device).manual_seed((seed + count * _FURTHER) % 2**64)

    return generator


def _drop(
    call: Call, x: Tensor, ratio: float, generator: torch.Generator | None
) -> tuple[Tensor, ...] | Tensor:
    if generator is None and not _wants_mask(call):
        return functional.dropout(x, ratio, training=True)
    kept = torch.rand(x.shape, dtype=torch.float32, device=x.device, generator=generator) >= ratio
    scaled = x * kept / (1 - ratio) if ratio < 1 else torch.zeros_like(x)
    return (scaled, kept) if _wants_mask(call) else scaled


def _wants_mask(call: Call) -> bool:
    return len(call.wanted) > 1 and call.wanted[1]


def _keep(call: Call, x: Tensor) -> tuple[Tensor, ...] | Tensor:
    dtype = torch.bool if call.version >= 10 else x.dtype
    return (x, torch.ones_like(x, dtype=dtype)) if _wants_mask(call) else x


@operator("Dropout", scoped=True)
def dropout_by_attribute(call: Call) -> Function:
    """Before version 12 the ratio is an attribute; drops when the module trains."""
    ratio = call.real("ratio", 0.5)

    def run(scope: Scope, x: Tensor) -> tuple[Tensor, ...] | Tensor:
        return _drop(call, x, ratio, None) if scope.training and ratio else _keep(call, x)

    return run


@operator("Dropout", since=12, scoped=True, host=(1, 2))
def dropout(call: Call) -> Function:
    """Zero with probability ``ratio``, else scaled by 1 / (1 - ratio); when the module or the node trains.

    The mask's second output is True for what was kept (Srivastava et al. 2014).
    """
    known, always = call.constant(1), call.constant(2)
    generator = _generator(call)

    def run(
        scope: Scope, x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None
    ) -> tuple[Tensor, ...] | Tensor:
        trains = scope.training or (
            bool(always.all()) if always is not None else training is not None and bool(training)
        )
        if not trains:
            return _keep(call, x)
        rate = float(known.reshape(-1)[0]) if known is not None else 0.5 if ratio is None else float(ratio)
        return _drop(call, x, rate, generator(scope, x.device)) if rate else _keep(call, x)

    return run


@operator("Bernoulli", scoped=True)
def bernoulli(call: Call) -> Function:
    """1 with the probability that the input gives, else 0."""
    generator, dtype = _generator(call), _dtype(call)

    def run(scope: Scope, x: Tensor) -> Tensor:
        return torch.bernoulli(x, generator=generator(scope, x.device)).to(dtype or x.dtype)

    return run


def _dtype(call: Call, default: ir.DataType | None = None) -> torch.dtype | None:
    if call.given("dtype"):
        return carrier(call.integer("dtype"))
    return None if default is None else carrier(default)


def _draw(call: Call) -> Callable[[Scope, Sequence[int], torch.device], Tensor]:
    """Normal or uniform float32 numbers of a shape, as the node's attributes say."""
    generator = _generator(call)
    if "Normal" in call.op_type:
        offset, factor = call.real("mean", 0.0), call.real("scale", 1.0)
        source = torch.randn
    else:
        offset = call.real("low", 0.0)
        factor = call.real("high", 1.0) - offset
        source = torch.rand

    def draw(scope: Scope, shape: Sequence[int], device: torch.device) -> Tensor:
        plain = source(tuple(shape), generator=generator(scope, device), device=device, dtype=torch.float32)
        return plain * factor + offset

    return draw


@operator("RandomNormal", "RandomUniform", scoped=True)
def random(call: Call) -> Function:
    """Numbers of a fixed shape."""
    shape, draw = call.integers("shape"), _draw(call)
    dtype = _dtype(call, ir.DataType.FLOAT)
    return lambda scope: draw(scope, shape, torch.get_default_device()).to(dtype)


@operator("RandomNormalLike", "RandomUniformLike", scoped=True)
def random_like(call: Call) -> Function:
    """Numbers of the input's shape."""
    draw, dtype = _draw(call), _dtype(call)
    return lambda scope, x: draw(scope, x.shape, x.device).to(dtype or x.dtype)


@operator("Multinomial", scoped=True)
def multinomial(call: Call) -> Function:
    """Indices of classes, drawn with the log-probabilities that each row gives (unnormalized)."""
    count, generator = call.integer("sample_size", 1), _generator(call)
    dtype = _dtype(call, ir.DataType.INT32)

    def run(scope: Scope, x: Tensor) -> Tensor:
        drawn = torch.multinomial(torch.softmax(x, -1), count, True, generator=generator(scope, x.device))
        return drawn.to(dtype)

    return run
