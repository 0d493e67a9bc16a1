"""How much faster than int8 of the whole network, with nothing but its ONNX file and 200 unlabelled inputs?

    python -m benchmarks.beyond_int8 --models OUT_DIR --out FILE.md [NAME]... [--mended [METHOD]...]

``OUT_DIR`` is what ``benchmarks/models.py`` wrote. Branches or channels go, or what a search by the layers'
times in int8 says; what is left is made up for by least squares alone, by `reconstruct` (block by block) or
by `distill`, and all is quantized (without VNNI with convolutions for products); 200 samples are looked
at, without their labels, all others judge. Latency is OpenVINO's, one sample, all in the same rounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import hasten
from benchmarks.rounding import CALIBRATION, Case, answers, case
from benchmarks.timings import OPENVINO_INT8, layer_times, ratio, timed
from hasten.core.target import cpu_name, sums_saturate, usable_cores
from hasten.graph.cost import total_macs

_MENDED = ("reconstruct", "distill")
_DISTILL: dict[str, dict[str, Any]] = {
    "efficientnet_lite0": {"epochs": 8, "augment": ["flip", "crop"], "features": "matched", "held_back": 0.0},
    "minilm": {"epochs": 4, "features": "matched", "held_back": 0.0},
}
_SMALLER: dict[str, tuple[tuple[hasten.Step, ...], ...]] = {
    "efficientnet_lite0": (
        (hasten.Step("prune_layers", {"count": 2}),),
        (hasten.Step("prune_channels", {"macs": 0.9}),),
        (hasten.Step("prune_channels", {"macs": 0.9}), hasten.Step("prune_layers", {"count": 2})),
        (hasten.Step("search_structure", {"left": 0.87}),),
        (hasten.Step("search_structure", {"left": 0.83}),),
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
    parser.add_argument("names", nargs="*", choices=[*_SMALLER, []], help="some; all by default")
    arguments = parser.parse_args()
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
    for name in arguments.names or _SMALLER:
        for line in _rows(case(name, arguments.models / name), arguments.mended):
            lines.append(line)
            print(line, flush=True)
            arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _rows(known: Case, mended: Sequence[str]) -> Iterator[str]:
    one = {key: array[:1] for key, array in known.seen.items()}
    whole, macs = answers(known.clean, known.unseen), total_macs(known.clean, one)
    begin = f"| {known.name} |"
    rest = f"| {known.metric} | {len(known.labels)} |"
    yield f"{begin} float32 | 100 % {rest} {known.score(whole):.4f} | | | | |"
    graphs, told = [], []
    for steps in _ways(known, mended):
        began = time.monotonic()
        graph = hasten.apply(known.clean, hasten.Recipe(steps), known.seen, threads=usable_cores()).graph
        took, found = time.monotonic() - began, answers(graph, known.unseen)
        left = f"{total_macs(graph, one) / macs:.1%}"
        lost, (low, high) = known.lost(whole, found)
        error = np.square(found - whole).mean() / whole.var()
        line = (
            f"{begin} {_words(steps)} | {left} {rest} {known.score(found):.4f} "
            f"| {lost:+.4f} ({low:+.4f} to {high:+.4f}) | {error:.4f}"
        )
        print(line, f"{took:.0f} s", flush=True)
        graphs.append(graph)
        told.append((line, took))
    timings = timed(graphs, known.seen, "openvino", usable_cores(), limit_s=90.0)
    for number, ((line, took), timing) in enumerate(zip(told, timings, strict=True)):
        yield f"{line} | {ratio(timing) if number else f'{timing.latency_ms.median:.2f} ms'} | {took:.0f} |"


def _ways(known: Case, mended: Sequence[str]) -> Iterator[tuple[hasten.Step, ...]]:
    yield (_INT8,)
    if sums_saturate():
        yield (_BEST,)
    for steps in _SMALLER[known.name]:
        smaller = tuple(_priced(step, known) for step in steps)
        yield (*smaller, _BEST)
        for method in mended:
            params = _DISTILL[known.name] if method == "distill" else {}
            yield (*smaller, hasten.Step(method, params), _BEST)


def _priced(step: hasten.Step, known: Case) -> hasten.Step:
    """The step, which counts by the layers' times in int8 if it searches."""
    if step.method != "search_structure":
        return step
    times = layer_times(known.clean, known.seen, "openvino", usable_cores(), [_BEST])
    params: dict[str, Any] = {**step.params, "times": times}
    return hasten.Step(step.method, params)


def _words(steps: tuple[hasten.Step, ...]) -> str:
    *smaller, int8 = steps
    if smaller:
        return " + ".join(map(_word, smaller))
    return "int8 alone" if int8 is _INT8 else "int8 alone, products as convolutions"


def _word(step: hasten.Step) -> str:
    """The method, and how much of it, but for what learns."""
    counts = {} if step.method == "distill" else step.params
    told = ", ".join(f"{key} {value}" for key, value in counts.items() if key != "times")
    return f"`{step.method}` {told}".rstrip()


if __name__ == "__main__":
    main()
