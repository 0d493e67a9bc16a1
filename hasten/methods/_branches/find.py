"""The residual branches of a graph: what is added to a value that it was computed from.

A sum y = x + f(x) makes f a branch: without it y is x, of the same shape, and the nodes that serve nothing
else than f are gone. What f reads besides x (a mask, positions, another network's output) does not matter. Of
several terms (x + f(x) + g(x)) each but x is a branch. Branches may lie in one another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from hasten.core.record import Skip
from hasten.graph import Graph
from hasten.graph.names import layer_name, skip
from hasten.graph.reading import constant, given
from hasten.methods._branches.channels import WHOLE, Channels, channels_of
from hasten.methods._branches.flow import FUSED, Flow, Use

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE})
_LN_OPSET = 17


@dataclass(frozen=True)
class Branch:
    """A summand that can be left out. Everything is named, so that it holds for copies of the graph.

    name: of the node that sums, or of the branch's last node where both summands are branches. node, index:
    whose input it is. value: what it computes; other: what it is added to; skip: the value it is computed
    from that goes round it, mostly the same.
    nodes: those that serve nothing else. macs: theirs. place: what their weights' names begin with.
    """

    name: str
    op_type: str
    node: str
    index: int
    value: str
    other: str
    skip: str
    dtype: ir.DataType
    channels: Channels
    nodes: tuple[str, ...]
    macs: int
    place: str


@dataclass
class Found:
    """The branches in the graph's order, and the sums that were looked at and have none."""

    branches: list[Branch] = field(default_factory=list)
    skipped: list[Skip] = field(default_factory=list)


def find(graph: Graph, flow: Flow, macs: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]) -> Found:
    """All branches of a graph whose values have inferred shapes.

    macs: of each layer, by name. shapes: as observed in a run, by the value's name.
    """
    found = Found()
    finder = _Finder(graph, flow, macs, shapes)
    for node in flow.nodes:
        if not _sums(node):
            continue
        cuts = [index for index in (0, 1) if finder.skip_of(node, index) is not None]
        usable = [index for index in cuts if finder.holds_layers(node, index)]
        for index in usable:
            reason = finder.problem(node, index)
            if reason is None:
                found.branches.append(finder.branch(node, index, alone=len(usable) == 1))
            else:
                found.skipped.append(skip(node, reason))
        if not cuts:
            found.skipped += finder.not_identity(node)
    return found


class _Finder:
    def __init__(
        self, graph: Graph, flow: Flow, macs: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        self._graph = graph
        self._flow = flow
        self._macs = macs
        self._shapes = shapes

    def skip_of(self, node: ir.Node, index: int) -> ir.Value | None:
        """The value added to an input of the node that this input was computed from.

        What is broadcast when it is added (a mask, say) is none: without the rest the shape would be another.
        """
        value, other = node.inputs[index], node.inputs[1 - index]
        if value is None or other is None or constant(value) is not None or constant(other) is not None:
            return None
        if not self._carries_shape(value, other):
            return None
        for term in self._added_to(node, index):
            if self._flow.computed_from(value, _plain(term)):
                return term
        return None

    def _added_to(self, node: ir.Node, index: int) -> Iterator[ir.Value]:
        """All that is added to an input, also by sums before and behind."""
        yield from self._terms(node.inputs[1 - index])
        while node.op_type != FUSED and (use := self._flow.sole_reader(node.outputs[0])) is not None:
            node, index = use
            if not _sums(node) or index not in {0, 1}:
                return
            yield from self._terms(node.inputs[1 - index])

    def _terms(self, value: ir.Value | None) -> Iterator[ir.Value]:
        if value is None:
            return
        yield value
        node = value.producer()
        if node is not None and node.op_type == "Add" and self._flow.sole_reader(value) is not None:
            for term in node.inputs:
                yield from self._terms(term)

    def holds_layers(self, node: ir.Node, index: int) -> bool:
        """Whether layers lie on the way from what goes round the branch to what is added."""
        skip, value = self.skip_of(node, index), node.inputs[index]
        assert skip is not None
        assert value is not None
        return any(self._cost(n) for n in self._flow.between(_plain(skip), value))

    def problem(self, node: ir.Node, index: int) -> str | None:
        """Why the branch cannot be left out."""
        if not any(self._cost(n) for n in self._flow.unread({(node, index)})):
            return "what its branch computes is read elsewhere too"
        if _dtype(node, index) not in _FLOATS:
            return "its branch is not known to compute in float32; put prune_layers before what changes that"
        return self._sealed(node) if node.op_type == FUSED else None

    def _carries_shape(self, value: ir.Value, other: ir.Value) -> bool:
        """Whether the other summand alone has the shape of the sum."""
        seen, rest = self._shapes.get(str(value.name)), self._shapes.get(str(other.name))
        if seen is None or rest is None or np.broadcast_shapes(seen, rest) != rest:
            return False
        if value.shape is None or other.shape is None or len(value.shape) > len(other.shape):
            return True
        pairs = zip(value.shape, list(other.shape)[len(other.shape) - len(value.shape) :], strict=True)
        # In a batch of one a size of one could be either; what is known of all batches decides.
        return not any(b == 1 and a != 1 and (isinstance(a, int) or a.value) for a, b in pairs)

    def _sealed(self, node: ir.Node) -> str | None:
        """Why the sum cannot be taken out of the fused node."""
        if self._graph.opset < _LN_OPSET:
            return f"it is fused with its normalization, which operator set {self._graph.opset} lacks"
        given_out = [
            v for v in node.outputs[1:] if v.name and (v.is_graph_output() or self._flow.uses.get(v))
        ]
        if any(v is not node.outputs[-1] or len(node.outputs) < 4 or v.is_graph_output() for v in given_out):
            return "its means or its sum are read elsewhere too"
        return None

    def not_identity(self, node: ir.Node) -> list[Skip]:
        """A sum of two values computed from the same one, neither of them passed on as it was."""
        values = [value for value in node.inputs[:2] if value is not None and constant(value) is None]
        if len(values) < 2 or not self._flow.have_a_common_source(values[0], values[1]):
            return []
        both = [self._flow.unread({(node, index)}) for index in (0, 1)]
        if not any(self._cost(n) for nodes in both for n in nodes) or not all(both):
            return []
        lighter = min(both, key=lambda nodes: (sum(map(self._cost, nodes)), len(nodes)))
        reason = f"its skip is not the identity: on it lies {', '.join(n.op_type for n in lighter[:4])}"
        return [skip(node, reason)]

    def branch(self, node: ir.Node, index: int, *, alone: bool) -> Branch:
        """The branch, which has no problem."""
        value, other, skip = node.inputs[index], node.inputs[1 - index], self.skip_of(node, index)
        assert value is not None
        assert other is not None
        assert skip is not None
        last = value.producer()
        assert last is not None
        dtype = _dtype(node, index)
        assert dtype is not None
        nodes = self._flow.unread({(node, index)})
        rank = len(self._shapes[str(other.name)])
        return Branch(
            name=layer_name(node if alone else last),
            op_type=node.op_type,
            node=layer_name(node),
            index=index,
            value=str(value.name),
            other=str(other.name),
            skip=str(_plain(skip).name),
            dtype=dtype,
            channels=channels_of(value, rank) or channels_of(other, rank) or WHOLE,
            nodes=tuple(layer_name(n) for n in nodes),
            macs=sum(self._cost(n) for n in nodes),
            place=_place(nodes),
        )

    def _cost(self, node: ir.Node) -> int:
        return self._macs.get(layer_name(node), 0)


def cut_of(flow: Flow, branch: Branch) -> Use:
    """The input that the branch comes in by, in the graph of this flow."""
    return next((node, branch.index) for node in flow.nodes if layer_name(node) == branch.node)


def _sums(node: ir.Node) -> bool:
    return (node.domain, node.op_type) in {("", "Add"), ("com.microsoft", FUSED)}


def _dtype(node: ir.Node, index: int) -> ir.DataType | None:
    """The type of a summand; what other runtimes' operators make is told by what they are summed with."""
    near = (node.inputs[index], *node.inputs, *node.outputs)
    return next((value.dtype for value in near if value is not None and value.dtype is not None), None)


def _plain(value: ir.Value) -> ir.Value:
    """The value behind nodes that pass on what they read."""
    while (node := value.producer()) is not None and node.op_type in {"Identity", "Dropout"}:
        source = given(node, 0)
        if source is None:
            break
        value = source
    return value


def _place(nodes: list[ir.Node]) -> str:
    """What the dotted names of the weights begin with, as ``layer1.3``."""
    names = [
        str(v.name).split(".")[:-1]
        for node in nodes
        for v in node.inputs
        if v is not None and constant(v) is not None and "." in str(v.name)
    ]
    shared = []
    for parts in zip(*names, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)
