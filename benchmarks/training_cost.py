"""What a sample costs in training, and in `quantize_aware` beside it.

    python -m benchmarks.training_cost --models OUT_DIR --out FILE.md [--only NAME]... [--threads 2]

``OUT_DIR`` is what ``benchmarks/models.py`` wrote. The search times a few steps of the original
(``hasten.train.seconds_per_sample``) and takes rounding to be as many times as slow as here at most
(``hasten.search.learn``). Of ``quantize_aware``, trainings of 2 and of 8 optimizer steps are timed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

import hasten
from hasten import data as data_room
from hasten import train
from hasten.core.data import Calibration, Roles
from hasten.core.target import cpu_name
from hasten.methods._qat.unfold import unfold

_MODELS = ("fashion_mnist", "resnet20", "efficientnet_lite0", "minilm")
_SAMPLES, _BATCH, _STEPS = 128, 32, (2, 8)


def main() -> None:
    """Time the models and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", action="append", choices=_MODELS)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    lines = [
        "# What training costs",
        "",
        f"{cpu_name()}, {arguments.threads} threads. Written by `benchmarks/training_cost.py`.",
        "",
        "| model | training, ms a sample | `quantize_aware`, ms a sample | ratio |",
        "|---|---|---|---|",
    ]
    for name in arguments.only or _MODELS:
        plain, rounding = measure(name, arguments.models, arguments.threads)
        lines.append(f"| {name} | {plain:.2f} | {rounding:.2f} | {rounding / plain:.1f} |")
        print(lines[-1], flush=True)
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def measure(name: str, models: Path, threads: int) -> tuple[float, float]:
    """Milliseconds of a sample's share of a training step, without rounding and with it."""
    folder = models / name
    if name == "fashion_mnist":
        folder = Path(__file__).parents[1] / "examples" / name
    graph = hasten.read(folder / "model.onnx")
    with tempfile.TemporaryDirectory() as work:
        store, _ = data_room.ingest(folder / "data.npz", graph.inputs, Path(work) / "store", seed=0)
        samples = Roles.everything(store).calibration.take(_SAMPLES)
        assert isinstance(samples, Calibration)
        steps = [hasten.Step("optimize_graph"), hasten.Step("quantize_static", {"samples": 32})]
        arrays = {s.name: np.stack([store.value(s.name, i) for i in range(32)]) for s in graph.inputs}
        quantized = hasten.apply(graph, hasten.Recipe(steps), arrays, threads=threads).graph
        plain = train.seconds_per_sample(graph, samples, threads=threads)
        return plain * 1e3, _training(graph, quantized, samples, threads)


def _training(graph: hasten.Graph, quantized: hasten.Graph, samples: Calibration, threads: int) -> float:
    """The difference between a longer and a shorter training, so that preparing them does not count."""
    seconds = []
    for steps in (_STEPS[0], *_STEPS):  # the first one warms up
        settings = train.Settings(steps=steps, batch_size=_BATCH, threads=threads)
        began = time.perf_counter()
        train.fit(
            unfold(quantized, graph, learn_scales=True).graph, samples, settings=settings, teacher=graph
        )
        seconds.append(time.perf_counter() - began)
    return (seconds[2] - seconds[1]) * 1e3 / ((_STEPS[1] - _STEPS[0]) * _BATCH)


if __name__ == "__main__":
    main()
