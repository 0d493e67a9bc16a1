"""Where the numbers in a shape computation come from: an abstract interpretation of small integer tensors.

Each element of a shape vector is a number, or ``Dim(x, i)``: the size of value x along axis i. Two elements
that denote the same size compare equal because every ``Dim`` is traced back as far as the operators allow
(a Relu has the shape of its input, a Transpose permutes it, and so on), at last to an input of the graph.
There, two dimensions that the model's signature calls by one name are equal: that is what the name means in
ONNX ("dimension variables", IR.md, static tensor shapes).
"""

from __future__ import annotations

import onnx_ir as ir

from hasten.graph import Graph
from hasten.graph.reading import constant, given, rank
from hasten.graph.shapes import refresh
from hasten.rewrites.elements import LONGEST, Dim, Element, Named, Product, Vector
from hasten.rewrites.size_rules import SIZES
from hasten.rewrites.vector_rules import VECTORS


class Dimensions:
    """Answers about the sizes in one graph, whose shapes must have been inferred; valid until it changes."""

    def __init__(self, main: ir.Graph) -> None:
        self._main = main
        self._vectors: dict[ir.Value, Vector | None] = {}
        self._sizes: dict[tuple[ir.Value, int], Element] = {}

    def size(self, value: ir.Value, axis: int) -> Element:
        """The size along an axis, traced back; None when it cannot be told apart from others."""
        key = (value, axis)
        if key not in self._sizes:
            self._sizes[key] = Dim(value, axis)
            self._sizes[key] = self._trace(value, axis)
        return self._sizes[key]

    def is_fed(self, size: Element) -> bool:
        """Whether the size is one of the graph's inputs', and so not the outcome of a search or selection."""
        if isinstance(size, Product):
            return all(self.is_fed(factor) for factor, _ in size.sizes)
        if isinstance(size, Dim):
            return size.value.is_graph_input() and size.value.graph is self._main
        return isinstance(size, Named)

    def shape(self, value: ir.Value) -> tuple[Element, ...] | None:
        """All sizes of a value, or None when its rank is unknown."""
        dims = rank(value)
        if dims is None:
            vector = self._reshaped(value)
            return None if vector is None else tuple(self.size(value, i) for i in range(len(vector)))
        return tuple(self.size(value, i) for i in range(dims))

    def vector(self, value: ir.Value | None) -> Vector | None:
        """What is known of an integer tensor of rank 0 or 1; None when nothing is."""
        if value is None:
            return None
        if value not in self._vectors:
            self._vectors[value] = None
            self._vectors[value] = self._interpret(value)
        return self._vectors[value]

    def _interpret(self, value: ir.Value) -> Vector | None:
        array = constant(value)
        if array is not None:
            if array.ndim > 1 or array.size > LONGEST or array.dtype.kind not in "iu":
                return None
            return Vector(tuple(int(n) for n in array.reshape(-1)), scalar=array.ndim == 0)
        node = value.producer()
        if node is None or node.domain or value is not node.outputs[0]:
            return None
        rule = VECTORS.get(node.op_type)
        return rule(self, node) if rule else None

    def _trace(self, value: ir.Value, axis: int) -> Element:
        if value.shape is not None and axis < len(value.shape):
            size = value.shape[axis]
            if isinstance(size, int):
                return size
            if value.graph is self._main and value.is_graph_input() and is_name(size.value):
                return Named(str(size.value))
        node = value.producer()
        if node is None or node.domain or value is not node.outputs[0]:
            return Dim(value, axis)
        rule = SIZES.get(node.op_type)
        found = rule(self, node, axis) if rule else None
        return Dim(value, axis) if found is None else found

    def _reshaped(self, value: ir.Value) -> tuple[Element, ...] | None:
        node = value.producer()
        if node is None or node.op_type != "Reshape" or node.domain:
            return None
        vector = self.vector(given(node, 1))
        return None if vector is None else vector.elements


def is_name(text: str | None) -> bool:
    """Whether a dimension's name says anything: some exporters write "?" or "-1" for every unknown one."""
    return text is not None and text not in {"None", "none", "unknown"} and any(c.isalpha() for c in text)


def write_shapes(graph: Graph) -> None:
    """Infer the shapes of all inner values anew, in place, with the names the signature gives dimensions.

    The runtimes fuse residual additions only where the stored shapes say that both sides are equal.
    """
    refresh(graph)
    dims = Dimensions(graph.ir_model.graph)
    for node in graph.ir_model.graph:
        for value in node.outputs:
            if value.shape is not None and not value.is_graph_output():
                value.shape = ir.Shape([_stored(dims.size(value, i), d) for i, d in enumerate(value.shape)])


def _stored(size: Element, inferred: int | ir.SymbolicDim) -> int | str | ir.SymbolicDim:
    if isinstance(size, int):
        return size
    return size.name if isinstance(size, Named) else inferred
