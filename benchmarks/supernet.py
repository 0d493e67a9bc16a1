"""One training for many widths, beside one training for each: ResNet-20 on CIFAR-10.

    python -m benchmarks.supernet --models OUT_DIR --data DATA_DIR --out FILE.md [--epochs 6]

``OUT_DIR`` is what ``benchmarks/models.py`` wrote. All learn from the original, without labels. Networks of
the same share of the multiply-accumulates are cut out of the supernet, or pruned by themselves and taught for
as many epochs each. Judged on all 10,000 test pictures; latency in float32, all in the same rounds.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import hasten
from benchmarks.model_data import Arrays, cifar10
from benchmarks.recover import accuracy, applied
from benchmarks.timings import ratio, timed
from hasten.core.target import cpu_name, usable_cores
from hasten.graph.cost import total_macs

_SEEN = 200
_LEFT = (0.8, 0.6, 0.4)
_TEACH: dict[str, Any] = {"batch_size": 64, "augment": ["flip", "crop"], "learning_rate": 1e-3}


def main() -> None:
    """Train, cut, judge, time, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=float, default=6.0)
    parser.add_argument("--pictures", type=int, default=10000, help="of the training set")
    arguments = parser.parse_args()
    train, test = cifar10(arguments.data, arguments.pictures, "train"), cifar10(arguments.data, None, "test")
    seen = {"image": train["image"][:_SEEN]}
    exact = hasten.Recipe(["optimize_graph"])
    whole = hasten.apply(hasten.read(arguments.models / "resnet20" / "model.onnx"), exact, seen).graph
    teach = {**_TEACH, "epochs": arguments.epochs}

    began = time.monotonic()
    supernet = _learned(whole, hasten.Step("train_supernet", teach), train, whole)
    once = time.monotonic() - began
    print("supernet", f"{100 * accuracy(supernet, test):.2f}", f"{once:.0f} s", flush=True)

    graphs, told = [whole, supernet], []
    for left in _LEFT:
        cut = {"macs": left, "importance": "supernet"}
        ways: list[tuple[str, hasten.Graph, dict[str, Any]]] = [
            ("cut from the supernet", supernet, {**cut, "fit": False}),
            ("cut and solved by least squares", supernet, cut),
            ("`prune_channels`", whole, {"macs": left}),
        ]
        for name, graph, params in ways:
            began = time.monotonic()
            made = _pruned(graph, params, seen)
            told.append(_row(name, made, test, time.monotonic() - began))
            graphs.append(made)
        began = time.monotonic()
        taught = _learned(graphs[-1], hasten.Step("distill", {**teach, "held_back": 0.0}), train, whole)
        told.append(_row("`prune_channels`, `distill`", taught, test, time.monotonic() - began))
        graphs.append(taught)
        print(*told[-4:], sep="\n", flush=True)

    timings = timed(graphs, seen, "openvino", usable_cores(), limit_s=60.0)
    macs = total_macs(whole, {"image": test["image"][:1]})
    lines = [
        "# One training for many widths: ResNet-20 on CIFAR-10",
        "",
        f"`train_supernet`: {arguments.epochs:g} epochs of {arguments.pictures:,} pictures without labels,",
        f"{once:.0f} seconds in all; `distill`: as many epochs of the same for each width. {_SEEN} pictures",
        "for `prune_channels`. 10,000 test pictures. `faster`: than the whole in the same rounds, with its",
        f"95 % interval: OpenVINO, float32, {usable_cores()} threads of {cpu_name()}, batch 1. `seconds`:",
        "of cutting, or of teaching. One seed. Written by `benchmarks/supernet.py`.",
        "",
        "| network | M MACs | accuracy | seconds | faster |",
        "|---|---|---|---|---|",
        f"| whole | {macs / 1e6:.1f} | {100 * accuracy(whole, test):.2f} | | "
        f"{timings[0].latency_ms.median:.3f} ms |",
        f"{_row('the supernet, whole', supernet, test, once)} | {ratio(timings[1])} |",
    ]
    lines += [f"{row} | {ratio(timing)} |" for row, timing in zip(told, timings[2:], strict=True)]
    page = "\n".join(lines) + "\n"
    print(page)
    arguments.out.write_text(page, encoding="utf-8")


def _pruned(graph: hasten.Graph, params: dict[str, Any], seen: Arrays) -> hasten.Graph:
    recipe = hasten.Recipe([hasten.Step("prune_channels", params)])
    return hasten.apply(graph, recipe, seen, threads=usable_cores()).graph


def _learned(graph: hasten.Graph, step: hasten.Step, train: Arrays, original: hasten.Graph) -> hasten.Graph:
    return applied(graph, hasten.Recipe([step]), train, 0, usable_cores(), original=original)


def _row(name: str, graph: hasten.Graph, test: Arrays, seconds: float) -> str:
    macs = total_macs(graph, {"image": test["image"][:1]})
    return f"| {name} | {macs / 1e6:.1f} | {100 * accuracy(graph, test):.2f} | {seconds:.0f}"


if __name__ == "__main__":
    main()
