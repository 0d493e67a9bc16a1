"""Tables of embeddings as integers: rows are multiplied by their scale when they are looked up.

It saves bytes on disk and in memory, not time: the rows of one input are few.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.core.record import Skip
from hasten.graph.editor import Editor
from hasten.graph.layer import stored
from hasten.graph.names import layer_name, skip
from hasten.numerics.affine import Grid, slice_bounds, symmetric

FEWEST = 8192
"""Tables of fewer numbers stay as they are: there is nothing to save."""


def find_lookups(main: ir.Graph, exclude: frozenset[str]) -> tuple[list[ir.Node], list[Skip]]:
    """The nodes that look up rows of a stored table, and those that must stay as they are."""
    found, skipped = [], []
    for node in main:
        table = stored(node.inputs[0]) if node.domain == "" and node.op_type == "Gather" else None
        if table is None or table.dtype != np.float32 or table.ndim != 2 or table.size < FEWEST:
            continue
        if node.attributes.get_int("axis", 0) not in {0, -2} or stored(node.inputs[1]) is not None:
            continue
        if layer_name(node) in exclude:
            skipped.append(skip(node, "excluded by the recipe"))
        elif not np.isfinite(table).all():
            skipped.append(skip(node, "its table holds values that are not finite"))
        else:
            found.append(node)
    return found, skipped


class LookupWriter:
    """Writes tables as integers; a table that several nodes look up is stored once."""

    def __init__(self, editor: Editor, *, per_row: bool) -> None:
        self._editor = editor
        self._per_row = per_row
        self._made: dict[str | None, tuple[ir.Value, ir.Value]] = {}

    def write(self, node: ir.Node) -> None:
        """Look up integers and, per row, scales; what reads the node then reads their product."""
        table, indices = node.inputs[0], node.inputs[1]
        assert table is not None
        if table.name not in self._made:
            array = stored(table)
            assert array is not None
            self._made[table.name] = self._constants(array, str(table.name))
        integers, scale = self._made[table.name]
        rows = self._editor.insert(node, "Gather", [integers, indices])
        real = self._editor.insert(node, "Cast", [rows], {"to": ir.DataType.FLOAT})
        if self._per_row:
            scale = self._editor.insert(node, "Gather", [scale, indices])
        layer = layer_name(node)
        self._editor.replace(node, "Mul", [real, scale], name=self._editor.unique(f"{layer}.scaled"))
        lookup = rows.producer()
        assert lookup is not None
        lookup.name = layer  # so that whoever refers to the layer finds its table

    def _constants(self, table: Array, name: str) -> tuple[ir.Value, ir.Value]:
        axis = 0 if self._per_row else None
        quantizer = symmetric(slice_bounds(table, axis), Grid(), axis)
        scale = quantizer.scale.reshape(-1, 1) if self._per_row else quantizer.scale
        integers = self._editor.constant(quantizer.quantize(table), f"{name}.integers")
        return integers, self._editor.constant(scale, f"{name}.scale")
