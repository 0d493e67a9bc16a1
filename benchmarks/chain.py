"""A whole chain on VGG-16 for CIFAR-10: channels pruned, taught by the original, in int8, beside peers' int8.

    python -m benchmarks.chain --models OUT_DIR --data DATA_DIR --out FILE.md [--epochs 4] [--seeds 0]

``OUT_DIR`` is what ``benchmarks/models.py`` wrote. The chain is taught on the training pictures and judged on
all 10,000 test pictures, with its last weights. The peers quantize the whole network on 200 training
pictures, as ``benchmarks/peers.py`` has them do; everything is timed in the same rounds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import hasten
from benchmarks.contenders import CASES, Peers, in_int8, originals, source_of
from benchmarks.model_data import Arrays, cifar10
from benchmarks.recover import applied
from hasten import data as data_room
from hasten import measuring, targets
from hasten.core.data import Calibration, Holdout, Roles, Selection
from hasten.core.errors import TrialError
from hasten.core.record import Scorecard
from hasten.core.target import cpu_name, usable_cores
from hasten.measuring import Conditions, Subject

_CALIBRATION = 200
_LEARN: dict[str, Any] = {"batch_size": 128, "augment": ["flip", "crop"], "held_back": 0.0}


def recipe(epochs: float) -> hasten.Recipe:
    """The chain: pruned in two rounds, taught after each, then rounded."""
    return hasten.Recipe(
        [
            hasten.Step("optimize_graph"),
            hasten.Step("prune_channels", {"macs": 0.3}),
            hasten.Step("distill", {**_LEARN, "epochs": 1, "learning_rate": 1e-3, "alpha": 0.5}),
            hasten.Step("prune_channels", {"macs": 0.25}),
            hasten.Step("distill", {**_LEARN, "epochs": epochs, "learning_rate": 2e-3, "alpha": 0.5}),
            hasten.Step(
                "quantize_static",
                {"rounding": "outputs", "layout": "openvino", "samples": _CALIBRATION},
            ),
        ]
    )


def main() -> None:
    """Make the chain for each seed, build the peers, measure all side by side, write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=float, default=4.0, help="of the last teaching")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--pictures", type=int, default=None, help="of the training set; all by default")
    arguments = parser.parse_args()
    train, test = cifar10(arguments.data, arguments.pictures, "train"), cifar10(arguments.data, None, "test")
    case = next(case for case in CASES if case.name == "vgg16")
    model, _ = source_of(case, arguments.models)
    graph = hasten.read(model, shapes=case.shapes)
    steps = recipe(arguments.epochs)
    with tempfile.TemporaryDirectory(prefix="hasten-chain-") as folder:
        work = Path(folder)
        fixed = work / "fixed.onnx"
        graph.write(fixed)
        made, roles = Peers(work), _roles(graph, train, test, work)
        originals(made, fixed, roles, None)
        in_int8(made, case, fixed, roles, more=True)
        for seed in arguments.seeds:
            began = time.monotonic()
            smaller = applied(graph, steps, train, seed, usable_cores())
            print(f"seed {seed}: made in {time.monotonic() - began:.0f} s", flush=True)
            name = f"the chain, seed {seed}"
            made.subjects.append(_subject(smaller, work / f"chain_{seed}", name))
            made.seconds[name] = round(time.monotonic() - began, 1)
        cards = measuring.compare(
            made.subjects, roles.holdout, "accuracy", Conditions(time_limit_s=30.0), work / "compare"
        )
    page = _page(made, cards, steps, len(train["labels"]))
    print(page)
    arguments.out.write_text(page, encoding="utf-8")


def _roles(graph: hasten.Graph, train: Arrays, test: Arrays, work: Path) -> Roles:
    first = {key: array[:_CALIBRATION] for key, array in train.items()}
    seen, _ = data_room.ingest(first, graph.inputs, work / "seen", seed=0)
    store, _ = data_room.ingest(test, graph.inputs, work / "store", seed=0)
    holdout = Holdout(store, range(len(store)))
    return Roles(store, Calibration(seen, range(len(seen))), Selection(store, ()), holdout)


def _subject(graph: hasten.Graph, folder: Path, name: str) -> Subject:
    folder.mkdir()
    options = targets.options("openvino", {"threads": usable_cores()})
    return Subject(targets.find("openvino").export(graph, folder, options), folder, name)


def _page(made: Peers, cards: list[Scorecard | TrialError], steps: hasten.Recipe, pictures: int) -> str:
    lines = [
        "# A chain: VGG-16 pruned, taught and in int8",
        "",
        f"{usable_cores()} threads of {cpu_name()}, batch 1, all in the same rounds; 10,000 test pictures.",
        f"Peers quantize the whole network; the chain learns from {pictures:,} training pictures. `made in`:",
        "seconds. Written by `benchmarks/chain.py`.",
        "",
        "| version | accuracy | drop (95 % interval) | latency ms | times ONNX Runtime fp32 | MB | made in |",
        "|---|---|---|---|---|---|---|",
    ]
    for subject, card in zip(made.subjects, cards, strict=True):
        if isinstance(card, Scorecard):
            lines.append(_row(subject.name, card, made.seconds.get(subject.name)))
        else:
            lines.append(f"| {subject.name} | failed: {card} | | | | | |")
    lines += [f"| {name} | failed: {error} | | | | | |" for name, error in made.failures]
    return (
        "\n".join([*lines, "", "The chain's recipe:", "", "```yaml", steps.to_yaml().rstrip(), "```"]) + "\n"
    )


def _row(name: str, card: Scorecard, seconds: float | None) -> str:
    quality, latency, ratio, size = card.quality, card.latency_ms, card.speedup, card.size_bytes
    assert quality is not None
    assert latency is not None
    assert ratio is not None
    assert size is not None
    low, high = quality.ci95
    return (
        f"| {name} | {quality.value:.4f} | {quality.drop:+.4f} ({low:+.4f} to {high:+.4f}) "
        f"| {latency.median:.3f} | {ratio.median:.2f} ({ratio.ci95[0]:.2f} to {ratio.ci95[1]:.2f}) "
        f"| {size / 1e6:.2f} | {'' if seconds is None else f'{seconds:.0f}'} |"
    )


if __name__ == "__main__":
    main()
