"""What a model's kernels say: which layers run as the recipe meant them, and what was paid for without use.

Kernels are what the runtime executes, layers what the exported graph says that they compute in.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hasten.core.layers import Kernel, LayerCost

_QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear", "FakeQuantize"})
_CASTS = frozenset({"Convert", "Cast"})
_ELEMENTWISE = frozenset({"Subgraph", "Eltwise"})
_ROUNDING = re.compile(r"\.(de)?quantize(#\d+)?$")
"""Names that quantization gives to nodes that round; a runtime may compile them like other such functions."""
_STEP = re.compile(r"(Convert|Subtract|Multiply)_\d+")
"""What OpenVINO calls the steps of a dequantization that it moves while it compiles."""
_BITS = {
    "float64": 64,
    "float32": 32,
    "float16": 16,
    "bfloat16": 16,
    "int16": 16,
    "int8": 8,
}
_FLOATS = frozenset({"float64", "float32", "float16", "bfloat16"})

Finding = Literal["fell back", "lowered", "not fused", "entrance", ""]
"""Of a kernel: it computes in floats of more bits than the graph says; in integers where the graph has
floats; it only converts; it rounds an input of the model; nothing."""


@dataclass(frozen=True)
class Executed:
    """A kernel with what the graph says of it.

    layer: the costliest layer of the exported graph that it stands for; the runtime's own name where there
    is none. intended: what that layer computes in by the graph, None where the graph does not say. share: of
    the time of all kernels (0 to 1), None where times were not measured.
    """

    kernel: Kernel
    layer: str
    intended: str | None
    share: float | None
    finding: Finding


def executed(
    kernels: Sequence[Kernel], layers: Iterable[LayerCost], inputs: Collection[str] = ()
) -> tuple[Executed, ...]:
    """Every kernel, in the order of execution, with its share of the time and what is to be said of it.

    layers: of the graph that the kernels execute. inputs: names of the model's inputs; rounding them is
    needed once and is not held against a runtime.
    """
    costs = {cost.name: cost for cost in layers}
    total = sum(kernel.time_us or 0.0 for kernel in kernels)
    needed = {name for given in inputs for name in (given, f"{given}.quantize")}
    return tuple(_executed(kernel, costs, total, needed) for kernel in kernels)


def _executed(
    kernel: Kernel, costs: Mapping[str, LayerCost], total_us: float, needed: Collection[str]
) -> Executed:
    known = [costs[name] for name in kernel.layers if name in costs]
    main = max(known, key=lambda cost: (cost.macs, cost.weight_bytes), default=None)
    layer = main.name if main else next(iter(kernel.layers), kernel.name)
    share = kernel.time_us / total_us if kernel.time_us is not None and total_us > 0 else None
    intended = main.dtype if main and main.macs else None
    if intended is None and converts(kernel):
        return Executed(kernel, layer, None, share, "entrance" if layer in needed else "not fused")
    return Executed(kernel, layer, intended, share, _finding(kernel, intended) if intended else "")


def _finding(kernel: Kernel, intended: str) -> Finding:
    meant, real = _BITS.get(intended, 0), _BITS.get(kernel.precision, 0)
    if kernel.precision in _FLOATS:
        return "fell back" if meant and real > meant else ""
    # Floats of fewer bits are what a precision option asks for; integers are asked for by the graph alone.
    return "lowered" if intended in _FLOATS and kernel.precision == "int8" else ""


def converts(kernel: Kernel) -> bool:
    """Whether a kernel does nothing but round to integers, make floats of them, or change their width."""
    if kernel.op_type in _QUANTIZERS:
        return True
    if kernel.op_type in _CASTS:
        # Those of wider integers move indices and shapes, which no method has a hand in.
        return kernel.precision in _FLOATS or kernel.precision == "int8"
    named = [name for name in kernel.layers if not _STEP.fullmatch(name)]
    return kernel.op_type in _ELEMENTWISE and bool(named) and all(_ROUNDING.search(name) for name in named)


@dataclass(frozen=True)
class Amount:
    """How many kernels compute in one precision, and their share of the time."""

    precision: str
    count: int
    share: float | None


def by_precision(found: Sequence[Executed]) -> tuple[Amount, ...]:
    """The kernels by precision, that of the most time first."""
    amounts = {}
    for precision in dict.fromkeys(each.kernel.precision for each in found):
        same = [each for each in found if each.kernel.precision == precision]
        shares = [each.share for each in same if each.share is not None]
        amounts[precision] = Amount(precision, len(same), sum(shares) if shares else None)
    return tuple(sorted(amounts.values(), key=lambda a: (-(a.share or 0.0), -a.count)))
