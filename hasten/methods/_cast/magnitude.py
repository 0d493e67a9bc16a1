"""The largest number each inner value reaches on real samples."""

from __future__ import annotations

import math

import onnx_ir as ir

from hasten.core.data import Calibration
from hasten.graph import Graph
from hasten.graph.editor import Editor
from hasten.graph.evaluate import Evaluator

_SAMPLES = 16


def largest_values(graph: Graph, calibration: Calibration, threads: int) -> dict[str, float]:
    """The largest absolute value, by name, of each float32 value of the main graph, on a few samples.

    Only one number a value leaves the runtime. Values not finite count as infinite. The graph's values must
    carry their types. Raises MethodError when the graph does not run on the samples.
    """
    probed = graph.copy()
    editor = Editor(probed)
    last = list(editor.main)[-1]
    floats = (v for node in editor.main for v in node.outputs if v.dtype == ir.DataType.FLOAT and v.name)
    values = [v for v in floats if isinstance(v.type, ir.TensorType)]
    probes: dict[str, str] = {}
    for value in values:
        size = editor.insert(last, "Abs", [value])
        peak = editor.insert(last, "ReduceMax", [size], {"keepdims": 0})
        peak.type, peak.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(())
        editor.main.outputs.append(peak)
        probes[str(peak.name)] = str(value.name)
    editor.main.sort()
    evaluator = Evaluator(probed, threads=threads, optimized=False)
    largest = dict.fromkeys(probes.values(), 0.0)
    for batch in calibration.take(_SAMPLES).batches_for(graph.inputs):
        seen = evaluator.run(batch.feeds(graph.inputs), list(probes))
        for probe, name in probes.items():
            value_seen = float(seen[probe])
            largest[name] = max(largest[name], value_seen if math.isfinite(value_seen) else math.inf)
    return largest
