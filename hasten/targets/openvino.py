"""OpenVINO on the CPU: opens its IR (``.xml`` with ``.bin``).

Properties: https://docs.openvino.ai/2025/openvino-workflow/running-inference/optimize-inference.html
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from hasten.core.data import Array
from hasten.core.errors import TrialError
from hasten.core.layers import Kernel
from hasten.core.record import Artifact
from hasten.core.target import TargetSpec, cpu_flags, cpu_name, usable_cores
from hasten.core.tensor import TensorSpec
from hasten.targets.failure import one_line, runtime
from hasten.targets.files import entries
from hasten.targets.integers import integer_instructions
from hasten.targets.openvino_kernels import INNER, PART, Names, read

if TYPE_CHECKING:
    from hasten.graph import Graph

_TYPES = {
    "f32": "float32",
    "f64": "float64",
    "f16": "float16",
    "bf16": "bfloat16",
    "boolean": "bool",
    "string": "str",
    **{
        f"{kind}{bits}": f"{name}{bits}"
        for kind, name in (("i", "int"), ("u", "uint"))
        for bits in (8, 16, 32, 64)
    },
}
_PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_NAMES = "hasten_names"
"""Key in the IR's runtime information that keeps ONNX names which OpenVINO would rename."""
_LAYERS = "hasten_layers"
"""Key there that keeps the names of the nodes that make outputs: OpenVINO names them after the outputs."""


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Options:
    """How a model is compiled.

    threads: INFERENCE_NUM_THREADS (None: all usable cores). precision: what float layers compute in
    (INFERENCE_PRECISION_HINT). mode: PERFORMANCE_HINT. streams: NUM_STREAMS, inferences at once (None: one
    for latency, the runtime's choice for throughput). compress: store float weights as float16, at export.
    """

    threads: int | None = Field(default=None, ge=1)
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    mode: Literal["latency", "throughput"] = "latency"
    streams: int | None = Field(default=None, ge=1)
    compress: bool = False


def spec() -> TargetSpec:
    """What OpenVINO offers here, by its own account and the CPU's flags; raises Unavailable."""
    ov = runtime("openvino", "openvino")
    able = set(ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    computes = {"float32"}
    if "INT8" in able and integer_instructions():
        computes.add("int8")
    if "BF16" in able:
        computes.add("bfloat16")
    if "FP16" in able:
        computes.add("float16")
    wanted = {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile", "avx512_fp16", "amx_fp16"}
    return TargetSpec(
        name="openvino",
        runtime="OpenVINO",
        version=str(ov.__version__).partition("-")[0],
        device=cpu_name(),
        compute_dtypes=frozenset(computes),
        instructions=integer_instructions() | (cpu_flags() & wanted),
    )


def export(graph: Graph, folder: Path, options: Options) -> Artifact:
    """Convert and write ``model.xml`` and ``model.bin``; raises TrialError when an operator is not known.

    ``Core.read_model`` converts: the graph it yields compiles to the same kernels as ``convert_model``'s
    (measured on int8 models), in a fifth of the time, and it reports to no one.
    """
    from hasten.graph.names import name_nodes

    ov = runtime("openvino", "openvino")
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "model.onnx"
        # OpenVINO would call a node without a name as its output.
        plain = graph.stripped()
        name_nodes(plain)
        plain.write(source)
        try:
            model = ov.Core().read_model(source)
            _keep_names(model, [s.name for s in graph.inputs], [s.name for s in graph.outputs])
            _keep_layers(model, plain)
            nodes = {node.name for node in plain.ir_model.graph if node.name}
            _name_parts(model, nodes.union(s.name for s in graph.outputs))
        except RuntimeError as error:
            raise TrialError(f"OpenVINO cannot convert this graph: {one_line(error)}") from error
        try:
            ov.save_model(model, folder / "model.xml", compress_to_fp16=options.compress)
        except RuntimeError as error:
            raise TrialError(
                f"OpenVINO cannot write the model to {folder}: {one_line(error)}; is the disk full?"
            ) from error
    return Artifact(
        target="openvino",
        options=_as_dict(options),
        entry="model.xml",
        files=entries(folder, ["model.xml", "model.bin"]),
    )


def _as_dict(options: Options) -> dict[str, Any]:
    defaults = vars(Options())
    return {name: value for name, value in vars(options).items() if value != defaults[name]}


def _keep_names(model: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    if len(model.inputs) != len(inputs) or len(model.outputs) != len(outputs):
        raise TrialError("OpenVINO changed the number of inputs or outputs of this graph")
    for kind, ports, names in (("inputs", model.inputs, inputs), ("outputs", model.outputs, outputs)):
        if [_port_name(port) for port in ports] != list(names):
            # An output that is an input, or two that are one value, share a tensor and would share names.
            for i, name in enumerate(names):
                model.set_rt_info(name, [_NAMES, f"{kind}{i}"])


def _keep_layers(model: Any, graph: Graph) -> None:
    for i, value in enumerate(graph.ir_model.graph.outputs):
        producer = value.producer()
        if producer is not None and producer.name and producer.name != value.name:
            model.set_rt_info(producer.name, [_LAYERS, f"{i}"])


def _name_parts(model: Any, known: Collection[str]) -> None:
    """Name what a node was taken apart into after the node: its last part has the node's name already."""
    ends = {"Parameter", "Constant", "Result"}
    for op in reversed(model.get_ordered_ops()):
        if op.get_type_name() in ends or INNER.sub("", op.friendly_name) in known:
            continue
        readers = (port.get_node() for out in op.outputs() for port in out.get_target_inputs())
        after = next((node.friendly_name for node in readers if node.get_type_name() not in ends), None)
        if after is not None:
            node, _, _ = after.partition(PART)
            op.set_friendly_name(f"{node}{PART}{op.friendly_name}")


def open(artifact: Artifact, folder: Path, options: Options) -> Compiled:
    """Compile the IR; raises Unavailable, and TrialError when OpenVINO refuses it.

    A precision the CPU lacks is refused too: OpenVINO would silently compute in another.
    """
    return _compile(folder / artifact.entry, options, {})


def _compile(path: Path, options: Options, more: Mapping[str, Any]) -> Compiled:
    ov = runtime("openvino", "openvino")
    core = ov.Core()
    hint = _PRECISIONS[options.precision]
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": options.mode.upper(),
        "INFERENCE_NUM_THREADS": options.threads or usable_cores(),
        "INFERENCE_PRECISION_HINT": hint,
        **more,
    }
    if options.streams is not None:
        settings["NUM_STREAMS"] = str(options.streams)
    try:
        model = core.read_model(path)
        compiled = core.compile_model(model, "CPU", settings)
        effective = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    except RuntimeError as error:
        raise TrialError(f"OpenVINO cannot open {path.name}: {one_line(error)}") from error
    if effective != hint:
        raise TrialError(
            f"this CPU does not compute in {options.precision}; OpenVINO would use "
            f"{_TYPES.get(effective, effective)} instead"
        )
    return Compiled(model, compiled, path, options)


class Compiled:
    """A compiled model; see ``hasten.targets.Runner``."""

    def __init__(self, model: Any, compiled: Any, path: Path, options: Options) -> None:
        self._compiled = compiled
        self._path, self._options = path, options
        self._local = threading.local()
        self.inputs = _specs(model, compiled.inputs, "inputs")
        self.outputs = _specs(model, compiled.outputs, "outputs")
        self.callers = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._names = [s.name for s in self.outputs]
        self._raw = [i for i, s in enumerate(self.outputs) if s.dtype == "bfloat16"]

    def kernels(self, feeds: Mapping[str, Array]) -> tuple[Kernel, ...]:
        """What an opening of its own, with counters on, executes for these feeds. Raises TrialError."""
        opened = _compile(self._path, self._options, {"PERF_COUNT": True})
        model = runtime("openvino", "openvino").Core().read_model(self._path)
        names = Names.of(model, _layers(model))
        return read(opened._compiled, opened._request(), lambda: opened.run(feeds), names)

    def _request(self) -> Any:
        """This thread's request, made at its first inference."""
        request = getattr(self._local, "request", None)
        if request is None:
            request = self._local.request = self._compiled.create_infer_request()
        return request

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One inference; the outputs belong to the caller. Raises TrialError."""
        request = self._request()
        try:
            given = {i: _conform(np.asarray(feeds[s.name]), s.dtype) for i, s in enumerate(self.inputs)}
            # Inputs are read in place, for the call is synchronous; outputs are copied out of the request.
            found = request.infer(given, share_inputs=True, share_outputs=False)
            values = list(found.values())
        except KeyError as error:
            raise TrialError(f"input {error.args[0]!r} has no data") from error
        except (RuntimeError, ValueError, TypeError) as error:
            raise TrialError(f"OpenVINO failed: {one_line(error)}") from error
        for i in self._raw:
            values[i] = _bits_as_bfloat16(values[i])
        return dict(zip(self._names, values, strict=True))


@cache
def _name(dtype: Any) -> str:
    """A type's name, remembered: numpy writes it anew each time, in some microseconds."""
    return str(dtype)


def _conform(array: Array, dtype: str) -> Array:
    if dtype == "bfloat16":
        import ml_dtypes

        return array.astype(ml_dtypes.bfloat16, copy=False)
    if dtype not in {"str", _name(array.dtype)}:
        # The binding would convert in silence, so that a wrong input would look like a right one.
        raise TypeError(f"expected {dtype} but was given {array.dtype}")
    return array


def _bits_as_bfloat16(array: Array) -> Array:
    """The binding hands bfloat16 out as arrays of numpy's float16 that hold the bits of bfloat16."""
    import ml_dtypes

    return array.view(np.uint16).view(ml_dtypes.bfloat16)


def _specs(model: Any, ports: Sequence[Any], kind: str) -> tuple[TensorSpec, ...]:
    made = []
    for i, port in enumerate(ports):
        key = [_NAMES, f"{kind}{i}"]
        name = model.get_rt_info(key).astype(str) if model.has_rt_info(key) else _port_name(port)
        element = port.get_element_type().get_type_name()
        made.append(TensorSpec(name, _TYPES.get(element, element), _shape(port.get_partial_shape())))
    return tuple(made)


def _layers(model: Any) -> dict[str, str]:
    """What OpenVINO calls the operations that make outputs, to their names in the exported graph."""
    found = {}
    for i, port in enumerate(model.outputs):
        key = [_LAYERS, f"{i}"]
        if model.has_rt_info(key):
            found[port.node.input_value(0).node.friendly_name] = model.get_rt_info(key).astype(str)
    return found


def _port_name(port: Any) -> str:
    return min(port.names) if port.names else str(port.node.friendly_name)


def _shape(partial: Any) -> tuple[int | str | None, ...] | None:
    if partial.rank.is_dynamic:
        return None
    return tuple(d.get_length() if d.is_static else None for d in partial)
