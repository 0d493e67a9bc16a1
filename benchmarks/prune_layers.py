"""What dropping residual branches costs in quality and gains in speed, branch after branch, without training.

    python -m benchmarks.prune_layers --models OUT_DIR --out DIR [--threads N] [--part PART]... [NAME]...

``OUT_DIR`` is what ``benchmarks/models.py`` wrote; ``DIR`` gets a page for each model and part (``quality``,
``speed``). The first 200 samples calibrate, without their labels; others judge. Every version is float32; its
latency is OpenVINO's, one sample, in the same rounds as the model with all its branches.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import hasten
from benchmarks.rounding import CALIBRATION, Case, case
from benchmarks.timings import ratio, timed
from hasten.core.record import Site
from hasten.core.target import cpu_name, usable_cores
from hasten.graph.cost import total_macs

COUNTS = {"resnet56": (1, 2, 4, 6, 8, 10), "minilm": (1, 2, 3, 4)}
JUDGED = {"resnet56": 3800, "minilm": 800}
WAYS: tuple[dict[str, Any], ...] = (
    {"positions": "gradients"},
    {"positions": "equal"},
    {"replace": "nothing"},
    {"importance": "similarity", "positions": "gradients"},
)
DEFAULTS = {"importance": "outputs", "per": "branch", "replace": "best", "positions": "equal"}
HEAD = f"""`prune_layers` after `optimize_graph`, nothing trained, float32. {CALIBRATION} samples calibrate,
without labels. Written by `benchmarks/prune_layers.py`."""


def main() -> None:
    """Drop, judge, time, and write the pages."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("names", nargs="*", choices=[*COUNTS, []], help="some of the models; all by default")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or COUNTS:
        known = fewer(case(name, arguments.models / name))
        for part in arguments.part or PARTS:
            lines = [f"# Dropping residual branches of {name}: {part}", "", *HEAD.splitlines(), ""]
            for line in PARTS[part](known, arguments.threads):
                lines.append(line)
                print(line, flush=True)
                page = "\n".join(lines) + "\n"
                (arguments.out / f"{name}_{part}.md").write_text(page, encoding="utf-8")


def fewer(known: Case) -> Case:
    """The first of the samples that judge."""
    count = JUDGED[known.name]
    unseen = {key: array[:count] for key, array in known.unseen.items()}
    return replace(known, unseen=unseen, labels=known.labels[:count])


def quality(known: Case, threads: int) -> Iterator[str]:
    """What is left of the metric, by how it is done."""
    counts = COUNTS[known.name]
    yield f"{known.metric} of {len(known.labels)} other samples, computed by ONNX Runtime:"
    yield f"{known.quality(known.clean):.4f} with all branches, and with so many less as the columns say."
    yield "`seconds`: of the processor, for the search of the most."
    yield ""
    yield f"| {' | '.join(DEFAULTS)} | {' | '.join(map(str, counts))} | seconds |"
    yield "|---" * (len(DEFAULTS) + len(counts) + 1) + "|"
    for way in WAYS:
        began = time.process_time()
        order = dropped_in_order(known, way, max(counts), threads)
        seconds = time.process_time() - began
        made = (apply(known, {**way, "drop": order[:count]}, threads).graph for count in counts)
        found = " | ".join(f"{known.quality(graph):.4f}" for graph in made)
        told = " | ".join(way.get(key, usual) for key, usual in DEFAULTS.items())
        yield f"| {told} | {found} | {seconds:.0f} |"


def speed(known: Case, threads: int) -> Iterator[str]:
    """What the first way gains."""
    counts = COUNTS[known.name]
    sites = apply(known, {**WAYS[0], "count": max(counts)}, threads).sites
    order = in_order(sites)
    versions = [apply(known, {**WAYS[0], "drop": order[:count]}, threads).graph for count in counts]
    yield f"`positions: gradients`, the other parameters as they are by default. OpenVINO on {cpu_name()},"
    yield f"threads: {threads}, batch 1, all in the same rounds; the ratio with its 95 % interval."
    yield ""
    yield "| dropped | M MACs | of the original's | median ms | faster by |"
    yield "|---|---|---|---|---|"
    yield from speeds(known, counts, versions, threads)
    yield from ("", "What went, in the graph's order:", "")
    yield from (f"- {site.name}: {site.what}" for site in sites)


PARTS = {"quality": quality, "speed": speed}


def apply(known: Case, params: dict[str, Any], threads: int) -> hasten.methods.Change:
    """The method with these parameters."""
    recipe = hasten.Recipe([hasten.Step("prune_layers", params)])
    return hasten.apply(known.clean, recipe, known.seen, threads=threads)


def dropped_in_order(known: Case, way: dict[str, Any], count: int, threads: int) -> list[str]:
    """The names of the branches, first dropped first."""
    return in_order(apply(known, {**way, "count": count}, threads).sites)


def in_order(sites: Sequence[Site]) -> list[str]:
    """The names of what was dropped, first dropped first."""
    numbers = {}
    for site in sites:
        found = re.search(r"number (\d+)", site.what)
        assert found is not None
        numbers[site.name] = int(found[1])
    return sorted(numbers, key=lambda name: numbers[name])


def speeds(known: Case, counts: Sequence[int], made: Sequence[hasten.Graph], threads: int) -> Iterator[str]:
    """A row for the model and for each version of it."""
    one = {key: array[:1] for key, array in known.seen.items()}
    graphs = [known.clean, *made]
    timings = timed(graphs, known.seen, "openvino", threads)
    whole = total_macs(known.clean, one)
    for count, graph, timing in zip((0, *counts), graphs, timings, strict=True):
        macs, told = total_macs(graph, one), ratio(timing) if count else ""
        yield (
            f"| {count} | {macs / 1e6:.1f} | {macs / whole:.1%} | {timing.latency_ms.median:.2f} | {told} |"
        )


if __name__ == "__main__":
    main()
