"""Batch normalization for the time of a training: behind convolutions that lack it, and folded back after.

A model that is ready to be used has its normalizations folded into its convolutions, and a deep network
without them learns at small rates only. So each convolution gets one whose scale γ and shift β are the
deviation and the mean of what it makes: the graph computes what it did. The normalizations learn with the
weights, and at the end W·γ/√(σ²+ε) and (b-μ)·γ/√(σ²+ε) + β make the graph what it was (Ioffe and Szegedy
2015, "Batch Normalization", algorithm 2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from hasten.core.data import Array, Dataset
from hasten.core.errors import InputError
from hasten.graph import Graph
from hasten.graph.editor import Editor
from hasten.graph.names import layer_name
from hasten.graph.reading import sole_user
from hasten.rewrites.affine import affine
from hasten.rewrites.linear import Linear, linear
from hasten.train.network import Network
from hasten.train.order import Order, shapes_of
from hasten.train.samples import Samples
from hasten.train.settings import Basics

_EPSILON = 1e-5
_LOOKED_AT, _AT_ONCE = 256, 16
"""Samples that the first statistics are of, and how many are run at a time."""


@dataclass(frozen=True)
class Normalized:
    """A graph with its normalizations. own: names of the weights that they have; layers: their nodes'."""

    graph: Graph
    own: frozenset[str]
    layers: tuple[str, ...]

    def folded(self, trained: Graph) -> Graph:
        """A graph of this one's structure, with the normalizations in the convolutions before them."""
        graph = trained.copy()
        editor = Editor(graph)
        wanted = set(self.layers)
        for node in [node for node in editor.nodes("BatchNormalization") if node.name in wanted]:
            _fold(editor, node)
        for name in self.own:
            del graph.ir_model.graph.initializers[name]
        return graph


def normalized(graph: Graph, data: Dataset, settings: Basics) -> Normalized:
    """Put normalizations behind the convolutions that have none and whose weights are to be trained.

    data: what the first statistics are of. Raises InputError where no convolution can have one, and where
    the model takes a fixed number of samples, so that there are no batches to normalize.
    """
    fixed = data.fixed_batch(graph.inputs)
    if fixed is not None:
        raise InputError(
            f"normalize takes statistics of a batch, and the model takes {fixed} sample(s) at a time: "
            "give it an axis of samples without a size, or leave normalize out"
        )
    made = graph.copy()
    editor = Editor(made, shapes=True)
    found = list(_convolutions(editor, settings))
    if not found:
        raise InputError(
            "there is no convolution to normalize (with float32 weights of its own, without a normalization, "
            "before the end of the model): leave normalize out"
        )
    names = [str(operator.node.outputs[0].name) for operator in found]
    own: list[str] = []
    layers: list[str] = []
    for operator, (mean, variance) in zip(found, _statistics(graph, names, data), strict=True):
        node = _insert(editor, operator, mean, variance)
        layers.append(str(node.name))
        own += [str(value.name) for value in node.inputs[1:] if value is not None]
    return Normalized(made, frozenset(own), tuple(layers))


def _convolutions(editor: Editor, settings: Basics) -> Iterator[Linear]:
    for node in editor.nodes("Conv", "ConvTranspose"):
        operator = linear(node)
        value, weight = node.outputs[0], node.inputs[1]
        user = sole_user(value)
        if operator is None or node.graph is not editor.main or value.is_graph_output():
            continue
        if user is not None and user.op_type == "BatchNormalization":
            continue
        assert weight is not None
        if settings.trains(str(weight.name)) and weight.dtype == ir.DataType.FLOAT:
            yield operator


def _insert(editor: Editor, operator: Linear, mean: Array, variance: Array) -> ir.Node:
    """A normalization behind the operator that changes nothing yet; its output has the name it had."""
    node, value = operator.node, operator.node.outputs[0]
    name, uses = str(value.name), list(value.uses())
    numbers = {"scale": np.sqrt(variance + _EPSILON), "shift": mean, "mean": mean, "variance": variance}
    stored = [editor.constant(n.astype(np.float32), f"{name}.normalized.{k}") for k, n in numbers.items()]
    label = editor.unique(f"{layer_name(node)}.normalized")
    made = ir.node("BatchNormalization", [value, *stored], {"epsilon": _EPSILON}, name=label)
    # Behind an operator that shape inference does not know, the rank is that of the weight all the same.
    unknown = ir.Shape([None] * operator.weight.ndim)
    made.outputs[0].shape, made.outputs[0].type = value.shape or unknown, value.type
    made.outputs[0].name, value.name = name, editor.unique(f"{name}.plain")
    editor.main.insert_after(node, made)
    for use in uses:
        use.node.replace_input_with(use.idx, made.outputs[0])
    return made


def _fold(editor: Editor, node: ir.Node) -> None:
    before, item = node.inputs[0], affine(node)
    producer = before.producer() if before is not None else None
    operator = linear(producer) if producer is not None else None
    assert before is not None
    assert item is not None
    assert operator is not None
    factor, shift = item.scale.reshape(-1), item.shift.reshape(-1)
    if not operator.write(editor, *operator.scaled_outputs(factor, shift)):
        raise InputError(
            f"training: the weights of {layer_name(operator.node)} exceed float32 with their normalization; "
            "lower learning_rate"
        )
    name = node.outputs[0].name
    if not editor.bypass(node, before):
        raise AssertionError("a normalization is not put behind an output")
    before.name = name


@torch.no_grad()
def _statistics(graph: Graph, names: Sequence[str], data: Dataset) -> list[tuple[Array, Array]]:
    """Mean and variance of each channel of inner values, over samples and positions, in double precision."""
    network = Network.of(graph, names)
    network.set_mode(False, False)
    looked = data.take(_LOOKED_AT).indices
    order = Order(shapes_of(data, looked), _AT_ONCE, 0)
    samples = Samples(data, (), 0)
    parts = (part for step in range(len(order)) for part in order.parts(order.batch(step), 1, None))
    sums: list[list[Array]] = [[] for _ in names]
    for part in parts:
        values = network(samples.load(part, None).inputs)
        for name, held in zip(names, sums, strict=True):
            channels = _by_channel(values[name])
            count = torch.full((len(channels),), channels.shape[1])
            held.append(torch.stack([count, channels.sum(1), channels.square().sum(1)]).numpy())
    found = []
    for held in sums:
        count, total, square = np.sum(held, axis=0)
        mean = total / count
        found.append((mean, np.maximum(square / count - mean**2, 0.0)))
    return found


def _by_channel(values: Tensor) -> Tensor:
    """(samples, channels, …) as (channels, …) in double precision."""
    return values.double().transpose(0, 1).flatten(1)
