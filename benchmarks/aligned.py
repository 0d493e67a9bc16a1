"""In blocks of how many channels do kernels like their widths, and what is it worth to ask them?

    python -m benchmarks.aligned --models OUT_DIR --out FILE.md [NAME]...

``OUT_DIR`` is what ``benchmarks/models.py`` wrote. For each runtime and precision: the table of latencies
by which `hasten optimize` chooses (``hasten.search.aligned``), and, where that is not blocks of 8, the model
with a share of its multiply-accumulates in blocks of 8 and in those, timed in the same rounds and judged on
the samples that nothing was solved for.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import hasten
from benchmarks.rounding import Case, answers, case
from benchmarks.timings import LAYOUTS, OPENVINO_INT8, kernels, ratio, timed
from hasten.core.target import cpu_name, usable_cores
from hasten.graph.cost import layer_costs, total_macs
from hasten.search.aligned import BLOCKS, cuts, liked, rates, widths_of

_NAMES = ("resnet56", "vgg16", "efficientnet_lite0", "minilm")
_LEFT = {"efficientnet_lite0": 0.9}
"""Share of the multiply-accumulates that is left; of others 0.7."""
_USUAL = 8


def main() -> None:
    """Measure, choose, compare, and write both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("names", nargs="*", choices=[*_NAMES, []], help="some; all by default")
    arguments = parser.parse_args()
    tables: list[str] = []
    compared: list[str] = []
    for name in arguments.names or _NAMES:
        known = case(name, arguments.models / name)
        for target in LAYOUTS:
            for int8 in (False, True):
                block, row = _table(known, target, int8)
                tables.append(row)
                print(row, flush=True)
                if block not in (None, _USUAL):
                    for row in _compared(known, target, int8, int(block or _USUAL)):
                        compared.append(row)
                        print(row, flush=True)
                arguments.out.write_text("\n".join(_page(tables, compared)) + "\n", encoding="utf-8")


def _page(tables: list[str], compared: list[str]) -> list[str]:
    return [
        "# Blocks of channels",
        "",
        "What the layers of a model take whose widths are odd multiples of so many channels, near three",
        "quarters of what they were, over what they would take if time fell as their MACs do. `hasten",
        "optimize` chooses the smallest block that no other is clearly faster than. Kernels' times by the",
        f"runtimes' profilers, {usable_cores()} threads of {cpu_name()}, batch 1. Written by",
        "`benchmarks/aligned.py`.",
        "",
        f"| model | runtime | precision | {' | '.join(map(str, BLOCKS))} | chosen |",
        f"|---|---|---|{'---|' * len(BLOCKS)}---|",
        *tables,
        "",
        "Where that is not 8: the model with fewer channels (`prune_channels`, solved on 200 samples,",
        "nothing trained) in blocks of 8 and in those chosen. `faster`: than the whole model in the same",
        "precision, in the same rounds, with the 95 % interval.",
        "",
        "| model | runtime | precision | blocks of | MACs left | metric | quality | faster |",
        "|---|---|---|---|---|---|---|---|",
        *compared,
    ]


def _steps(target: str, int8: bool) -> tuple[hasten.Step, ...]:
    if not int8:
        return ()
    params = {**OPENVINO_INT8, "layout": LAYOUTS[target]}
    return (hasten.Step("quantize_static", params),)


def _made(known: Case, graph: hasten.Graph, *steps: hasten.Step) -> hasten.Graph:
    return hasten.apply(graph, hasten.Recipe(steps), known.seen, threads=usable_cores()).graph


def _begin(known: Case, target: str, int8: bool) -> str:
    return f"| {known.name} | {target} | {'int8' if int8 else 'float32'} |"


def _table(known: Case, target: str, int8: bool) -> tuple[int | None, str]:
    """The block that is chosen, and the row of what it was chosen by."""
    one = {key: array[:1] for key, array in known.seen.items()}
    narrow = cuts(widths_of(known.clean))
    floats = [known.clean, *(_made(known, known.clean, step) for step in narrow.values())]
    runs = [_made(known, graph, *_steps(target, int8)) for graph in floats]
    seen = zip(
        (layer_costs(graph, one) for graph in floats),
        kernels(runs, known.seen, target, usable_cores()),
        strict=True,
    )
    whole, *others = seen
    found = rates(whole, dict(zip(narrow, others, strict=True)))
    block = liked(found)
    cells = " | ".join(f"{found[b]:.2f}" if b in found else "" for b in BLOCKS)
    return block, f"{_begin(known, target, int8)} {cells} | {block or ''} |"


def _compared(known: Case, target: str, int8: bool, block: int) -> Iterator[str]:
    one = {key: array[:1] for key, array in known.seen.items()}
    macs = total_macs(known.clean, one)
    left = _LEFT.get(known.name, 0.7)
    cut = [hasten.Step("prune_channels", {"macs": left, "align": align}) for align in (_USUAL, block)]
    floats = [known.clean, *(_made(known, known.clean, step) for step in cut)]
    runs = [_made(known, graph, *_steps(target, int8)) for graph in floats]
    timings = timed(runs, known.seen, target, usable_cores(), limit_s=40.0)
    names = ("whole", str(_USUAL), str(block))
    for name, plain, graph, timing in zip(names, floats, runs, timings, strict=True):
        quality = known.score(answers(graph, known.unseen))
        faster = f"{timing.latency_ms.median:.2f} ms" if name == "whole" else ratio(timing)
        yield (
            f"{_begin(known, target, int8)} {name} | {total_macs(plain, one) / macs:.1%} | {known.metric} "
            f"| {quality:.4f} | {faster} |"
        )


if __name__ == "__main__":
    main()
