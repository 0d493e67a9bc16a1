"""What ONNX Runtime executes: the graph it optimized, written out, and its profiler's account of a few runs.

Both are options of a session: https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html
and https://onnxruntime.ai/docs/performance/model-optimizations/graph-optimizations.html.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hasten.core.layers import Kernel
from hasten.targets.kernels import profiled_runs, typical_us

_OPTIMIZED = "optimized.onnx"
_INTEGER = re.compile(
    r"QLinear\w+|QGemm|QAttention|QOrdered\w+|ConvInteger\w*|MatMulInteger\w*|DynamicQuantize(MatMul|LSTM)"
)
"""Operators whose arithmetic is of integers, whatever they read and write."""
_DTYPES = {
    "float": "float32",
    "double": "float64",
    "uint8": "int8",
    "uint4": "int4",
    "string": "str",
    "uint16": "int16",
}
_RENAMED = (re.compile(r"(_token_\d+|_nchwc|_nhwc)$"), re.compile(r"/\w*$"))
"""What its rewrites append to the name of a node, one after the other; names have slashes of their own."""
_BLOCKED = "_nchwc"
"""What they append to the name of a value, for a node that makes it in blocks of channels."""


@dataclass
class _Runs:
    """What the profiler saw of the nodes of one name: times, and the types read and written."""

    times: list[float] = field(default_factory=list)
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()


def prepare(settings: Any, folder: Path) -> None:
    """Have a session write what it made of the graph, without the weights, and what its nodes cost."""
    settings.optimized_model_filepath = str(folder / _OPTIMIZED)
    # A model file takes no more than 2 GB; and nobody reads the weights.
    prefix = "session.optimized_model_external_initializers"
    settings.add_session_config_entry(f"{prefix}_file_name", "weights.bin")
    settings.add_session_config_entry(f"{prefix}_min_size_in_bytes", "1024")
    settings.enable_profiling = True
    settings.profile_file_prefix = str(folder / "profile")


def read(session: Any, run: Callable[[], object], folder: Path, exported: Path) -> tuple[Kernel, ...]:
    """Every node of the optimized graph, in order. session: opened as ``prepare`` says, into ``folder``.

    exported: the model file, whose nodes the kernels are traced back to.
    """
    import onnx

    runs = profiled_runs(run)
    seen = _profile(Path(session.end_profiling()), runs)
    original = onnx.load(exported, load_external_data=False).graph
    optimized = onnx.load(folder / _OPTIMIZED, load_external_data=False).graph
    layers = _Origin(original, optimized.node)
    return tuple(
        _kernel(node, seen, layers.of(node)) for node in optimized.node if node.op_type != "Constant"
    )


def _profile(path: Path, runs: int) -> dict[str, _Runs]:
    """By name of a node, or by operator where it has none."""
    events = json.loads(path.read_text(encoding="utf-8"))
    found: dict[str, _Runs] = {}
    calls: dict[str, dict[str, list[float]]] = {}
    for event in events:
        name = event.get("name", "")
        if event.get("cat") != "Node" or not name.endswith("_kernel_time"):
            continue
        key, arguments = name.removesuffix("_kernel_time"), event["args"]
        entry = found.setdefault(key, _Runs())
        entry.reads, entry.writes = _types(arguments, "input"), _types(arguments, "output")
        calls.setdefault(key, {}).setdefault(str(arguments.get("node_index")), []).append(float(event["dur"]))
    for key, by_node in calls.items():
        # Nodes that share a name share their time.
        each = [typical_us(times[-runs:]) or 0.0 for times in by_node.values()]
        found[key].times = [sum(each) / len(each)]
    return found


def _types(arguments: Mapping[str, Any], side: str) -> tuple[str, ...]:
    return tuple(name for entry in arguments.get(f"{side}_type_shape", ()) for name in entry)


def _kernel(node: Any, seen: Mapping[str, _Runs], layers: tuple[str, ...]) -> Kernel:
    runs = seen.get(node.name) if node.name else _unnamed(node, seen)
    return Kernel(
        name=node.name or f"{node.op_type}:{next(iter(node.output), '')}",
        op_type=node.op_type,
        kind=f"{node.domain}.{node.op_type}" if node.domain else node.op_type,
        precision=_precision(node, runs or _Runs()),
        layers=layers,
        time_us=typical_us(runs.times) if runs else None,
    )


def _unnamed(node: Any, seen: Mapping[str, _Runs]) -> _Runs | None:
    """What the profiler calls a node without a name ends in its number, which the file does not hold."""
    return next((r for name, r in seen.items() if re.fullmatch(rf"{node.op_type}_\d+", name)), None)


def _precision(node: Any, runs: _Runs) -> str:
    if _INTEGER.fullmatch(node.op_type) or _accuracy_level(node) == _INT8_PRODUCTS:
        return "int8"
    floats = [t for t in (*runs.writes, *runs.reads) if t in {"float", "float16", "bfloat16", "double"}]
    if floats:
        return _DTYPES.get(floats[0], floats[0])
    known = next(iter((*runs.reads, *runs.writes)), "unknown")
    return _DTYPES.get(known, known)


_INT8_PRODUCTS = 4
"""``accuracy_level`` of MatMulNBits at which activations are rounded to int8, by its definition."""


def _accuracy_level(node: Any) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "accuracy_level"), 0)


class _Origin:
    """Which nodes of the exported graph a node of the optimized one stands for.

    By name, as most rewrites keep that of the node they begin at; and by value: all that lies between the
    values that it reads and those that it writes, where these still have their names. Those in blocks of
    channels have lost them, and the nodes that make them are named after what they made.
    """

    def __init__(self, original: Any, optimized: Iterable[Any]) -> None:
        self._names = {node.name for node in original.node if node.name}
        self._producer = {out: node for node in original.node for out in node.output if out}
        kernels = list(optimized)
        self._blocked = {
            node.output[0]: value
            for node in kernels
            if node.name.endswith(_BLOCKED) and (value := node.name.removesuffix(_BLOCKED)) in self._producer
        }
        self._made = {value for node in kernels for value in self._values(node.output)}
        self._claimed = {n for node in kernels if (n := self._by_name(node))}

    def _values(self, names: Iterable[str]) -> list[str]:
        """What the exported graph calls these values of the optimized one."""
        return [self._blocked.get(name, name) for name in names if name]

    def _by_name(self, node: Any) -> str | None:
        name = str(node.name)
        while name and name not in self._names:
            name = next((less for ending in _RENAMED if (less := ending.sub("", name)) != name), "")
        return name or None

    def of(self, node: Any) -> tuple[str, ...]:
        """Names in the exported graph, the node's own first."""
        own = self._by_name(node)
        found = {own: None} if own else {}
        made = self._values(node.output)
        seen = self._made.difference(made).union(self._values(node.input))
        waiting = [v for v in made if v in self._producer]
        while waiting:
            value = waiting.pop()
            maker = self._producer[value]
            if value in seen or (maker.name in self._claimed and maker.name != own):
                continue
            seen.add(value)
            # A node without a name is called as hasten.graph.names calls it.
            found[maker.name or f"{maker.op_type}:{maker.output[0]}"] = None
            waiting += [v for v in maker.input if v in self._producer]
        return tuple(found)
