"""Where values live: shapes, and what is computed from them alone, on the CPU; all else where the module is.

Reading a number from an accelerator waits for everything before it. So numbers that shapes are made of never
go there, and where an operator computes with both, they are brought to the other values' device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir

from hasten.bridge.operator import Body, Scope

HOST_SOURCES = frozenset({"Shape", "Size", "SequenceLength", "OptionalHasElement"})
"""Operators whose results are made on the CPU wherever their inputs are."""


class Leader:
    """The value whose device others are brought to: an input of a function, or a captured value."""

    def __init__(self, index: int, *, captured: bool) -> None:
        self.index = index
        self.captured = captured

    def device(self, inputs: Sequence[Any], scope: Scope | None) -> Any:
        """The device of the leader; None where it is no tensor, or is on the CPU too."""
        outside = scope.captured if self.captured and scope is not None else inputs
        device = getattr(outside[self.index], "device", None)
        return None if device is None or device.type == "cpu" else device


def brought(value: Any, device: Any) -> Any:
    """A tensor, or the tensors of a sequence, on a device."""
    if isinstance(value, list):
        return [brought(v, device) for v in value]
    return None if value is None else value.to(device)


class Moving:
    """A function whose inputs ``moved`` are brought to the device of ``leader``; a scope comes first."""

    def __init__(
        self, function: Callable[..., Any], moved: Sequence[int], leader: Leader, *, scoped: bool
    ) -> None:
        self.function = function
        self.moved = tuple(moved)
        self.leader = leader
        self.scoped = scoped

    def __call__(self, *given: Any) -> Any:
        """Bring the inputs, then call the function."""
        first = 1 if self.scoped else 0
        inputs = given[first:]
        device = self.leader.device(inputs, given[0] if self.scoped else None)
        if device is None:
            return self.function(*given)
        values = list(given)
        for i in self.moved:
            values[first + i] = brought(values[first + i], device)
        return self.function(*values)


def bringing(body: Body, places: Sequence[int], leader: Leader) -> Body:
    """A subgraph whose outputs at ``places`` are brought to the device of ``leader``."""

    def run(given: Sequence[Any], scope: Scope) -> list[Any]:
        found = body(given, scope)
        device = leader.device(given, scope)
        if device is not None:
            for i in places:
                found[i] = brought(found[i], device)
        return found

    return Body(run, body.inputs, body.results)


def carried_states(node: ir.Node, body_inputs: int) -> list[tuple[int, int]]:
    """The state of a loop: pairs of its place among the inputs and the outputs of the subgraph."""
    if node.op_type == "Loop":
        return [(i, i - 1) for i in range(2, body_inputs)]
    if node.op_type == "Scan":
        return [(i, i) for i in range(body_inputs - node.attributes["num_scan_inputs"].as_int())]
    return []
