"""One step of a recurrent layer, and the activation functions it may use (ONNX: LSTM, GRU, RNN)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from hasten.bridge.operator import Call

Activation = Callable[[Tensor], Tensor]
Recurrence = tuple[Tensor, Tensor, Tensor | None]
"""R' (size, gates · size), its bias, and the peephole weights."""
Cell = Callable[[Tensor, tuple[Tensor, ...], Recurrence], tuple[Tensor, ...]]
"""What a step computes from W x + bias (batch, gates · size) and the states: the new states, output first."""

_PLAIN: dict[str, Activation] = {
    "Relu": torch.relu,
    "Tanh": torch.tanh,
    "Sigmoid": torch.sigmoid,
    "Softsign": functional.softsign,
    "Softplus": functional.softplus,
}
_SHAPED: dict[str, tuple[Callable[[float, float], Activation], float | None, float | None]] = {
    "Affine": (lambda a, b: lambda x: a * x + b, 1.0, 0.0),
    "LeakyRelu": (lambda a, b: lambda x: functional.leaky_relu(x, a), 0.01, None),
    "ThresholdedRelu": (lambda a, b: lambda x: torch.where(x >= a, x, 0.0), 1.0, None),
    "ScaledTanh": (lambda a, b: lambda x: a * torch.tanh(b * x), 1.0, 1.0),
    "HardSigmoid": (lambda a, b: lambda x: torch.clamp(a * x + b, 0.0, 1.0), 0.2, 0.5),
    "Elu": (lambda a, b: lambda x: functional.elu(x, a), 1.0, None),
}
"""Functions with an alpha and perhaps a beta: how they are made, and the defaults; None: no such value."""


def activations_of(call: Call, names: Sequence[str]) -> tuple[Activation, ...]:
    """The functions of these names (in any case), clipped if the node clips: all but an LSTM's last.

    ``activation_alpha`` and ``activation_beta`` are handed out in order to the functions that have one.
    Raises ModelError for an unknown name.
    """
    alphas, betas = list(call.reals("activation_alpha", ())), list(call.reals("activation_beta", ()))
    known = {name.lower(): name for name in (*_PLAIN, *_SHAPED)}
    found: list[Activation] = []
    for given in names:
        name = known.get(given.lower())
        if name is None:
            raise call.wrong(f"has an unknown activation {given!r}")
        if name in _PLAIN:
            found.append(_PLAIN[name])
            continue
        make, alpha, beta = _SHAPED[name]
        first = alphas.pop(0) if alpha is not None and alphas else alpha or 0.0
        second = betas.pop(0) if beta is not None and betas else beta or 0.0
        found.append(make(first, second))
    if not call.given("clip"):
        return tuple(found)
    # The last reads the cell, which is bounded by its gates: ONNX Runtime clips what goes into those alone.
    bound, lstm = call.real("clip"), call.op_type == "LSTM"
    return tuple(f if lstm and i % 3 == 2 else _clipped(f, bound) for i, f in enumerate(found))


def _clipped(function: Activation, bound: float) -> Activation:
    return lambda x: function(x.clamp(-bound, bound))


def _lstm(call: Call, functions: Sequence[Activation]) -> Cell:
    f, g, h = functions
    coupled = bool(call.integer("input_forget", 0))

    def step(given: Tensor, states: tuple[Tensor, ...], recurrence: Recurrence) -> tuple[Tensor, ...]:
        weight, bias, peephole = recurrence
        hidden, cell = states
        i, o, forget, c = (given + hidden @ weight + bias).chunk(4, dim=-1)
        look_i, look_o, look_f = (None, None, None) if peephole is None else peephole.chunk(3)
        i = f(i if look_i is None else i + look_i * cell)
        forget = f(forget if look_f is None else forget + look_f * cell) if not coupled else 1 - i
        cell = forget * cell + i * g(c)
        o = f(o if look_o is None else o + look_o * cell)
        return o * h(cell), cell

    return step


def _gru(call: Call, functions: Sequence[Activation]) -> Cell:
    f, g = functions
    linear_first = bool(call.integer("linear_before_reset", 0))

    def step(given: Tensor, states: tuple[Tensor, ...], recurrence: Recurrence) -> tuple[Tensor, ...]:
        weight, bias, _ = recurrence
        (hidden,) = states
        both = 2 * hidden.shape[-1]
        gates = given[..., :both] + hidden @ weight[:, :both] + bias[:both]
        update, reset = f(gates).chunk(2, dim=-1)
        if linear_first:
            new = g(given[..., both:] + reset * (hidden @ weight[:, both:] + bias[both:]))
        else:
            new = g(given[..., both:] + (reset * hidden) @ weight[:, both:] + bias[both:])
        return ((1 - update) * new + update * hidden,)

    return step


def _rnn(call: Call, functions: Sequence[Activation]) -> Cell:
    (f,) = functions

    def step(given: Tensor, states: tuple[Tensor, ...], recurrence: Recurrence) -> tuple[Tensor, ...]:
        weight, bias, _ = recurrence
        return (f(given + states[0] @ weight + bias),)

    return step


CELLS: dict[str, Callable[[Call, Sequence[Activation]], Cell]] = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}
"""How the step of each layer is made."""
