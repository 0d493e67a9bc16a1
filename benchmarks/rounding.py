"""What rounding for the outputs keeps, beside rounding to the nearest: weights of 8 and of 4 bits.

    python -m benchmarks.rounding --models OUT_DIR --out FILE.md [NAME]...

``OUT_DIR`` is what ``benchmarks/models.py`` wrote. The first 200 samples calibrate, without their labels; all
others judge. Activations have 8 bits, nothing is trained.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

import hasten
from hasten.graph.evaluate import Evaluator
from hasten.measuring import statistics

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


@dataclass(frozen=True)
class Case:
    """A model without superfluous operators, the samples that calibrate, and those that judge."""

    name: str
    metric: str
    clean: hasten.Graph
    seen: dict[str, Any]
    unseen: dict[str, Any]
    labels: Any

    def quality(self, model: hasten.Graph) -> float:
        """The metric on the samples that judge."""
        return self.score(answers(model, self.unseen))

    def score(self, found: Any) -> float:
        """The metric of answers to these samples."""
        judge = spearman if self.metric == "Spearman" else accuracy
        return judge(found, self.labels)

    def lost(self, before: Any, after: Any) -> tuple[float, tuple[float, float]]:
        """By how much answers are worse than others, with the 95 % interval of a paired bootstrap."""
        first, second = self._statistic(before), self._statistic(after)

        def drop(weights: statistics.FloatArray) -> statistics.FloatArray:
            return first(weights) - second(weights)

        count = len(self.labels)
        return float(drop(np.ones((1, count)))[0]), statistics.bootstrap(drop, count, seed=0)

    def _statistic(self, found: Any) -> statistics.Statistic:
        if self.metric == "Spearman":
            return statistics.spearman(found.reshape(-1), self.labels)
        return statistics.weighted_mean((found.argmax(axis=1) == self.labels).astype(np.float64))


def case(name: str, folder: Path) -> Case:
    """The model of this name in its folder."""
    graph = hasten.read(folder / "model.onnx")
    with np.load(folder / "data.npz") as file:
        data = dict(file)
    inputs = [spec.name for spec in graph.inputs]
    seen = {key: data[key][:CALIBRATION] for key in inputs}
    return Case(
        name=name,
        metric="Spearman" if name == "minilm" else "accuracy",
        clean=hasten.apply(graph, hasten.Recipe([hasten.Step("optimize_graph")]), seen).graph,
        seen=seen,
        unseen={key: data[key][CALIBRATION:] for key in inputs},
        labels=data["labels"][CALIBRATION:],
    )


def quantize(weights: str, rounding: str) -> hasten.Step:
    """The step that is compared."""
    return hasten.Step("quantize_static", {"weights": weights, "rounding": rounding, "embeddings": False})


def table(name: str, folder: Path) -> list[str]:
    """The rows of one model."""
    known = case(name, folder)
    count = len(known.labels)
    whole = known.quality(known.clean)
    rows = [f"| {name} | {known.metric} | {count} | float32 | | {whole:.4f} | | |"]
    for weights in ("int8", "int4"):
        for rounding in ("nearest", "outputs"):
            began = time.monotonic()
            made = hasten.apply(known.clean, hasten.Recipe([quantize(weights, rounding)]), known.seen).graph
            seconds = time.monotonic() - began
            found = known.quality(made)
            rows.append(
                f"| {name} | {known.metric} | {count} | {weights} | {rounding} | {found:.4f} "
                f"| {whole - found:+.4f} | {seconds:.0f} |"
            )
    return rows


def answers(graph: hasten.Graph, data: dict[str, Any]) -> Any:
    """The first output of a graph for all samples."""
    evaluator = Evaluator(graph, threads=2)
    count = len(next(iter(data.values())))
    found = [
        next(iter(evaluator.run({key: array[i : i + 20] for key, array in data.items()}).values()))
        for i in range(0, count, 20)
    ]
    return np.concatenate(found)


def accuracy(scores: Any, labels: Any) -> float:
    """Share of the samples whose largest score is their label's."""
    return float(np.mean(scores.argmax(axis=1) == labels))


def spearman(found: Any, labels: Any) -> float:
    """Rank correlation of one number a sample with the labels."""
    return float(spearmanr(found, labels).statistic)


if __name__ == "__main__":
    main()
