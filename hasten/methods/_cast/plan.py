"""Which nodes compute in 16 bits and which stay in float32, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from hasten.core.record import Skip
from hasten.graph import Graph
from hasten.graph.layer import ARITHMETIC, is_quantized
from hasten.graph.names import layer_name, skip
from hasten.graph.reading import constant
from hasten.methods._cast.precision import Precision
from hasten.methods._cast.slots import Slots, slots


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SUMS = _words(
    """ReduceSum ReduceMean ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceProd ReduceSumSquare CumSum
    Softmax LogSoftmax InstanceNormalization LpNormalization MeanVarianceNormalization LRN LpPool
    GlobalLpPool"""
)
_INTEGER = "it is quantized already"
_RISKY = {
    "it sums many numbers, whose error grows in 16 bits": _SUMS,
    "its results easily leave the range or the precision of 16 bits": _words(
        "Exp Pow Log Softplus Reciprocal Det"
    ),
    _INTEGER: _words("QuantizeLinear DequantizeLinear DynamicQuantizeLinear"),
}
"""Operators that stay in float32, by the reason."""

_MOVES = _words(
    """Reshape Transpose Identity Slice Concat Squeeze Unsqueeze Expand Flatten Split Tile Pad Gather
    GatherElements GatherND Dropout DepthToSpace SpaceToDepth"""
)
"""Operators that only move numbers: they are narrow where all they move is."""

_SPREADS = _MOVES | _words("Add Sub Mul Div Neg Abs Min Max Where Sum Floor Ceil Round Mod Sqrt")
"""Operators through which a very large number, or one made of integers, goes on."""

_COUNTS = _words("Cast Range ConstantOfShape EyeLike")
"""Operators that make real numbers of integers."""

_COUNTED = "it computes with sizes, positions or masks made of integers"
_STATISTIC = "it computes with sums or means, whose differences are small"


@dataclass
class Plan:
    """narrow: the nodes that compute in 16 bits, with the slots that change. skipped: the ones that stay."""

    narrow: dict[ir.Node, Slots] = field(default_factory=dict)
    skipped: list[Skip] = field(default_factory=list)


def make_plan(
    graph: Graph, precision: Precision, exclude: frozenset[str], largest: Mapping[str, float]
) -> Plan:
    """Decide for every node of the main graph, whose values must carry their types.

    largest: the largest absolute value seen, by name of value; values not named are unknown.
    """
    planner = _Planner(graph, precision, exclude, largest)
    for node in graph.ir_model.graph:
        planner.visit(node)
    return planner.plan


class _Planner:
    """Goes through the nodes in order, so that what is known of the inputs is known already."""

    def __init__(
        self, graph: Graph, precision: Precision, exclude: frozenset[str], largest: Mapping[str, float]
    ) -> None:
        self.plan = Plan()
        self._opset = graph.opset
        self._precision = precision
        self._exclude = exclude
        self._largest = largest
        self._huge: set[ir.Value] = set()
        self._delicate: dict[ir.Value, str] = {}
        self._narrow: set[ir.Value] = set()

    def visit(self, node: ir.Node) -> None:
        """Decide for one node."""
        reals = [v for v in node.inputs if v is not None and v.dtype == ir.DataType.FLOAT]
        self._follow(node, reals)
        known = slots(node, self._opset, self._precision.type_text)
        touches = bool(reals) and (known is None or bool(known.outputs) or any(map(_is_real, node.outputs)))
        if not touches and not _holds_body(node):
            return
        reason = self._obstacle(node, reals, known)
        if reason is not None:
            self.plan.skipped.append(skip(node, reason))
        elif known is not None and self._wanted(node, reals):
            self.plan.narrow[node] = known
            self._narrow.update(node.outputs[i] for i in known.outputs)

    def _wanted(self, node: ir.Node, reals: list[ir.Value]) -> bool:
        """Operators that do little follow their inputs; a stored table becomes 16-bit."""
        if node.op_type in ARITHMETIC:
            return True
        variables = [v for v in reals if constant(v) is None]
        narrow = [v in self._narrow for v in variables]
        return all(narrow) if node.op_type in _MOVES else any(narrow)

    def _follow(self, node: ir.Node, reals: list[ir.Value]) -> None:
        """Mark outputs that are huge, or that need all their digits: made of integers, or of sums."""
        outputs = [v for v in node.outputs if _is_real(v)]
        self._huge.update(
            v for v in outputs if self._largest.get(str(v.name), 0.0) > self._precision.headroom
        )
        spreads = node.op_type in _SPREADS
        if spreads and any(v in self._huge or self._loss(v) for v in reals):
            self._huge.update(v for v in outputs if str(v.name) not in self._largest)
        variables = [v for v in reals if constant(v) is None]
        if not reals and node.op_type in _COUNTS:
            self._delicate.update(dict.fromkeys(outputs, _COUNTED))
        elif node.op_type.startswith("Reduce") and node.op_type in _SUMS:
            self._delicate.update(dict.fromkeys(outputs, _STATISTIC))
        elif spreads and variables and all(v in self._delicate for v in variables):
            self._delicate.update(dict.fromkeys(outputs, self._delicate[variables[0]]))

    def _loss(self, value: ir.Value) -> str | None:
        array = constant(value)
        return None if array is None else self._precision.loss(array)

    def _obstacle(self, node: ir.Node, reals: list[ir.Value], known: Slots | None) -> str | None:
        """Why a node must stay in float32, or None."""
        if layer_name(node) in self._exclude:
            return "excluded by the recipe"
        if _holds_body(node):
            return "it holds the body of a loop or branch"
        if known is None:
            return f"{node.op_type} of {node.domain or 'this operator set'} is not known to take 16 bits"
        risk = next((reason for reason, ops in _RISKY.items() if node.op_type in ops), None)
        if is_quantized(node):
            risk = _INTEGER
        if risk is None and not known.outputs:
            risk = f"{node.op_type} of operator set {self._opset} does not take {self._precision.name}"
        return risk or self._danger(node, reals)

    def _danger(self, node: ir.Node, reals: list[ir.Value]) -> str | None:
        for value in reals:
            lost = self._loss(value)
            if lost is not None:
                return f"constant {value.name} {lost}"
        if any(v in self._huge for v in (*reals, *node.outputs)):
            return f"its values may exceed {self._precision.headroom:.6g}"
        users = [user for v in node.outputs for user in v.consumers()]
        if node.op_type in _SPREADS - _MOVES and users and all(user.op_type in _SUMS for user in users):
            return "only sums are made of it"
        return next((self._delicate[v] for v in node.outputs if v in self._delicate), None)


def _is_real(value: ir.Value) -> bool:
    return value.dtype == ir.DataType.FLOAT


def _holds_body(node: ir.Node) -> bool:
    kinds = {attribute.type for attribute in node.attributes.values()}
    return bool(kinds & {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS})
