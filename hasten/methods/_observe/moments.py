"""What layers read at single positions, from which their weights are rounded for the least error of outputs.

Each layer is solved by itself, for what it reads in the float model: solved for what arrives from layers
that are rounded anew at the same time, it would make up for errors that are no longer made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array, Calibration
from hasten.graph import Graph
from hasten.methods import Context
from hasten.methods._observe.gradients import Gradients
from hasten.methods._observe.samples import key, observed, replace_arrays
from hasten.methods._observe.windows import axes_of, windows
from hasten.numerics.rounding import Moments

Importance: TypeAlias = Literal["equal", "gradients"]
POSITIONS = 64
"""Positions of one sample (pixels, tokens) whose inputs are counted at most, evenly spread."""
_FEWEST, _FOR_EACH_INPUT = 1024, 8
"""Positions of all samples that are enough: for any layer, and for each input that an output has."""
LARGEST = 4096
"""Inputs of an output beyond which second moments take too much memory (128 MiB), unless asked for."""


class Layer(Protocol):
    """A node that multiplies what it reads first by a weight, its second input.

    array: the weight as the operator reads it; axis: the axis of its output channels.
    """

    @property
    def name(self) -> str: ...
    @property
    def node(self) -> ir.Node: ...
    @property
    def array(self) -> Array: ...
    @property
    def axis(self) -> int: ...
    @property
    def activation(self) -> ir.Value: ...


def observe(
    graph: Graph,
    layers: Sequence[Layer],
    samples: Calibration,
    context: Context,
    importance: Importance = "equal",
    largest: int = LARGEST,
) -> Mapping[str, Moments]:
    """The moments of what each layer that can be solved reads in ``graph``, by the layer's name.

    largest: layers with more inputs an output are left out. importance: whether each
    position counts alike, or by how much the model's outputs depend on what the layer computes there, which
    takes a pass through the graph in PyTorch, and back. Layers that read the same share moments of equal
    importance. They are kept in the context's folder, as the histograms are.
    Raises Unavailable for gradients without PyTorch, MethodError for operators that the bridge lacks.
    """
    folder = context.work / f"moments-{key(graph, samples, context.batch, POSITIONS)}"
    folder.mkdir(exist_ok=True)
    readers: dict[str, list[Layer]] = {}
    for layer in (layer for layer in layers if solvable(layer, largest)):
        readers.setdefault(_source(layer, importance), []).append(layer)
    files = {source: folder / f"{source}.npz" for source in readers}
    missing = {source: same[0] for source, same in readers.items() if not files[source].exists()}
    if missing:
        gather = _gather if importance == "equal" else _gather_weighted
        found = gather(graph, missing, samples, context)
        while found:
            source, moments = found.popitem()
            _save(files[source], moments)
    return _Kept({layer.name: files[source] for source, same in readers.items() for layer in same})


class _Kept(Mapping[str, Moments]):
    """Moments by the names of layers, read from their files when they are asked for: all take much memory."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files

    def __getitem__(self, name: str) -> Moments:
        with np.load(self._files[name], allow_pickle=False) as arrays:
            return Moments.restore(arrays["mean"], arrays["second"], int(arrays["count"]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _source(layer: Layer, importance: Importance) -> str:
    """Names what a layer multiplies its rows with, and how that counts."""
    told: list[object] = [layer.activation.name]
    if importance == "gradients":
        told.append(layer.node.outputs[0].name)
    if layer.node.op_type == "Conv":
        window = ("dilations", "group", "pads", "strides")
        attributes = layer.node.attributes
        told += [layer.array.shape[1:], *((name, str(attributes.get(name))) for name in window)]
    return hashlib.sha256(repr(told).encode()).hexdigest()[:24]


def _save(path: Path, moments: Moments) -> None:
    # Half the bytes; what is lost is far below the damping.
    arrays = {
        "mean": moments.mean.astype(np.float32),
        "second": moments.second.astype(np.float32),
        "count": np.array(moments.count),
    }
    replace_arrays(path, arrays)


def _gather(
    graph: Graph, wanted: Mapping[str, Layer], samples: Calibration, context: Context
) -> dict[str, Moments]:
    """wanted: one of the layers of each source."""
    readers: dict[str, list[str]] = {}
    for source, layer in wanted.items():
        readers.setdefault(str(layer.activation.name), []).append(source)
    found: dict[str, Moments] = {}
    names = list(readers)
    for part, values in observed(graph, names, samples, context, doing="gathering what layers read"):
        for source in (source for name in part for source in readers[name]):
            layer = wanted[source]
            rows = inputs_of(layer, values[str(layer.activation.name)], _positions(layer, len(samples)))
            if source not in found:
                found[source] = Moments(rows.shape[0], rows.shape[2])
            found[source].update(rows)
    return found


def _gather_weighted(
    graph: Graph, wanted: Mapping[str, Layer], samples: Calibration, context: Context
) -> dict[str, Moments]:
    """The same with positions counted by gradients; all in one pass, since the way back needs all values."""
    fed = {spec.name for spec in graph.inputs}
    read = {source: str(layer.activation.name) for source, layer in wanted.items()}
    made = {source: str(layer.node.outputs[0].name) for source, layer in wanted.items()}
    names = list(dict.fromkeys(name for name in (*read.values(), *made.values()) if name not in fed))
    gradients = Gradients(graph, names, context.seed)
    found: dict[str, Moments] = {}
    done = 0
    for batch in samples.batches_for(graph.inputs, context.batch):
        feeds = batch.feeds(graph.inputs)
        seen = gradients.of(feeds)
        for source, layer in wanted.items():
            values = feeds[read[source]] if read[source] in fed else seen[read[source]][0]
            most = _positions(layer, len(samples))
            rows = inputs_of(layer, values, most)
            if source not in found:
                found[source] = Moments(rows.shape[0], rows.shape[2])
            found[source].update(rows, _importance(layer, seen[made[source]][1], most))
        done += len(batch.indices)
        part = min(done / len(samples), 1.0)
        context.progress("gathering what layers read, and what depends on it", part)
    return found


def _importance(layer: Layer, gradient: Array, most: int) -> Array:
    """The mean square of the gradient at each position that ``inputs_of`` takes."""
    squares = np.square(gradient.astype(np.float64))
    if layer.node.op_type == "Conv":
        places = squares.mean(axis=1).reshape(len(squares), -1)
        places = places[:, _evenly(places.shape[1], most)]
        return np.asarray(places.reshape(-1))
    rows = squares.reshape(-1, squares.shape[-1]).mean(axis=1)
    return np.asarray(rows[_chosen(gradient, len(rows), most)])


def moments_of(found: Mapping[str, Moments], layer: Layer) -> Moments | None:
    """The layer's moments; None where it was not observed, or read nothing or what is not finite."""
    moments = found.get(layer.name)
    return moments if moments is not None and known(moments) else None


def known(moments: Moments) -> bool:
    """Whether anything was read, and all of it finite."""
    return bool(moments.count and np.isfinite(moments.second).all())


def as_rows(layer: Layer, array: Array) -> Array:
    """A weight of the layer's shape as (groups, outputs, inputs)."""
    if layer.node.op_type == "Conv":
        groups = layer.node.attributes.get_int("group", 1)
        return array.reshape(groups, array.shape[0] // groups, -1)
    return np.moveaxis(array, layer.axis, 0)[None]


def as_weight(layer: Layer, rows: Array) -> Array:
    """The inverse of ``as_rows``."""
    if layer.node.op_type == "Conv":
        return rows.reshape(layer.array.shape)
    return np.moveaxis(rows[0], 0, layer.axis)


def solvable(layer: Layer, largest: int = LARGEST) -> bool:
    """Whether the layer's outputs are products of rows of a matrix with what a window cuts out."""
    weight = layer.node.inputs[1]
    if weight is None or len(weight.uses()) > 1:
        return False  # what is best for one layer is not for another that shares its weight
    if layer.node.op_type == "Conv":
        automatic = layer.node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET"
        return not automatic and int(np.prod(layer.array.shape[1:])) <= largest
    return layer.node.op_type in {"Gemm", "MatMul"} and layer.array.shape[1 - layer.axis] <= largest


def _positions(layer: Layer, samples: int) -> int:
    """How many positions of each sample to count: of tokens all, since many of them are often padding."""
    if layer.node.op_type != "Conv":
        return POSITIONS
    inputs: int = as_rows(layer, layer.array).shape[2]
    return min(POSITIONS, -(-max(_FEWEST, _FOR_EACH_INPUT * inputs) // samples))


def inputs_of(layer: Layer, values: Array, most: int) -> Array:
    """What the layer multiplies its rows with, of shape (groups, positions, inputs)."""
    if layer.node.op_type == "Conv":
        return _windows(layer, values, most)
    rows = values.reshape(-1, values.shape[-1])
    return rows[_chosen(values, len(rows), most)][None]


def outputs_of(layer: Layer, values: Array, most: int) -> Array:
    """What the layer makes at the positions that ``inputs_of`` takes, of shape (positions, outputs)."""
    if layer.node.op_type == "Conv":
        places = values.reshape(*values.shape[:2], -1)
        places = places[:, :, _evenly(places.shape[2], most)]
        return np.ascontiguousarray(places.swapaxes(1, 2)).reshape(-1, values.shape[1])
    rows = values.reshape(-1, values.shape[-1])
    return rows[_chosen(values, len(rows), most)]


def _chosen(values: Array, rows: int, most: int) -> Array:
    """Which rows of a product's input or output are counted; without an axis of positions all are samples."""
    samples = len(values) if values.ndim > 2 else rows
    return _evenly(rows, most * samples)


def _windows(layer: Layer, values: Array, most: int) -> Array:
    axes = axes_of(layer.node, layer.array.shape[2:])
    cut = windows(values, axes, lambda count: _evenly(count, most))
    batch, channels, positions, kernel = cut.shape
    groups = layer.node.attributes.get_int("group", 1)
    cut = cut.reshape(batch, groups, channels // groups, positions, kernel)
    return np.ascontiguousarray(cut.transpose(1, 0, 3, 2, 4)).reshape(groups, batch * positions, -1)


def _evenly(have: int, most: int) -> Array:
    """``most`` of the numbers below ``have``, evenly spread; all of them where there are fewer."""
    return np.arange(have) if have <= most else np.arange(most) * have // most
