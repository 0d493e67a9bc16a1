"""Which channels can go: the coupling law on real models, and what Torch-Pruning finds on the same networks.

    python -m benchmarks.coupling --models OUT_DIR --weights DATA_DIR/models --out FILE.md [NAME]...

``OUT_DIR`` is what ``benchmarks/models.py`` wrote. Of each model, after ``optimize_graph``: the channels that
its linear layers make, how many of them can go, why the others cannot; and, without a random 40 % of each
width, how far the narrower graph's outputs are from those of the whole graph with the same weights set to
zero. Where a model is a PyTorch module too, Torch-Pruning is asked for its groups; each is pruned by a
quarter on a copy of the module, which is then run.
"""

from __future__ import annotations

import argparse
import copy
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import hasten
from benchmarks import torch_modules
from hasten.core.data import Array
from hasten.graph import Graph
from hasten.graph.coupling import Coupling, couple, mask, prepare, shrink
from hasten.graph.evaluate import Evaluator

_SHARE = 0.4
_SAMPLES = 2
_MODULES: dict[str, Callable[[Path], Any]] = {
    "resnet20": torch_modules.resnet20_module,
    "resnet56": torch_modules.resnet56_module,
    "vgg16": torch_modules.vgg16_module,
    "efficientnet_lite0": lambda _: torch_modules.efficientnet_lite0_module(),
    "minilm_encoder": lambda _: torch_modules.minilm_encoder_module(),
}

HEAD = f"""After `optimize_graph`. `made`: outputs of layers with weights. `can go`: channels (in brackets:
attention heads, or places inside them) that `hasten.graph.coupling` finds free, each counted once however
many layers share it. `law`: the largest difference between the outputs of the graph without {_SHARE:.0%} of
each width and those of the whole graph with these weights set to zero, relative to its largest output;
`changed`: the same between these and the original, to see that something went.
"""
_PEER = """Torch-Pruning 1.6: its groups, and their channels, of those that it can prune by a quarter and run.
Written by `benchmarks/coupling.py`.
"""


def main() -> None:
    """Analyse, shrink, compare, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    names = arguments.names or sorted(path.parent.name for path in arguments.models.glob("*/model.onnx"))
    head = f"# Coupled channels\n\n{HEAD}{_PEER}"
    page = Page(head, arguments.out, ("Torch-Pruning: groups", "channels"))
    for name in names:
        graph, feeds = _of_file(arguments.models / name)
        module = _MODULES[name](arguments.weights).eval() if name in _MODULES else None
        page.add(name, graph, feeds, None if module is None else _peer(module, feeds))


class Page:
    """A table of models and, below it, why what stays has to; written anew after each model."""

    def __init__(self, head: str, out: Path, others: Sequence[str] = ()) -> None:
        columns = ("model", "side", "widths", "can go", "of made", "law", "changed", *others)
        self._lines = [*head.splitlines(), "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
        self._nothing = ("",) * len(others)
        self._reasons = ["", "## What has to stay", ""]
        self._out = out

    def add(
        self, name: str, graph: Graph, feeds: dict[str, Array], others: tuple[str, ...] | None = None
    ) -> None:
        """The rows of a graph. others: what stands in the other columns."""
        recipe = hasten.Recipe([hasten.Step("optimize_graph")])
        clean = prepare(hasten.apply(graph, recipe, feeds).graph)
        for side in ("outer", "inner"):
            coupling = couple(clean, side=side)
            if side == "inner" and not any(width.attended for width in coupling.widths):
                continue
            beside = others if others is not None and side == "outer" else self._nothing
            cells = (name, side, *_cells(clean, coupling, feeds), *beside)
            self._lines.append(f"| {' | '.join(cells)} |")
            print(self._lines[-1], flush=True)
            if side == "outer":
                found = Counter(_kind(skip.reason) for skip in coupling.fixed)
                told = "; ".join(f"{count} × {reason}" for reason, count in found.most_common())
                self._reasons.append(f"- {name}: {told or 'nothing'}")
        self._out.write_text("\n".join([*self._lines, *self._reasons]) + "\n", encoding="utf-8")


def _of_file(folder: Path) -> tuple[Graph, dict[str, Array]]:
    graph = hasten.read(folder / "model.onnx")
    samples = 1 if any(spec.shape and spec.shape[0] == 1 for spec in graph.inputs) else _SAMPLES
    with np.load(folder / "data.npz") as file:
        return graph, {spec.name: file[spec.name][:samples] for spec in graph.inputs}


def _cells(graph: Graph, coupling: Coupling, feeds: dict[str, Array]) -> tuple[str, ...]:
    random = np.random.default_rng(0)
    units: list[int] = []
    for width in coupling.widths:
        units += random.choice(width.units, int(_SHARE * len(width)), replace=False).tolist()
    made = {(p.weight, p.axis): len(p.units) for w in coupling.widths for p in w.parts if p.role == "made"}
    fixed = {skip.name for skip in coupling.fixed}
    nodes = {node.name: node for node in graph.ir_model.graph}
    staying = sum(_outputs(nodes[name]) for name in fixed)
    channels = sum(len(width) for width in coupling.widths if not width.attended)
    heads = sum(len(width) for width in coupling.widths if width.attended)
    whole, masked, narrow = (
        _run(g, feeds) for g in (graph, mask(graph, coupling, units), shrink(graph, coupling, units))
    )
    free = f"{channels:,}" + (f" ({heads})" if heads else "")
    return (
        f"{len(coupling.widths)}",
        free,
        f"{sum(made.values()) + staying:,}",
        f"{_difference(narrow, masked, whole):.0e}",
        f"{_difference(masked, whole, whole):.1f}",
    )


def _outputs(node: Any) -> int:
    """How many channels a layer that stays makes."""
    weight = next((v.const_value for v in node.inputs[1:2] if v is not None and v.const_value), None)
    if weight is None:
        return 0
    shape = tuple(weight.shape.numpy())
    flipped = node.op_type == "Conv" or node.attributes.get_int("transB", 0)
    return int(shape[0] if flipped else shape[-1])


def _kind(reason: str) -> str:
    """A reason without the names in it."""
    return " ".join(word for word in reason.split() if not any(c in word for c in "/_.0123456789"))


def _run(graph: Graph, feeds: dict[str, Array]) -> dict[str, Array]:
    return Evaluator(graph, optimized=False).run(feeds)


def _difference(found: dict[str, Array], wanted: dict[str, Array], original: dict[str, Array]) -> float:
    """The largest difference of an output, relative to the original's largest value of it."""
    return max(
        float(np.abs(found[name] - wanted[name]).max() / (np.abs(original[name]).max() or 1.0))
        for name in wanted
    )


def _peer(module: Any, feeds: dict[str, Array]) -> tuple[str, str]:
    """Groups and channels that Torch-Pruning finds, and how many of these it prunes and runs."""
    import torch
    import torch_pruning as tp

    inputs = tuple(torch.from_numpy(array) for array in feeds.values())
    count, works, channels, total = 0, 0, 0, 0
    graph = tp.DependencyGraph().build_dependency(module, example_inputs=inputs)
    groups = list(graph.get_all_groups(root_module_types=[torch.nn.Conv2d, torch.nn.Linear]))
    last = [m for m in module.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)][-1]
    for index, group in enumerate(groups):
        root = group[0][0].target.module
        if root is last:
            continue
        size = len(group[0][1])
        count, total = count + 1, total + size
        if _prunes(tp, module, inputs, index, size):
            works, channels = works + 1, channels + size
    return f"{works} of {count}", f"{channels:,} of {total:,}"


def _prunes(tp: Any, module: Any, inputs: tuple[Any, ...], index: int, size: int) -> bool:
    import torch

    module = copy.deepcopy(module)
    graph = tp.DependencyGraph().build_dependency(module, example_inputs=inputs)
    group = list(graph.get_all_groups(root_module_types=[torch.nn.Conv2d, torch.nn.Linear]))[index]
    dependency = group[0][0]
    try:
        graph.get_pruning_group(
            dependency.target.module, dependency.handler, list(range(max(1, size // 4)))
        ).prune()
        with torch.no_grad():
            module(*inputs)
    except (RuntimeError, ValueError, IndexError, KeyError, AssertionError, TypeError):
        return False
    return True


if __name__ == "__main__":
    main()
