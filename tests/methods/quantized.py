"""What the tests of quantize_static share: applying it, and what runtimes make of the result."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
from onnx import TensorProto
from small_graphs import feeds_of

from hasten.core.data import Calibration, StoreWriter
from hasten.graph.evaluate import Evaluator

FLOAT = TensorProto.FLOAT


def samples_of(folder, name, arrays):
    writer = StoreWriter(folder, [name])
    for array in arrays:
        writer.append({name: np.asarray(array)})
    return Calibration(writer.close(), range(len(arrays)))


def of_rank(rank, name, kind=FLOAT):
    """An output of unknown dimensions."""
    return name, kind, [None] * rank


def picture_net(net, outputs, rank=4, channels=8, size=12):
    """The graph of what was collected, from a picture to these outputs."""
    made = [of_rank(rank, name) for name in outputs]
    return net.graph([("x", FLOAT, ["batch", channels, size, size])], made)


def convolve(net, x, y, channels=8, *, kernel=3, group=1, bias=True):
    weight = net.weight(
        f"{y}.w", channels, channels // group, kernel, kernel, fan_in=kernel**2 * channels // group
    )
    inputs = [x, weight, net.weight(f"{y}.b", channels)] if bias else [x, weight]
    return net.node("Conv", inputs, y, pads=[kernel // 2] * 4, group=group)


def operators(graph):
    return Counter(node.op_type for node in graph.ir_model.graph)


def fused(graph, tmp_path):
    """The operators ONNX Runtime makes of a graph."""
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "fused.onnx")
    settings.log_severity_level = 4
    ort.InferenceSession(graph.to_bytes(), settings, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in ir.load(tmp_path / "fused.onnx").graph)


def kernels(graph, batch=2):
    """(operator, kernel) of every node that OpenVINO executes."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(graph.to_bytes())
    shapes = {i.get_any_name(): i.get_partial_shape() for i in model.inputs}
    for shape in shapes.values():
        for axis, dimension in enumerate(shape):
            if dimension.is_dynamic:
                shape[axis] = batch if axis == 0 else 6
    model.reshape(shapes)
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    told = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    return [(t["layerType"].astype(str), t["primitiveType"].astype(str)) for t in told]


def error(graph, changed, output=None):
    """Normalized error ‖y − ŷ‖ / ‖y‖ of an output."""
    feeds = feeds_of(graph)
    name = output or graph.outputs[0].name
    wanted = Evaluator(graph).run(feeds)[name]
    return np.linalg.norm(Evaluator(changed).run(feeds)[name] - wanted) / np.linalg.norm(wanted)


def reasons(change):
    return {skip.name: skip.reason for skip in change.skipped}
