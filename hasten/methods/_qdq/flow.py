"""How values travel through a graph: which operators change them, move them, join them or mix them."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from hasten.graph.layer import stored
from hasten.graph.reading import given, scalar, sole_user

POOLS = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})
SUMS = frozenset({"Add", "Mul"})
RELABELLING = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_MOVING = RELABELLING | {"DepthToSpace", "MaxPool", "Resize", "Slice", "SpaceToDepth", "Split"}
_POINTWISE = frozenset(
    {
        "Abs",
        "Add",
        "Celu",
        "Clip",
        "Div",
        "Elu",
        "Erf",
        "Exp",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Mish",
        "Mul",
        "Neg",
        "PRelu",
        "Pow",
        "Relu",
        "Selu",
        "Sigmoid",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Sub",
        "Tanh",
        "ThresholdedRelu",
        "BatchNormalization",
    }
)


def activations(node: ir.Node) -> list[ir.Value]:
    """The inputs that differ from run to run, each once."""
    return list(dict.fromkeys(v for v in node.inputs if v is not None and stored(v) is None))


def moves(node: ir.Node) -> bool:
    """Whether the node's outputs hold values of its first input, an activation, and nothing else."""
    if node.domain != "" or node.op_type not in _MOVING or stored(node.inputs[0]) is not None:
        return False
    if node.op_type == "Resize":
        return node.attributes.get_string("mode", "nearest") == "nearest"
    return node.op_type == "Split" or len(node.outputs) == 1


def joins(node: ir.Node) -> bool:
    """Whether the node puts activations side by side."""
    return node.domain == "" and node.op_type == "Concat" and len(activations(node)) == len(set(node.inputs))


def clips(node: ir.Node) -> bool:
    """Whether the node only cuts off values outside a fixed range that contains zero."""
    if node.domain != "" or node.op_type not in {"Relu", "Clip"}:
        return False
    low, high = clip_range(node)
    return low is not None and high is not None and low <= 0.0 <= high


def clip_range(clip: ir.Node) -> tuple[float | None, float | None]:
    """Between which numbers a Relu or Clip leaves its values; None where that is computed."""
    if clip.op_type == "Relu":
        return 0.0, np.inf
    return _bound(clip, 1, -np.inf), _bound(clip, 2, np.inf)


def _bound(node: ir.Node, index: int, absent: float) -> float | None:
    value = given(node, index)
    return absent if value is None else scalar(value)


def unclipped(value: ir.Value) -> ir.Value:
    """The value before the clip that makes ``value`` and that alone uses it; ``value`` itself otherwise."""
    node = value.producer()
    if node is None or not clips(node) or node.inputs[0] is None:
        return value
    return node.inputs[0] if sole_user(node.inputs[0]) is node else value


class Flow:
    """Where the values of a graph come from.

    sources: the layers that make integers. Whatever is computed from their outputs by operators that work
    value by value, move, join, sum or pool stays close to integers; other operators end that.
    """

    def __init__(self, main: ir.Graph, sources: Collection[ir.Node]) -> None:
        self._bases: dict[ir.Value, ir.Value] = {}
        self._made: set[ir.Value] = set()
        for node in main:
            read = activations(node)
            bases = {self.base(v) for v in read}
            if node.domain == "" and node.op_type in _POINTWISE and len(bases) == 1:
                self._bases[node.outputs[0]] = bases.pop()
            if node in sources or (_follows(node) and any(v in self._made for v in read)):
                self._made.update(node.outputs)

    def base(self, value: ir.Value) -> ir.Value:
        """The value that ``value`` is a function of, value by value; ``value`` itself when there is none."""
        return self._bases.get(value, value)

    def made(self, value: ir.Value) -> bool:
        """Whether the value comes out of a source and what may follow one."""
        return value in self._made


def _follows(node: ir.Node) -> bool:
    return moves(node) or joins(node) or (node.domain == "" and node.op_type in _POINTWISE | POOLS)
