"""Let a convolution pad by itself.

Algebra: Conv(Pad(x, p), pads=q) = Conv(x, pads=p+q), since a convolution pads with zeros.

Check: the Pad is constant, adds zeros only, does not crop, and leaves batch and channels alone; the
convolution has explicit pads. TensorFlow and Keras write strided convolutions as such pairs.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hasten.graph import Graph
from hasten.graph.editor import Editor, Findings
from hasten.graph.reading import constant, given, integers, rank, sole_user


def apply(graph: Graph) -> Findings:
    """Fuse every Pad into the convolution behind it, in place."""
    editor = Editor(graph, shapes=True)
    for node in editor.nodes("Pad"):
        user = sole_user(node.outputs[0])
        if user is None or user.op_type != "Conv" or user.domain or user.inputs[0] is not node.outputs[0]:
            continue
        pads = _spatial_pads(node)
        explicit = user.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
        if pads is None or not explicit:
            editor.refused(
                node, "it adds something else than zeros around the image, or how much is not constant"
            )
            continue
        own = user.attributes.get_ints("pads", [0] * len(pads))
        user.attributes["pads"] = ir.AttrInt64s("pads", [a + b for a, b in zip(own, pads, strict=True)])
        editor.changed(node, "its zeros became pads of the Conv behind it")
        if node.inputs[0] is None or not editor.bypass(node, node.inputs[0]):
            raise AssertionError("the value of an inner node can always take its user's place")
    return editor.findings


def _spatial_pads(node: ir.Node) -> list[int] | None:
    """Zeros before and after each spatial axis, in the order of a convolution's pads; None if not such."""
    dims, amounts = rank(node.inputs[0]), integers(given(node, 1))
    if (
        dims is None
        or dims < 3
        or amounts is None
        or node.attributes.get_string("mode", "constant") != "constant"
    ):
        return None
    if given(node, 2) is not None:
        filling = constant(given(node, 2))
        if filling is None or np.any(filling != 0):
            return None
    axes = integers(given(node, 3)) if given(node, 3) is not None else list(range(dims))
    if axes is None or len(amounts) != 2 * len(axes):
        return None
    before, after = [0] * dims, [0] * dims
    for i, axis in enumerate(axes):
        before[axis], after[axis] = amounts[i], amounts[i + len(axes)]
    if any((*before[:2], *after[:2])) or min((*before, *after)) < 0:
        return None
    return [*before[2:], *after[2:]]
