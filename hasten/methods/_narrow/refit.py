"""What is left makes up for what was removed: each layer that lost inputs is solved by least squares.

Each of what it reads is predicted from what is kept, which changes the layer's weights in closed form and
asks for few samples. Then its outputs can be fitted to the original's (``_observe.fit``).

Source: He et al. 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", section 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array, Calibration
from hasten.graph import Graph
from hasten.graph.coupling import Coupling, prepare
from hasten.graph.editor import Editor
from hasten.graph.layer import output_axis
from hasten.graph.names import layer_name
from hasten.graph.reading import constant, given
from hasten.methods import Context
from hasten.methods._narrow.readers import Read, covariance
from hasten.methods._observe.biases import find_bias
from hasten.methods._observe.fit import alone, fit
from hasten.numerics.removal import prediction
from hasten.numerics.rounding import Moments


def ready(graph: Graph) -> Graph:
    """A copy prepared for coupling in which each convolution and Gemm has a bias that is its own."""
    made = prepare(graph)
    editor = Editor(made)
    for node in editor.main:
        if node.domain or node.op_type not in {"Conv", "ConvTranspose", "Gemm"}:
            continue
        weight, bias = constant(given(node, 1)), given(node, 2)
        if weight is None or (bias is not None and constant(bias) is None):
            continue
        if bias is None:
            outputs = weight.shape[output_axis(node)] * _repeated(node)
            editor.set_input(node, 2, np.zeros(outputs, weight.dtype), f"{layer_name(node)}.bias")
        elif len(bias.uses()) > 1:
            editor.set_input(node, 2, np.array(constant(bias)))
    return made


def _repeated(node: ir.Node) -> int:
    return node.attributes.get_int("group", 1) if node.op_type == "ConvTranspose" else 1


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
        moments = seen.get((str(read.value.name), read.axis))
        weight = constant(node.inputs[1])
        if kept.all() or moments is None or weight is None or not alone(node):
            continue
        basis = prediction(covariance(moments), kept)
        by_channel = np.moveaxis(weight, read.part.axis, -1).astype(np.float64)
        changed = np.zeros(by_channel.shape)
        changed[..., kept] = by_channel @ basis
        editor.set_input(node, 1, np.moveaxis(changed, -1, read.part.axis).astype(weight.dtype))
        missing = moments.mean[0] - basis @ moments.mean[0][kept]
        bias = find_bias(node, weight.shape[output_axis(node)])
        if bias is not None:
            axis = output_axis(node)
            shift = np.moveaxis(by_channel @ missing, axis if axis < read.part.axis else 0, 0)
            bias.shift(editor, shift.reshape(len(shift), -1).sum(axis=1))
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
        weight = given(node, 1)
        if layer_name(node) in names and weight is not None and str(weight.name) in coupling.axes:
            units = coupling.axes[str(weight.name)][output_axis(node)]
            if units is not None:
                kept[layer_name(node)] = ~gone[units]
    return fit(whole, narrow, names, samples, context, kept)
