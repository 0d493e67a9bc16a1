"""Layers of a changed graph solved anew by least squares, so that they compute what the original's do.

Layer by layer in the order of the graph, a layer's outputs are fitted to the original's for what it reads
from the changed layers before it, which makes up for their errors, too.

Source: He et al. 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", sections 3.1 and 3.2
(least squares, and the asymmetric objective: changed inputs, original outputs).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array, Calibration
from hasten.graph import Graph
from hasten.graph.editor import Editor
from hasten.graph.evaluate import Evaluator
from hasten.graph.layer import Layer, output_axis
from hasten.graph.names import layer_name
from hasten.graph.reading import constant, given, sole_user
from hasten.graph.section import section
from hasten.graph.shapes import observed_shapes
from hasten.methods import Context
from hasten.methods._observe.biases import Bias, find_bias
from hasten.methods._observe.moments import inputs_of, outputs_of
from hasten.numerics.removal import Regression

_POSITIONS = 64
"""Positions of a sample (pixels, tokens) that equations are made of at most."""
_LARGEST = 4608
"""Inputs of an output beyond which its equations take too much memory (170 MB)."""


def fit(
    whole: Graph,
    changed: Graph,
    names: Sequence[str],
    samples: Calibration,
    context: Context,
    kept: Mapping[str, Array] | None = None,
) -> list[str]:
    """Solve these layers of the changed graph anew, in place, in their order; returns those that were.

    whole: has layers of the same names. kept: flags of those outputs of a layer that the changed one has; all
    where it is not among them. Raises MethodError where a graph does not run.
    """
    nodes = {layer_name(node): node for node in whole.ir_model.graph}
    layers = [node for node in changed.ir_model.graph if layer_name(node) in set(names)]
    done = []
    first = next(samples.batches_for(whole.inputs, context.batch))
    shapes = observed_shapes(whole, first.feeds(whole.inputs), threads=context.threads)
    for number, node in enumerate(layers):
        layer = _solvable(node)
        if layer is None:
            continue
        left = (kept or {}).get(layer.name, slice(None))
        bias = find_bias(node, len(layer.matrix))
        if _solve(_Fit(whole, changed, nodes[layer.name], layer, left, bias, shapes), samples, context):
            done.append(layer.name)
        context.progress("fitting layers to the original's outputs", (number + 1) / len(layers))
    return done


def alone(node: ir.Node) -> bool:
    """Whether nothing else reads the node's weight."""
    weight = node.inputs[1]
    return weight is not None and len(weight.uses()) == 1


def _solvable(node: ir.Node) -> Layer | None:
    weight = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if weight is None or not alone(node):
        return None
    if node.op_type == "Conv":
        plain = node.attributes.get_int("group", 1) == 1
        plain = plain and node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
    elif node.op_type == "Gemm":
        plain = not node.attributes.get_int("transA", 0)
        plain = plain and all(node.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta"))
    else:
        plain = node.op_type == "MatMul" and weight.ndim == 2
    layer = Layer(node, weight, output_axis(node)) if plain else None
    return layer if layer is not None and layer.matrix.shape[1] <= _LARGEST else None


@dataclass(frozen=True, eq=False)
class _Fit:
    """A layer of the changed graph, and where the whole one has it, whose ``shapes`` were observed.

    kept: which of its outputs there are.
    """

    whole: Graph
    changed: Graph
    origin: ir.Node
    layer: Layer
    kept: Array | slice
    bias: Bias | None
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def made(self) -> str | None:
        """The layer's outputs in the changed graph, where what they hold beside products is computed."""
        unknown = self.bias is None and given(self.layer.node, 2) is not None
        return str(self.layer.node.outputs[0].name) if unknown else None


def _solve(fit: _Fit, samples: Calibration, context: Context) -> bool:
    """Solve the layer anew; whether that could be done."""
    layer, goal = fit.layer, _goal(fit.origin, fit.shapes)
    read = str(layer.activation.name)
    changed = _Values(fit.changed, [name for name in (read, goal.beside, fit.made) if name], context)
    whole = _Values(fit.whole, [goal.value], context)
    outputs, inputs = layer.matrix.shape
    sums = Regression(inputs, outputs)
    for batch in samples.batches_for(fit.whole.inputs, context.batch):
        feeds = batch.feeds(fit.whole.inputs)
        now = changed.of(feeds)
        x = inputs_of(layer, now[read], _POSITIONS)[0]
        y = outputs_of(layer, whole.of(feeds)[goal.value], _POSITIONS) - goal.constant
        y = y[:, fit.kept]
        if goal.beside is not None:
            y = y - outputs_of(layer, now[goal.beside], _POSITIONS)
        if fit.made is not None:
            products = x.astype(np.float64) @ layer.matrix.T
            y = y - (outputs_of(layer, now[fit.made], _POSITIONS) - products)
        finite = np.isfinite(x).all(axis=1) & np.isfinite(y).all(axis=1)
        sums.update(x[finite], y[finite])
    if not sums.count:
        return False
    offset = None if fit.bias is None else np.zeros(outputs)
    matrix, shifted = sums.solve(layer.matrix, offset)
    with np.errstate(over="ignore"):
        weight = layer.as_weight(matrix)
    if not np.isfinite(weight).all():
        return False
    editor = Editor(fit.changed)
    editor.set_input(layer.node, 1, weight)
    if fit.bias is not None and shifted is not None:
        # Of a MatMul what is added comes after what was fitted; elsewhere the outputs already hold the bias.
        held = 0.0 if layer.node.op_type == "MatMul" or fit.bias.array is None else fit.bias.array.reshape(-1)
        fit.bias.shift(editor, shifted - held)
    return True


@dataclass(frozen=True, eq=False)
class _Goal:
    """What a layer's outputs are fitted to: a value, without a constant, and without what stands beside it.

    Where a layer's outputs are added to something else it is the sum that should be right: what changed
    beside the layer has errors, too, which the layer can make up for.
    """

    value: str
    constant: Array
    beside: str | None


def _goal(layer: ir.Node, shapes: Mapping[str, tuple[int, ...]]) -> _Goal:
    value, offset = layer.outputs[0], np.zeros(1)
    shape = shapes.get(str(value.name), ())
    axis = 1 if layer.op_type == "Conv" else -1
    for _ in range(2):
        add = sole_user(value)
        if add is None or add.domain or add.op_type != "Add" or value.is_graph_output():
            break
        other = add.inputs[1] if add.inputs[0] is value else add.inputs[0]
        array = constant(other)
        if array is None and other is not None and other is not value:
            if shapes.get(str(other.name)) != shape:
                break
            return _Goal(str(add.outputs[0].name), offset, str(other.name))
        if array is None or not _by_output(array.shape, shape, axis):
            break
        value, offset = add.outputs[0], offset + array.reshape(-1)
    return _Goal(str(layer.outputs[0].name), np.zeros(1), None)


def _by_output(constant: Sequence[int], shape: Sequence[int], axis: int) -> bool:
    """Whether a constant, added to values of this shape, is a number for each output, or one for all."""
    wanted = [1] * len(shape)
    if prod(constant) != 1 and shape:
        wanted[axis] = shape[axis]
    return [*[1] * (len(shape) - len(constant)), *constant] == wanted


class _Values:
    """Values of a graph of which no more is run than they need."""

    def __init__(self, graph: Graph, names: Sequence[str], context: Context) -> None:
        given_by = {spec.name for spec in graph.inputs}
        self._names = [name for name in names if name not in given_by]
        self._evaluator = None
        if self._names:
            self._evaluator = Evaluator(section(graph, None, self._names), threads=context.threads)

    def of(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        if self._evaluator is None:
            return dict(feeds)
        inputs = {spec.name: feeds[spec.name] for spec in self._evaluator.inputs}
        return dict(feeds) | self._evaluator.run(inputs, self._names)
