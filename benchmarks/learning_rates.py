"""How does a smaller network learn again: with normalizations or without, and at which rate, of what?

    python -m benchmarks.learning_rates --models OUT_DIR --data DATA_DIR --out FILE.md [NAME]...

``OUT_DIR`` is what ``benchmarks/models.py`` wrote, ``DATA_DIR`` holds ``data/cifar10``. Channels go until
40 % of the multiply-accumulates are left; then the network learns from the original (`distill`) or from
labels (`finetune`), as ``hasten optimize`` would have it: AdamW, nothing done to the pictures, the best
weights by a tenth that is held back. Judged in float32 on pictures that neither was shown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import hasten
from benchmarks.model_data import Arrays, cifar10
from benchmarks.recover import accuracy, applied
from hasten.core.target import cpu_name, usable_cores
from hasten.graph import Graph

_SEEN = 200
_NAMES = ("resnet20", "fashion_mnist", "vgg16", "resnet56")
_HOW: tuple[dict[str, Any], ...] = (
    {"learning_rate": 3e-4},
    {"learning_rate": 1e-3},
    {"learning_rate": 1e-3, "relative": True},
    {"learning_rate": 3e-3, "relative": True},
    {"learning_rate": 1e-2, "relative": True},
    {"learning_rate": 3e-4, "normalize": True},
    {"learning_rate": 1e-3, "normalize": True},
    {"learning_rate": 3e-3, "normalize": True},
)


def main() -> None:
    """Prune, teach in every way, judge, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=5000, help="of CIFAR-10's training set")
    parser.add_argument("--epochs", type=float, default=4.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("names", nargs="*", choices=[*_NAMES, []], help="some; all by default")
    arguments = parser.parse_args()
    seeds = ", ".join(map(str, arguments.seeds))
    lines = [
        "# Learning with normalizations and without",
        "",
        f"40 % of the multiply-accumulates left, {arguments.epochs:g} epochs, seeds {seeds}; accuracy in %;",
        f"{usable_cores()} threads of {cpu_name()}. Written by `benchmarks/learning_rates.py`.",
        "",
        "| network | samples | whole | smaller | learns by | normalizations | rate | each seed | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in arguments.names or _NAMES:
        for line in _rows(name, arguments):
            lines.append(line)
            print(line, flush=True)
            arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _rows(name: str, arguments: argparse.Namespace) -> Iterator[str]:
    model, train, test = _case(name, arguments)
    clean = hasten.apply(hasten.read(model), hasten.Recipe(["optimize_graph"])).graph
    seen = {key: array[:_SEEN] for key, array in train.items() if key != "labels"}
    prune = hasten.Recipe([hasten.Step("prune_channels", {"macs": 0.4})])
    smaller = hasten.apply(clean, prune, seen, threads=usable_cores()).graph
    told = f"| {name} | {len(train['labels'])} | {_percent(clean, test)} | {_percent(smaller, test)} |"
    for method in ("distill", "finetune"):
        for how in _HOW:
            learn = hasten.Recipe([hasten.Step(method, {"epochs": arguments.epochs, **how})])
            began = time.monotonic()
            taught = [
                applied(smaller, learn, train, seed, usable_cores(), original=clean)
                for seed in arguments.seeds
            ]
            took = (time.monotonic() - began) / len(taught)
            normalizes = "yes" if "normalize" in how else "no"
            each = ", ".join(_percent(graph, test) for graph in taught)
            rate = f"{how['learning_rate']:g}{' of the weight' if 'relative' in how else ''}"
            yield f"{told} `{method}` | {normalizes} | {rate} | {each} | {took:.0f} |"


def _case(name: str, arguments: argparse.Namespace) -> tuple[Path, Arrays, Arrays]:
    """The model's file, what it learns from, and what it is judged on."""
    if name == "fashion_mnist":
        folder = Path(__file__).resolve().parents[1] / "examples" / name
        with np.load(folder / "data.npz") as held:
            arrays = {key: held[key] for key in held.files}
        half = len(arrays["labels"]) // 2
        first = {key: array[:half] for key, array in arrays.items()}
        return folder / "model.onnx", first, {key: array[half:] for key, array in arrays.items()}
    train, test = cifar10(arguments.data, arguments.pictures, "train"), cifar10(arguments.data, None, "test")
    return arguments.models / name / "model.onnx", train, test


def _percent(graph: Graph, test: Arrays) -> str:
    return f"{100 * accuracy(graph, test):.2f}"


if __name__ == "__main__":
    main()
