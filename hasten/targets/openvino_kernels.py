"""What OpenVINO executes, read from its runtime model and its performance counters.

Keys of an operation's runtime information: ``ov::exec_model_info`` in
https://docs.openvino.ai/2025/api/c_cpp_api/group__ov__runtime__cpp__api.html.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hasten.core.layers import Kernel
from hasten.targets.kernels import profiled_runs, typical_us

_PRECISIONS = {
    "i8": "int8",
    "u8": "int8",
    "i4": "int4",
    "u4": "int4",
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "f64": "float64",
    "i32": "int32",
    "i64": "int64",
    "boolean": "bool",
}
_NO_KERNELS = frozenset({"Input", "Output", "Const", "Constant", "Parameter", "Result"})
INNER = re.compile(r"(/WithoutBiases|/Dequantization(Subtract|Multiply)|(_original)?/transpose_b)+$")
"""What OpenVINO appends to the name of an operator for the parts that it takes it apart into."""
PART = " > "
"""Between the name of a node and OpenVINO's own for a part that reading the model made of it."""


@dataclass(frozen=True)
class Names:
    """What the operations of a model are to its kernels.

    exported: what OpenVINO calls an operation, to what the exported graph calls it, where they differ.
    products: of a sum with a product that nothing else reads, the product, both by OpenVINO's names.
    """

    exported: Mapping[str, str]
    products: Mapping[str, str]

    @classmethod
    def of(cls, model: Any, exported: Mapping[str, str]) -> Names:
        """Those of a model as it was read, before it is compiled."""
        products = {}
        for op in model.get_ops():
            for port in op.inputs() if op.get_type_name() == "Add" else ():
                source = port.get_source_output()
                if source.node.get_type_name() == "MatMul" and len(source.get_target_inputs()) == 1:
                    products[op.friendly_name] = source.node.friendly_name
        return cls(exported, products)

    def layers(self, kind: str, originals: Sequence[str]) -> tuple[str, ...]:
        """The nodes of the exported graph that a kernel stands for, by the operations that it names.

        A product of floats with a bias becomes one fully connected kernel, whose names begin with the sum.
        """
        if kind.startswith("FullyConnected"):
            originals = [
                *(self.products[name] for name in originals[:1] if name in self.products),
                *originals,
            ]
        inner = (INNER.sub("", name).partition(PART)[0] for name in originals)
        return tuple(dict.fromkeys(self.exported.get(name, name) for name in inner))


def read(compiled: Any, request: Any, run: Callable[[], object], names: Names) -> tuple[Kernel, ...]:
    """Every operation that is executed in an inference, in order.

    compiled: opened with PERF_COUNT. run: one inference on ``request``.
    """
    times: dict[str, list[float]] = {}

    def profiled() -> None:
        run()
        for entry in request.get_profiling_info():
            if entry.status.name == "EXECUTED":
                times.setdefault(entry.node_name, []).append(entry.real_time.total_seconds() * 1e6)

    runs = profiled_runs(profiled)
    made = []
    for op in compiled.get_runtime_model().get_ordered_ops():
        info = {key: str(_plain(value)) for key, value in op.rt_info.items()}
        name = op.get_friendly_name()
        if info.get("layerType", op.get_type_name()) in _NO_KERNELS or name not in times:
            continue  # what is not executed is a view, or was computed once when the model was opened
        made.append(_kernel(name, info, typical_us(times[name][-runs:]), names))
    return tuple(made)


def _plain(value: Any) -> Any:
    """Entries are strings, or wrapped ones, from version to version."""
    return value.astype(str) if hasattr(value, "astype") else value


def _kernel(name: str, info: Mapping[str, str], time_us: float | None, names: Names) -> Kernel:
    primitive, kind = info.get("primitiveType", ""), info.get("layerType", "")
    originals = [n for n in info.get("originalLayersNames", "").split(",") if n]
    return Kernel(
        name=name,
        op_type=kind,
        kind=primitive,
        precision=_precision(primitive, info.get("runtimePrecision", "")),
        layers=names.layers(kind, originals),
        time_us=time_us,
    )


def _precision(primitive: str, element: str) -> str:
    """The implementation's own word for it, as in ``brgconv_avx512_I8``; else that of the data it reads."""
    own = primitive.rpartition("_")[2].lower()
    return _PRECISIONS.get(own) or _PRECISIONS.get(element, element or "unknown")
