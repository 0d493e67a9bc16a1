"""What is left makes up for what was removed: each layer that lost inputs is solved by least squares.

Each of what it reads is predicted from what is kept, which changes the layer's weights in closed form and
asks for few samples. Then its outputs can be fitted to the original's (``_observe.fit``).

Source: He et al. 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", section 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array, Calibration
from hasten.graph import Graph
from hasten.graph.coupling import Coupling, prepare
from hasten.graph.editor import Editor
from hasten.graph.layer import OPERATORS, output_axis
from hasten.graph.names import layer_name
from hasten.graph.reading import constant, given
from hasten.methods import Context
from hasten.methods._narrow.readers import Read, covariance
from hasten.methods._observe.biases import find_bias
from hasten.methods._observe.fit import alone, fit
from hasten.numerics.removal import prediction
from hasten.numerics.rounding import Moments


def ready(graph: Graph) -> Graph:
    """A copy prepared for coupling in which each layer's bias is its own, a number for each output.

    Convolutions and Gemms without one have zeros.
    """
    made = prepare(graph)
    editor = Editor(made)
    for node in editor.main:
        weight = constant(given(node, 1))
        if node.domain or node.op_type not in OPERATORS or weight is None or weight.ndim == 1:
            continue
        outputs = weight.shape[_outputs_along(node, weight)]
        if node.op_type == "ConvTranspose":
            outputs *= node.attributes.get_int("group", 1)
        bias = find_bias(node, outputs)
        if bias is not None:
            bias.shift(editor, np.zeros(outputs))
    return made


def _outputs_along(node: ir.Node, weight: Array) -> int:
    """The axis of the outputs: of a product's weight the last, whatever is stacked before it."""
    return weight.ndim - 1 if node.op_type == "MatMul" else output_axis(node)


def _terms(node: ir.Node, weight: Array) -> float:
    """Places of a window that add up to one output, on average; stacked products do not add up."""
    if node.op_type not in {"Conv", "ConvTranspose"}:
        return 1.0
    strides = node.attributes.get_ints("strides", [1]) if node.op_type == "ConvTranspose" else [1]
    return prod(weight.shape[2:]) / prod(strides)


def predicted(
    graph: Graph, found: Sequence[Read], seen: Mapping[tuple[str, int], Moments], gone: Array
) -> Graph:
    """A copy in which layers read what is kept in place of what is gone, as well as that can be predicted.

    graph: whole, as ``ready`` made it; it can be narrowed afterwards. gone: a flag for each unit.
    """
    made = graph.copy()
    editor = Editor(made)
    nodes = {layer_name(node): node for node in editor.main}
    for read in found:
        kept, node = ~gone[read.part.units], nodes[read.name]
        moments = seen.get(read.key)
        weight = constant(node.inputs[1])
        if kept.all() or moments is None or weight is None or not alone(node):
            continue
        basis = prediction(covariance(moments), kept)
        by_channel = np.moveaxis(weight, read.part.axis, -1).astype(np.float64)
        changed = np.zeros(by_channel.shape)
        changed[..., kept] = by_channel @ basis
        editor.set_input(node, 1, np.moveaxis(changed, -1, read.part.axis).astype(weight.dtype))
        missing = moments.mean[0] - basis @ moments.mean[0][kept]
        axis = _outputs_along(node, weight)
        bias = None if weight.ndim == 1 else find_bias(node, weight.shape[axis])
        if bias is not None:
            shift = np.moveaxis(by_channel @ missing, axis - (read.part.axis < axis), 0)
            bias.shift(editor, shift.reshape(len(shift), -1).mean(axis=1) * _terms(node, weight))
    return made


def refit(
    whole: Graph,
    narrow: Graph,
    coupling: Coupling,
    names: Sequence[str],
    gone: Array,
    samples: Calibration,
    context: Context,
) -> list[str]:
    """Solve these layers of the narrow graph anew, in place, in their order; returns those that were.

    Raises MethodError where a graph does not run.
    """
    kept: dict[str, Array] = {}
    for node in whole.ir_model.graph:
        value = given(node, 1)
        weight = constant(value)
        if layer_name(node) not in names or value is None or weight is None:
            continue
        axes = coupling.axes.get(str(value.name))
        units = None if axes is None else axes[_outputs_along(node, weight)]
        if units is not None:
            kept[layer_name(node)] = ~gone[units]
    return fit(whole, narrow, names, samples, context, kept)
