"""A whole chain on VGG-16 for CIFAR-10: channels pruned, taught, in int8, beside the best int8 of its peers.

    python -m benchmarks.chain --models OUT_DIR --data DATA_DIR --out FILE.md [--shares 0.4 0.25] [--seeds 0]

``OUT_DIR`` is what ``benchmarks/models.py`` wrote. A first round leaves 30 % of the multiply-accumulates, a
second one ``--shares`` of these; after each the network learns from the labels, with normalizations behind
its convolutions while it does. Judged on all 10,000 test pictures, with the last weights. The peers quantize
the whole network on 200 training pictures, as ``benchmarks/peers.py`` has them do; everything is timed in the
same rounds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import hasten
from benchmarks.contenders import CASES, LAYOUTS, Peers, in_int8, source_of
from benchmarks.model_data import Arrays, cifar10
from benchmarks.recover import accuracy, applied
from hasten import data as data_room
from hasten import measuring, targets
from hasten.core.data import Calibration, Holdout, Roles, Selection
from hasten.core.errors import TrialError
from hasten.core.record import Scorecard
from hasten.core.target import cpu_name, usable_cores
from hasten.loaders.shapes import fix_shapes
from hasten.measuring import Conditions, Subject

_CALIBRATION = 200
_LEARN: dict[str, Any] = {
    "normalize": True,
    "optimizer": "sgd",
    "weight_decay": 5e-4,
    "batch_size": 128,
    "augment": ["flip", "crop"],
    "held_back": 0.0,
}
_FIRST = (
    hasten.Step("optimize_graph"),
    hasten.Step("prune_channels", {"macs": 0.3, "align": 16}),
    hasten.Step("finetune", {**_LEARN, "epochs": 1, "learning_rate": 0.02}),
)


def second(share: float, epochs: float) -> tuple[hasten.Step, ...]:
    """The round that decides how small the network gets."""
    return (
        hasten.Step("prune_channels", {"macs": share, "align": 16}),
        hasten.Step("finetune", {**_LEARN, "epochs": epochs, "learning_rate": 0.05}),
    )


def rounded(target: str) -> hasten.Step:
    """In integers, as the target fuses them."""
    params: dict[str, Any] = {"rounding": "outputs", "layout": LAYOUTS[target], "samples": _CALIBRATION}
    return hasten.Step("quantize_static", params)


def main() -> None:
    """Make the chains, build the peers, measure all side by side, write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.4, 0.25])
    parser.add_argument("--epochs", type=float, default=12.0, help="in the second round")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--pictures", type=int, default=None, help="of the training set; all by default")
    arguments = parser.parse_args()
    train, test = cifar10(arguments.data, arguments.pictures, "train"), cifar10(arguments.data, None, "test")
    case = next(case for case in CASES if case.name == "vgg16")
    model, _ = source_of(case, arguments.models)
    graph = hasten.read(model)
    with tempfile.TemporaryDirectory(prefix="hasten-chain-") as folder:
        work = Path(folder)
        fixed = work / "fixed.onnx"
        fix_shapes(graph, case.shapes).write(fixed)
        made, roles = Peers(work), _roles(graph, train, test, work)
        for seed in arguments.seeds:
            began = time.monotonic()
            once = _taught(graph, _FIRST, train, seed, graph)
            print(f"seed {seed}, first round: {accuracy(once, test):.4f}", flush=True)
            for share in arguments.shares:
                small = _taught(once, second(share, arguments.epochs), train, seed, graph)
                seconds = time.monotonic() - began
                print(f"  {share:g} of it: {accuracy(small, test):.4f} after {seconds:.0f} s", flush=True)
                for target in LAYOUTS:
                    name = f"{0.3 * share:.0%} of the MACs, seed {seed}, {target}"
                    whole = _taught(small, (rounded(target),), train, seed, graph)
                    subject = _subject(fix_shapes(whole, case.shapes), work / name, target, name)
                    made.subjects.append(subject)
                    made.seconds[name] = seconds
        chains, made.subjects = made.subjects, []
        made.add("ONNX Runtime fp32", lambda: fixed)
        in_int8(made, case, fixed, roles, more=True)
        # Integers with ranges found at run time take 20 times as long and would take all the time.
        made.subjects = [s for s in made.subjects if "dynamic" not in s.name] + chains
        cards = measuring.compare(
            made.subjects, roles.holdout, "accuracy", Conditions(time_limit_s=30.0), work / "compare"
        )
    page = _page(made, cards, arguments, len(train["labels"]))
    print(page)
    arguments.out.write_text(page, encoding="utf-8")


def _taught(
    graph: hasten.Graph, steps: tuple[hasten.Step, ...], train: Arrays, seed: int, original: hasten.Graph
) -> hasten.Graph:
    return applied(graph, hasten.Recipe(steps), train, seed, usable_cores(), original=original)


def _roles(graph: hasten.Graph, train: Arrays, test: Arrays, work: Path) -> Roles:
    first = {key: array[:_CALIBRATION] for key, array in train.items()}
    seen, _ = data_room.ingest(first, graph.inputs, work / "seen", seed=0)
    store, _ = data_room.ingest(test, graph.inputs, work / "store", seed=0)
    holdout = Holdout(store, range(len(store)))
    return Roles(store, Calibration(seen, range(len(seen))), Selection(store, ()), holdout)


def _subject(graph: hasten.Graph, folder: Path, target: str, name: str) -> Subject:
    folder.mkdir()
    options = targets.options(target, {"threads": usable_cores()})
    return Subject(targets.find(target).export(graph, folder, options), folder, name)


def _page(
    made: Peers, cards: list[Scorecard | TrialError], arguments: argparse.Namespace, pictures: int
) -> str:
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
    steps = hasten.Recipe((*_FIRST, *second(arguments.shares[0], arguments.epochs), rounded("openvino")))
    lines += ["", "The recipe of the first of them:", "", "```yaml", steps.to_yaml().rstrip(), "```"]
    return "\n".join(lines) + "\n"


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
