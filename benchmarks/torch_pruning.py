"""hasten's channel pruning beside Torch-Pruning's: the same network, data, epochs and arithmetic left.

    pip install torch-pruning==1.6.1
    python -m benchmarks.torch_pruning --data DATA_DIR --out FILE.md [--epochs 3] [--seeds 0 1] [--pictures N]
        [--fewer 2.1 2.6] [--without WAY...]

``DATA_DIR`` holds ``data/cifar10`` and ``models``. The peer prunes over the whole network, step by step,
until so many multiply-accumulates are left, as its own examples do: by magnitude (L2 of a group), by Taylor
(on labelled pictures), and by group sparsity (magnitude after as many epochs more of its sparse training).
Its modules then train with live batch normalization. hasten takes channels, whole residual branches, or some
of both away on 200 unlabelled pictures; then its graph trains as long on the same labels at the same rates,
with normalizations while it does (`normalize`). Accuracy on all 10,000 test pictures, of the last weights;
latency on OpenVINO and ONNX Runtime, float32, batch 1, all in the same rounds.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import hasten
from benchmarks import torch_modules
from benchmarks.model_data import cifar10
from benchmarks.models import export
from benchmarks.prune_layers import in_order
from benchmarks.recover import accuracy, applied
from benchmarks.timings import ratio, timed
from hasten.core.target import cpu_name, usable_cores
from hasten.graph import Graph
from hasten.graph.cost import total_macs
from hasten.train import Settings

_MODULES = {"resnet20": torch_modules.resnet20_module, "resnet56": torch_modules.resnet56_module}
_FEWER = (2.1, 2.6)
_BATCH = 128
_LOOKED_AT = 512
"""Labelled pictures that Taylor importance is computed on."""
_STEPS = 200
"""Parts that the peer's pruning goes in, until few enough multiply-accumulates are left."""
_PEERS = ("magnitude", "Taylor", "group sparsity")
_SGD: dict[str, Any] = {
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "weight_decay": 5e-4,
    "augment": ("flip", "crop"),
    "batch_size": _BATCH,
}
"""How all train: usual for these networks."""
_TAUGHT: dict[str, Any] = {**_SGD, "augment": [*_SGD["augment"]], "normalize": True, "held_back": 0.0}


_CALIBRATION = 200
"""Pictures without labels that hasten looks at."""
_BLOCKS = {"resnet20": 9, "resnet56": 27}
"""Residual branches, all of about as many multiply-accumulates."""
_BRANCHES = 0.2
"""Share of the branches that goes before channels do, where both go."""
_ALIGN = 8
"""Channels of a whole block of the kernels'."""


@dataclass
class Row:
    """One way of pruning: its graph before any training, and the accuracies after it, one a seed."""

    name: str
    graph: Graph
    macs: float
    before: float
    after: list[float]
    seconds: float


def main() -> None:
    """Prune, train, judge, time, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", choices=sorted(_MODULES), default="resnet20")
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--pictures", type=int, default=None, help="of the training set; all by default")
    parser.add_argument("--fewer", type=float, nargs="+", default=_FEWER, help="times fewer MACs")
    parser.add_argument(
        "--without", nargs="*", choices=[*_PEERS, *_OURS], default=[], help="ways to leave out"
    )
    arguments = parser.parse_args()
    bench = Bench(arguments)
    lines = bench.head()
    for fewer in arguments.fewer:
        rows = []
        for row in bench.rows(fewer):
            rows.append(row)
            print(row.name, f"{row.macs:.1%}", row.before, row.after, f"{row.seconds:.0f} s", flush=True)
        lines += bench.table(fewer, rows)
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


class Bench:
    """The network, its data, and every way of making it smaller."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._train = cifar10(arguments.data, arguments.pictures, "train")
        self._test = cifar10(arguments.data, None, "test")
        models = arguments.data / "models"
        whole = hasten.read(models / f"{arguments.model}-cifar10.onnx")
        self._module = _MODULES[arguments.model](models)
        self._one = {"image": self._test["image"][:1]}
        self._seen = {"image": self._train["image"][:_CALIBRATION]}
        self._clean = applied(
            whole, hasten.Recipe([hasten.Step("optimize_graph")]), self._train, 0, usable_cores()
        )
        self._macs = total_macs(self._clean, self._one)

    def head(self) -> list[str]:
        """What the page begins with."""
        told, seeds = self._arguments, ", ".join(map(str, self._arguments.seeds))
        whole = f"{100 * accuracy(self._clean, self._test):.2f} %, {self._macs / 1e6:.1f} M"
        return [
            f"# Channels pruned by hasten and by Torch-Pruning: {told.model} on CIFAR-10",
            "",
            f"{told.epochs:g} epochs of {len(self._train['labels']):,} training pictures after pruning,",
            f"seeds {seeds};",
            f"the accuracy of the last weights on all {len(self._test['labels']):,} test pictures.",
            f"Unpruned: {whole} multiply-accumulates (MACs).",
            "`faster`: than the unpruned network in the same rounds, float32, batch 1,",
            f"{usable_cores()} threads of {cpu_name()},",
            "with the 95 % interval. `seconds`: of pruning and what it trains for it, without what follows.",
            "Written by `benchmarks/torch_pruning.py`.",
        ]

    def rows(self, fewer: float) -> Iterator[Row]:
        """Every way at this many times fewer multiply-accumulates."""
        without = self._arguments.without
        for name in _PEERS:
            if name not in without:
                yield self._peer(name, fewer)
        for how, make in _OURS.items():
            if how in without:
                continue
            began = time.monotonic()
            graph = make(self, 1 / fewer)
            seconds = time.monotonic() - began
            learn = hasten.Step("finetune", {**_TAUGHT, "epochs": self._arguments.epochs})
            seeds = self._arguments.seeds
            after = [accuracy(self._taught(graph, learn, seed), self._test) for seed in seeds]
            yield self._row(f"hasten, {how}", graph, after, seconds)

    def fewer_channels(self, share: float, align: int) -> Graph:
        """Narrower, with this share of the multiply-accumulates left."""
        return self._made(hasten.Step("prune_channels", {"macs": share, "align": align}))

    def fewer_branches(self, share: float) -> Graph:
        """Shallower, with at most this share of the multiply-accumulates left."""
        count = math.ceil((1 - share) * _BLOCKS[self._arguments.model])
        found = hasten.apply(
            self._clean, hasten.Recipe([hasten.Step("prune_layers", {"count": count + 2})]), self._seen
        )
        order = in_order(found.sites)
        for number in range(count, len(order)):
            graph = self._made(hasten.Step("prune_layers", {"drop": list(order[:number])}))
            if total_macs(graph, self._one) <= share * self._macs:
                return graph
        return found.graph

    def fewer_of_both(self, share: float) -> Graph:
        """First a few branches less, then channels, down to this share of the multiply-accumulates."""
        count = round(_BRANCHES * _BLOCKS[self._arguments.model])
        shallower = self._made(hasten.Step("prune_layers", {"count": count}))
        left = share * self._macs / total_macs(shallower, self._one)
        return self._made(hasten.Step("prune_channels", {"macs": left, "align": _ALIGN}), shallower)

    def _made(self, step: hasten.Step, graph: Graph | None = None) -> Graph:
        whole = graph or self._clean
        return hasten.apply(whole, hasten.Recipe([step]), self._seen, threads=usable_cores()).graph

    def table(self, fewer: float, rows: list[Row]) -> list[str]:
        """The rows with their latencies."""
        graphs, samples = [self._clean, *(row.graph for row in rows)], {"image": self._test["image"][:100]}
        found = [timed(graphs, samples, name, usable_cores())[1:] for name in ("openvino", "onnxruntime")]
        lines = [
            "",
            f"## {fewer:g} times fewer MACs",
            "",
            "| pruned by | MACs left | untrained | trained | each seed | OpenVINO faster "
            "| ONNX Runtime faster | seconds |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for number, row in enumerate(rows):
            faster = " | ".join(ratio(timings[number]) for timings in found)
            mean = f"{100 * statistics.fmean(row.after):.2f}"
            each = ", ".join(f"{100 * value:.2f}" for value in row.after)
            lines.append(
                f"| {row.name} | {row.macs:.1%} | {100 * row.before:.2f} | {mean} "
                f"| {each} | {faster} | {row.seconds:.0f} |"
            )
        return lines

    def _row(self, name: str, graph: Graph, after: list[float], seconds: float) -> Row:
        macs = total_macs(graph, self._one) / self._macs
        return Row(name, graph, macs, accuracy(graph, self._test), after, seconds)

    def _taught(self, graph: Graph, learn: hasten.Step, seed: int) -> Graph:
        recipe = hasten.Recipe([learn])
        return applied(graph, recipe, self._train, seed, usable_cores(), original=self._clean)

    def _peer(self, name: str, fewer: float) -> Row:
        began = time.monotonic()
        module = copy.deepcopy(self._module)
        if name == "group sparsity":
            self._made_sparse(module)
        importance = _importance(name)
        if name == "Taylor":
            self._backward(module)
        _pruned(module, importance, fewer)
        seconds = time.monotonic() - began
        graph = _graph(module)
        after = []
        for seed in self._arguments.seeds:
            trained = copy.deepcopy(module)
            settings = Settings(**_SGD, epochs=self._arguments.epochs, seed=seed, threads=usable_cores())
            hasten.fit(trained, self._train, settings=settings)
            after.append(accuracy(_graph(trained.eval()), self._test))
        return self._row(f"Torch-Pruning, {name}", graph, after, seconds)

    def _backward(self, module: Any) -> None:
        """Leave gradients of the loss in the module, which Taylor importance reads."""
        import torch

        module.zero_grad()
        pictures, labels = (torch.from_numpy(self._train[key][:_LOOKED_AT]) for key in ("image", "labels"))
        torch.nn.functional.cross_entropy(module.eval()(pictures), labels).backward()  # type: ignore[no-untyped-call]

    def _made_sparse(self, module: Any) -> None:
        """The peer's sparse training: its pruner adds to the gradients of groups of small norm."""
        import torch
        import torch_pruning as tp

        torch.manual_seed(0)
        pruner = tp.pruner.GroupNormPruner(
            module,
            torch.zeros(1, 3, 32, 32),
            importance=_importance("group sparsity"),
            global_pruning=True,
            ignored_layers=[module.linear],
        )
        count = len(self._train["labels"])
        steps = int(self._arguments.epochs * count / _BATCH)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        module.train()
        for _ in range(steps):
            chosen = torch.randint(count, (_BATCH,))
            pictures = _augmented(torch.from_numpy(self._train["image"][chosen.numpy()]))
            labels = torch.from_numpy(self._train["labels"][chosen.numpy()])
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(pictures), labels).backward()  # type: ignore[no-untyped-call]
            pruner.regularize(module)
            optimizer.step()
            schedule.step()
        module.eval()


_OURS: Mapping[str, Callable[[Bench, float], Graph]] = {
    "channels": partial(Bench.fewer_channels, align=1),
    "channels, widths of whole blocks": partial(Bench.fewer_channels, align=_ALIGN),
    "a fifth of the branches, then channels": Bench.fewer_of_both,
    "branches": Bench.fewer_branches,
}


def _augmented(pictures: Any) -> Any:
    """Flipped and cropped like all the others, one draw a batch for the crop."""
    import torch

    flips = torch.rand(len(pictures)) < 0.5
    pictures = torch.where(flips[:, None, None, None], pictures.flip(3), pictures)
    top, left = (int(torch.randint(9, ())) for _ in range(2))
    return torch.nn.functional.pad(pictures, (4, 4, 4, 4))[:, :, top : top + 32, left : left + 32]


def _importance(name: str) -> Any:
    import torch_pruning as tp

    kinds = tp.importance
    return kinds.GroupTaylorImportance() if name == "Taylor" else kinds.GroupMagnitudeImportance(p=2)


def _pruned(module: Any, importance: Any, fewer: float) -> None:
    """Remove channels in place until this many times fewer multiply-accumulates are left."""
    import torch
    import torch_pruning as tp

    image = torch.zeros(1, 3, 32, 32)
    count = partial(tp.utils.count_ops_and_params, module, image)
    pruner = tp.pruner.BasePruner(
        module,
        image,
        importance=importance,
        global_pruning=True,
        pruning_ratio=1.0,
        max_pruning_ratio=0.9,
        iterative_steps=_STEPS,
        ignored_layers=[module.linear],
    )
    whole = count()[0]
    while whole / count()[0] < fewer and pruner.current_step < _STEPS:
        pruner.step()


def _graph(module: Any) -> Graph:
    """The module as a graph, cleaned the way hasten cleans its own."""
    with tempfile.TemporaryDirectory(prefix="torch-pruning-") as folder:
        path = Path(folder) / "model.onnx"
        export(module.eval(), {"image": np.zeros((2, 3, 32, 32), np.float32)}, "logits", path)
        return hasten.apply(hasten.read(path), hasten.Recipe([hasten.Step("optimize_graph")])).graph


if __name__ == "__main__":
    main()
