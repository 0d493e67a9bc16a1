"""What ranges and rounding for a layer's outputs keep when only weights are stored in few bits.

    python -m benchmarks.stored_outputs --models OUT_DIR --out FILE.md [NAME]...

``OUT_DIR`` is what ``benchmarks/models.py`` wrote. The first 200 samples calibrate, without their labels; the
next ones judge (400 pairs of sentences, 2000 small pictures, 400 large ones). ``change`` is the relative
difference of the outputs from the float model's, ‖y − ŷ‖ / ‖y‖: of labels as few as these, quality tells
apart only large differences. Computed by ONNX Runtime, which rounds the activations of products to 8 bits.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import hasten
from benchmarks.rounding import accuracy, answers, spearman
from hasten import methods
from hasten.core.data import Calibration, StoreWriter
from hasten.core.target import cpu_name

CALIBRATION, THREADS, BATCH = 200, 2, 10
JUDGED = {"minilm": 400, "resnet20": 2000, "efficientnet_lite0": 400}
GROUPS = {"minilm": 64, "resnet20": 16, "efficientnet_lite0": 16}
WAYS: tuple[dict[str, Any], ...] = (
    {},
    {"range": "mse"},
    {"range": "outputs"},
    {"rounding": "outputs"},
    {"rounding": "outputs", "importance": "gradients"},
    {"range": "mse", "rounding": "outputs"},
    {"range": "outputs", "rounding": "outputs"},
)
FLOATS: tuple[dict[str, Any], ...] = ({"scheme": "mxfp4"}, {"scheme": "nvfp4"})


def main() -> None:
    """Compress, judge, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("names", nargs="*", choices=[*JUDGED, []], help="some of the models; all by default")
    arguments = parser.parse_args()
    lines = [
        "# Stored weights: ranges and rounding for the outputs",
        "",
        f"`compress_weights` after `optimize_graph`, {CALIBRATION} samples calibrate, nothing trained; "
        "judged on `n`",
        "others, computed by ONNX Runtime.",
        f"`change`: ‖y − ŷ‖ / ‖y‖ of the outputs. `seconds`: to apply the method, on {THREADS} threads of a "
        f"busy machine ({cpu_name()});",
        "what layers read is gathered once for each `importance` and kept.",
        "`MB`: of the `.onnx.zst` file. Written by `benchmarks/stored_outputs.py`.",
        "",
        "| model | metric | n | parameters | MB | change | quality | lost | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in arguments.names or JUDGED:
        with tempfile.TemporaryDirectory() as work:
            for line in table(name, arguments.models / name, Path(work)):
                lines.append(line)
                print(line, flush=True)
                arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def table(name: str, folder: Path, work: Path) -> Iterator[str]:
    """The rows of one model; ``work`` is an empty folder."""
    graph = hasten.read(folder / "model.onnx")
    with np.load(folder / "data.npz") as file:
        data = {key: file[key][: CALIBRATION + JUDGED[name]] for key in file.files}
    inputs = [spec.name for spec in graph.inputs]
    labels = data["labels"][CALIBRATION:]
    writer = StoreWriter(work / "store", inputs)
    for i in range(CALIBRATION):
        writer.append({key: data[key][i] for key in inputs})
    calibration = Calibration(writer.close(), range(CALIBRATION))
    context = methods.Context(calibration=calibration, work=work, threads=THREADS, batch=BATCH)
    unseen = {key: data[key][CALIBRATION:] for key in inputs}
    metric, judge = ("Spearman", spearman) if name == "minilm" else ("accuracy", accuracy)
    clean = _applied(graph, "optimize_graph", {}, context)
    wanted = answers(clean, unseen)
    whole = judge(wanted, labels)
    start = f"| {name} | {metric} | {len(labels)} |"
    yield f"{start} float32 | {_megabytes(clean):.2f} | | {whole:.4f} | | |"
    linear = {"group": GROUPS[name], "symmetric": False}
    steps = [{"bits": bits, **linear, **way} for bits in (4, 3) for way in WAYS]
    for params in [*steps, *FLOATS]:
        began = time.monotonic()
        made = _applied(clean, "compress_weights", params, context)
        seconds = time.monotonic() - began
        given = answers(made, unseen)
        found = judge(given, labels)
        change = float(np.linalg.norm(given - wanted) / np.linalg.norm(wanted))
        yield (
            f"{start} `{json.dumps(params)}` | {_megabytes(made):.2f} | {change:.4f} | {found:.4f} "
            f"| {whole - found:+.4f} | {seconds:.0f} |"
        )


def _applied(
    graph: hasten.Graph, method: str, params: dict[str, Any], context: methods.Context
) -> hasten.Graph:
    return methods.apply(hasten.Recipe([hasten.Step(method, params)]), graph, context).graph


def _megabytes(graph: hasten.Graph) -> float:
    with tempfile.TemporaryDirectory() as folder:
        (path,) = graph.write(Path(folder) / "model.onnx.zst")
        return path.stat().st_size / 1e6


if __name__ == "__main__":
    main()
