"""What equalizing before quantizing keeps: one scale a channel or one a weight, 8 and 4 bits.

    python -m benchmarks.equalize --models OUT_DIR --out FILE.md [NAME]...

``OUT_DIR`` is what ``benchmarks/models.py`` and ``benchmarks/lines_metric.py`` wrote. The first 200 samples
calibrate, without their labels; all others judge. Activations have 8 bits, nothing is trained.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import hasten
from benchmarks.lines_metric import read_right
from benchmarks.rounding import CALIBRATION, accuracy, answers, spearman

MODELS = ("resnet20", "efficientnet_lite0", "minilm", "ppocr_rec")
WEIGHTS: dict[str, dict[str, Any]] = {
    "int8, a scale a channel": {},
    "int8, one scale": {"per_channel": False},
    "int4, rounded for outputs": {"weights": "int4", "rounding": "outputs"},
}
BY: dict[str, dict[str, Any] | None] = {
    "": None,
    "weights": {"by": "weights"},
    "weights, residuals": {"by": "weights", "residuals": True},
    "activations": {"by": "activations"},
}


def _lines(answers: Any, labels: Any) -> float:
    return float(np.mean(read_right({"scores": answers}, labels)))


JUDGES = {"minilm": ("Spearman", spearman), "ppocr_rec": ("lines right", _lines)}


def main() -> None:
    """Quantize, judge, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("names", nargs="*", choices=[*MODELS, []], help="some of the models; all by default")
    arguments = parser.parse_args()
    lines = [
        "# Equalizing before quantizing",
        "",
        f"`equalize`, then `quantize_static`, after `optimize_graph`; {CALIBRATION} samples calibrate, "
        "activations of 8 bits, nothing trained;",
        "judged on all other samples, computed by ONNX Runtime. `changed`: layers that `equalize` changed. "
        "`layers`: those that",
        "compute in integers. `SQNR`: that of the outputs. Written by `benchmarks/equalize.py`.",
        "",
        "| model | metric | n | equalized by | changed | weights | layers | quality | lost | SQNR in dB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in arguments.names or MODELS:
        for line in table(name, arguments.models / name):
            lines.append(line)
            print(line, flush=True)
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def table(name: str, folder: Path) -> list[str]:
    """The rows of one model."""
    graph = hasten.read(folder / "model.onnx")
    with np.load(folder / ("lines.npz" if name == "ppocr_rec" else "data.npz")) as file:
        data = dict(file)
    inputs = [spec.name for spec in graph.inputs]
    labels = data["labels"][CALIBRATION:]
    seen = {key: data[key][:CALIBRATION] for key in inputs}
    unseen = {key: data[key][CALIBRATION:] for key in inputs}
    metric, judge = JUDGES.get(name, ("accuracy", accuracy))
    clean = hasten.apply(graph, hasten.Recipe([hasten.Step("optimize_graph")]), seen).graph
    wanted = answers(clean, unseen)
    whole = judge(wanted, labels)
    head = f"| {name} | {metric} | {len(labels)} |"
    rows = [f"{head} | | float32 | | {whole:.4f} | | |"]
    for by, choice in BY.items():
        steps = [] if choice is None else [hasten.Step("equalize", choice)]
        even = hasten.apply(clean, hasten.Recipe(steps), seen)
        for weights, params in WEIGHTS.items():
            step = hasten.Step("quantize_static", {**params, "embeddings": False})
            made = hasten.apply(even.graph, hasten.Recipe([step]), seen)
            found = answers(made.graph, unseen)
            quality = judge(found, labels)
            rows.append(
                f"{head} {by} | {len(even.sites) or ''} | {weights} | {len(made.sites)} | {quality:.4f} "
                f"| {whole - quality:+.4f} | {_sqnr(wanted, found):.1f} |"
            )
    return rows


def _sqnr(wanted: Any, found: Any) -> float:
    error = np.sum(np.square(found - wanted, dtype=np.float64))
    return float(10 * np.log10(np.sum(np.square(wanted, dtype=np.float64)) / error))


if __name__ == "__main__":
    main()
