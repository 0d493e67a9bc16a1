"""What low rank keeps and what it gains: quality, MACs, and time on OpenVINO and ONNX Runtime.

    python -m benchmarks.factorize --models OUT_DIR --work FOLDER --out FILE.md [--threads N] [NAME]...

``OUT_DIR`` is what ``benchmarks/models.py`` wrote. The first 200 samples calibrate, without their labels; 700
of the others judge, at even distances. Nothing is trained. On each runtime all versions are timed beside the
original, in the same rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import hasten
from benchmarks.rounding import CALIBRATION, Case, case
from benchmarks.timings import layer_times, ratio, timed
from hasten import data as data_room
from hasten import methods
from hasten.core.data import Calibration
from hasten.core.recipe import Recipe, Step
from hasten.core.target import cpu_name
from hasten.graph.cost import total_macs
from hasten.measuring import Timing

MODELS = ("minilm", "vgg16")
TARGETS = ("openvino", "onnxruntime")
VERSIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "minilm": (
        {},
        {"rank": "macs", "keep": 0.9},
        {"rank": "macs", "keep": 0.75},
        {"rank": "macs", "keep": 0.5},
        {"rank": "macs", "keep": 0.75, "times": "openvino"},
        {"rank": "macs", "keep": 0.75, "by": "weights"},
        {"rank": "macs", "keep": 0.75, "importance": "gradients"},
    ),
    "vgg16": (
        {},
        {"rank": "macs", "keep": 0.25},
        {"rank": "macs", "keep": 0.25, "by": "weights"},
        {"rank": "macs", "keep": 0.25, "forms": ["spatial"]},
    ),
}


JUDGING = 700
HEAD = """# Low rank

`factorize` after `optimize_graph`; {calibration} samples calibrate, without labels, nothing trained; judged
on {judging} others, computed by ONNX Runtime. `times: openvino`: the layers' times there count, and not MACs.
The ratios are the original's time over the version's, in rounds that alternate, with their 95 % intervals:
{cpu}, {threads} threads, batch 1, float32; load of the
machine when timing began: {load}. Written by `benchmarks/factorize.py`.

| model | metric | `factorize` | layers | MACs | weights | quality | lost | OpenVINO | ONNX Runtime |
|---|---|---|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Version:
    """A factorized model, and what is known of it without a clock."""

    graph: hasten.Graph
    told: str


def main() -> None:
    """Factorize, judge, time, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="keeps the versions; those there are reused")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("names", nargs="*", choices=[*MODELS, []], help="some of the models; all by default")
    arguments = parser.parse_args()
    made: dict[str, tuple[Case, list[Version]]] = {}
    for name in arguments.names or MODELS:
        known = judged(case(name, arguments.models / name))
        made[name] = known, versions(known, arguments.work / name, arguments.threads)
    lines = HEAD.format(
        calibration=CALIBRATION,
        judging=JUDGING,
        cpu=cpu_name(),
        threads=arguments.threads,
        load=f"{os.getloadavg()[0]:.1f}",
    ).splitlines()
    for name, (known, found) in made.items():
        timings = [
            timed(
                [v.graph for v in found],
                {key: array[:50] for key, array in known.unseen.items()},
                target,
                arguments.threads,
                limit_s=20.0,
            )
            for target in TARGETS
        ]
        for i, version in enumerate(found):
            ratios = " | ".join(_ratio(timing[i], first=not i) for timing in timings)
            lines.append(f"| {name} | {known.metric} {version.told} | {ratios} |")
            print(lines[-1], flush=True)
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def judged(known: Case) -> Case:
    """With so many of the samples that judge, at even distances."""
    chosen = np.arange(JUDGING) * len(known.labels) // JUDGING
    unseen = {key: array[chosen] for key, array in known.unseen.items()}
    return replace(known, unseen=unseen, labels=known.labels[chosen])


def versions(known: Case, folder: Path, threads: int) -> list[Version]:
    """The original and all of its versions."""
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / "store"
    if store.exists():
        shutil.rmtree(store)
    data, _ = data_room.ingest(known.seen, known.clean.inputs, store, seed=0)
    calibration = Calibration(data, range(len(data)))
    context = methods.Context(calibration=calibration, work=folder, threads=threads)
    first = {key: array[:1] for key, array in known.seen.items()}
    macs, stored = total_macs(known.clean, first), known.clean.parameters
    quality = known.quality(known.clean)
    found = [Version(known.clean, f"| | | {macs / 1e6:,.1f} M | {stored / 1e6:.2f} M | {quality:.4f} | ")]
    for params in VERSIONS[known.name]:
        path = folder / f"{json.dumps(params).translate(_PLAIN) or 'default'}.onnx"
        told = path.with_suffix(".txt")
        if not told.exists():
            began = time.process_time()
            change = methods.apply(
                Recipe([Step("factorize", timed_by(params, known, threads))]), known.clean, context
            )
            took = time.process_time() - began
            change.graph.write(path)
            answered = known.quality(change.graph)
            told.write_text(
                f"| {_written(params)} | {len(change.sites)} | {total_macs(change.graph, first) / macs:.1%} "
                f"| {change.graph.parameters / stored:.1%} | {answered:.4f} | {quality - answered:+.4f}"
            )
            print(known.name, told.read_text(), f"({took:.0f} s of the processor)", flush=True)
        found.append(Version(hasten.Graph.open(path), told.read_text()))
    return found


def timed_by(params: dict[str, Any], known: Case, threads: int) -> dict[str, Any]:
    """The parameters with the times of the layers on a target in place of its name."""
    if "times" not in params:
        return params
    return {**params, "times": layer_times(known.clean, known.seen, params["times"], threads)}


def _ratio(timing: Timing, *, first: bool) -> str:
    if first:
        return f"{timing.latency_ms.median:.2f} ms"
    return ratio(timing)


_PLAIN = str.maketrans("", "", '{}[]" ,:')


def _written(params: dict[str, Any]) -> str:
    text = json.dumps(params).replace('"', "").strip("{}")
    return f"`{text}`" if text else "defaults"


if __name__ == "__main__":
    main()
