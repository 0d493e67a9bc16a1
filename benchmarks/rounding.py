"""What rounding for the outputs keeps, beside rounding to the nearest: weights of 8 and of 4 bits.

    python -m benchmarks.rounding --models OUT_DIR --out FILE.md [NAME]...

``OUT_DIR`` is what ``benchmarks/models.py`` wrote. The first 200 samples calibrate, without their labels; all
others judge. Activations have 8 bits, nothing is trained.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

import hasten
from hasten.graph.evaluate import Evaluator

CALIBRATION = 200
MODELS = ("resnet20", "resnet56", "vgg16", "efficientnet_lite0", "minilm")


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
        "# Rounding for the outputs",
        "",
        f"`quantize_static` after `optimize_graph`, {CALIBRATION} samples calibrate, activations of 8 bits, "
        "nothing trained; judged on all",
        "other samples, computed by ONNX Runtime. `seconds`: to apply the method, on two cores. Written by "
        "`benchmarks/rounding.py`.",
        "",
        "| model | metric | n | weights | rounding | quality | lost | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in arguments.names or MODELS:
        for line in table(name, arguments.models / name):
            lines.append(line)
            print(line, flush=True)
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def table(name: str, folder: Path) -> list[str]:
    """The rows of one model."""
    graph = hasten.read(folder / "model.onnx")
    with np.load(folder / "data.npz") as file:
        data = dict(file)
    inputs = [spec.name for spec in graph.inputs]
    labels = data["labels"][CALIBRATION:]
    seen = {key: data[key][:CALIBRATION] for key in inputs}
    unseen = {key: data[key][CALIBRATION:] for key in inputs}
    metric, judge = ("Spearman", _spearman) if name == "minilm" else ("accuracy", _accuracy)

    def quality(model: hasten.Graph) -> float:
        return judge(_answers(model, unseen), labels)

    clean = hasten.apply(graph, hasten.Recipe([hasten.Step("optimize_graph")]), seen).graph
    whole = quality(clean)
    rows = [f"| {name} | {metric} | {len(labels)} | float32 | | {whole:.4f} | | |"]
    for weights in ("int8", "int4"):
        for rounding in ("nearest", "outputs"):
            step = hasten.Step(
                "quantize_static", {"weights": weights, "rounding": rounding, "embeddings": False}
            )
            began = time.monotonic()
            made = hasten.apply(clean, hasten.Recipe([step]), seen).graph
            seconds = time.monotonic() - began
            found = quality(made)
            rows.append(
                f"| {name} | {metric} | {len(labels)} | {weights} | {rounding} | {found:.4f} "
                f"| {whole - found:+.4f} | {seconds:.0f} |"
            )
    return rows


def _answers(graph: hasten.Graph, data: dict[str, Any]) -> Any:
    evaluator = Evaluator(graph, threads=2)
    count = len(next(iter(data.values())))
    found = [
        next(iter(evaluator.run({key: array[i : i + 20] for key, array in data.items()}).values()))
        for i in range(0, count, 20)
    ]
    return np.concatenate(found)


def _accuracy(answers: Any, labels: Any) -> float:
    return float(np.mean(answers.argmax(axis=1) == labels))


def _spearman(answers: Any, labels: Any) -> float:
    return float(spearmanr(answers, labels).statistic)


if __name__ == "__main__":
    main()
