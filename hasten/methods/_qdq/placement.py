"""Where are values rounded to integers? A plan of quantize/dequantize pairs.

A *point* is a value that is rounded where it is made. The points of one group share one range, so that
values can be moved and joined as integers. The plan starts from what the integer layers read and follows
it upstream to the place where it is made.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from hasten.graph.names import layer_name
from hasten.graph.reading import sole_user
from hasten.methods._qdq.flow import (
    POOLS,
    RELABELLING,
    SUMS,
    Flow,
    activations,
    clip_range,
    clips,
    joins,
    moves,
    unclipped,
)
from hasten.methods._qdq.layers import IntegerLayer
from hasten.numerics.affine import Affine


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a runtime wants its integers.

    layers: operators with integer kernels. rounded: those of them whose result must be rounded at once.
    pools: pooling operators with integer kernels. every_pool: these read rounded values also where nothing
        behind them asks for integers.
    whole_sums: sums and products are computed in integers, so all they add is rounded. Otherwise they are
        computed in float behind a layer, and only what a convolution adds is rounded, and what others
        read too, to move bytes.
    gates: functions g with an integer kernel, for which x · g(x) is such a product.
    after_moves: values that were moved are rounded (to what they are) again.
    whole_biases: the bias of a product of more than two dimensions has as many axes as it.
    """

    layers: frozenset[str]
    rounded: frozenset[str]
    pools: frozenset[str]
    every_pool: bool
    whole_sums: bool
    gates: frozenset[str]
    after_moves: bool
    whole_biases: bool


LAYOUTS = {
    # ONNX Runtime replaces an operator by an integer one only where dequantizing precedes and quantizing
    # follows it directly; a convolution whose result is not quantized runs in float.
    "both": Layout(
        layers=frozenset({"Conv", "Gemm", "MatMul"}),
        rounded=frozenset({"Conv"}),
        pools=frozenset({"AveragePool", "GlobalAveragePool"}),
        every_pool=False,
        whole_sums=True,
        gates=frozenset({"Sigmoid"}),
        after_moves=True,
        whole_biases=True,
    ),
    # OpenVINO's integer kernels compute the functions and sums that follow in float before they round.
    # But where one leaves float values to a global pool, version 2026.4 computes wrong means of them if
    # the shapes are dynamic.
    "openvino": Layout(
        layers=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
        rounded=frozenset(),
        pools=POOLS,
        every_pool=True,
        whole_sums=False,
        gates=frozenset(),
        after_moves=False,
        whole_biases=False,
    ),
}


@dataclass(frozen=True)
class Keep:
    """What stays in float: values that cannot be rounded, and nodes, by name, that the user excluded."""

    values: frozenset[ir.Value] = frozenset()
    nodes: frozenset[str] = frozenset()


@dataclass
class Plan:
    """Which values are rounded, and who reads them rounded.

    points: every point and the next one towards its group's representative. integer: nodes that read
    rounded values. implied: clips that rounding itself performs, as integers saturate. moved: points that
    need no rounding of their own, since they hold values of another point. everyone: points that all
    readers read rounded; of the others, float operators read the float value.
    """

    layers: list[IntegerLayer]
    points: dict[ir.Value, ir.Value] = field(default_factory=dict)
    integer: set[ir.Node] = field(default_factory=set)
    implied: set[ir.Node] = field(default_factory=set)
    moved: set[ir.Value] = field(default_factory=set)
    everyone: set[ir.Value] = field(default_factory=set)

    def group(self, value: ir.Value) -> ir.Value:
        """The representative of the point's group."""
        while self.points[value] is not value:
            value = self.points[value]
        return value

    def keep_clips(self, quantizers: Mapping[ir.Value, Affine]) -> None:
        """Imply no clip that rounding does not perform: integers hold more than it leaves.

        quantizers: that of each group's representative. Values that are joined with others share their range.
        """
        for value in self.points:
            clip = value.producer()
            if clip is not None and clip in self.implied:
                quantizer = quantizers[self.group(value)]
                slack = 0.5 * float(np.max(quantizer.scale))
                low, high = clip_range(clip)
                assert low is not None
                assert high is not None
                if np.min(quantizer.low) < low - slack or np.max(quantizer.high) > high + slack:
                    self.implied.discard(clip)

    def groups(self) -> dict[ir.Value, list[ir.Value]]:
        """All groups: the representative and the points, both in the order they were found."""
        found: dict[ir.Value, list[ir.Value]] = {}
        for value in self.points:
            found.setdefault(self.group(value), []).append(value)
        return found


def must_round(layer: IntegerLayer, layout: Layout) -> list[ir.Value]:
    """The values that have to be rounded for the layer to compute in integers."""
    result = [_result(layer.node)] if layer.node.op_type in layout.rounded else []
    return [layer.activation, *result]


def make_plan(main: ir.Graph, layers: Iterable[IntegerLayer], layout: Layout, keep: Keep) -> Plan:
    """Decide where to round so that these layers compute in integers.

    None of the values that ``must_round`` names may be among those to keep.
    """
    return _Planner(main, list(layers), layout, keep).run(main)


class _Planner:
    def __init__(self, main: ir.Graph, layers: list[IntegerLayer], layout: Layout, keep: Keep) -> None:
        self._layout = layout
        self._keep = keep
        self._nodes = {layer.node for layer in layers}
        self._plan = Plan(layers)
        self._queue: deque[ir.Value] = deque()
        sources = layout.rounded or layout.layers
        self._flow = Flow(main, [node for node in self._nodes if node.op_type in sources])

    def run(self, main: ir.Graph) -> Plan:
        for layer in self._plan.layers:
            self._plan.integer.add(layer.node)
            for value in must_round(layer, self._layout):
                self._round(value)
        for value in self._pooled(main) if self._layout.every_pool else ():
            self._round(value)
        while self._queue:
            self._upstream(self._queue.popleft())
        self._plan.everyone = {v for v in self._plan.points if self._for_everyone(v)}
        return self._plan

    def _round(self, value: ir.Value) -> None:
        if value not in self._plan.points:
            self._plan.points[value] = value
            self._queue.append(value)

    def _pooled(self, main: ir.Graph) -> Iterator[ir.Value]:
        """What pools read of integer layers' results."""
        for node in main:
            if node.domain == "" and node.op_type in self._layout.pools:
                value = activations(node)[0]
                if self._flow.made(value) and value not in self._keep.values:
                    yield value

    def _upstream(self, value: ir.Value) -> None:
        """Follow a point to where its values are made."""
        made = unclipped(value)
        node = made.producer()
        clip = value.producer() if made is not value else None
        if node is None or layer_name(node) in self._keep.nodes:
            return
        sources = activations(node)
        if node in self._nodes:
            self._imply(clip)
        elif self._keep.values.intersection(sources):
            return
        elif clip is None and self._carries(node):
            self._follow_moves(node, value)
        elif self._computes(node):
            self._plan.integer.add(node)
            self._imply(clip)
            for source in sources:
                self._round(source)
        elif not self._layout.whole_sums and self._mixes(node):
            for source in sources:
                if self._flow.made(source) and (len(source.uses()) > 1 or self._is_summand(source, node)):
                    self._round(source)

    def _imply(self, clip: ir.Node | None) -> None:
        if clip is not None:
            self._plan.implied.add(clip)

    def _carries(self, node: ir.Node) -> bool:
        """Whether to round before the node instead of after it.

        Reshapes and transposes are followed only towards integers: behind float operators they belong to
        an attention that the runtimes fuse as a whole.
        """
        if joins(node):
            return True
        return moves(node) and (
            node.op_type not in RELABELLING or any(self._flow.made(v) for v in activations(node))
        )

    def _follow_moves(self, node: ir.Node, value: ir.Value) -> None:
        self._plan.integer.add(node)
        if not self._layout.after_moves:
            self._plan.moved.add(value)
        for source in activations(node) if joins(node) else node.inputs[:1]:
            assert source is not None
            self._round(source)
            self._plan.points[self._plan.group(source)] = self._plan.group(value)

    def _computes(self, node: ir.Node) -> bool:
        """Whether the node itself is to compute in integers."""
        sources = activations(node)
        if node.domain != "" or not any(self._flow.made(v) for v in sources):
            return False
        if node.op_type in self._layout.pools:
            return True
        return self._layout.whole_sums and (self._mixes(node) or self._is_gate(node))

    def _is_summand(self, value: ir.Value, total: ir.Node) -> bool:
        """Whether a convolution makes the value for this sum alone: then its kernel adds integers to it."""
        maker = value.producer()
        return total.op_type == "Add" and maker in self._nodes and maker.op_type == "Conv"

    def _mixes(self, node: ir.Node) -> bool:
        """Whether the node adds or multiplies values that are not functions of the same ones."""
        bases = {self._flow.base(v) for v in activations(node)}
        return node.domain == "" and node.op_type in SUMS and len(bases) > 1

    def _is_gate(self, node: ir.Node) -> bool:
        """Whether the node computes x · g(x) for one of the layout's gates g."""
        sources = activations(node)
        makers = [v.producer() for v in sources] if node.op_type == "Mul" else []
        return any(
            maker is not None and maker.op_type in self._layout.gates and maker.inputs[0] in sources
            for maker in makers
        )

    def _for_everyone(self, value: ir.Value) -> bool:
        """Whether all readers get the rounded value, since the float one is not kept.

        Otherwise only integer nodes do, and the others read what a float operator made.
        """
        node = value.producer()
        if node is None:
            return False
        if self._layout.whole_sums:
            return node in self._plan.integer or node in self._plan.implied
        return self._flow.made(value)


def _result(node: ir.Node) -> ir.Value:
    """The node's output, or that of the clip that follows it."""
    output = node.outputs[0]
    user = sole_user(output)
    return user.outputs[0] if user is not None and clips(user) else output
