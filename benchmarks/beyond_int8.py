"""How much faster than int8 of the whole network, with nothing but its ONNX file and 200 unlabelled inputs?

    python -m benchmarks.beyond_int8 --models OUT_DIR --out FILE.md [NAME]... [--mended [METHOD]...]
    python -m benchmarks.beyond_int8 --models OUT_DIR --out FILE.md --shares SHARE... [--more PICTURES]

``OUT_DIR`` is what ``benchmarks/models.py`` wrote. Branches or channels go, or what a search by the layers'
times in int8 says; what is left is made up for by least squares alone, by `reconstruct` (block by block) or
by `distill`, and all is quantized (without VNNI with convolutions for products); 200 samples are looked
at, without their labels, all others judge. Latency is OpenVINO's, one sample, all in the same rounds.

``--shares``: EfficientNet-Lite0 with these shares of its multiply-accumulates in channels and without two
branches, by least squares alone, taught by the 200, and, with ``--more``, by a folder of pictures besides,
which need no labels either.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import hasten
from benchmarks.model_data import Arrays, folder
from benchmarks.recover import applied
from benchmarks.rounding import CALIBRATION, Case, answers, case
from benchmarks.timings import OPENVINO_INT8, layer_times, ratio, timed
from hasten.core.target import cpu_name, sums_saturate, usable_cores
from hasten.graph.cost import total_macs

_MENDED = ("reconstruct", "distill")
_DISTILL: dict[str, dict[str, Any]] = {
    # The last values before they are averaged over the picture: 49 times as many as the scores.
    "efficientnet_lite0": {
        "epochs": 20,
        "learning_rate": 1e-3,
        "relative": True,
        "augment": ["flip", "zoom"],
        "features": ["hardtanh_32"],
        "held_back": 0.0,
    },
    "minilm": {"epochs": 4, "features": "matched", "held_back": 0.0},
}
_SMALLER: dict[str, tuple[tuple[hasten.Step, ...], ...]] = {
    "efficientnet_lite0": (
        (hasten.Step("prune_layers", {"count": 2}),),
        (hasten.Step("prune_channels", {"macs": 0.9}),),
        (hasten.Step("prune_channels", {"macs": 0.9}), hasten.Step("prune_layers", {"count": 2})),
        (
            hasten.Step("prune_channels", {"macs": 0.93, "align": 32}),
            hasten.Step("prune_layers", {"count": 1}),
        ),
        (
            hasten.Step("prune_channels", {"macs": 0.9, "align": 32}),
            hasten.Step("prune_layers", {"count": 2}),
        ),
        (hasten.Step("search_structure", {"left": 0.87}),),
        (hasten.Step("search_structure", {"left": 0.8}),),
    ),
    "minilm": (
        (hasten.Step("prune_layers", {"count": 4}),),
        (hasten.Step("prune_layers", {"count": 4}), hasten.Step("prune_channels", {"macs": 0.8})),
        (hasten.Step("prune_layers", {"count": 5}), hasten.Step("prune_channels", {"macs": 0.8})),
    ),
}
_BEST = hasten.Step("quantize_static", OPENVINO_INT8)
_INT8 = hasten.Step("quantize_static", {**OPENVINO_INT8, "products": "kept"})


def main() -> None:
    """Make, judge, time, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--mended", nargs="*", choices=_MENDED, default=_MENDED, help="also, by each of these"
    )
    parser.add_argument("--more", type=Path, help="a folder of pictures that `distill` learns from as well")
    parser.add_argument("--shares", type=float, nargs="+", default=[], help="of EfficientNet-Lite0, taught")
    parser.add_argument("names", nargs="*", choices=[*_SMALLER, []], help="some; all by default")
    arguments = parser.parse_args()
    if arguments.more and not arguments.shares:
        parser.error("--more needs --shares: which versions learn from the pictures")
    more = None if arguments.more is None else folder(arguments.more)
    names = ["efficientnet_lite0"] if arguments.shares else arguments.names or [*_SMALLER]
    lines = [
        "# Beyond int8, without labels",
        "",
        f"From the ONNX file and {CALIBRATION} inputs without labels; judged on `n` others, in int8, by ONNX",
        "Runtime. `lost`: of float32's quality, by a paired bootstrap; `error`: of the outputs, squared,",
        "over their variance, which tells apart what so few samples do not. `faster`: than int8 of the",
        f"whole network in the same rounds: OpenVINO, {usable_cores()} threads of {cpu_name()}, batch 1.",
        "Intervals hold 95 %. `seconds`: to make it, int8 included. Written by",
        "`benchmarks/beyond_int8.py`.",
        "",
        "| model | made by | MACs left | metric | n | quality in int8 | lost | error | faster | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        known = case(name, arguments.models / name)
        shares = arguments.shares
        ways = _taught(known, shares, more) if shares else _ways(known, arguments.mended)
        for line in _rows(known, ways):
            lines.append(line)
            print(line, flush=True)
            arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _rows(known: Case, ways: Iterable[Way]) -> Iterator[str]:
    one = {key: array[:1] for key, array in known.seen.items()}
    whole, macs = answers(known.clean, known.unseen), total_macs(known.clean, one)
    begin = f"| {known.name} |"
    rest = f"| {known.metric} | {len(known.labels)} |"
    yield f"{begin} float32 | 100 % {rest} {known.score(whole):.4f} | | | | |"
    graphs, told = [], []
    for way in ways:
        began = time.monotonic()
        graph = way.made(known)
        took, found = time.monotonic() - began, answers(graph, known.unseen)
        left = f"{total_macs(graph, one) / macs:.1%}"
        lost, (low, high) = known.lost(whole, found)
        error = np.square(found - whole).mean() / whole.var()
        line = (
            f"{begin} {way.words} | {left} {rest} {known.score(found):.4f} "
            f"| {lost:+.4f} ({low:+.4f} to {high:+.4f}) | {error:.4f}"
        )
        print(line, f"{took:.0f} s", flush=True)
        graphs.append(graph)
        told.append((line, took))
    timings = timed(graphs, known.seen, "openvino", usable_cores(), limit_s=90.0)
    for number, ((line, took), timing) in enumerate(zip(told, timings, strict=True)):
        yield f"{line} | {ratio(timing) if number else f'{timing.latency_ms.median:.2f} ms'} | {took:.0f} |"


@dataclass(frozen=True)
class Way:
    """How a version is made: its steps, the last of which quantizes, and what `distill` learns from."""

    steps: tuple[hasten.Step, ...]
    shown: Arrays

    def made(self, known: Case) -> hasten.Graph:
        """The version. All but `distill` look at the 200 samples only."""
        graph = known.clean
        for learns, steps in itertools.groupby(self.steps, lambda step: step.method == "distill"):
            recipe = hasten.Recipe(tuple(steps))
            if learns:
                graph = applied(graph, recipe, self.shown, 0, usable_cores(), original=known.clean)
            else:
                graph = hasten.apply(graph, recipe, known.seen, threads=usable_cores()).graph
        return graph

    @property
    def words(self) -> str:
        """The methods before the last, and how many samples were learned from."""
        *smaller, int8 = self.steps
        if smaller:
            return " + ".join(map(self._word, smaller))
        return "int8 alone" if int8 is _INT8 else "int8 alone, products as convolutions"

    def _word(self, step: hasten.Step) -> str:
        if step.method == "distill":
            return f"`distill` on {len(next(iter(self.shown.values())))}"
        told = ", ".join(f"{key} {value}" for key, value in step.params.items() if key != "times")
        return f"`{step.method}` {told}".rstrip()


def _plain(known: Case) -> Iterator[Way]:
    yield Way((_INT8,), known.seen)
    if sums_saturate():
        yield Way((_BEST,), known.seen)


def _ways(known: Case, mended: Sequence[str]) -> Iterator[Way]:
    yield from _plain(known)
    for steps in _SMALLER[known.name]:
        smaller = tuple(_priced(step, known) for step in steps)
        yield Way((*smaller, _BEST), known.seen)
        for method in mended:
            params = _DISTILL[known.name] if method == "distill" else {}
            yield Way((*smaller, hasten.Step(method, params), _BEST), known.seen)


def _taught(known: Case, shares: Sequence[float], more: Any | None) -> Iterator[Way]:
    yield from _plain(known)
    distill = hasten.Step("distill", _DISTILL[known.name])
    for share in shares:
        smaller = (
            hasten.Step("prune_channels", {"macs": share}),
            hasten.Step("prune_layers", {"count": 2}),
        )
        yield Way((*smaller, _BEST), known.seen)
        yield Way((*smaller, distill, _BEST), known.seen)
        if more is not None:
            both = {key: np.concatenate([array, more]) for key, array in known.seen.items()}
            yield Way((*smaller, distill, _BEST), both)


def _priced(step: hasten.Step, known: Case) -> hasten.Step:
    """The step, which counts by the layers' times in int8 if it searches."""
    if step.method != "search_structure":
        return step
    times = layer_times(known.clean, known.seen, "openvino", usable_cores(), [_BEST])
    params: dict[str, Any] = {**step.params, "times": times}
    return hasten.Step(step.method, params)


if __name__ == "__main__":
    main()
