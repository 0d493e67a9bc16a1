"""ONNX Runtime on the CPU: opens ``.onnx`` files.

Options and their effects: https://onnxruntime.ai/docs/performance/tune-performance/threading.html and
``onnxruntime_session_options_config_keys.h``.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Mapping
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

if TYPE_CHECKING:
    from hasten.graph import Graph

_BFLOAT16 = 16
"""``TensorProto.BFLOAT16``: numpy has no such type, so these tensors travel as raw bits."""

_DTYPES = {"float": "float32", "double": "float64", "string": "str"}


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Options:
    """How a session is opened.

    threads: of one operator (None: all usable cores). graph_level: the runtime's own rewrites.
    execution: whether independent branches run at once; ``parallel`` gives them as many threads again.
    arena: keep freed memory for the next run (faster, larger peak). spinning: threads wait busily for the
    next operator (faster on idle cores, slower when cores are shared). denormals: false treats denormal
    numbers as zero, which is faster where activations fade out, and changes results by less than 1e-38.
    """

    threads: int | None = Field(default=None, ge=1)
    graph_level: Literal["all", "extended", "basic", "disabled"] = "all"
    execution: Literal["sequential", "parallel"] = "sequential"
    arena: bool = True
    spinning: bool = True
    denormals: bool = True


def spec() -> TargetSpec:
    """What ONNX Runtime offers here; raises Unavailable.

    float32 always; int8 where the CPU multiplies bytes (without such instructions int8 kernels exist, but
    are seldom faster); no bfloat16, which its x86 kernels do not compute in.
    """
    ort = runtime("onnxruntime", "onnxruntime")
    instructions = integer_instructions() | (cpu_flags() & {"avx2", "avx512f", "fphp"})
    computes = {"float32"}
    if integer_instructions():
        computes.add("int8")
    if "fphp" in cpu_flags():
        computes.add("float16")
    return TargetSpec(
        name="onnxruntime",
        runtime="ONNX Runtime",
        version=str(ort.__version__),
        device=cpu_name(),
        compute_dtypes=frozenset(computes),
        instructions=frozenset(instructions),
    )


def export(graph: Graph, folder: Path, options: Options) -> Artifact:
    """Write ``model.onnx`` without metadata; raises OutputError."""
    written = graph.stripped().write(folder / "model.onnx")
    return Artifact(
        target="onnxruntime",
        options=_as_dict(options),
        entry="model.onnx",
        files=entries(folder, [path.name for path in written]),
    )


def _as_dict(options: Options) -> dict[str, Any]:
    defaults = vars(Options())
    return {name: value for name, value in vars(options).items() if value != defaults[name]}


def open(artifact: Artifact, folder: Path, options: Options) -> Session:
    """Open the ``.onnx`` file; raises Unavailable, and TrialError when the runtime refuses it."""
    path = folder / artifact.entry
    threads = options.threads or usable_cores()
    return Session(_session(path, _settings(options)), max(1, usable_cores() // threads), path, options)


def _settings(options: Options) -> Any:
    ort = runtime("onnxruntime", "onnxruntime")
    threads = options.threads or usable_cores()
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = threads if options.execution == "parallel" else 1
    settings.execution_mode = getattr(ort.ExecutionMode, f"ORT_{options.execution.upper()}")
    level = {"disabled": "DISABLE_ALL"}.get(options.graph_level, f"ENABLE_{options.graph_level.upper()}")
    settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_{level}")
    settings.enable_cpu_mem_arena = options.arena
    settings.log_severity_level = 4
    settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(options.spinning)))
    settings.add_session_config_entry("session.set_denormal_as_zero", str(int(not options.denormals)))
    return settings


def _session(path: Path, settings: Any) -> Any:
    ort = runtime("onnxruntime", "onnxruntime")
    try:
        return ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    except _errors() as error:
        raise TrialError(f"ONNX Runtime cannot open {path.name}: {one_line(error)}") from error


def _errors() -> tuple[type[Exception], ...]:
    """The exceptions the binding raises, which have no base class of their own."""
    import onnxruntime.capi.onnxruntime_pybind11_state as binding

    own = (value for value in vars(binding).values() if isinstance(value, type))
    return (*(e for e in own if issubclass(e, Exception)), RuntimeError, ValueError, TypeError)


class Session:
    """An opened ``.onnx`` file; see ``hasten.targets.Runner``."""

    def __init__(self, session: Any, callers: int, path: Path, options: Options) -> None:
        self._session = session
        self._path, self._options = path, options
        self._errors = _errors()
        self.callers = callers
        self.inputs = tuple(_spec(node) for node in session.get_inputs())
        self.outputs = tuple(_spec(node) for node in session.get_outputs())
        self._names = [output.name for output in self.outputs]
        self._plain = all(s.dtype != "bfloat16" for s in (*self.inputs, *self.outputs))
        self._strings = [i for i, s in enumerate(self.outputs) if s.dtype == "str"]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One inference; the outputs belong to the caller. Raises TrialError."""
        given = {name: _native(value) for name, value in feeds.items()}
        try:
            values = self._session.run(self._names, given) if self._plain else self._run_raw(given)
        except self._errors as error:
            raise TrialError(f"ONNX Runtime failed: {one_line(error)}") from error
        for i in self._strings:
            # Python objects become fixed-width text, which files hold without unpickling.
            values[i] = values[i].astype(np.str_)
        return dict(zip(self._names, values, strict=True))

    def kernels(self, feeds: Mapping[str, Array]) -> tuple[Kernel, ...]:
        """What a session of its own, with the profiler on, executes for these feeds. Raises TrialError."""
        from hasten.targets.onnxruntime_kernels import prepare, read

        with tempfile.TemporaryDirectory() as name:
            settings = _settings(self._options)
            prepare(settings, Path(name))
            opened = Session(_session(self._path, settings), self.callers, self._path, self._options)
            return read(opened._session, lambda: opened.run(feeds), Path(name), self._path)

    def _run_raw(self, feeds: Mapping[str, Array]) -> list[Array]:
        import onnxruntime as ort

        dtypes = {s.name: s.dtype for s in self.inputs}
        given = {}
        for name, array in feeds.items():
            if dtypes.get(name) == "bfloat16":
                bits = np.ascontiguousarray(_bfloat16(array)).view(np.uint16)
                given[name] = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, _BFLOAT16)
            else:
                given[name] = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
        found = self._session.run_with_ort_values(self._names, given)
        return [_from_ort(value) for value in found]


def _native(value: Any) -> Array:
    """An array in this machine's byte order: the binding would read the bytes of another one as they lie.

    A sample of no axes arrives as a numpy scalar, which the binding does not take.
    """
    array = np.asarray(value)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _from_ort(value: Any) -> Array:
    if value.element_type() != _BFLOAT16:
        return np.array(value.numpy())
    import ml_dtypes

    raw = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(bytearray(raw), dtype=ml_dtypes.bfloat16).reshape(value.shape())


def _bfloat16(array: Array) -> Array:
    import ml_dtypes

    return array.astype(ml_dtypes.bfloat16, copy=False)


def _spec(node: Any) -> TensorSpec:
    if not node.type.startswith("tensor("):
        raise TrialError(f"{node.name!r} is a {node.type}, not a tensor; leave such outputs out of the model")
    element = node.type[len("tensor(") : -1]
    return TensorSpec(node.name, _DTYPES.get(element, element), tuple(node.shape))
