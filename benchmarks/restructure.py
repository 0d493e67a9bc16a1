"""Convolutions of VGG-16 made depthwise-separable: what that costs, what learning wins back, and the time.

    python -m benchmarks.restructure --models OUT_DIR --data DATA_DIR --out FILE.md [--epochs 2]

``OUT_DIR`` is what ``benchmarks/models.py`` wrote. `restructure` looks at 200 training pictures without
labels; then the network learns on ``--pictures`` of them from labels, with normalizations while it does,
beside the whole network narrowed by `prune_channels` to as many multiply-accumulates. Judged on all 10,000
test pictures, with the last weights; latency in float32 and in int8, all in the same rounds.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hasten
from benchmarks.contenders import LAYOUTS
from benchmarks.model_data import Arrays, cifar10
from benchmarks.recover import accuracy, applied
from benchmarks.timings import ratio, timed
from hasten.core.target import cpu_name, usable_cores
from hasten.graph.cost import total_macs

_SEEN = 200
_VERSIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("restructure", {"replace": ["separable"], "macs": 0.7}),
    ("restructure", {"replace": ["separable"], "macs": 0.4}),
    ("prune_channels", {"macs": 0.4}),
)
_LEARN: dict[str, Any] = {
    "normalize": True,
    "optimizer": "sgd",
    "learning_rate": 0.02,
    "weight_decay": 5e-4,
    "batch_size": 128,
    "augment": ["flip", "crop"],
    "held_back": 0.0,
}


@dataclass(frozen=True)
class Version:
    """One way of making it smaller: the graph as made and as taught, with what is known without a clock."""

    made: hasten.Graph
    taught: hasten.Graph
    told: str


def main() -> None:
    """Replace, teach, judge, time, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--pictures", type=int, default=10000, help="of the training set")
    arguments = parser.parse_args()
    train, test = cifar10(arguments.data, arguments.pictures, "train"), cifar10(arguments.data, None, "test")
    seen = {"image": train["image"][:_SEEN]}
    whole = hasten.apply(
        hasten.read(arguments.models / "vgg16" / "model.onnx"), hasten.Recipe(["optimize_graph"]), seen
    ).graph
    versions = []
    for method, params in _VERSIONS:
        versions.append(_version(whole, hasten.Step(method, params), train, test, arguments.epochs))
        print(versions[-1].told, flush=True)
    page = _page(whole, versions, seen, test, arguments)
    print(page)
    arguments.out.write_text(page, encoding="utf-8")


def _version(whole: hasten.Graph, step: hasten.Step, train: Arrays, test: Arrays, epochs: float) -> Version:
    began = time.monotonic()
    seen = {"image": train["image"][:_SEEN]}
    change = hasten.apply(whole, hasten.Recipe([step]), seen, threads=usable_cores())
    took = time.monotonic() - began
    learn = hasten.Step("finetune", {**_LEARN, "epochs": epochs})
    taught = applied(change.graph, hasten.Recipe([learn]), train, 0, usable_cores(), original=whole)
    one = {"image": test["image"][:1]}
    params = ", ".join(f"{key}: {value}" for key, value in step.params.items()).replace("'", "")
    told = (
        f"| `{step.method}` {params} | {len(change.sites)} | {total_macs(change.graph, one) / 1e6:.0f} "
        f"| {change.graph.parameters / 1e6:.2f} | {100 * accuracy(change.graph, test):.2f} "
        f"| {100 * accuracy(taught, test):.2f} | {took:.0f}"
    )
    return Version(change.graph, taught, told)


def _page(
    whole: hasten.Graph, versions: list[Version], seen: Arrays, test: Arrays, arguments: argparse.Namespace
) -> str:
    graphs = [whole, *(version.taught for version in versions)]
    timings = []
    for target, layout in LAYOUTS.items():
        timings.append(timed(graphs, seen, target, usable_cores(), limit_s=30.0))
        step = hasten.Step("quantize_static", {"rounding": "outputs", "layout": layout})
        rounded = [hasten.apply(g, hasten.Recipe([step]), seen, threads=usable_cores()).graph for g in graphs]
        timings.append(timed(rounded, seen, target, usable_cores(), limit_s=30.0))
    names = [f"{target} {kind}" for target in LAYOUTS for kind in ("float32", "int8")]
    times = " | ".join(f"{timing[0].latency_ms.median:.3f} ms" for timing in timings)
    macs = total_macs(whole, {"image": test["image"][:1]})
    lines = [
        "# Depthwise-separable convolutions: VGG-16 on CIFAR-10",
        "",
        f"Made on {_SEEN} pictures without labels, then taught for {arguments.epochs:g} epochs on",
        f"{arguments.pictures:,} labelled ones; 10,000 test pictures. Ratios: the whole network's time over",
        "the version's in the same precision and the same rounds, with their 95 % intervals:",
        f"{usable_cores()} threads of {cpu_name()}, batch 1. Written by `benchmarks/restructure.py`.",
        "",
        f"| version | layers | M MACs | M weights | untaught | taught | seconds | {' | '.join(names)} |",
        "|---" * (7 + len(names)) + "|",
        f"| whole | | {macs / 1e6:.0f} | {whole.parameters / 1e6:.2f} "
        f"| {100 * accuracy(whole, test):.2f} | | | {times} |",
    ]
    for number, version in enumerate(versions, 1):
        ratios = " | ".join(ratio(timing[number]) for timing in timings)
        lines.append(f"{version.told} | {ratios} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
