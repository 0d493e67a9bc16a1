"""Run a graph and look at any value inside it: the evaluator that calibration, checks and sensitivity share.

ONNX Runtime is the evaluator, since what it can run, hasten can load. It is not a measurement: numbers that
are claimed come from ``hasten.measuring`` on exported files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from hasten.core.data import Array
from hasten.core.errors import MethodError
from hasten.core.tensor import TensorSpec
from hasten.graph.emulate import emulated
from hasten.graph.graph import PROTOBUF_LIMIT_BYTES, Graph


def runtime_errors() -> tuple[type[Exception], ...]:
    """The exceptions ONNX Runtime raises; its binding gives them no common base class."""
    import onnxruntime.capi.onnxruntime_pybind11_state as binding

    own = (value for value in vars(binding).values() if isinstance(value, type))
    return (*(e for e in own if issubclass(e, Exception)), RuntimeError, ValueError)


class Evaluator:
    """A graph opened for inference, with named inner values as further outputs.

    inner: names of values of the main graph to return besides the outputs. optimized: whether the runtime
    may fuse operators; off, every value is computed exactly as the graph says. Arithmetic in bfloat16, which
    the runtime has no kernels for, is emulated. Raises MethodError when the runtime refuses the graph.
    """

    def __init__(
        self, graph: Graph, inner: Sequence[str] = (), *, threads: int = 1, optimized: bool = True
    ) -> None:
        import onnxruntime as ort

        self.inputs: tuple[TensorSpec, ...] = graph.inputs
        runnable = emulated(graph)
        exposed = _expose(runnable, inner) if inner else runnable
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.log_severity_level = 4
        # Threads that wait busily slow down whatever else runs, and with it this evaluator.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        level = ort.GraphOptimizationLevel
        settings.graph_optimization_level = level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
        try:
            self._session = _session(exposed, settings)
        except runtime_errors() as error:
            raise MethodError(f"ONNX Runtime cannot run this graph: {error}") from error
        self.output_names: tuple[str, ...] = tuple(o.name for o in self._session.get_outputs())

    def run(self, feeds: Mapping[str, Array], only: Sequence[str] | None = None) -> dict[str, Array]:
        """One inference; ``only`` restricts the outputs returned. Raises MethodError when it fails."""
        wanted = list(self.output_names if only is None else only)
        if not wanted:
            return {}  # an empty list means all of them to ONNX Runtime
        try:
            values = self._session.run(wanted, dict(feeds))
        except runtime_errors() as error:
            raise MethodError(f"ONNX Runtime failed on this graph: {error}") from error
        return dict(zip(wanted, values, strict=True))


def _expose(graph: Graph, inner: Sequence[str]) -> Graph:
    exposed = graph.copy()
    main = exposed.ir_model.graph
    present = {v.name for v in main.outputs}
    values = {v.name: v for node in main for v in node.outputs}
    main.outputs.extend(
        values[name] for name in dict.fromkeys(inner) if name not in present and name in values
    )
    return exposed


def _session(graph: Graph, settings: Any) -> Any:
    import onnxruntime as ort

    if graph.weight_bytes < PROTOBUF_LIMIT_BYTES:
        return ort.InferenceSession(graph.to_bytes(), settings, providers=["CPUExecutionProvider"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        ir.save(graph.ir_model, path, external_data="model.data")
        return ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
