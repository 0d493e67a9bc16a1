"""Structure searched together beside one kind at a time, at the same share of the layers' measured times.

    python -m benchmarks.structure --models OUT_DIR --work FOLDER --out FILE.md [NAME]...

``OUT_DIR`` is what ``benchmarks/models.py`` wrote. 200 samples are looked at, without labels, and nothing is
trained; 700 others judge. Layers' times are OpenVINO's, of the whole model and of one of about half its
widths, in float32 and in int8. Then bits are searched with the rest, beside the structure first and int8 of
all of it behind. Versions are timed in the same rounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hasten
from benchmarks.factorize import judged
from benchmarks.rounding import CALIBRATION, Case, case
from benchmarks.timings import OPENVINO_INT8, layer_times, ratio, timed
from hasten import data as data_room
from hasten import methods
from hasten.core.data import Calibration
from hasten.core.errors import MethodError
from hasten.core.target import cpu_name, usable_cores
from hasten.graph.cost import total_macs
from hasten.numerics.latency import Time, taken

_KINDS = {
    "resnet56": ("channels", "branches", "ranks"),
    "vgg16": ("channels", "ranks"),
    "minilm": ("channels", "heads", "branches", "ranks"),
}
_LEFT = 0.7
_IN_INT8 = 0.8
"""Of what the whole model in int8 takes by its layers' times."""
_TARGET = "openvino"


def main() -> None:
    """Search, judge, time, and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="keeps what was measured, and the models")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("names", nargs="*", choices=[*_KINDS, []], help="some of the models; all by default")
    arguments = parser.parse_args()
    lines = [
        "# Structure searched together, and one kind at a time",
        "",
        f"`search_structure` after `optimize_graph`; {CALIBRATION} samples looked at, without labels,",
        "nothing trained; judged on 700 others by ONNX Runtime. `faster`: than the whole model in float32 in",
        f"the same rounds, with its 95 % interval, OpenVINO, {usable_cores()} threads of {cpu_name()},",
        "batch 1. `seconds`: of measuring the decisions, searching and making. Written by",
        "`benchmarks/structure.py`.",
        "",
        "| model | among | left of the time | MACs left | metric | quality | lost | faster | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in arguments.names or _KINDS:
        for line in _rows(judged(case(name, arguments.models / name)), arguments.work / name):
            lines.append(line)
            print(line, flush=True)
            arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _rows(known: Case, work: Path) -> Iterator[str]:
    work.mkdir(parents=True, exist_ok=True)
    store, _ = data_room.ingest(known.seen, known.clean.inputs, work / "store", seed=0)
    calibration = Calibration(store, range(len(store)))
    context = methods.Context(calibration=calibration, work=work, threads=usable_cores())
    one = {key: array[:1] for key, array in known.seen.items()}
    times, in_int8 = (
        layer_times(known.clean, known.seen, _TARGET, usable_cores(), behind)
        for behind in ([], [hasten.Step("quantize_static", OPENVINO_INT8)])
    )
    share = sum(map(taken, in_int8.values())) / sum(map(taken, times.values()))
    quantized = {"in_int8": in_int8, "quantize": OPENVINO_INT8}
    kinds = _KINDS[known.name]
    ways: list[tuple[str, float, tuple[hasten.Step, ...]]] = [
        (", ".join(among), _LEFT, (_search(_LEFT, times, among),))
        for among in (*((kind,) for kind in kinds), kinds)
    ]
    left = _IN_INT8 * share
    first = _search(_IN_INT8, times, kinds)
    ways += [
        ("all of it in 8 bits", share, (hasten.Step("quantize_static", OPENVINO_INT8),)),
        (f"{', '.join(kinds)}; then 8 bits", left, (first, hasten.Step("quantize_static", OPENVINO_INT8))),
        (f"{', '.join(kinds)}, bits", left, (_search(left, times, (*kinds, "bits"), **quantized),)),
    ]
    graphs, told = [known.clean], []
    whole, macs = known.quality(known.clean), total_macs(known.clean, one)
    for among, asked, steps in ways:
        began = time.monotonic()
        begin = f"| {known.name} | {among} | {asked:.0%} "
        try:
            made = methods.apply(hasten.Recipe(steps), known.clean, context)
        except MethodError as error:
            yield f"{begin}| {error} | | | | | |"
            continue
        if not made.effective:
            yield f"{begin}| {made.skipped[0].reason} | | | | | |"
            continue
        took = time.monotonic() - began
        made.graph.write(work / f"{len(graphs)}.onnx")
        found = known.quality(made.graph)
        graphs.append(made.graph)
        told.append(
            (
                f"{begin}| {total_macs(made.graph, one) / macs:.1%} | {known.metric} | {found:.4f} "
                f"| {whole - found:+.4f}",
                took,
            )
        )
        print(told[-1], *made.notes[:4], flush=True)
    timings = timed(graphs, known.seen, _TARGET, usable_cores(), limit_s=60.0)
    milliseconds = f"{timings[0].latency_ms.median:.2f} ms"
    yield f"| {known.name} | whole | 100% | 100% | {known.metric} | {whole:.4f} | | {milliseconds} | |"
    for (line, took), timing in zip(told, timings[1:], strict=True):
        yield f"{line} | {ratio(timing)} | {took:.0f} |"


def _search(left: float, times: dict[str, Time], among: tuple[str, ...], **more: Any) -> hasten.Step:
    params: dict[str, Any] = {"left": round(left, 4), "times": times, "among": list(among), **more}
    return hasten.Step("search_structure", params)


if __name__ == "__main__":
    main()
