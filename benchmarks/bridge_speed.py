"""What it costs to train an ONNX graph through the bridge, against the PyTorch module it was exported from.

    python -m benchmarks.bridge_speed --models OUT_DIR --weights DIR --out FILE.md [--rounds 15]
                                      [--only NAME]... [--device cuda] [--compile]

``OUT_DIR`` is what ``benchmarks/models.py`` wrote, ``DIR`` holds the published weights. The subjects take
turns in one process, on the same batch, each round in the opposite order of the last; a round times one
inference (no gradients), or one step forward and back (squared outputs, gradients of every parameter). On the
CPU the processor time of one thread is taken, which holds on a machine that others use too; on an accelerator
wall time, synchronized. The exported graphs have their batch norms folded into the convolutions, so the fair
opponent is the module with its batch norms fused (``torch.nn.utils.fusion``), in evaluation mode, where
dropout is off as it is in the graph; the module as it is trained, with its batch norms, stands beside it.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from benchmarks.torch_modules import efficientnet_lite0_module, minilm_encoder_module, resnet20_module
from hasten.bridge import to_torch
from hasten.core.target import cpu_name
from hasten.graph import Graph
from hasten.measuring.statistics import median_interval

Step = Callable[[], None]
_WARM_UP = 3


@dataclass(frozen=True)
class Model:
    """A network: its folder, the batch, the inputs in order, and how its module is made."""

    name: str
    batch: int
    inputs: tuple[str, ...]
    make: Callable[[Path], nn.Module]


MODELS = (
    Model("resnet20", 32, ("image",), resnet20_module),
    Model("efficientnet_lite0", 4, ("image",), lambda _: efficientnet_lite0_module()),
    Model("minilm_encoder", 4, ("input_ids", "attention_mask"), lambda _: minilm_encoder_module()),
)


@dataclass(frozen=True)
class Row:
    """One comparison: median milliseconds of both, and the ratio's median and 95 % interval."""

    model: str
    task: str
    opponent: str
    ours_ms: float
    theirs_ms: float
    ratio: float
    interval: tuple[float, float]

    def written(self) -> str:
        """The row as Markdown."""
        low, high = self.interval
        return (
            f"| {self.model} | {self.task} | {self.opponent} | {self.theirs_ms:.1f} | {self.ours_ms:.1f} "
            f"| {self.ratio:.3f} | {low:.3f} to {high:.3f} |"
        )


def fuse_batch_norms(module: nn.Module, inputs: Sequence[Tensor]) -> nn.Module:
    """Fuse every batch norm into the convolution whose output it was seen to take; the module is changed.

    Both must be in evaluation mode. What is fused is found by running the module once.
    """
    made_by: dict[int, nn.Module] = {}
    pairs: list[tuple[nn.Module, nn.Module]] = []
    alive: list[Tensor] = []

    def see_conv(conv: nn.Module, _: Any, output: Tensor) -> None:
        alive.append(output)  # an id may be given again once its tensor is gone
        made_by[id(output)] = conv

    def see_norm(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        if id(given[0]) in made_by:
            pairs.append((made_by[id(given[0])], norm))

    hooks = [m.register_forward_hook(see_conv) for m in module.modules() if isinstance(m, nn.Conv2d)]
    hooks += [
        m.register_forward_pre_hook(see_norm) for m in module.modules() if isinstance(m, nn.BatchNorm2d)
    ]
    with torch.no_grad():
        module(*inputs)
    for hook in hooks:
        hook.remove()
    replaced: dict[nn.Module, nn.Module] = {}
    for conv, norm in pairs:
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        fused = fuse_conv_bn_eval(conv, norm)
        conv.weight, conv.bias = fused.weight, fused.bias
        replaced[norm] = nn.Identity()
    for parent in module.modules():
        for name, child in parent.named_children():
            if child in replaced:
                setattr(parent, name, replaced[child])
    return module


def inference(module: nn.Module, inputs: Sequence[Tensor]) -> Step:
    """One run without gradients."""

    def step() -> None:
        with torch.no_grad():
            module(*inputs)

    return step


def training(module: nn.Module, inputs: Sequence[Tensor]) -> Step:
    """One run forward and back."""
    parameters = [p for p in module.parameters() if p.requires_grad]

    def step() -> None:
        for parameter in parameters:
            parameter.grad = None
        module(*inputs).square().mean().backward()

    return step


def timed(steps: Sequence[Step], rounds: int, device: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Milliseconds of every step in every round: (rounds, steps)."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    for step in steps:
        for _ in range(_WARM_UP):
            step()
    found = np.empty((rounds, len(steps)))
    for number in range(rounds):
        order = range(len(steps)) if number % 2 == 0 else reversed(range(len(steps)))
        for index in order:
            _wait(device)
            start = clock()
            steps[index]()
            _wait(device)
            found[number, index] = (clock() - start) * 1000
    return found


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def rows_of(model: Model, options: argparse.Namespace) -> Iterator[Row]:
    """All comparisons of one model."""
    folder = options.models / model.name
    with np.load(folder / "data.npz") as data:
        inputs = [torch.from_numpy(data[name][: model.batch]).to(options.device) for name in model.inputs]
    bridge = to_torch(Graph(ir.load(folder / "model.onnx"))).to(options.device).eval()
    plain = model.make(options.weights).to(options.device)
    fused = fuse_batch_norms(model.make(options.weights).to(options.device).eval(), inputs)
    with torch.no_grad():
        torch.testing.assert_close(bridge(*inputs), fused(*inputs), rtol=1e-3, atol=1e-3)
    opponents = {"module, batch norms fused": fused.eval()}
    if any(isinstance(m, nn.BatchNorm2d) for m in plain.modules()):
        opponents["module as it is"] = plain.eval()
    else:
        opponents = {"module": plain.eval()}
    for task, make in (("inference", inference), ("forward and back", training)):
        if task == "forward and back" and "module as it is" in opponents:
            opponents["module, training mode"] = opponents.pop("module as it is").train()
        subjects = [make(bridge, inputs), *(make(module, inputs) for module in opponents.values())]
        yield from _compared(model, task, list(opponents), timed(subjects, options.rounds, options.device))
    if options.compile:
        yield from _compiled(model, bridge, inputs, options)


def _compiled(
    model: Model, bridge: nn.Module, inputs: Sequence[Tensor], options: argparse.Namespace
) -> Iterator[Row]:
    """The bridge compiled by torch against itself, run eagerly."""
    compiled: nn.Module = torch.compile(bridge)  # type: ignore[assignment]
    for task, make in (("inference", inference), ("forward and back", training)):
        subjects = [make(compiled, inputs), make(bridge, inputs)]
        times = timed(subjects, options.rounds, options.device)
        yield from _compared(model, f"{task}, torch.compile", ["bridge, eager"], times)


def _compared(
    model: Model, task: str, opponents: Sequence[str], times: np.ndarray[Any, np.dtype[np.float64]]
) -> Iterator[Row]:
    for index, opponent in enumerate(opponents, start=1):
        ratios = times[:, 0] / times[:, index]
        yield Row(
            model=model.name,
            task=f"{task}, batch {model.batch}",
            opponent=opponent,
            ours_ms=float(np.median(times[:, 0])),
            theirs_ms=float(np.median(times[:, index])),
            ratio=float(np.median(ratios)),
            interval=median_interval(ratios, seed=0),
        )


def page(rows: Sequence[Row], options: argparse.Namespace) -> str:
    """The table with its conditions."""
    machine = torch.cuda.get_device_name() if options.device == "cuda" else f"{cpu_name()}, 1 thread"
    head = [
        "# The bridge's speed",
        "",
        f"{machine}; PyTorch {torch.__version__}, Python {platform.python_version()}; "
        f"{options.rounds} rounds; "
        "milliseconds are medians, ratios are of the bridge to the opponent, with their 95 % bootstrap "
        "interval over rounds. Written by `benchmarks/bridge_speed.py`.",
        "",
        "| model | task | opponent | opponent, ms | bridge, ms | ratio | 95 % interval |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *(row.written() for row in rows), ""])


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", action="append", choices=[model.name for model in MODELS])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="also torch.compile (needs a C++ compiler)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # In TF32 the outputs of two orders of the same sums could not be compared.
    torch.backends.cudnn.allow_tf32 = False
    rows = []
    for model in MODELS:
        if options.only is None or model.name in options.only:
            for row in rows_of(model, options):
                print(row.written(), flush=True)
                rows.append(row)
    options.out.write_text(page(rows, options), encoding="utf-8")


if __name__ == "__main__":
    main()
