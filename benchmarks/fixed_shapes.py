"""What fixing the shapes of PP-OCRv4's recognizer gains in int8, on OpenVINO and on ONNX Runtime.

    python -m benchmarks.fixed_shapes --models OUT_DIR --out FILE.md

``OUT_DIR/ppocr_rec`` is what ``benchmarks/models.py`` wrote: batch and width are dynamic in the file. One
int8 graph is exported as it is and with ``x`` fixed to 1x3x48x320, and timed in the same rounds.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

import hasten
from hasten import data as data_room
from hasten import measuring, targets
from hasten.core.data import split
from hasten.core.target import cpu_name, usable_cores
from hasten.loaders.shapes import fix_shapes
from hasten.measuring import Conditions, Subject

SHAPE = (1, 3, 48, 320)


def main() -> None:
    """Quantize, export, time, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    graph = hasten.read(arguments.models / "ppocr_rec" / "model.onnx")
    with np.load(arguments.models / "ppocr_rec" / "data.npz") as file:
        data = {"x": file["x"][:100]}
    lines = [
        "# The recognizer in int8: dynamic and fixed shapes",
        "",
        f"{cpu_name()}, {usable_cores()} threads, batch 1, x of {'x'.join(map(str, SHAPE))}. The ratio is of "
        "rounds that alternate, with its",
        "95 % interval. Written by `benchmarks/fixed_shapes.py`.",
        "",
        "| runtime | dynamic, ms | fixed, ms | fixed is faster by |",
        "|---|---|---|---|",
    ]
    for target, layout in (("openvino", "openvino"), ("onnxruntime", "both")):
        steps = [
            hasten.Step("optimize_graph"),
            hasten.Step("quantize_static", {"layout": layout, "rounding": "nearest"}),
        ]
        made = hasten.apply(graph, hasten.Recipe(steps), data).graph
        lines.append(row(target, made, data))
        print(lines[-1], flush=True)
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def row(target: str, graph: hasten.Graph, data: dict[str, np.ndarray]) -> str:
    """The graph exported both ways, side by side."""
    with tempfile.TemporaryDirectory(prefix="hasten-shapes-") as name:
        work = Path(name)
        subjects = []
        for kind, version in (("dynamic", graph), ("fixed", fix_shapes(graph, {"x": SHAPE}))):
            folder = work / kind
            folder.mkdir()
            options = targets.options(target, {"threads": usable_cores()})
            artifact = targets.find(target).export(version, folder, options)
            subjects.append(Subject(artifact, folder, kind))
        store, _ = data_room.ingest(data, graph.inputs, work / "store", seed=0)
        conditions = Conditions(time_limit_s=20.0)
        dynamic, fixed = measuring.time_interleaved(subjects, split(store, 0).selection, conditions)
        assert isinstance(dynamic, measuring.Timing)
        assert isinstance(fixed, measuring.Timing)
        ratio = fixed.speedup
        return (
            f"| {target} | {dynamic.latency_ms.median:.2f} | {fixed.latency_ms.median:.2f} "
            f"| {ratio.median:.2f} ({ratio.ci95[0]:.2f} to {ratio.ci95[1]:.2f}) |"
        )


if __name__ == "__main__":
    main()
