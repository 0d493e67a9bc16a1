"""The layers that read the units of a width, and the covariances of what they read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array, Calibration
from hasten.graph import Graph
from hasten.graph.coupling import Coupling, Part, Width
from hasten.graph.names import layer_name
from hasten.graph.reading import constant
from hasten.methods import Context
from hasten.methods._observe.moments import known
from hasten.methods._observe.samples import observed
from hasten.numerics.covariance import about_mean, shrunk
from hasten.numerics.removal import Reader
from hasten.numerics.rounding import Moments

_POSITIONS = 64
"""Positions of a sample that are counted at most, evenly spread."""
_LARGEST = 4096
"""Inputs beyond which covariances take too much memory (128 MiB)."""


@dataclass(frozen=True, eq=False)
class Read:
    """A linear layer that sums over channels of what it reads.

    value: what it reads, with its channels along ``axis``. part: where they lie in its weight.
    """

    node: ir.Node
    value: ir.Value
    axis: int
    part: Part

    @property
    def name(self) -> str:
        return layer_name(self.node)

    @property
    def key(self) -> tuple[str, int]:
        """What is read: the name of the value, and the axis of its channels."""
        return str(self.value.name), self.axis

    def by_channel(self, weight: Array) -> Array:
        """The weight, (channels, all that multiplies one)."""
        return np.moveaxis(weight, self.part.axis, 0).reshape(weight.shape[self.part.axis], -1)

    def rows(self, values: Array) -> Array:
        """What is read, (positions, channels)."""
        rows = np.moveaxis(values, self.axis, -1)
        if rows.ndim > 2:
            rows = rows.reshape(len(rows), -1, rows.shape[-1])
            rows = rows[:, np.unique(np.linspace(0, rows.shape[1] - 1, _POSITIONS).astype(int))]
        return rows.reshape(-1, rows.shape[-1])


def reads(graph: Graph, coupling: Coupling) -> dict[str, list[Read]]:
    """By the name of each width, the layers that read it and can make up for what is removed."""
    nodes = {layer_name(node): node for node in graph.ir_model.graph}
    return {
        width.name: [
            read
            for part in width.parts
            if part.role == "read" and (read := _read(nodes[part.layer], part)) is not None
        ]
        for width in coupling.widths
    }


def _read(node: ir.Node, part: Part) -> Read | None:
    value = node.inputs[0]
    if value is None or part.index != 1 or len(part.units) > _LARGEST or constant(value) is not None:
        return None
    if node.op_type in {"Conv", "ConvTranspose"}:
        return Read(node, value, 1, part) if node.attributes.get_int("group", 1) == 1 else None
    if node.op_type == "Gemm":
        return None if node.attributes.get_int("transA", 0) else Read(node, value, 1, part)
    return Read(node, value, -1, part) if node.op_type == "MatMul" else None


def covariances(
    graph: Graph, found: Sequence[Read], samples: Calibration, context: Context
) -> dict[tuple[str, int], Moments]:
    """Means and second moments of what is read, by the name of the value and the axis of its channels.

    What is empty or not finite has none.
    """
    wanted = {read.key: read for read in found}
    made: dict[tuple[str, int], Moments] = {}
    names = list(dict.fromkeys(name for name, _ in wanted))
    for part, values in observed(graph, names, samples, context, doing="looking at what layers read"):
        for (name, axis), read in wanted.items():
            if name in part:
                rows = read.rows(values[name])[None]
                made.setdefault((name, axis), Moments(1, rows.shape[2])).update(rows)
    return {key: moments for key, moments in made.items() if known(moments)}


def covariance(moments: Moments) -> Array:
    """About the mean, as far as so many positions tell."""
    return shrunk(about_mean(moments.second[0], moments.mean[0]), moments.count)


def reader(graph: Graph, width: Width, read: Read, moments: Moments) -> Reader:
    """What the arithmetic of removal needs to know of a layer that reads a width."""
    weight = constant(graph.weights[read.part.weight])
    assert weight is not None
    rows = read.by_channel(weight).astype(np.float64)
    local = {unit: place for place, unit in enumerate(width.units.tolist())}
    units = np.array([local.get(unit, -1) for unit in read.part.units.tolist()], np.intp)
    return Reader(covariance(moments), rows @ rows.T, units)
