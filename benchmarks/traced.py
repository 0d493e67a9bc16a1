"""How much of the time that a runtime takes is known to be whose? Kernels, traced to the layers they compute.

    python -m benchmarks.traced --models OUT_DIR --out FILE.md [NAME]...

``OUT_DIR`` is what ``benchmarks/models.py`` wrote. What layers take is what structures are searched by and
forms are chosen by, so a layer whose kernel bears another name would be priced wrongly.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

import hasten
from benchmarks.timings import LAYOUTS, OPENVINO_INT8, kernels
from hasten.core.data import Array
from hasten.core.layers import Kernel
from hasten.core.target import cpu_name, usable_cores
from hasten.graph.cost import layer_costs

_SAMPLES = 64


def main() -> None:
    """Trace, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("names", nargs="*", help="some of the models; all by default")
    arguments = parser.parse_args()
    lines = [
        "# Kernels and the layers they compute",
        "",
        "`traced`: the share of all kernels' time spent in those that compute a layer which multiplies",
        "(convolution, matrix product, recurrent layer); what remains is activations, pooling and changes of",
        "layout. `without a kernel`: such layers that no kernel is known to compute. `largest other`: the",
        "kernel that takes most of the time without any such layer. By the runtimes' profilers,",
        f"{usable_cores()} threads of {cpu_name()}, one sample. Written by `benchmarks/traced.py`.",
        "",
        "| model | version | runtime | layers | without a kernel | traced | largest other |",
        "|---|---|---|---|---|---|---|",
    ]
    found = sorted(path.parent.name for path in arguments.models.glob("*/data.npz"))
    for name in arguments.names or found:
        for line in _rows(name, arguments.models / name):
            lines.append(line)
            print(line, flush=True)
            arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _rows(name: str, folder: Path) -> Iterator[str]:
    graph = hasten.read(folder / "model.onnx")
    with np.load(folder / "data.npz") as file:
        samples = {spec.name: file[spec.name][:_SAMPLES] for spec in graph.inputs}
    clean = hasten.apply(graph, hasten.Recipe([hasten.Step("optimize_graph")]), samples).graph
    for target, layout in LAYOUTS.items():
        params = {**OPENVINO_INT8, "layout": layout, "rounding": "nearest"}
        whole = hasten.apply(clean, hasten.Recipe([hasten.Step("quantize_static", params)]), samples).graph
        for version, made in (("float32", clean), ("int8", whole)):
            (seen,) = kernels([made], samples, target, usable_cores())
            yield f"| {name} | {version} | {target} | {_told(made, samples, seen)} |"


def _told(graph: hasten.Graph, samples: dict[str, Array], seen: Sequence[Kernel]) -> str:
    one = {key: array[:1] for key, array in samples.items()}
    layers = {layer.name for layer in layer_costs(graph, one) if layer.macs}
    lost = layers - {name for kernel in seen for name in kernel.layers}
    total = sum(kernel.time_us or 0.0 for kernel in seen)
    others = [kernel for kernel in seen if not layers.intersection(kernel.layers)]
    other = max(others, key=lambda kernel: kernel.time_us or 0.0, default=None)
    rest = sum(kernel.time_us or 0.0 for kernel in others)
    most = f"{other.op_type} {(other.time_us or 0.0) / total:.1%}" if other is not None else ""
    return f"{len(layers)} | {len(lost) or ''} | {1 - rest / total:.1%} | {most}"


if __name__ == "__main__":
    main()
