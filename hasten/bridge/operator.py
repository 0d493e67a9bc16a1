"""The contract of an operator: a factory that turns a node into a function of torch tensors.

A factory sees the node once, when the graph is compiled (``Call``), does everything that can be done then,
and returns the function that runs at every step. The function takes the node's inputs in order, None for
absent ones, and returns its output, or a tuple of outputs.

    @operator("LeakyRelu")
    def leaky_relu(call: Call) -> Function:
        slope = call.real("alpha", 0.01)
        return lambda x: functional.leaky_relu(x, slope)

``since`` is the first version of the operator set for which a factory holds; the newest one not newer than
the graph's opset is taken. ``scoped=True`` gives the function a ``Scope`` as its first argument.
``host`` names the inputs that are read as Python numbers (the shape of a Reshape): they stay on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
import torch

from hasten.bridge.dtypes import carrier, from_numpy
from hasten.core.errors import ModelError

Function = Callable[..., Any]
Factory = Callable[["Call"], Function]


class Scope(NamedTuple):
    """What a function may know besides its inputs.

    training: whether the module is in training mode. drawn: how often the module's nodes with a seed of their
    own have drawn. captured: the values of the enclosing graphs that the node's subgraphs read.
    """

    training: bool
    drawn: dict[str, int]
    captured: tuple[Any, ...] = ()


class Result(NamedTuple):
    """What is known of a subgraph's output: its element type and shape, None where nothing is."""

    dtype: ir.DataType | None
    shape: tuple[int | None, ...] | None


class Body:
    """A subgraph of a node: called with its inputs and the scope, returns its outputs."""

    def __init__(
        self, run: Callable[[Sequence[Any], Scope], list[Any]], inputs: int, results: Sequence[Result]
    ) -> None:
        self._run = run
        self.inputs = inputs
        self.results = tuple(results)

    @property
    def outputs(self) -> int:
        """The number of outputs."""
        return len(self.results)

    def __call__(self, inputs: Sequence[Any], scope: Scope) -> list[Any]:
        """Run the subgraph once."""
        return self._run(inputs, scope)

    def empty(self, output: int, axis: int, device: torch.device | None) -> torch.Tensor:
        """An output stacked along ``axis`` over no runs at all; sizes that are not known are zero."""
        dtype, shape = self.results[output]
        sizes = [n or 0 for n in shape or ()]
        sizes.insert(axis if axis >= 0 else axis + len(sizes) + 1, 0)
        kind = torch.float32 if dtype is None else carrier(dtype)
        return torch.empty(sizes, dtype=kind, device=device)


@dataclass(frozen=True)
class Call:
    """A node as its factory sees it.

    present: for every input the node lists, whether it is given. constants: the values of those inputs that
    are known now, None for the others. dtypes: element types of inputs and outputs, None where not known.
    wanted: for every output, whether anything reads it. bodies: the node's subgraphs by attribute name.
    """

    name: str
    op_type: str
    version: int
    attributes: Mapping[str, ir.Attr]
    present: tuple[bool, ...]
    constants: tuple[np.ndarray[Any, Any] | None, ...]
    dtypes: tuple[ir.DataType | None, ...]
    output_dtypes: tuple[ir.DataType | None, ...]
    wanted: tuple[bool, ...]
    domain: str = ""
    bodies: Mapping[str, Body] = field(default_factory=dict)

    def has(self, index: int) -> bool:
        """Whether an input is given."""
        return index < len(self.present) and self.present[index]

    def constant(self, index: int) -> np.ndarray[Any, Any] | None:
        """The value of an input if it is known at compile time."""
        return self.constants[index] if index < len(self.constants) else None

    def given(self, name: str) -> bool:
        """Whether an attribute is set."""
        return name in self.attributes

    def integer(self, name: str, default: int | None = None) -> int:
        """An integer attribute; raises ModelError when it is required and missing."""
        return int(self._value(name, default, ir.AttributeType.INT))

    def real(self, name: str, default: float | None = None) -> float:
        """A float attribute; raises ModelError when it is required and missing."""
        return float(self._value(name, default, ir.AttributeType.FLOAT))

    def text(self, name: str, default: str | None = None) -> str:
        """A string attribute; raises ModelError when it is required and missing."""
        return str(self._value(name, default, ir.AttributeType.STRING))

    def integers(self, name: str, default: Sequence[int] | None = None) -> tuple[int, ...]:
        """A list of integers; raises ModelError when it is required and missing."""
        return tuple(int(v) for v in self._value(name, default, ir.AttributeType.INTS))

    def reals(self, name: str, default: Sequence[float] | None = None) -> tuple[float, ...]:
        """A list of floats; raises ModelError when it is required and missing."""
        return tuple(float(v) for v in self._value(name, default, ir.AttributeType.FLOATS))

    def texts(self, name: str, default: Sequence[str] | None = None) -> tuple[str, ...]:
        """A list of strings; raises ModelError when it is required and missing."""
        return tuple(str(v) for v in self._value(name, default, ir.AttributeType.STRINGS))

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor attribute; raises ModelError when it is missing."""
        return from_numpy(self._value(name, None, ir.AttributeType.TENSOR).numpy())

    def _value(self, name: str, default: Any, kind: ir.AttributeType) -> Any:
        attribute = self.attributes.get(name)
        if attribute is None:
            if default is None:
                raise self.wrong(f"lacks the attribute {name!r}")
            return default
        if attribute.type != kind:
            raise self.wrong(f"has an attribute {name!r} that is {attribute.type.name}, not {kind.name}")
        return attribute.value

    def wrong(self, what: str) -> ModelError:
        """An error that names the node: "node 'conv1' (Conv) {what}"."""
        return ModelError(f"node {self.name!r} ({self.op_type}) {what}")


@dataclass(frozen=True)
class Operator:
    """One row of the table."""

    factory: Factory
    since: int
    scoped: bool
    host: frozenset[int]


TABLE: dict[tuple[str, str], list[Operator]] = {}
"""(domain, operator) to its factories, oldest first; filled by the files of ``ops`` as they are imported."""


def operator(
    *names: str,
    domain: str = "",
    since: int = 1,
    scoped: bool = False,
    host: Sequence[int] = (),
) -> Callable[[Factory], Factory]:
    """Enter a factory into the table under one or more operator names; see the module's docstring."""

    def enter(factory: Factory) -> Factory:
        row = Operator(factory, since, scoped, frozenset(host))
        for name in names:
            rows = TABLE.setdefault((domain, name), [])
            rows.append(row)
            rows.sort(key=lambda r: r.since)
        return factory

    return enter


def find(domain: str, op_type: str, version: int) -> Operator | None:
    """The row for an operator at a version of its operator set; None when the bridge lacks it."""
    rows = TABLE.get(("" if domain == "ai.onnx" else domain, op_type), [])
    return next((row for row in reversed(rows) if row.since <= version), None)
