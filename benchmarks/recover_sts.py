"""What training without labels recovers of all-MiniLM-L6-v2, quantized: Spearman's correlation on STS pairs.

    python -m benchmarks.recover_sts --models OUT_DIR --out FILE.md [--epochs 2] [--samples 400]

``OUT_DIR/minilm`` is what ``benchmarks/models.py`` wrote: 1,600 pairs of the STS test split. The first pairs,
without their scores, calibrate and train; all others judge. Weights of 8 and of 4 bits, activations of 8:
``quantize_static`` alone, then with ``quantize_aware``, whose teacher is the float model.
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


def main() -> None:
    """Quantize, train, judge, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--samples", type=int, default=400)
    arguments = parser.parse_args()
    graph = hasten.read(arguments.models / "minilm" / "model.onnx")
    with np.load(arguments.models / "minilm" / "data.npz") as file:
        data = dict(file)
    seen = {name: array[: arguments.samples] for name, array in data.items() if name != "labels"}
    unseen = {name: array[arguments.samples :] for name, array in data.items()}
    whole = judge(graph, unseen)
    lines = [
        "# MiniLM, quantized and trained without labels",
        "",
        f"Spearman's correlation on {len(unseen['labels'])} STS pairs; {arguments.samples} other pairs "
        f"calibrate and train, {arguments.epochs:g} epochs, seed 0. Written by `benchmarks/recover_sts.py`.",
        "",
        "| version | Spearman | share of float | seconds |",
        "|---|---|---|---|",
        f"| float | {whole:.4f} | 100.00 % | |",
    ]
    for weights in ("int8", "int4"):
        steps = [
            hasten.Step("optimize_graph"),
            hasten.Step("quantize_static", {"weights": weights, "embeddings": False}),
        ]
        trained = [*steps, hasten.Step("quantize_aware", {"epochs": arguments.epochs})]
        for name, recipe in ((f"{weights}, rounded", steps), (f"{weights}, trained", trained)):
            began = time.monotonic()
            found = judge(hasten.apply(graph, hasten.Recipe(recipe), seen).graph, unseen)
            seconds = time.monotonic() - began
            lines.append(f"| {name} | {found:.4f} | {found / whole:.2%} | {seconds:.0f} |")
            print(lines[-1], flush=True)
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def judge(graph: hasten.Graph, data: dict[str, Any]) -> float:
    """Spearman's correlation of the model's similarities with the scores people gave."""
    evaluator = Evaluator(graph, threads=2)
    names = [spec.name for spec in graph.inputs]
    answers = []
    for start in range(0, len(data["labels"]), 16):
        feeds = {name: data[name][start : start + 16] for name in names}
        answers.append(next(iter(evaluator.run(feeds).values())))
    return float(spearmanr(np.concatenate(answers), data["labels"]).statistic)


if __name__ == "__main__":
    main()
