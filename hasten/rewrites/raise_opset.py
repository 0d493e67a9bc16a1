"""Raise the operator set to a modern version.

Algebra: none; an operator of version a is written as operators of version b that compute the same. Between
11 and 21 most operators only gained types. Those that moved an attribute to an input, changed a default or
changed meaning are listed in ``ADAPTERS``, each with the version that brought the change.

Why: per-channel quantization needs 13, 16-bit quantized activations and 4-bit weights need 21,
LayerNormalization 17, Gelu 20; and a rewrite or a quantizer then knows one form of every operator.

Versions below 11 are first brought to 11 by onnx's own version converter.

Source: the operator changelog of the ONNX specification (docs/Changelog.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import onnx
import onnx_ir as ir

from hasten.core.record import Site, Skip
from hasten.graph import Graph
from hasten.graph.editor import Editor, Findings
from hasten.graph.graph import PROTOBUF_LIMIT_BYTES
from hasten.graph.names import layer_name
from hasten.graph.reading import constant, given, rank

TARGET = 21
OLDEST = 11

Adapter: TypeAlias = Callable[[Editor, ir.Node], str | None]
"""Changes a node in place; returns why it cannot, or None."""


def apply(graph: Graph, version: int = TARGET) -> Findings:
    """Raise the default operator set to ``version``; leaves the graph as it is where a node cannot follow."""
    found = graph.opset
    if not 0 < found < version:
        return Findings()
    raised = graph.copy()
    problem = _to_oldest(raised) if found < OLDEST else None
    problem = problem or _missing(raised, version)
    editor = Editor(raised, shapes=problem is None)
    current = raised.opset
    for node in editor.nodes():
        for since, adapter in ADAPTERS.get(node.op_type, ()):
            if problem is None and current < since <= version:
                problem = adapter(editor, node)
    if problem is not None:
        skip = Skip(name="graph", op_type="opset", reason=f"opset {found} stays: {problem}")
        return Findings(skipped=[skip])
    _stamp(raised, version)
    graph.ir_model = raised.ir_model
    return Findings([Site(name="graph", op_type="opset", what=f"opset {found} raised to {version}")])


def _missing(graph: Graph, version: int) -> str | None:
    """Why the operator set of that version cannot express the graph, or None."""
    for node in (n for owner in graph.ir_model.graphs() for n in owner if n.domain == ""):
        try:
            schema = onnx.defs.get_schema(node.op_type, version, "")
        except onnx.defs.SchemaError:
            return f"{node.op_type} is not an operator of opset {version}"
        if schema.deprecated:
            return f"{node.op_type} was withdrawn before opset {version}"
    return None


def _stamp(graph: Graph, version: int) -> None:
    model = graph.ir_model
    model.opset_imports[""] = version
    for owner in model.graphs():
        if "" in owner.opset_imports:
            owner.opset_imports[""] = version
        for node in owner:
            if node.domain == "":
                node.version = None
    needed = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", version)], ignore_unknown=True)
    model.ir_version = max(model.ir_version or 0, needed)


def _to_oldest(graph: Graph) -> str | None:
    """Bring the graph to ``OLDEST`` by onnx's converter; returns why that failed, or None."""
    if graph.weight_bytes > PROTOBUF_LIMIT_BYTES:
        return "the converter of onnx takes models below 2 GiB"
    proto = ir.serde.serialize_model(graph.ir_model)
    proto.ir_version = max(proto.ir_version, 4)  # before 4 the converter looks for weights among the inputs
    try:
        converted = onnx.version_converter.convert_version(proto, OLDEST)
    except (RuntimeError, onnx.version_converter.ConvertError) as error:
        return f"onnx cannot convert it ({(str(error).splitlines() or ['no reason given'])[0]})"
    model = ir.serde.deserialize_model(converted)
    graph.ir_model.graph = model.graph
    graph.ir_model.ir_version = model.ir_version
    return None


def _attribute_to_input(attribute: str, position: int = 1) -> Adapter:
    """An attribute of integers became an optional input."""

    def adapt(editor: Editor, node: ir.Node) -> str | None:
        moved = node.attributes.pop(attribute, None)
        if moved is not None:
            array = np.asarray(moved.as_ints(), dtype=np.int64)
            editor.set_input(node, position, array, f"{layer_name(node)}.{attribute}")
        return None

    return adapt


def _softmax(editor: Editor, node: ir.Node) -> str | None:
    """Before 13 the input was seen as a matrix, split at ``axis`` (default 1), and its rows normalized."""
    x, axis = node.inputs[0], node.attributes.get_int("axis", 1)
    dims = rank(x)
    node.attributes["axis"] = ir.AttrInt64("axis", -1)
    if axis == -1 or (dims is not None and axis % dims == dims - 1):
        return None
    output = node.outputs[0]
    flat = editor.insert(node, "Flatten", [x], {"axis": axis})
    shape = editor.insert(node, "Shape", [x])
    node.replace_input_with(0, flat)
    following = list(output.uses())
    made = ir.node("Reshape", [output, shape], name=editor.unique(f"{layer_name(node)}.Reshape"))
    made.outputs[0].type, made.outputs[0].shape = output.type, output.shape
    output.shape = None
    assert node.graph is not None
    node.graph.insert_after(node, made)
    for use in following:
        use.node.replace_input_with(use.idx, made.outputs[0])
    name = output.name
    for index, value in enumerate(node.graph.outputs):
        if value is output:
            node.graph.outputs[index] = made.outputs[0]
    output.name = editor.unique(f"{name}.rows")
    made.outputs[0].name = name
    return None


def _split_equally(_editor: Editor, node: ir.Node) -> str | None:
    """From 18 on, parts of equal size must be asked for."""
    if given(node, 1) is None:
        node.attributes["num_outputs"] = ir.AttrInt64("num_outputs", len(node.outputs))
    return None


def _batch_norm(_editor: Editor, node: ir.Node) -> str | None:
    """Before 14 the number of outputs told training from inference."""
    if any(output.name or output.uses() for output in node.outputs[1:]):
        return "BatchNormalization in training mode"
    node.resize_outputs(1)
    return None


def _dropout(_editor: Editor, node: ir.Node) -> str | None:
    """From 12 on the ratio is an input, and inference is the default."""
    node.attributes.pop("ratio", None)
    return None


def _resize(_editor: Editor, node: ir.Node) -> str | None:
    """From 13 on the unused ones of the inputs roi, scales and sizes are left out instead of empty."""
    if node.attributes.get_string("coordinate_transformation_mode", "") == "tf_half_pixel_for_nn":
        return "Resize with the withdrawn mode tf_half_pixel_for_nn"
    for index in range(1, len(node.inputs)):
        array = constant(node.inputs[index])
        if array is not None and array.size == 0:
            node.replace_input_with(index, None)
    return None


def _roi_align(_editor: Editor, node: ir.Node) -> str | None:
    """In 16 the default became half_pixel."""
    if "coordinate_transformation_mode" not in node.attributes:
        mode = ir.AttrString("coordinate_transformation_mode", "output_half_pixel")
        node.attributes["coordinate_transformation_mode"] = mode
    return None


def _grid_sample(_editor: Editor, node: ir.Node) -> str | None:
    """In 20 the modes lost their prefix."""
    mode = node.attributes.get_string("mode", "bilinear")
    new = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    node.attributes["mode"] = ir.AttrString("mode", new)
    return None


def _dft(editor: Editor, node: ir.Node) -> str | None:
    """In 20 the axis became an input, with another default."""
    axis = node.attributes.get_int("axis", 1)
    node.attributes.pop("axis", None)
    editor.set_input(node, 2, np.asarray(axis, dtype=np.int64), f"{layer_name(node)}.axis")
    return None


def _group_norm(editor: Editor, node: ir.Node) -> str | None:
    """In 21 scale and bias became one a channel instead of one a group."""
    x = node.inputs[0]
    channels = x.shape[1] if x is not None and x.shape is not None and len(x.shape) > 1 else None
    groups = node.attributes.get_int("num_groups", 0)
    for index in (1, 2):
        array = constant(given(node, index))
        if array is None or not isinstance(channels, int) or not groups or channels % groups:
            return "GroupNormalization whose scale, bias or number of channels is not known"
        if array.size == groups:
            editor.set_input(node, index, np.repeat(array, channels // groups))
    return None


_REDUCTIONS = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSumSquare",
)
_AXES = _attribute_to_input("axes")

ADAPTERS: Mapping[str, tuple[tuple[int, Adapter], ...]] = {
    **dict.fromkeys(_REDUCTIONS, ((18, _AXES),)),
    "ReduceSum": ((13, _AXES),),
    "Squeeze": ((13, _AXES),),
    "Unsqueeze": ((13, _AXES),),
    "Split": ((13, _attribute_to_input("split")), (18, _split_equally)),
    "Softmax": ((13, _softmax),),
    "LogSoftmax": ((13, _softmax),),
    "Hardmax": ((13, _softmax),),
    "Dropout": ((12, _dropout),),
    "BatchNormalization": ((14, _batch_norm),),
    "Resize": ((13, _resize),),
    "RoiAlign": ((16, _roi_align),),
    "GridSample": ((20, _grid_sample),),
    "DFT": ((20, _dft),),
    "GroupNormalization": ((21, _group_norm),),
}
"""Operator to (version that changed it, how to follow), in order."""
