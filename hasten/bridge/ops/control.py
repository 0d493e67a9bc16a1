"""Control flow: subgraphs run by a condition, a count, or over the elements of tensors and sequences.

The subgraphs are programs like the main one, so that gradients flow through every pass of a loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from hasten.bridge.operator import Body, Call, Function, Scope, operator
from hasten.bridge.ops.integers import one, wrapped


def _body(call: Call, name: str) -> Body:
    if name not in call.bodies:
        raise call.wrong(f"lacks the subgraph {name!r}")
    return call.bodies[name]


def _device(values: Any) -> torch.device | None:
    """The device of the first tensor among values, None when there is none."""
    return next((v.device for v in values if isinstance(v, Tensor)), None)


@operator("If", scoped=True, host=(0,))
def if_else(call: Call) -> Function:
    """One of two subgraphs, as the condition says."""
    chosen, other = _body(call, "then_branch"), _body(call, "else_branch")
    return lambda scope, condition: tuple((chosen if bool(condition) else other)((), scope))


@operator("Loop", scoped=True, host=(0, 1))
def loop(call: Call) -> Function:
    """A subgraph run again and again: state goes in and out, further outputs are stacked over the passes."""
    body = _body(call, "body")
    states = body.inputs - 2
    most = one(call, 0) if call.has(0) else None

    def run(scope: Scope, count: Tensor | None, condition: Tensor | None, *initial: Any) -> tuple[Any, ...]:
        limit = most if count is None or most is not None else int(count)
        going = condition is None or bool(condition)
        state: list[Any] = list(initial)
        piles: list[list[Tensor]] = [[] for _ in range(body.outputs - 1 - states)]
        step = 0
        while going and (limit is None or step < limit):
            found = body((torch.tensor(step), torch.tensor(going), *state), scope)
            going, state = bool(found[0]), found[1 : states + 1]
            for pile, value in zip(piles, found[states + 1 :], strict=True):
                pile.append(value)
            step += 1
        device = _device((*initial, *scope.captured))
        stacked = (
            torch.stack(pile) if pile else body.empty(states + 1 + i, 0, device)
            for i, pile in enumerate(piles)
        )
        return (*state, *stacked)

    return run


@operator("Scan", since=9, scoped=True)
def scan(call: Call) -> Function:
    """A subgraph run over the slices of tensors: state goes in and out, further outputs are stacked."""
    body, count = _body(call, "body"), call.integer("num_scan_inputs")
    states, piled = body.inputs - count, body.outputs - (body.inputs - count)
    axes_in = call.integers("scan_input_axes", (0,) * count)
    back_in = call.integers("scan_input_directions", (0,) * count)
    axes_out = call.integers("scan_output_axes", (0,) * piled)
    back_out = call.integers("scan_output_directions", (0,) * piled)

    def run(scope: Scope, *given: Any) -> tuple[Any, ...]:
        state, scanned = list(given[:states]), given[states:]
        piles: list[list[Tensor]] = [[] for _ in range(piled)]
        for slices in zip(*map(_slices, scanned, axes_in, back_in), strict=True):
            found = body((*state, *slices), scope)
            state = found[:states]
            for pile, value in zip(piles, found[states:], strict=True):
                pile.append(value)
        stacked = []
        for i, (pile, axis, back) in enumerate(zip(piles, axes_out, back_out, strict=True)):
            if pile:
                stacked.append(torch.stack(pile[::-1] if back else pile, axis))
            else:
                stacked.append(body.empty(states + i, axis, _device(given)))
        return (*state, *stacked)

    return run


def _slices(x: Tensor, axis: int, backwards: int) -> tuple[Tensor, ...]:
    """The slices of an axis, without it."""
    slices = x.unbind(wrapped(axis, x.dim()))
    return slices[::-1] if backwards else slices


@operator("SequenceMap", scoped=True)
def sequence_map(call: Call) -> Function:
    """A subgraph run on every element of sequences; what is no sequence is the same for all."""
    body = _body(call, "body")

    def run(scope: Scope, first: list[Any], *others: Any) -> tuple[Any, ...]:
        def passes() -> Iterator[list[Any]]:
            for i, value in enumerate(first):
                given = (value, *(other[i] if isinstance(other, list) else other for other in others))
                yield body(given, scope)

        rows = list(passes())
        return tuple([row[k] for row in rows] for k in range(body.outputs))

    return run
