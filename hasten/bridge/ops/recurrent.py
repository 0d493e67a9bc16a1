"""Recurrent layers: LSTM, GRU, RNN; torch's fused kernels where they compute the same, else a loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hasten.bridge.operator import Call, Function, operator
from hasten.bridge.ops.recurrent_cells import CELLS, Cell, activations_of

_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_TORCH_ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
"""Torch's gates in terms of ONNX's: i, f, c, o of i, o, f, c; r, z, h of z, r, h."""
_FUSED: dict[tuple[str, ...], Callable[..., Any]] = {
    ("LSTM", "Sigmoid", "Tanh", "Tanh"): torch.lstm,
    ("GRU", "Sigmoid", "Tanh"): torch.gru,
    ("RNN", "Tanh"): torch.rnn_tanh,
    ("RNN", "Relu"): torch.rnn_relu,
}
_DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


@dataclass(frozen=True)
class _Layer:
    """A recurrent node. backwards: for each direction, whether it runs from the end to the beginning.

    fused: torch's kernel for these activations and options, if there is one. lengths: the sequence lengths
    where they are known.
    """

    kind: str
    backwards: tuple[bool, ...]
    cells: tuple[Cell, ...]
    fused: Callable[..., Any] | None
    lengths: frozenset[int] | None
    batch_first: bool


@operator("LSTM", "GRU", "RNN")
def recurrent(call: Call) -> Function:
    """Recurrent layers over (length, batch, features); with ``layout`` 1 over (batch, length, features)."""
    layer = _layer_of(call)

    def run(x: Tensor, w: Tensor, r: Tensor, *rest: Tensor | None) -> tuple[Tensor, ...]:
        b, lengths, h, c, p = (*rest, None, None, None, None, None)[:5]
        if layer.batch_first:
            x = x.transpose(0, 1)
            h = None if h is None else h.transpose(0, 1)
            c = None if c is None else c.transpose(0, 1)
        shape = (len(layer.backwards), x.shape[1], r.shape[-1])
        states = [x.new_zeros(shape) if h is None else h]
        if layer.kind == "LSTM":
            states.append(x.new_zeros(shape) if c is None else c)
        if layer.fused is not None and _all_full(layer, lengths, x.shape[0]):
            y, finals = _run_fused(layer, x, (w, r, b), states)
        else:
            y, finals = _run_loop(layer, x, (w, r, b, p), states, lengths)
        if layer.batch_first:
            # (length, directions, batch, size) to (batch, length, directions, size)
            return y.permute(2, 0, 1, 3), *(final.transpose(0, 1) for final in finals)
        return y, *finals

    return run


def _layer_of(call: Call) -> _Layer:
    direction = call.text("direction", "forward")
    if direction not in _DIRECTIONS:
        raise call.wrong(f"has an unknown direction {direction!r}")
    backwards = _DIRECTIONS[direction]
    names = call.texts("activations", _DEFAULTS[call.op_type] * len(backwards))
    per_direction = len(_DEFAULTS[call.op_type])
    if len(names) != per_direction * len(backwards):
        raise call.wrong(f"has {len(names)} activations, not {per_direction * len(backwards)}")
    functions = activations_of(call, names)
    shares = [slice(i, i + per_direction) for i in range(0, len(names), per_direction)]
    same = len({names[s] for s in shares}) == 1
    plain = not (call.given("clip") or call.integer("input_forget", 0) or call.has(7))
    plain = plain and (call.op_type != "GRU" or bool(call.integer("linear_before_reset", 0)))
    lengths = call.constant(4)
    return _Layer(
        kind=call.op_type,
        backwards=backwards,
        cells=tuple(CELLS[call.op_type](call, functions[s]) for s in shares),
        fused=_FUSED.get((call.op_type, *names[:per_direction])) if plain and same else None,
        lengths=None if lengths is None else frozenset(lengths.tolist()),
        batch_first=bool(call.integer("layout", 0)),
    )


def _all_full(layer: _Layer, lengths: Tensor | None, longest: int) -> bool:
    """Whether every sequence fills its row; asking an accelerator would cost more than the loop's masks."""
    if lengths is None:
        return True
    if layer.lengths is not None:
        return layer.lengths == {longest}
    return lengths.device.type == "cpu" and bool((lengths == longest).all())


def _run_fused(
    layer: _Layer, x: Tensor, weights: Sequence[Tensor | None], states: Sequence[Tensor]
) -> tuple[Tensor, Sequence[Tensor]]:
    w, r, b = weights
    assert w is not None
    assert r is not None
    both = len(layer.backwards) == 2
    flipped = layer.backwards == (True,)
    parameters = _torch_parameters(layer, w, r, b)
    first = (x.flip(0) if flipped else x).to(w.dtype)
    states = [state.to(w.dtype) for state in states]
    held = tuple(states) if layer.kind == "LSTM" else states[0]
    assert layer.fused is not None
    # Many CPUs have no recurrent kernel of half precision, which autocast would ask for.
    wide = torch.autocast("cpu", enabled=False) if x.device.type == "cpu" else nullcontext()
    with wide:
        # cuDNN keeps what the way back needs only in training mode.
        y, *finals = layer.fused(
            first, held, parameters, b is not None, 1, 0.0, torch.is_grad_enabled(), both, False
        )
    y = y.flip(0) if flipped else y
    length, batch = x.shape[:2]
    return y.reshape(length, batch, len(layer.backwards), -1).transpose(1, 2), finals


def _torch_parameters(layer: _Layer, w: Tensor, r: Tensor, b: Tensor | None) -> list[Tensor]:
    """The weights as torch's kernels take them: for each direction W, R and, if there are any, both biases.

    All are views of one piece of memory in cuDNN's order, all matrices and then all biases: cuDNN would
    otherwise copy them once more, with a warning.
    """
    order, directions = _TORCH_ORDER[layer.kind], range(len(layer.backwards))
    matrices = [matrix[d] for d in directions for matrix in (w, r)]
    biases = [] if b is None else [half for d in directions for half in b[d].chunk(2)]
    blocks = [part.chunk(len(order))[i].reshape(-1) for part in (*matrices, *biases) for i in order]
    flat = torch.cat(blocks)
    parts, start = [], 0
    for part in (*matrices, *biases):
        parts.append(flat[start : start + part.numel()].reshape(part.shape))
        start += part.numel()
    first_bias = len(matrices)
    return [
        part
        for d in directions
        for part in (*parts[2 * d : 2 * d + 2], *parts[first_bias + 2 * d : first_bias + 2 * d + 2])
    ]


def _run_loop(
    layer: _Layer,
    x: Tensor,
    weights: Sequence[Tensor | None],
    states: Sequence[Tensor],
    lengths: Tensor | None,
) -> tuple[Tensor, Sequence[Tensor]]:
    """Step by step; a sequence that has ended keeps its state and puts out zeros."""
    w, r, b, p = weights
    assert w is not None
    assert r is not None
    length, gates = x.shape[0], _GATES[layer.kind]
    alive = None
    if lengths is not None:
        steps = torch.arange(length, device=x.device)
        alive = (steps[:, None] < lengths.to(x.device))[..., None]
    outputs, finals = [], []
    for direction, backward in enumerate(layer.backwards):
        size = r.shape[-1]
        bias = x.new_zeros(2 * gates * size) if b is None else b[direction]
        peephole = None if p is None else p[direction]
        cell, recurrence = layer.cells[direction], (r[direction].t(), bias[gates * size :], peephole)
        given = x @ w[direction].t() + bias[: gates * size]
        state = tuple(s[direction] for s in states)
        found: list[Tensor] = [x] * length
        for t in reversed(range(length)) if backward else range(length):
            new = cell(given[t], state, recurrence)
            if alive is None:
                state, found[t] = new, new[0]
            else:
                state = tuple(torch.where(alive[t], n, s) for n, s in zip(new, state, strict=True))
                found[t] = torch.where(alive[t], new[0], 0.0)
        outputs.append(torch.stack(found))
        finals.append(state)
    return torch.stack(outputs, dim=1), [torch.stack(ends) for ends in zip(*finals, strict=True)]
