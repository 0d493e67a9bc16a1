"""Where a channel axis goes when a value is transposed, squeezed or reshaped."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from hasten.graph.reading import axes_of, rank


@dataclass(frozen=True)
class Place:
    """The channel axis of a value, None where no single axis holds the channels, and its rank if known."""

    axis: int | None
    rank: int | None

    def after(self, node: ir.Node, value: ir.Value) -> Place | None:
        """The place in the node's output, this being that in ``value``; None unless the node only moves."""
        if node.domain or not node.inputs or node.inputs[0] is not value:
            return None
        if node.op_type in {"Reshape", "Flatten"}:
            return Place(None, rank(node.outputs[0]))
        if node.op_type not in {"Transpose", "Squeeze", "Unsqueeze"}:
            return None
        dims = rank(node.outputs[0])
        if self.axis is None or self.rank is None or dims is None:
            return Place(None, dims)
        return Place(self._moved(node, self.axis % self.rank, self.rank, dims), dims)

    def _moved(self, node: ir.Node, axis: int, have: int, dims: int) -> int | None:
        if node.op_type == "Transpose":
            perm = node.attributes.get_ints("perm", tuple(reversed(range(have))))
            return list(perm).index(axis) if axis in perm else None
        axes = axes_of(node)
        if axes is None:
            return None
        if node.op_type == "Squeeze":
            gone = {a % have for a in axes}
            return None if axis in gone else axis - sum(a < axis for a in gone)
        added = {a % dims for a in axes}
        kept = [i for i in range(dims) if i not in added]
        return kept[axis] if axis < len(kept) else None
