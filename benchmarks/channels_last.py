"""A training step of a graph on a CPU with its convolutions' weights channels last, and as they are stored.

    python -m benchmarks.channels_last --models OUT_DIR --out FILE.md

``OUT_DIR`` is what ``benchmarks/models.py`` wrote. Forward and backward, the median of steps that alternate.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

import hasten
from hasten.core.target import cpu_name, usable_cores
from hasten.train.network import Network

_BATCHES = {"resnet20": 128, "resnet56": 64, "vgg16": 32, "efficientnet_lite0": 8, "nudenet": 2}
_STEPS = 9


def main() -> None:
    """Time the steps and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(usable_cores())
    lines = [
        "# Training steps with channels last",
        "",
        f"Milliseconds a sample, forward and backward, float32, {usable_cores()} threads of {cpu_name()};",
        f"the median of {_STEPS} steps that alternate. Written by `benchmarks/channels_last.py`.",
        "",
        "| model | batch | as stored | channels last | times as fast |",
        "|---|---|---|---|---|",
    ]
    for name, batch in _BATCHES.items():
        stored, last = measure(arguments.models / name / "model.onnx", batch)
        lines.append(f"| {name} | {batch} | {stored:.2f} | {last:.2f} | {stored / last:.2f} |")
        print(lines[-1], flush=True)
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def measure(path: Path, batch: int) -> tuple[float, float]:
    """Milliseconds a sample with the weights as they are stored, and as ``Network.place`` lays them out."""
    graph = hasten.apply(hasten.read(path), hasten.Recipe(["optimize_graph"]), None).graph
    (spec,) = graph.inputs
    assert spec.shape is not None
    sizes = [size if isinstance(size, int) and size > 0 else 320 for size in spec.shape[1:]]
    feeds = {spec.name: torch.randn(batch, *sizes)}
    stored, last = Network.of(graph), Network.of(graph)
    last.place(torch.device("cpu"))
    times: tuple[list[float], list[float]] = ([], [])
    for step in range(_STEPS + 2):
        for network, taken in zip((stored, last), times, strict=True):
            began = time.perf_counter()
            torch.stack([value.square().mean() for value in network(feeds).values()]).sum().backward()  # type: ignore[no-untyped-call]
            network.zero_grad()
            if step > 1:  # the first two warm up
                taken.append((time.perf_counter() - began) / batch * 1e3)
    first, second = (statistics.median(taken) for taken in times)
    return first, second


if __name__ == "__main__":
    main()
